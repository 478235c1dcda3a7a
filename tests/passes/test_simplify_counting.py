"""Slices whose ends are counted: how long they are is found where it is so, and nowhere else."""

from __future__ import annotations

import random

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.program import Program
from migx.targets.cpu.runs.executable import CpuExecutable

LOOP = """
module main(x: f32[{rows}, 2], y: f32[n]) {{
  %0 = @literal() {{value=[true]}} : bool[]
  %1 = @literal() {{value=[{first}]}} : i64[]
  %2 = @literal() {{value=[0.0, 0.0]}} : f32[2]
  %3 = dim_literal() {{values=({trips},), lens=()}} : i64[]
  %4 = undefined() : optional()
  %5 = less(%1, %3)
  %9 = @literal() {{value=[9, 9, 0, 0, 0, 0, 0]}} : i64[7]
  %10 = @literal() {{value=[1024]}} : i64[]
  %6 = loop({given}, %1, %2) [body]
  %7 = get_tuple_elem(%6)
  %8 = get_tuple_elem(%6) {{index=1}}
  return %7, %8
}}

module body(i: i64[], c: bool[], p: i64[], s: f32[2]) {{
  %1 = @literal() {{value=[1]}} : i64[]
  %2 = @literal() {{value=[2]}} : i64[]
  %3 = @literal() {{value=[{step}]}} : i64[]
  {next}
  {bounds}
  %20 = unsqueeze(%10) {{axes=(0,)}}
  %21 = unsqueeze(%11) {{axes=(0,)}}
  %22 = @literal() {{value=[1]}} : i64[1]
  %23 = dynamic_slice(main:x, %20, %21, %22) {{axes=(0,), out_lens=(q,)}}
  %24 = reduce_sum(%23) {{axes=(0,)}}
  %25 = squeeze(%24) {{axes=(0,)}}
  %26 = sub(%25, s)
  {goes_on}
}}
"""
DEFAULTS = {
    "rows": "n",
    "first": "0",
    "trips": "n",
    "given": "%3, %0",
    "step": "1",
    "next": "%4 = add(p, %3)",
    "bounds": "%10 = identity(i)\n%11 = add(i, %1)",
    "goes_on": "return c, %4, %26",
}
ROUNDED = """%5 = convert(p) {to=f32}
%6 = @literal() {value=[1.0]} : f32[]
%7 = add(%5, %6)
%4 = convert(%7) {to=i64}"""
ASKED = {
    "given": "%4, %5",
    "goes_on": "%30 = less(%4, main:%3)\nreturn %30, %4, %26",
    "bounds": "%10 = identity(p)\n%11 = add(p, %1)",
}
ONE_ROW = {
    "by the trip count": {},
    "as long as the condition holds": ASKED,
    "of numbers that were rounded": ASKED
    | {
        "goes_on": "%30 = convert(%4) {to=f32}\n%31 = convert(main:%3) {to=f32}\n"
        "%32 = greater(%31, %30)\n%33 = logical_and(c, %32)\nreturn %33, %4, %26"
    },
    "counted in floats": {
        "rows": "501",
        "trips": "min(n, 501)",
        "given": "%10, %5",
        "next": ROUNDED,
        "bounds": "%9 = @literal() {value=[501]} : i64[]\n"
        "%10 = identity(p)\n%12 = add(p, %1)\n%11 = min(%9, %12)",
        "goes_on": "%30 = less(%4, %9)\nreturn %30, %4, %26",
    },
    "the last first": {
        "bounds": "%10 = sub(main:%3, %12)\n%11 = sub(main:%3, i)",
        "next": "%4 = add(p, %3)\n%12 = add(i, %1)",
    },
    "the last by its place from the end": {
        "bounds": "%13 = neg(i)\n%10 = sub(%13, %2)\n%11 = sub(%13, %1)",
        "trips": "max(n - 1, 0)",
    },
    "of more than are asked for": {"trips": "n//2"},
    "of some": {"trips": "min(n, 4)"},
    "of what is carried from 1 on": {
        "first": "1",
        "trips": "max(n - 1, 0)",
        "bounds": "%10 = identity(p)\n%11 = add(p, %1)",
    },
    "whose end is come to otherwise": {
        "bounds": "%10 = identity(i)\n%9 = add(i, %2)\n%11 = sub(%9, %1)",
    },
}
WINDOWS = {
    "of two": {"trips": "max(n - 1, 0)", "bounds": "%10 = identity(i)\n%11 = add(i, %2)"},
    "of pairs": {
        "step": "2",
        "trips": "n//2",
        "bounds": "%10 = identity(p)\n%11 = add(p, %2)",
    },
    "of pairs by their number": {
        "trips": "n//2",
        "bounds": "%10 = mul(i, %2)\n%12 = add(i, %1)\n%11 = mul(%12, %2)",
    },
}
UNTOLD = {
    "of fewer than are asked for": {"trips": "n + 1"},
    "before the first": {"bounds": "%10 = sub(i, %1)\n%11 = identity(i)"},
    "of a size apart": {"rows": "m"},
    "that become longer": {"bounds": "%10 = sub(i, i)\n%11 = add(i, %1)"},
    "where the first is not asked": ASKED | {"given": "%4, %0"},
    "where the condition may hold once more": ASKED
    | {"goes_on": "%30 = less_or_equal(%4, main:%3)\nreturn %30, %4, %26"},
    "where what is asked does not count": ASKED
    | {
        "goes_on": "%30 = less(%1, main:%3)\n%31 = less(p, main:%3)\n"
        "%32 = logical_and(%30, %31)\nreturn %32, %4, %26"
    },
    "where what is asked is another number each time": ASKED
    | {
        "first": "1",
        "given": "%4, %0",
        "rows": "7",
        "bounds": "%12 = gather(main:%9, i)\n%10 = identity(p)\n%13 = add(p, %1)\n"
        "%11 = min(%12, %13)",
        "goes_on": "%30 = less(%4, %12)\nreturn %30, %4, %26",
    },
}


def text(**changes: str) -> str:
    return LOOP.format(**DEFAULTS | changes)


def slices(program: Program) -> list[str]:
    """The slices of unknown length that there are when a program is compiled."""
    modules = program.compiled.program.modules.values()
    return [at.name for module in modules for at in module if at.name == "dynamic_slice"]


def agree(made: str, *sizes: int) -> Program:
    program, ref = migx.parse(made), migx.parse(made).compile("ref")
    program.compile("cpu", num_threads=1)
    for n in sizes:
        rows = program.main.parameters["x"].shape.dims[0]
        count = rows if isinstance(rows, int) else n
        x = np.random.default_rng(n).standard_normal((count, 2)).astype(np.float32)
        given = {"x": x, "y": np.zeros(n, np.float32)}
        expected = ref.eval(given)
        for found, wanted in zip(program.eval(given), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    return program


@pytest.mark.parametrize("changes", [*ONE_ROW.values(), *WINDOWS.values()], ids=str)
def test_a_slice_that_is_as_long_in_every_iteration_is_picked(changes: dict[str, str]) -> None:
    program = agree(text(**changes), 0, 1, 2, 3, 7)
    assert not slices(program)
    found = program.executable
    assert isinstance(found, CpuExecutable)
    assert not found.fallbacks()


@pytest.mark.parametrize("changes", UNTOLD.values(), ids=str)
def test_a_slice_that_may_be_shorter_stays(changes: dict[str, str]) -> None:
    assert slices(agree(text(**changes), 0, 1, 2, 3, 7))


STARTS = {
    "i": "%10 = identity(i)",
    "p": "%10 = identity(p)",
    "2*i": "%10 = mul(i, %2)",
    "p - 1": "%10 = sub(p, %1)",
    "the last": "%12 = sub(main:%3, %1)\n%10 = sub(%12, i)",
    "counted from the end": "%12 = neg(p)\n%10 = sub(%12, %2)",
}


def drawn(choices: random.Random) -> str:
    """A loop of some trip count, condition, counter and slice: most of these may be cut off."""
    pick = choices.choice
    asks = pick(["less", "less_or_equal", "greater", ""])
    sides = "main:%3, %4" if asks == "greater" else "%4, main:%3"
    return text(
        rows=pick(["n", "n", "5"]),
        first=pick(["0", "0", "1", "-1"]),
        trips=pick(["n", "max(n - 1, 0)", "n//2", "n + 1", "min(n, 4)"]),
        given=pick(["%4, %5", "%4, %0", "%3, %5", "%10, %5"] if asks else ["%3, %0", "%3, %5"]),
        step=pick(["1", "1", "2"]),
        bounds=f"{pick([*STARTS.values()])}\n%11 = add(%10, {pick(['%1', '%1', '%2', '%3'])})",
        goes_on=f"%30 = {asks}({sides})\nreturn %30, %4, %26" if asks else DEFAULTS["goes_on"],
    )


def test_loops_that_are_drawn_agree_with_ref() -> None:
    found = [bool(slices(agree(drawn(random.Random(seed)), 0, 1, 2, 5))) for seed in range(60)]
    assert 5 < sum(found) < 55, "some are picked, some are not"


def trips(made: str) -> list[str]:
    """What says how often the loop of a program is run, by its pass."""
    program = migx.parse(made)
    migx.run_passes(program, "simplify_counting")
    return [at.inputs[0].name for at in program.main if at.name == "loop"]


def test_a_condition_that_counts_is_a_trip_count() -> None:
    assert trips(text(**ASKED)) == ["dim_literal"]
    assert trips(text(**ASKED | {"given": "%10, %5"})) == ["dim_literal"]
    assert trips(text(**ASKED | {"given": "%4, %0"})) == ["dim_literal"]


@pytest.mark.parametrize("most", [(1 << 63) - 1, (1 << 62) + 5, -(1 << 63)])
@pytest.mark.parametrize("compare", ["less", "less_or_equal"])
def test_a_condition_that_counts_to_what_is_hardly_a_number(most: int, compare: str) -> None:
    made = text(
        given="%10, %0",
        bounds=f"%9 = @literal() {{value=[{most}]}} : i64[]\n%10 = identity(i)\n%11 = add(i, %1)",
        goes_on=f"%30 = {compare}(%4, %9)\nreturn %30, %4, %26",
    ).replace("[1024]", "[3]")
    agree(made, 1, 3)


ROW = """
module main(x: f32[n, 2], i: i64[]) {
  %0 = unsqueeze(i) {axes=(0,)}
  %1 = @literal() {value=[1]} : i64[1]
  %2 = add(%0, %1)
  %3 = dynamic_slice(x, %0, %2, %1) {axes=(0,), out_lens=(q,)}
  %4 = squeeze(%3) {axes=(0,)}
  return %4
}
"""


@pytest.mark.parametrize("place", range(-5, 5))
def test_a_slice_of_which_one_row_is_taken_is_that_row_or_fails(place: int) -> None:
    program, ref = migx.parse(ROW).compile("cpu"), migx.parse(ROW).compile("ref")
    assert not slices(program)
    given = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "i": np.array(place)}
    try:
        (expected,) = ref.eval(given)
    except EvaluationError:
        with pytest.raises(EvaluationError, match="a slice must be of one row|is outside axis"):
            program.eval(given)
    else:
        assert np.array_equal(program.eval(given)[0], expected)
