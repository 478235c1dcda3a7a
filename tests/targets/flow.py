"""Programs of control flow, and inputs for them: what is jumped over, repeated or handed on."""

from __future__ import annotations

from typing import Any

import numpy as np

from migx.program import Program

CHOICE = """
module main(c: bool[], x: f32[n, 4]) {
  %0 = neg(x)
  %1 = if(c) [yes, no]
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  %4 = add(%2, %3)
  return %4, %2
}

module yes() {
  %0 = relu(main:x)
  %1 = neg(%0)
  return %1, main:%0
}

module no() {
  %0 = neg(main:x)
  %1 = abs(%0)
  return main:x, %1
}
"""
COUNTED = """
module main(t: i64[], c: bool[], x: f32[n, 4]) {
  %0 = neg(x)
  %1 = loop(t, c, x, %0) {outputs=(f32[n, 4], f32[n, 4], f32[trips, n, 4])} [body]
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  %4 = get_tuple_elem(%1) {index=2}
  %5 = neg(%4)
  return %2, %3, %5
}

module body(i: i64[], c: bool[], a: f32[n, 4], b: f32[n, 4]) {
  %0 = abs(a)
  %1 = add(%0, main:x)
  return c, b, %1, a
}
"""
STOPPED = """
module main(t: i64[], x: i64[]) {
  %0 = undefined()
  %1 = loop(t, %0, x, x) {outputs=(i64[], i64[], i64[trips], i64[trips])} [body]
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  %4 = get_tuple_elem(%1) {index=2}
  %5 = get_tuple_elem(%1) {index=3}
  return %2, %3, %4, %5
}

module body(i: i64[], c: bool[], a: i64[], last: i64[]) {
  %0 = @literal() {value=[1]} : i64[]
  %1 = sub(a, %0)
  %2 = @literal() {value=[0]} : i64[]
  %3 = greater(%1, %2)
  return %3, %1, i, last, i
}
"""
NESTED = """
module main(t: i64[], x: f32[n]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x) [outer]
  %2 = get_tuple_elem(%1)
  return %2
}

module outer(i: i64[], c: bool[], a: f32[n]) {
  %0 = neg(a)
  %1 = loop(i, c, %0) [inner]
  %2 = get_tuple_elem(%1)
  %3 = abs(%0)
  %4 = add(%2, %3)
  return c, %4
}

module inner(j: i64[], d: bool[], b: f32[n]) {
  %0 = @literal() {value=[1]} : i64[]
  %1 = greater(j, %0)
  %2 = if(%1) [yes, no]
  %3 = get_tuple_elem(%2)
  return d, %3
}

module yes() {
  %0 = add(inner:b, outer:a)
  %1 = relu(%0)
  return %1
}

module no() {
  return main:x
}
"""
SCANNED = """
module main(h: f32[4], x: f32[n, 3, 4], y: f32[4, n]) {
  %0 = scan(h, x, y) {num_scan_inputs=2, scan_input_axes=(0, 1), scan_input_directions=(0, 1), \
scan_output_axes=(1, 0), scan_output_directions=(0, 1)} [body]
  %1 = get_tuple_elem(%0)
  %2 = get_tuple_elem(%0) {index=1}
  %3 = get_tuple_elem(%0) {index=2}
  return %1, %2, %3
}

module body(h: f32[4], x: f32[3, 4], y: f32[4]) {
  %0 = add(h, y)
  %1 = multibroadcast(%0) {out_lens=(3, 4)}
  %2 = add(x, %1)
  return %0, %2, h
}
"""
FLAGS = """
module main(t: i64[], c: bool[], d: bool[]) {
  %0 = loop(t, c, d, c, t) [body]
  %1 = get_tuple_elem(%0)
  %2 = get_tuple_elem(%0) {index=1}
  %3 = get_tuple_elem(%0) {index=2}
  return %1, %2, %3
}

module body(i: i64[], c: bool[], a: bool[], b: bool[], k: i64[]) {
  return a, b, c, i
}
"""
PAIR = """
module main(x: tuple(f32[n, 4], f32[n])) {
  %0 = get_tuple_elem(x)
  %1 = get_tuple_elem(x) {index=1}
  %2 = unsqueeze(%1) {axes=(1,)}
  %3 = multibroadcast(%2) {out_lens=(n, 4)}
  %4 = add(%0, %3)
  return %4
}
"""
TOLD_INSIDE = """
module main(c: bool[], t: i64[], x: f32[9]) {
  %0 = if(c) [some, others]
  %1 = get_tuple_elem(%0)
  %2 = neg(%1)
  %3 = @literal() {value=[true]} : bool[]
  %4 = @literal() {value=[0]} : i64[]
  %5 = loop(t, %3, %4) {outputs=(i64[], i64[trips, 1, k])} [each]
  %6 = get_tuple_elem(%5) {index=1}
  return %2, %6
}

module some() {
  %0 = nonzero(main:x) {count=m}
  return %0
}

module others() {
  %0 = relu(main:x)
  %1 = nonzero(%0) {count=m}
  return %1
}

module each(i: i64[], going: bool[], last: i64[]) {
  %0 = nonzero(main:x) {count=k}
  return going, last, %0
}
"""
"""Instructions whose results have sizes that only their modules tell."""
EVERY = (CHOICE, COUNTED, STOPPED, NESTED, SCANNED, FLAGS)
RUNS = ((3, 0, True), (1, 1, True), (0, 2, True), (3, 5, False), (2, 150, True))
"""Sizes, trips and conditions."""


def given(program: Program, n: int, t: int, c: bool) -> dict[str, Any]:
    """Inputs for the parameters a program has."""
    dice = np.random.default_rng(n + 7 * t)

    def value(name: str, dims: tuple[Any, ...]) -> Any:
        if name in ("c", "d"):
            return np.array(c)
        if name == "t":
            return np.array(t)
        sizes = [d if isinstance(d, int) else n for d in dims]
        drawn = dice.standard_normal(sizes).astype(np.float32)
        return drawn if dims else np.array(3)

    return {name: value(name, p.shape.dims) for name, p in program.main.parameters.items()}


def pair(n: int) -> dict[str, Any]:
    """A tuple for ``PAIR``."""
    return {"x": (np.ones((n, 4), np.float32), np.arange(n, dtype=np.float32))}


def same(got: list[Any], expected: list[Any]) -> bool:
    """Bit for bit: there is nothing in these programs that may be rounded in two ways."""
    return [(a.shape, a.dtype, a.tobytes()) for a in got] == [
        (a.shape, a.dtype, a.tobytes()) for a in expected
    ]
