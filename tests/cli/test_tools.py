"""The tools of ``migx opt`` and ``migx passes`` for those who write passes, and ``.mxr`` files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import migx as api
from migx import ops, plugins
from migx.errors import DataWarning, TargetError
from migx.ir import Instruction
from migx.manager import Fixpoint, Pass, Pipeline
from migx.match import attr, constant, member, on, skip, value, var
from migx.rewrite import Cursor, rule
from migx.targets.ref import Ref
from tests.cli.conftest import Migx

CASE = """module main(x: f32[2]) {
  %0 = neg(x) : f32[2] from "first"
  %1 = neg(%0) : f32[2] from "second"
  %2 = relu(%1) : f32[2]
  %3 = relu(%2) : f32[2]
  return %3
}
"""

x = var("x")


@rule(on(ops.Neg, on(ops.Neg, x)))
def cancel(x: Instruction) -> Instruction:
    """-(-x) is x."""
    return x


@rule(on(ops.Relu, on(ops.Relu, x)))
def merge(at: Cursor, x: Instruction) -> Instruction:
    """One relu does."""
    return at(ops.Relu(), x)


class Tidy(Pass):
    """Has two rules and an option."""

    rules = cancel + merge
    much: bool = False


class Whole(Pass):
    """Stands for a group."""

    def pipeline(self) -> Pipeline:
        return Pipeline((Fixpoint(Pipeline((Tidy(),)), max=3),))


@pytest.fixture(autouse=True)
def known(found_by_name: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes of this file are found by name, and ours are not listed."""
    found_by_name(Tidy, Whole)
    monkeypatch.setattr(plugins, "names", lambda kind: ["tidy", "whole"])


@pytest.fixture
def case(tmp_path: Path) -> Path:
    path = tmp_path / "case.migx"
    path.write_text(CASE)
    return path


def test_a_trace_shows_each_rewrite_and_where_its_rule_stands(migx: Migx, case: Path) -> None:
    result = migx("opt", case, "--passes", "whole", "--trace", "--origins")
    assert [at.name for at in api.parse(result.out).main] == ["@param", "relu", "@return"]
    line = cancel.function.__code__.co_firstlineno
    assert f"tidy: cancel at second, first ({__file__}:{line})\n" in result.err
    merged = result.err[result.err.index("tidy: merge") :]
    assert "  - " in merged
    assert "  + " in merged
    assert migx("opt", case, "--passes", "whole").err == ""


def test_a_trace_as_json(migx: Migx, case: Path) -> None:
    found = migx("opt", case, "--passes", "tidy", "--trace", "--json").json
    assert [event["rule"] for event in found["events"]] == ["cancel", "merge"]
    assert set(found["events"][0]) == {
        "key", "pass_name", "rule", "source", "origins", "before", "after"
    }  # fmt: skip
    assert "events" not in migx("opt", case, "--passes", "tidy", "--json").json


def test_stopping_early_leaves_out_the_rest(migx: Migx, case: Path) -> None:
    for stop, names in ((0, 4), (1, 1), (2, 1)):
        result = migx("opt", case, "--passes", "whole", "--stop-after", stop, "--json")
        assert len(api.parse(result.json["text"]).main) == names + 2
        assert len(result.json["steps"]) == stop


def test_each_round_of_a_group_is_timed(migx: Migx, case: Path) -> None:
    found = migx("opt", case, "--passes", "whole", "--time").err.splitlines()
    assert [row.split()[0] for row in found] == ["pass", "tidy", "tidy"]


def test_a_program_is_saved_and_read_by_its_suffix(migx: Migx, model: Path, tmp_path: Path) -> None:
    mxr, text, again = (tmp_path / name for name in ("a.mxr", "a.migx", "b.mxr"))
    assert migx("opt", model, "--passes", "tidy", "-o", mxr).code == 0
    wanted = api.parse_onnx(model)
    assert api.load(mxr) == wanted
    assert migx("read", mxr, "-o", text).code == 0
    assert api.parse(text.read_text(), folder=tmp_path) == wanted
    assert migx("read", text, "-o", again).code == 0
    assert api.load(again) == wanted
    inputs = tmp_path / "in.npz"
    np.savez(inputs, x=np.ones((2, 8), np.float32))
    for path in (mxr, text):
        assert migx("run", path, "--inputs", inputs).code == 0
        assert migx("verify", path, "--dim-param", "batch=2").code == 0
    refused = migx("verify", mxr, "--against", "onnxruntime")
    assert (refused.code, "onnxruntime runs ONNX files" in refused.err) == (2, True)
    result = migx("opt", mxr, "--passes", "tidy", "-o", tmp_path / "a.txt")
    assert (result.code, "a.txt: programs are written as" in result.err) == (2, True)


def test_a_pass_shows_its_rules(migx: Migx) -> None:
    assert [line.split()[:2] for line in migx("passes").out.splitlines()] == [
        ["pass", "rules"],
        ["tidy", "2"],
        ["whole", "Stands"],
    ]
    found = migx("passes", "tidy", "--json").json
    assert [r["name"] for r in found["rules"]] == ["cancel", "merge"]
    assert found["rules"][0] == {
        "name": "cancel",
        "doc": "-(-x) is x.",
        "pattern": "neg(neg(x))",
        "source": cancel.source,
    }
    shown = migx("passes", "tidy").out
    assert "much" in shown
    assert "merge: One relu does.\n  relu(relu(x))\n" in shown
    assert "stands for: fixpoint{max=3}(tidy)\n" in migx("passes", "whole").out


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (on(ops.Add, on("dot", x, constant("w")).once(), var()), "add(dot(x, constant w) once, _)"),
        (on((ops.Mul, "div"), value(1.0), value(name="c")), "div or mul(1, value c)"),
        (on(ops.Softmax, axis=attr("axis")), "softmax(...) {axis}"),
        (on(ops.Softmax, x, axis=1), "softmax(x) {axis=1}"),
        (skip("convert", "contiguous")(x), "skip[contiguous, convert](x)"),
        (x | on(ops.Neg, x), "[x | neg(x)]"),
        (member(1, on(ops.Topk)), "get_tuple_elem(topk(...)) {index=1}"),
    ],
)  # fmt: skip
def test_patterns_read_like_the_graph(pattern: object, text: str) -> None:
    assert str(pattern) == text


class Elsewhere(Ref):
    """A target that is installed on another machine."""


def test_a_file_of_a_target_that_is_not_here_still_holds_its_program(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    mxr = tmp_path / "a.mxr"
    program = api.parse_onnx(model).compile(Elsewhere())
    with pytest.warns(DataWarning, match="'elsewhere', which is not found"):
        api.save(program, mxr)
    message = "is compiled for target 'elsewhere', which is not here: no target named 'elsewhere'"
    for words in ["read"], ["opt", "--passes", "tidy"], ["run", "--target", "ref"]:
        result = migx(words[0], mxr, *words[1:])
        assert result.code == 0
        assert result.err.startswith(f"note: {mxr} {message}")
    assert api.parse(migx("read", mxr).out) == api.parse_onnx(model)
    for verb in "run", "verify", "perf":
        result = migx(verb, mxr)
        assert (result.code, "; --target T compiles it for another" in result.err) == (2, True)
    with pytest.raises(
        TargetError, match=rf"{message}.*; migx\.load\(path, compiled=False\) reads"
    ):
        api.load(mxr)
    with pytest.warns(DataWarning, match="which is not found"):
        api.save(program, mxr, original=False)
    with pytest.raises(TargetError, match="there are: [^;]*$"):
        api.load(mxr)
