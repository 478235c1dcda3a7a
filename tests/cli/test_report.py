"""``migx report``: a page of what passes did."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from migx import interpreter
from tests.cli.conftest import Migx


def test_it_writes_a_page(migx: Migx, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    result = migx("report", model, "-o", out)
    assert (result.code, result.err) == (0, "")
    assert re.match(rf"{re.escape(str(out))}: \d+\.\d\d kB; open it in a browser", result.out)
    assert out.read_text("utf-8").startswith("<!doctype html>")


def test_json_is_what_the_page_shows(migx: Migx, model: Path) -> None:
    asked = ("report", model, "--passes", "optimize_module,fuse_pointwise_reduce", "--json")
    found = migx(*asked).json
    assert (found["title"], found["run"]) == (str(model), None)
    assert {"dense", "active", "soft", "pick"} == {*found["nodes"]}
    assert "simplify_algebra" in [step["text"] for step in found["steps"]]
    assert found["steps"][-1]["element"] == "fuse_pointwise_reduce"


def test_perf_runs_it(migx: Migx, model: Path) -> None:
    found = migx("report", model, "--perf", "--dim-param", "batch=3", "--json").json
    kernels = {cost["kernel"] for cost in found["run"]["costs"]}
    assert any("dot" in kernel for kernel in kernels)
    assert found["run"]["weights"] > 0


def test_of_a_target_that_tells_no_times_the_rest_is_shown(
    migx: Migx, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.html"
    shown = migx("report", model, "--perf", "--target", "ref", "--json").json["run"]["costs"]
    assert "dot" in {cost["kernel"] for cost in shown}
    traced = interpreter.Interpreter
    monkeypatch.setattr(
        interpreter, "Interpreter", lambda *given: SimpleNamespace(run=traced(*given).run)
    )
    result = migx("report", model, "--perf", "--target", "ref", "-o", out)
    assert (result.code, out.exists()) == (0, True)
    assert result.err.startswith("target ref has no times: its executable has neither profile(")
    assert migx("report", model, "--perf", "--target", "ref", "--json").json["run"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--inputs", "x.npz"), "--inputs is for --perf"),
        (("-o", "out.txt"), "--output out.txt: reports are .html files"),
        (("-o", "/nowhere/out.html"), "cannot write /nowhere/out.html"),
        (("--passes", "simplify"), "simplify"),
    ],
)
def test_mistakes_are_one_message(
    words: tuple[str, ...], said: str, migx: Migx, model: Path
) -> None:
    result = migx("report", model, *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
