"""What a report tells of passes, without the page that shows it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import migx
from migx import Shape, ops
from migx.errors import TargetError
from migx.events import EventLog
from migx.manager import PassManager
from migx.profile import measured
from migx.program import Program
from migx.target import CompileOptions, Context, Target, get_target
from migx.view import Report, report
from tests.view.conftest import PASSES, TEXT


def operations(made: Report, state: int, module: str = "main") -> list[str]:
    return [made.lines[line].operation for line in made.bodies[made.states[state][module]]]


def test_each_pass_has_its_rewrites_and_the_programs_around_it(made: Report) -> None:
    algebra, common, fuse = made.steps
    assert [step.text for step in made.steps] == PASSES.split(",") == made.pipeline.split(",")
    assert (algebra.before, algebra.after) == (0, common.before)
    (rewrite,) = algebra.rewrites
    rule = made.rules[rewrite.rule]
    assert (rule.name, rule.pass_name) == ("neg_neg", "simplify_algebra")
    assert rule.place.startswith("migx/passes/simplify_algebra/")
    assert "def neg_neg(" in rule.code
    assert [made.lines[line].operation for line in rewrite.before] == ["neg", "neg"]
    assert [made.names[made.lines[line].value] for line in rewrite.after] == ["x"]
    assert not common.rewrites
    assert operations(made, common.before).count("exp") == 2
    assert operations(made, common.after).count("exp") == 1
    assert operations(made, fuse.after) == ["@param", "@param", "pointwise", "@return"]
    assert operations(made, fuse.after, "pointwise")[2:] == ["exp", "mul", "sub", "@return"]


def test_values_keep_the_names_of_the_text_they_came_from(made: Report) -> None:
    named = {made.names[made.lines[line].value] for line in made.bodies[made.states[0]["main"]]}
    assert named == {"x", "y", *(f"%{i}" for i in range(6)), "return"}
    body = made.bodies[made.states[made.steps[1].after]["main"]]
    kept = {made.names[made.lines[line].value]: made.lines[line].operation for line in body}
    assert {kept[n] for n in ("%4", "%5")} == {"mul", "sub"}
    assert "%6" not in kept


def test_origins_are_followed(made: Report) -> None:
    last = made.bodies[made.states[made.steps[-1].after]["main"]]
    (fused,) = [made.lines[i] for i in last if made.lines[i].operation == "pointwise"]
    nodes = {made.nodes[node] for node in made.origin_sets[fused.origins]}
    assert {"exp", "same", "mul", "sub"} <= nodes


def test_every_event_of_a_rule_is_told_with_its_instructions() -> None:
    passes = "optimize_module,fuse_pointwise_reduce"
    log, program = EventLog(), migx.parse(TEXT)
    PassManager(program.copy(), log=log).run(passes)
    made = report(program, passes=passes)
    told = [rewrite for step in made.steps for rewrite in step.rewrites]
    assert [r.key for r in told] == [event.key for event in log.events if event.rule]
    assert all(r.before and r.after for r in told)
    assert str(program) == str(migx.parse(TEXT))


def test_weights_are_named_and_not_held() -> None:
    program = migx.Program()
    x = program.main.add_parameter("x", Shape("f32", (64,)))
    w = program.main.add_literal(np.arange(64, dtype=np.float32), name="w")
    y = program.main.add_instruction(ops.Add(), x, w)
    program.main.add_return(y)
    made = report(program, passes="")
    (line,) = [line for line in made.lines if line.operation == "@literal"]
    assert line.attributes == '{value=bytes("memory", 0, 256), label="w"}'


def test_a_run_has_what_each_instruction_of_the_end_took() -> None:
    inputs = {name: np.ones((2, 3), np.float32) for name in "xy"}
    made = report(migx.parse(TEXT), inputs=inputs)
    assert made.run is not None
    assert made.run.sizes == {"batch": 2}
    last = made.states[made.steps[-1].after]
    there = {made.lines[i].value for body in last.values() for i in made.bodies[body]}
    assert made.run.costs
    assert {cost.value for cost in made.run.costs} <= there
    assert all(cost.seconds > 0 and cost.times == 1 for cost in made.run.costs)


def test_passes_that_were_given_are_of_no_target_until_it_compiles(made: Report) -> None:
    assert made.target == ""
    program, inputs = migx.parse(TEXT), {name: np.ones((2, 3), np.float32) for name in "xy"}
    assert report(program, "ref").target == "ref"
    assert report(program, "ref", passes="fuse_pointwise", inputs=inputs).target == "ref"


class Silent(Target):
    """Runs as ``ref`` does, and shows nothing of it."""

    def get_passes(self, context: Context, options: CompileOptions) -> str:
        """None."""
        return ""

    def make_executable(self, program: Program, context: Context) -> Any:
        """What has a run alone."""
        inner = get_target("ref").make_executable(program, context)
        return SimpleNamespace(run=inner.run)


def test_of_a_target_that_cannot_tell_there_is_no_run() -> None:
    inputs = {name: np.ones((2, 3), np.float32) for name in "xy"}
    program = migx.parse(TEXT).compile(Silent())
    made = report(program, Silent(), passes="fuse_pointwise", inputs=inputs)
    assert made.run is None
    assert made.steps
    assert report(program, "ref", inputs=inputs).run is not None
    with pytest.raises(TargetError, match="silent cannot measure its runs"):
        measured(program.compiled, program.compiled.arguments(inputs))


def test_it_is_plain_json(made: Report) -> None:
    plain = json.loads(made.json())
    assert plain["names"] == list(made.names)
    assert plain["lines"][0] == {
        "value": 0,
        "operation": "@param",
        "inputs": [],
        "attributes": "",
        "shape": "f32[batch, 3]",
        "modules": [],
        "origins": 0,
        "returned": [],
    }
    assert plain["steps"][0]["rewrites"][0]["rule"] == 0


def test_the_page_is_one_file_that_needs_no_other(made: Report, tmp_path: Path) -> None:
    made.write(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<title>&lt;small&gt; · migx</title>" in page
    assert page.count("</script>") == 2
    head, _, rest = page.partition('<script type="application/json" id="report">')
    held, _, scripts = rest.partition("</script>")
    assert json.loads(held) == json.loads(made.json())
    assert "class Model" in scripts
    for loads in ("src=", "@import", "url(", "<link", "fetch(", "import("):
        assert loads not in head + scripts
