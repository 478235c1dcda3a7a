"""The scripts of the page that compute, run by node on reports of programs."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

import migx
from migx.text import show
from migx.view import Report, document, report
from tests.view.conftest import TEXT

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


def asked(made: Report, expression: str) -> Any:
    """What an expression over ``model`` is, in the scripts of the page that draw nothing."""
    parts = ("model", "diff", "graph")
    source = "\n".join((document.FOLDER / f"{name}.js").read_text("utf-8") for name in parts)
    script = f"{source}\nconst model = new Model({made.json()});\n"
    script += f"console.log(JSON.stringify({expression}));"
    assert NODE is not None
    done = subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, check=False)
    assert not done.stderr
    return json.loads(done.stdout)


def test_lines_are_those_of_the_text(made: Report) -> None:
    lines = "model.state(0).modules.get('main').map((i) => model.text(model.report.lines[i]))"
    text = show(migx.parse(TEXT)).splitlines()
    assert [line for line in asked(made, lines) if "=" in line] == [t.strip() for t in text[1:-1]]


def test_values_are_counted_as_in_the_text(made: Report) -> None:
    program = migx.parse(TEXT)
    migx.run_passes(program, "simplify_algebra")
    state = "model.state(model.after(0))"
    names = f"[...{state}.lineOf.keys()].map((v) => nameInText(model.report, {state}, v))"
    counted = [f"%{i}" for i in range(len(program.main) - 3)]
    assert asked(made, names) == [None, None, *counted, None]


def test_a_diff_goes_by_identity(made: Report) -> None:
    before_after = "model.state(model.after(0)), model.state(model.after(1))"
    (main,) = asked(made, f"diffStates(model.report, {before_after})")
    assert (main["name"], main["kind"]) == ("main", "changed")
    kinds = [row["kind"] for row in main["rows"]]
    assert kinds == ["same", "same", "same", "removed", "changed", "same", "same"]
    whole = asked(made, "diffStates(model.report, model.state(0), model.state(model.last))")
    assert {part["name"]: part["kind"] for part in whole} == {
        "main": "changed",
        "pointwise": "added",
    }


@pytest.mark.parametrize(
    ("now", "kinds"),
    [
        ("[0, 1, 2, 3]", ["same"] * 4),
        ("[]", ["removed"] * 4),
        ("[0, 2, 1, 3]", ["same", "moved", "same", "moved", "same"]),
        ("[0, 4, 3]", ["same", "replaced", "removed", "same"]),
        ("[4, 0, 1, 2, 3]", ["added", *["same"] * 4]),
    ],
)
def test_what_stays_is_the_longest_run(made: Report, now: str, kinds: list[str]) -> None:
    report = "{lines: [0, 1, 2, 3, 4].map((value) => ({value}))}"
    rows = asked(made, f"diffLines({report}, [0, 1, 2, 3], {now})")
    assert sorted(row["kind"] for row in rows) == sorted(kinds)
    assert [row["left"] for row in rows if "left" in row] == [0, 1, 2, 3]
    assert [row["right"] for row in rows if "right" in row] == json.loads(now)


def test_long_runs_of_the_same_are_folded(made: Report) -> None:
    rows = "[...Array(20)].map((_, i) => ({kind: i === 10 ? 'added' : 'same', right: i}))"
    found = asked(made, f"folded({rows})")
    kinds = [row["kind"] for row in found]
    assert kinds == ["fold", *["same"] * 3, "added", *["same"] * 3, "fold"]
    assert [len(row["rows"]) for row in found if row["kind"] == "fold"] == [7, 6]


def test_the_story_of_a_value_and_of_a_node(made: Report) -> None:
    gone = "model.life(model.report.names.indexOf('%1'))"
    assert asked(made, gone) == {"began": None, "ended": 0, "atStart": True}
    rules = "model.ofNode(model.report.nodes.indexOf('mul'))"
    names = f"{rules}.map(([step, r]) => [step, model.report.rules[r.rule].name])"
    assert asked(made, names) == [[2, "pointwise"]]
    ends = "model.byNode(model.last).get(model.report.nodes.indexOf('mul'))"
    operations = f"{ends}.map((v) => model.line(v, 2).operation)"
    assert asked(made, operations) == ["pointwise", "mul"]


def test_the_way_to_a_value_in_a_module(made: Report) -> None:
    inner = "model.state(model.last).modules.get('pointwise')[2]"
    way = f"model.state(model.last).around(model.report.lines[{inner}].value)"
    assert asked(made, f"{way}.map((v) => model.line(v, 2).operation)") == ["pointwise"]
    assert asked(made, "model.state(model.last).roots") == ["main"]


def test_layers_stand_above_what_reads_them(made: Report) -> None:
    value = "model.report.names.indexOf('%4')"
    found = asked(made, f"neighbourhood(model.report, model.state(0), {value})")
    level = {value: at for at, values in found["layers"] for value in values}
    assert all(level[above] < level[below] for above, below in found["edges"])
    names = {made.names[value]: at for value, at in level.items()}
    assert names == {"%1": -2, "%2": -1, "%3": -1, "%4": 0, "%5": 1, "return": 2}
    assert found["left"] == 0


def test_no_more_is_drawn_than_fits() -> None:
    values = "\n".join(f"  %{i} = relu(x)" for i in range(9))
    program = migx.parse(f"module main(x: f32[2]) {{\n{values}\n  return %0\n}}\n")
    found = asked(report(program, passes=""), "neighbourhood(model.report, model.state(0), 0)")
    assert [len(values) for _, values in found["layers"]] == [1, 4, 1]
    assert found["left"] == 5
