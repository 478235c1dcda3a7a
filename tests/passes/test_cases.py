"""Every rule fires in some textual case, and every pass has cases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import migx
from migx import plugins
from migx.events import EventLog
from migx.manager import Pass, PassManager
from migx.testing.cases import cases

IR = Path(__file__).parent.parent / "ir"


def fired() -> Iterator[tuple[str, str]]:
    """The pass and the rule of each rewrite that happens in the cases."""
    for file in IR.glob("*.migx"):
        for _, passes, text, *_ in cases(file.read_text("utf-8")):
            given = text.partition("# becomes\n")[0]
            program = migx.parse(given, folder=IR, draw_missing=0)
            log = EventLog()
            PassManager(program, log=log).run(passes.partition(", atol=")[0])
            yield from ((event.pass_name, event.rule) for event in log.events)


def ours() -> dict[str, type[Pass]]:
    """The passes of this repository, whatever packages are installed besides."""
    found = {name: plugins.load("passes", name) for name in plugins.names("passes")}
    return {name: cls for name, cls in found.items() if cls.__module__.startswith("migx.")}


def test_every_rule_fires_in_a_case() -> None:
    rules = {(name, rule.name) for name, cls in ours().items() for rule in cls.rules}
    assert sorted(rules - set(fired())) == []


def test_every_pass_has_cases() -> None:
    without = {name for name in ours() if not (IR / f"{name}.migx").exists()}
    assert without <= {"optimize_module"}, "its members have the cases"


def pytest_run(folder: Path, *options: str, refused: bool = False) -> str:
    """What pytest prints of the cases in a folder of somebody else's, or why it does not begin."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    env = os.environ | {"PYTHONPATH": str(IR.parent.parent), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert bool(done.stderr) == refused
    return done.stderr if refused else done.stdout


def test_a_package_outside_has_its_cases_collected_and_blessed(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["migx.testing.cases"]\n')
    file = tmp_path / "mine.migx"
    file.write_text(
        "# Twice the other way is as it was.\n\n# passes:  simplify_algebra\n"
        "module main(x: f32[3]) { %0 = neg(x) %1 = neg(%0) return %1 }\n"
    )
    first = pytest_run(tmp_path)
    assert f"{file}:3: # passes:  simplify_algebra" in first
    assert "the program is not as it is printed (+)" in first
    assert "+  %1 = neg(%0) : f32[3]" in first
    assert "pluggy" not in first
    assert "run it in one process" in pytest_run(tmp_path, "--bless", "-n", "2", refused=True)
    assert "1 passed" in pytest_run(tmp_path, "--bless")
    text = file.read_text()
    assert text.endswith("# becomes\nmodule main(x: f32[3]) {\n  return x\n}\n")
    file.write_text(text.replace("  return x", "  %0 = relu(x) : f32[3]\n  return %0"))
    again = pytest_run(tmp_path)
    assert "it becomes something else (+), not as expected (-); --bless accepts it" in again
    assert "-  %0 = relu(x) : f32[3]\n-  return %0\n+  return x\n" in again
    assert len(again.splitlines()) < 20


def test_a_case_that_cannot_be_run_says_why_and_where(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["migx.testing.cases"]\n')
    text = (
        "# What is wrong stands in the text or in the pipeline.\n# passes: simplify_algebra\n"
        "module main(x: f32[3]) {\n  %0 = relu(x)\n  return %0\n}\n"
    )
    (tmp_path / "text.migx").write_text(text.replace("relu", "rellu"))
    (tmp_path / "pipeline.migx").write_text(text.replace("_algebra", ""))
    said = pytest_run(tmp_path)
    assert "line 4, column 8: no operation named 'rellu'; similar: relu" in said
    assert "no pass named 'simplify'; similar:" in said
    assert "Error" not in said
