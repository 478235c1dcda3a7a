"""Where a module is cut: after instructions whose results alone determine their sizes."""

from __future__ import annotations

import migx
from migx.planning import pieces
from migx.program import Program

TOGETHER = """
module main(x: f32[n], y: f32[n], c: bool[]) {
  %0 = nonzero(x) {count=a}
  %1 = neg(%0)
  %2 = neg(y)
  %3 = nonzero(%2) {count=b}
  %4 = concat(%0, %3) {axis=1}
  %5 = nonzero(%4) {count=d}
  %6 = abs(y)
  return %5, %1, %6
}
"""


def cut(text: str) -> list[tuple[list[str], list[str]]]:
    """The names of what is in each part, and of what it ends with."""
    program: Program = migx.parse(text)
    return [
        (
            [at.name for at in part.instructions if at.name != "@param"],
            [at.name for at in part.late],
        )
        for part in pieces(program.main, set())
    ]


def test_what_can_run_runs_and_all_that_tell_sizes_then_end_a_part() -> None:
    assert cut(TOGETHER) == [
        (["neg", "abs"], ["nonzero", "nonzero"]),
        (["neg", "concat"], ["nonzero"]),
        (["@return"], []),
    ]


def test_sizes_known_outside_cut_nothing() -> None:
    program = migx.parse(TOGETHER)
    ((instructions, late),) = pieces(program.main, {"a", "b", "d"})
    assert instructions == [*program.main]
    assert not late


def test_a_module_that_only_reads_a_size_waits_for_it() -> None:
    text = """
module main(x: f32[n], c: bool[]) {
  %0 = nonzero(x) {count=a}
  %1 = if(c) [yes, no]
  %2 = get_tuple_elem(%1)
  %3 = neg(x)
  return %2, %0, %3
}

module yes() {
  %0 = @literal() {value=[1.0]} : f32[1]
  %1 = multibroadcast(%0) {out_lens=(a,)}
  %2 = reduce_sum(%1) {axes=(0,)}
  return %2
}

module no() {
  %0 = @literal() {value=[1.0]} : f32[1]
  return %0
}
"""
    assert cut(text) == [
        (["neg"], ["nonzero"]),
        (["if", "get_tuple_elem", "@return"], []),
    ]


def test_what_a_module_captures_is_made_first() -> None:
    text = """
module main(x: f32[n], c: bool[]) {
  %0 = nonzero(x) {count=a}
  %1 = reduce_sum(%0) {axes=(1,)}
  %2 = if(c) [yes, no]
  %3 = get_tuple_elem(%2)
  return %3
}

module yes() {
  return main:%1
}

module no() {
  %0 = @literal() {value=[1]} : i64[1, 1]
  return %0
}
"""
    assert cut(text) == [
        ([], ["nonzero"]),
        (["reduce_sum", "if", "get_tuple_elem", "@return"], []),
    ]
