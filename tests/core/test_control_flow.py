"""Running what is decided by data: sizes, branches, loops."""

from __future__ import annotations

import numpy as np
import pytest

import migx


def test_sizes_only_the_data_decides() -> None:
    program = migx.parse("""module main(x: f32[n], s: i64[1], e: i64[1]) {
  %0 = nonzero(x) {count=found} : i64[1, found]
  %1 = dim_literal() {values=(found, 2*found + n), lens=(2,)} : i64[2]
  %2 = squeeze(%0) {axes=(0,)} : i64[found]
  %3 = gather(x, %2) : f32[found]
  %4 = @literal() {value=[1]} : i64[1]
  %5 = dynamic_slice(%3, s, e, %4) {axes=(0,), out_lens=(cut,)} : f32[cut]
  %6 = add(%5, %5) : f32[cut]
  %7 = dim_literal() {values=(cut,), lens=(1,)} : i64[1]
  return %3, %1, %6, %7
}
""")
    program.compile("ref")
    for x in ([0, 1, 2, 0, 3], [0, 0], [5], [1, 2, 3, 4, 5, 6, 7]):
        array = np.asarray(x, np.float32)
        kept = array[array != 0]
        cut = kept[1:3]
        found, sizes, twice, length = program.eval({"x": array, "s": [1], "e": [3]})
        assert found.tolist() == kept.tolist()
        assert sizes.tolist() == [len(kept), 2 * len(kept) + len(array)]
        assert twice.tolist() == (2 * cut).tolist()
        assert length.tolist() == [len(cut)]


BRANCHES = """module main(c: bool[], d: bool[], x: f32[n]) {
  %0 = add(x, x) : f32[n]
  %1 = if(c) [yes, no] : tuple(f32[n])
  %2 = get_tuple_elem(%1) : f32[n]
  return %2
}

module yes() {
  %0 = neg(main:%0) : f32[n]
  %1 = if(main:d) [yes.yes, yes.no] : tuple(f32[n])
  %2 = get_tuple_elem(%1) : f32[n]
  return %2
}

module no() {
  return main:x
}

module yes.yes() {
  %0 = add(yes:%0, main:x) : f32[n]
  return %0
}

module yes.no() {
  return yes:%0
}
"""


@pytest.mark.parametrize(
    ("c", "d", "factor"), [(True, True, -1), (True, False, -2), (False, True, 1)]
)
def test_branches_read_the_values_around_them(c: bool, d: bool, factor: float) -> None:
    program = migx.parse(BRANCHES).compile("ref")
    for n in (1, 4):
        x = np.arange(n, dtype=np.float32)
        (y,) = program.eval({"c": c, "d": d, "x": x})
        np.testing.assert_array_equal(y, factor * x)


LOOP = """module main(trips: i64[], x: f32[n], step: f32[n]) {
  %0 = undefined() : optional()
  %1 = add(step, step) : f32[n]
  %2 = loop(trips, %0, x) {outputs=(f32[n], f32[trips, n])} [body] : tuple(f32[n], f32[trips, n])
  %3 = get_tuple_elem(%2) : f32[n]
  %4 = get_tuple_elem(%2) {index=1} : f32[trips, n]
  return %3, %4
}

module body(i: i64[], going: bool[], state: f32[n]) {
  %0 = add(state, main:%1) : f32[n]
  return going, %0, state
}
"""


def test_a_loop_carries_its_state_and_reads_around_it() -> None:
    program = migx.parse(LOOP).compile("ref")
    for trips, n in ((3, 2), (0, 2), (1, 5)):
        x, step = np.ones(n, np.float32), np.full(n, 0.5, np.float32)
        last, rows = program.eval({"trips": trips, "x": x, "step": step})
        assert last.tolist() == [1 + trips] * n
        assert rows.shape == (trips, n)
        assert rows.tolist() == [[1 + i] * n for i in range(trips)]


GROWING = """module main(trips: i64[], x: f32[n]) {
  %0 = undefined() : optional()
  %1 = loop(trips, %0, x) {outputs=(f32[end],)} [body] : tuple(f32[end])
  %2 = get_tuple_elem(%1) : f32[end]
  %3 = dim_literal() {values=(end, n), lens=(2,)} : i64[2]
  return %2, %3
}

module body(i: i64[], going: bool[], state: f32[now]) {
  %0 = concat(state, main:x) {axis=0} : f32[n + now]
  return going, %0
}
"""


def test_a_loop_whose_state_grows() -> None:
    program = migx.parse(GROWING).compile("ref")
    for trips, n in ((0, 2), (3, 2), (2, 1)):
        x = np.arange(n, dtype=np.float32)
        last, sizes = program.eval({"trips": trips, "x": x})
        assert last.tolist() == x.tolist() * (trips + 1)
        assert sizes.tolist() == [n * (trips + 1), n]
