"""``migx why-not``, ``bisect`` and ``reduce``, on passes with mistakes planted in them."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import migx as api
from migx import Instruction, Module, ops
from migx.debug.case import Case
from migx.manager import Pass, PassManager
from migx.match import on, value, var
from migx.rewrite import RuleSet, rule
from tests.cli.conftest import Migx
from tests.core import planted

HAS = "import sys; sys.exit(sys.argv[1] in open(sys.argv[2]).read())"
"""A command that fails on a file in which a word stands."""


@pytest.fixture(autouse=True)
def known(found_by_name: Callable[..., None]) -> None:
    """The passes with mistakes are found by name."""
    found_by_name(planted.Wrong, planted.Pair, planted.Whole)


def written(folder: Path, *inner: ops.Op) -> Path:
    path = folder / "big.migx"
    path.write_text(api.text.show(planted.model(*inner), origins=True))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path, ops.Neg(), ops.Relu())


def test_bisect_names_a_pass_that_is_not_made_of_rules(migx: Migx, model: Path) -> None:
    words = ("bisect", model, "--passes", "simplify_reshapes,whole")
    found = migx(*words, "--dim-param", "n=1")
    assert (found.code, "no dim named 'n'" in found.err) == (2, True)
    found = migx(*words, "--json").json
    assert (found["symptom"], len(found["events"]), found["passes"]) == ("wrong", 1, words[-1])
    text = migx(*words).out
    assert text.startswith("wrong: y: ")
    assert f"whole: the whole pass ({planted.__file__}:" in text


def test_bisect_says_how_often_the_rule_fired(migx: Migx, tmp_path: Path) -> None:
    path = tmp_path / "twice.migx"
    lines = "%0 = neg(x) %1 = relu(%0) %2 = neg(y) %3 = relu(%2)"
    path.write_text(f"module main(x: f32[2], y: f32[2]) {{ {lines} return %1, %3 }}")
    words = ("bisect", path, "--passes", "wrong")
    assert "\none of 2 rewrites by this rule; the others may be as wrong\n" in migx(*words).out
    found = migx(*words, "--json").json
    assert (found["fired"], len(found["events"])) == ({"wrong.relu_of_neg": 2}, 1)


class Ones(Pass):
    """Has every softmax be 1, as it is over a length of 1."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Replaces them all."""
        found = [at for at in module if at.name == "softmax"]
        for at in found:
            zeros = module.insert_instruction(at, ops.Sub(), at.inputs[0], at.inputs[0])
            one = module.insert_instruction(at, ops.Exp(), zeros)
            module.replace_instruction(at, one)
        return bool(found)


def test_what_is_right_at_a_length_of_1_alone_is_found(
    migx: Migx, tmp_path: Path, found_by_name: Callable[..., None]
) -> None:
    found_by_name(Ones)
    path = tmp_path / "soft.migx"
    lines = "%0 = softmax(x) {axis=1} %1 = exp(%0) %2 = log(%1) return y=%2"
    path.write_text(f"module main(x: f32[batch, length]) {{ {lines} }}")
    found = migx("bisect", path, "--passes", "ones", "--json").json
    assert found["symptom"] == "wrong"
    assert migx("verify", path, "--passes", "ones").code == 1


def test_the_two_commands_differ_by_what_is_wrong(migx: Migx, model: Path) -> None:
    found = migx("bisect", model, "--passes", "simplify_reshapes,wrong", "--json").json
    (event,) = found["events"]
    assert (event["pass_name"], event["rule"]) == ("wrong", "relu_of_neg")
    texts = [migx(*shlex.split(found[name])[1:]).out for name in ("before", "after")]
    before, after = ({at.name for at in api.parse(text).main} for text in texts)
    assert before - after == {"relu", "neg"}
    assert texts[0] == str(api.parse(model.read_text()))
    whole = migx("opt", model, "--passes", "simplify_reshapes,wrong", "--skip", event["key"])
    assert "relu" in whole.out
    assert migx("opt", model, "--passes", "wrong", "--skip", "all of it").code == 2


def test_bisect_with_a_command_of_the_users_own(migx: Migx, model: Path) -> None:
    words = ("bisect", model, "--passes", "pair,wrong,eliminate_common_subexpression")
    command = (sys.executable, "-c", "import sys; sys.exit('relu(' not in open('{}').read())")
    result = migx(*words, "--", *command)
    assert result.code == 0
    assert result.out.startswith("exit code 1\n\n1 of ")
    assert f"wrong: relu_of_neg at planted_relu, planted_neg ({planted.__file__}:" in result.out
    right = migx(*words, "--", *command[:2], "pass")
    assert (right.code, right.out) == (1, f"nothing is wrong after {words[-1]}\n")
    assert migx("bisect", model, "--passes", "", "--json").json["symptom"] is None
    always = migx(*words, "--", *command[:2], "import sys; sys.exit(3)")
    assert always.code == 1
    assert always.out.startswith("exit code 3\n\nit fails without any of ")
    assert "before:" not in always.out


@pytest.mark.parametrize("verb", ["bisect", "reduce"])
def test_a_command_that_does_not_run_is_no_symptom(verb: str, migx: Migx, model: Path) -> None:
    result = migx(verb, model, "--passes", "wrong", "--", "no-such-command")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: cannot run no-such-command: No such file or directory\n"


def test_reduce_keeps_how_the_command_fails(
    migx: Migx, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    result = migx("reduce", model, "--", sys.executable, "-c", HAS, "relu(")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("exit code 1: 504 instructions became 3 in ")
    small = api.parse(Path("big.reduced.migx").read_text())
    assert [at.name for at in small.main] == ["@param", "relu", "@return"]
    found = migx("reduce", model, "-o", "n.migx", "--json", "--", sys.executable, "-c", HAS, "neg")
    assert (found.json["after"], found.json["file"]) == (3, "n.migx")
    right = migx("reduce", model, "--", sys.executable, "-c", HAS, "softmax")
    assert (right.code, right.err) == (1, "the command does not fail: there is nothing to reduce\n")


CASE = """# passes: wrong
module main(x: f32[3]) {
  %0 = @literal() {value=[9.0, 9.0, 9.0]} : f32[3]
  %1 = max(x, %0)
  %2 = sub(%1, %0)
  %3 = neg(%2)
  %4 = relu(%3)
  return y=%4
}
"""
"""What the pass leaves is wrong where an input is greater than 9, as no drawn one is."""

LARGE = """
import pathlib, sys, numpy
case = pathlib.Path(sys.argv[1])
with numpy.load(case.with_suffix(".npz")) as inputs:
    large = any((value > 9).any() for value in inputs.values())
sys.exit(large and case.read_text().startswith("# passes: wrong\\nmodule main("))
"""


@pytest.mark.parametrize("command", [(), ("--", sys.executable, "-c", LARGE)])
def test_reduce_takes_the_inputs_of_a_saved_case(
    command: tuple[str, ...], migx: Migx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("case.migx").write_text(CASE)
    if not command:
        found = migx("reduce", "case.migx")
        nothing = "the program does not fail: there is nothing to reduce\n"
        assert (found.code, found.err) == (1, nothing)
    np.savez("case.npz", x=np.array([1, 2, 90], np.float32))
    found = migx("reduce", "case.migx", *command)
    assert (found.code, found.err) == (0, "inputs: case.npz\n")
    assert "7 instructions became " in found.out
    assert {at.name for at in api.parse(Path("case.reduced.migx").read_text()).main} <= {
        "@param", "neg", "relu", "@return",
    }  # fmt: skip
    with np.load("case.reduced.npz") as inputs:
        assert [value.max() for value in inputs.values()] == [81.0 if not command else 90.0]
    if not command:
        assert "wrong: relu_of_neg" in migx("bisect", "case.reduced.migx").out


@rule(on(ops.Add, var("x"), value(0.0)))
def without_zero(x: Instruction) -> Instruction:
    """Wrong: -0.0 + 0.0 is 0.0."""
    return x


class WithoutZero(Pass):
    """Leaves out zeros."""

    rules = RuleSet(without_zero)


def test_a_case_of_the_fuzzer_is_judged_as_there(
    migx: Migx, tmp_path: Path, found_by_name: Callable[..., None]
) -> None:
    found_by_name(WithoutZero)
    program = api.parse("""
    module main(x: f32[2]) {
      %0 = @literal() {value=[0.0, 0.0]} : f32[2]
      %1 = add(x, %0)
      %2 = neg(%1)
      return %2
    }""")
    inputs = {"x": api.Argument.of(np.array([-0.0, 1], np.float32))}
    case = tmp_path / "case.migx"
    Case(program, inputs).save(case, "without_zero")
    found = migx("bisect", case, "--json").json
    assert [event["rule"] for event in found["events"]] == ["without_zero"]
    assert "0 instead of -0 at [0], off by 0 where 0 is allowed" in found["detail"]
    small = tmp_path / "small.migx"
    assert migx("reduce", case, "-o", small).code == 0
    assert "neg" not in small.read_text()
    case.write_text(str(program))
    assert migx("bisect", case, "--passes", "without_zero").code == 1


def test_a_command_that_does_not_end_is_killed(migx: Migx, model: Path) -> None:
    start = time.monotonic()
    sleep = (sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])")
    found = migx("bisect", model, "--passes", "", "--timeout", "0.2", "--json", "--", *sleep).json
    assert (found["symptom"], found["detail"]) == ("timeout", "no end within 0.2 s")
    assert found["events"] == []
    assert time.monotonic() - start < 10


def test_why_not(migx: Migx, model: Path) -> None:
    words = ("why-not", model, "--rule", "wrong.relu_of_neg", "--at")
    result = migx(*words, "planted_relu")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("wrong.relu_of_neg looks for relu(neg(x))\n\n")
    assert ": fires: it becomes tanh\n> %" in result.out
    assert "rewrites by it in a run of wrong: 1, of them here: 1" in result.out
    assert migx(*words, "relu").out == result.out
    assert migx(*words[:-1]).out == result.out.replace(", of them here: 1", "")
    everywhere = migx("why-not", model, "--rule", "pair.drop_inner")
    assert ": refused: " in everywhere.out
    assert "and 195 more places, which --json lists\n\nrewrites by it in a run" in everywhere.out
    listed = migx("why-not", model, "--rule", "pair.drop_inner", "--json").json["answers"]
    assert len(listed) == 200
    none = migx("why-not", model, "--rule", "simplify_algebra.rsqrt").out
    assert "\n\nno instruction is recip\n" in none
    found = migx(*words, "node3", "--json").json
    assert found["answers"][0]["verdict"] == "no such operation"
    after = migx("why-not", model, "--rule", "pair.drop_outer", "--at", "%0", "--passes", "wrong")
    assert "drop_outer begins at relu; here is @literal, and none reads it" in after.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reduce", "MODEL", "--", "/no/such"], "cannot run /no/such: No such file"),
        (["bisect", "MODEL", "--target", "abacus"], "no target named 'abacus'"),
        (["bisect", "nowhere.migx"], "there is no file nowhere.migx"),
        (["why-not", "MODEL", "--rule", "wrong.x", "--at", "%0"], "has no rule 'x'"),
        (["why-not", "MODEL", "--rule", "neg_neg", "--at", "%0"], "simplify_algebra.neg_neg"),
        (["why-not", "MODEL", "--rule", "wrong.relu_of_neg", "--at", "plantd_relu"], "similar:"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str], message: str, migx: Migx, model: Path
) -> None:
    result = migx(*[model if word == "MODEL" else word for word in words])
    assert (result.code, message in result.err) == (2, True)
