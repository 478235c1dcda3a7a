"""Products with one block of many, which an index picks: weights are read where they lie."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.argument import Argument
from migx.errors import EvaluationError
from migx.ops.builtin import Literal
from migx.planning import is_block
from migx.program import Program
from migx.target import get_target
from migx.testing.law import check_law
from migx.testing.oracles import Trial
from tests.targets.cpu.test_int4_lookups import literal
from tests.targets.cpu.whole import native

E, N, K = 5, 37, 44
"""Blocks, columns that are no whole panels, and the depth."""


def _in_a_loop(*lines: str, index: str = "i64") -> str:
    """A loop that multiplies ``x`` by one block in each iteration: that which ``chosen`` says; the
    product is what a line gives that begins with ``%p``.
    """
    convert = ["%k = convert(%j) {to=i32}"] if index == "i32" else []
    body = ["%j = gather(main:chosen, i)", *convert, *lines]
    names: dict[str, str] = {}
    numbered = []
    for line in body:
        name, _, made = line.partition(" = ")
        names[name] = f"%{len(names)}"
        for old in sorted(names, key=len, reverse=True):
            made = made.replace(old + ")", names[old] + ")").replace(old + ",", names[old] + ",")
        numbered.append(f"  {names[name]} = {made}")
    inside = "\n".join(numbered)
    return f"""
module main(x: f32[n, {K}], chosen: i64[t]) {{
  %0 = dim_literal() {{values=(t,), lens=()}}
  %1 = @literal() {{value=[true]}} : bool[]
  %2 = loop(%0, %1) {{outputs=(f32[t, n, {N}],)}} [body]
  %3 = get_tuple_elem(%2)
  return %3
}}

module body(i: i64[], c: bool[]) {{
{inside}
  return c, {names["%p"]}
}}
"""


DOT = "%p = dot(main:x, %t)"
PICKED = {
    "f32": _in_a_loop(
        f"%w = {literal('w', 'f32', E, K, N)}", "%t = gather(%w, %j)", DOT
    ),
    "f32, turned": _in_a_loop(
        f"%w = {literal('w', 'f32', E, N, K)}",
        "%g = gather(%w, %j)",
        "%t = transpose(%g) {permutation=(1, 0)}",
        DOT,
    ),
    "f16": _in_a_loop(
        f"%w = {literal('w', 'f16', E, K, N)}",
        "%g = gather(%w, %k)",
        "%t = convert(%g) {to=f32}",
        DOT,
        index="i32",
    ),
    "bytes": _in_a_loop(
        f"%w = {literal('w', 'u8', E, N, K)}",
        f"%s = {literal('s', 'f32', E, N)}",
        "%g = gather(%w, %j)",
        "%h = gather(%s, %j)",
        "%l = dequantizelinear(%g, %h) {axis=0}",
        "%t = transpose(%l) {permutation=(1, 0)}",
        DOT,
    ),
    "four bits": _in_a_loop(
        f"%w = {literal('w', 'u4', E, N, K)}",
        f"%z = {literal('z', 'u4', E, N, K // 22)}",
        f"%s = {literal('s', 'f32', E, N, K // 22)}",
        "%u = unpack_int4(%w)",
        "%y = unpack_int4(%z)",
        "%g = gather(%u, %j)",
        "%h = gather(%s, %j)",
        "%o = gather(%y, %j)",
        "%l = dequantizelinear(%g, %h, %o) {axis=1, block=22}",
        "%t = transpose(%l) {permutation=(1, 0)}",
        DOT,
    ),
    "signed": _in_a_loop(
        f"%w = {literal('w', 'i4', E, K, N + 1)}",
        f"%s = {literal('s', 'f32', E, N + 1)}",
        "%u = unpack_int4(%w)",
        "%g = gather(%u, %j)",
        "%h = gather(%s, %j)",
        "%l = dequantizelinear(%g, %h) {axis=1}",
        f"%t = slice(%l) {{axes=(1,), starts=(0,), ends=({N},)}}",
        DOT,
    ),
}  # fmt: skip
FOUND = {"f32": 1, "f32, turned": 1, "f16": 1, "bytes": 2, "four bits": 3}
"""How many blocks are read where they lie."""
CHOSEN: tuple[list[int], ...] = ([3], [0, 4, 4, -1, -5, 2, 0], [])


def drawn(text: str, seed: int = 0) -> Program:
    """A program with weights at random, scales above 0 among them."""
    program, rng = migx.parse(text, draw_missing=seed), np.random.default_rng(seed)
    for at in list(program.literals):
        op = at.op_as(Literal)
        if op.label == "s":
            scales = rng.uniform(0.1, 1, [int(d) for d in at.shape.dims]).astype(np.float32)
            assert at.module is not None
            at.module.replace_operation(at, Literal(Argument.of(scales), op.label, op.replaceable))
    return program


def inputs(rows: int, chosen: list[int]) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, K)).astype(np.float32)
    return {"x": x, "chosen": np.array(chosen, np.int64)}


def found(program: Program) -> list[str]:
    """What the steps of a program are that find blocks."""
    parts = native(program).pieces[program.compiled.program.main]
    works = [work for part in parts for work in part.outline.works]
    assert all(is_block(w.at) for w in works if w.finds is not None)
    return [w.kernel.name for w in works if w.kernel is not None and w.finds is not None]


@pytest.mark.parametrize("name", PICKED)
def test_blocks_are_multiplied_where_they_lie(name: str) -> None:
    program = drawn(PICKED[name])
    made = program.copy().compile("cpu", num_threads=2)
    assert len(found(made)) == FOUND.get(name, 0)
    for rows in (1, 2, 70):
        for chosen in CHOSEN:
            given = {k: Argument.of(v) for k, v in inputs(rows, chosen).items()}
            Trial(program, given).compiled(made.compiled)


@pytest.mark.parametrize("name", PICKED)
@pytest.mark.parametrize("wrong", [E, -E - 1, 1 << 40])
def test_an_index_outside_ends_the_run(name: str, wrong: int) -> None:
    if name == "f16" and wrong == 1 << 40:
        pytest.skip("it is no i32")
    program = drawn(PICKED[name]).compile("cpu")
    (right,) = program.eval(inputs(2, [1, 0]))
    with pytest.raises(EvaluationError, match="an index is outside axis 0"):
        program.eval(inputs(2, [1, wrong, 0]))
    assert np.array_equal(program.eval(inputs(2, [1, 0]))[0], right)


@pytest.mark.parametrize("name", PICKED)
def test_the_law_of_weights(name: str) -> None:
    given = {k: Argument.of(v) for k, v in inputs(3, [2, -1, 2]).items()}
    count = sum(at.shape.dtype.is_float for at in drawn(PICKED[name]).literals)
    assert check_law(drawn(PICKED[name]), given, get_target("cpu"), None) == count


@pytest.mark.parametrize("name", PICKED)
def test_packed_weights_are_swapped(name: str) -> None:
    """Others that are put in give the bits that they give where they are there from the start."""
    other = drawn(PICKED[name], 1)
    labels = {at.op_as(Literal).label: at.op_as(Literal).value for at in other.literals}
    program = drawn(PICKED[name].replace('label="w"', 'label="w", replaceable=true'))
    own = {at.op_as(Literal).label: at.op_as(Literal).value for at in program.literals}
    x = inputs(3, [2, -1, 2])
    program.compile("cpu")
    before = program.eval(x)[0]
    with program.update_weights() as new:
        new["w"] = labels["w"]
    after = program.eval(x)[0]
    assert not np.array_equal(after, before)
    with program.update_weights() as new:
        new["w"] = own["w"]
    assert np.array_equal(program.eval(x)[0], before)


def test_threads_give_the_same_bits() -> None:
    for text in PICKED.values():
        made = [drawn(text).compile("cpu", num_threads=n).eval(inputs(9, [3, 1])) for n in (1, 3)]
        assert np.array_equal(made[0][0], made[1][0])


def test_a_block_that_others_read_too() -> None:
    """What is given back is a copy, whatever the product reads; and two products may share one."""
    text = f"""
module main(x: f32[n, {K}], i: i64[]) {{
  %0 = {literal("w", "f32", E, K, N)}
  %1 = gather(%0, i)
  %2 = dot(x, %1)
  %3 = neg(x)
  %4 = dot(%3, %1)
  return %1, %2, %4
}}
"""
    program = drawn(text)
    given = {"x": Argument.of(inputs(4, [])["x"]), "i": Argument.of(np.array(-2))}
    Trial(program, given).target("cpu")
    made = program.copy().compile("cpu")
    assert len(found(made)) == 2
    block, product, turned = made.eval(given)
    assert np.array_equal(product, -turned)
    block[:] = 0
    assert np.array_equal(made.eval(given)[1], product)


GROWING = f"""
module main(t: i64[], x: f32[n, q, 4], chosen: i64[64]) {{
  %0 = @literal() {{value=[true]}} : bool[]
  %1 = loop(t, %0, x) {{outputs=(f32[n, q2, 4],)}} [body]
  %2 = get_tuple_elem(%1)
  return %2
}}

module body(i: i64[], c: bool[], k: f32[n, a, 4]) {{
  %0 = gather(main:chosen, i)
  %1 = {literal("w", "f32", E, 4, 4)}
  %2 = gather(%1, %0)
  %3 = reduce_max(k) {{axes=(1,)}}
  %4 = squeeze(%3) {{axes=(1,)}}
  %5 = dot(%4, %2)
  %6 = tanh(%5)
  %7 = unsqueeze(%6) {{axes=(1,)}}
  %8 = concat(k, %7) {{axis=1}}
  return c, %8
}}
"""


def test_blocks_beside_state_that_grows() -> None:
    """The steps of such a body are given new sizes each time, by their places among all words."""
    program = drawn(GROWING)
    made = program.copy().compile("cpu", num_threads=2)
    native(made)
    rng = np.random.default_rng(2)
    for n, t in ((2, 0), (3, 1), (1, 7), (2, 33)):
        x = rng.standard_normal((n, 2, 4)).astype(np.float32)
        given = {"t": np.array(t), "x": x, "chosen": rng.integers(-E, E, 64)}
        arguments = {name: Argument.of(value) for name, value in given.items()}
        Trial(program, arguments).compiled(made.compiled)
