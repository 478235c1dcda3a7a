"""Chains of views come down to one, whatever they were made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import migx
from migx import ops
from migx.dim import Dim, Extent
from migx.fusion.index_map import IndexMap
from migx.op import Operation
from migx.passes.simplify_reshapes.chain import chain_of, cost
from migx.program import Program
from migx.shape import F32, Shape
from tests.core.views import Sizes, chains

Chain = list[Operation]


def program_of(dims: tuple[Extent, ...], chain: Chain) -> Program:
    program = Program()
    value = program.main.add_parameter("x", Shape(F32, dims))
    for op in chain:
        value = program.main.add_instruction(op, value)
    program.main.add_return(value)
    return program


def simplified(dims: tuple[Extent, ...], chain: Chain) -> Program:
    program = program_of(dims, chain)
    migx.run_passes(program, "simplify_reshapes")
    return program


def results(program: Program, dims: Sizes) -> migx.op.Array:
    x = np.arange(math.prod(dims), dtype=np.float32).reshape(dims)
    return np.asarray(program.compile("ref", passes="").eval({"x": x})[0])


def index_of(dims: tuple[Extent, ...], chain: Chain) -> IndexMap | None:
    index = IndexMap.identity(dims)
    for op in chain:
        index = None if index is None else index.then(op)
    return index


@given(chains())
def test_chains_keep_their_values_and_grow_no_longer(chain: tuple[Sizes, Chain]) -> None:
    dims, views = chain
    after = simplified(dims, views)
    np.testing.assert_array_equal(results(after, dims), results(program_of(dims, views), dims))
    assert len(after.main) <= len(views) + 2
    assert not migx.run_passes(after, "simplify_reshapes")


def shorter(after: Program, made: tuple[Operation, ...]) -> bool:
    """Whether a chain is shorter than the canonical one, as one in hundreds is, and so kept."""
    return len(after.main) < len(made) + 2


@given(chains())
def test_a_chain_with_a_map_becomes_the_canonical_one(chain: tuple[Sizes, Chain]) -> None:
    dims, views = chain
    index = index_of(dims, views)
    made = None if index is None else chain_of(index)
    assume(made is not None and len(made) <= len(views))
    assert made is not None
    after = simplified(dims, views)
    assert shorter(after, made) or str(after) == str(program_of(dims, list(made)))


@st.composite
def detours(draw: st.DrawFn, dims: tuple[Extent, ...]) -> Chain:
    """Views that together change nothing."""
    rank = len(dims)
    order = tuple(draw(st.permutations(range(rank))))
    axis = draw(st.integers(0, rank))
    back = tuple(order.index(i) for i in range(rank))
    made: list[Chain] = [
        [ops.Transpose(order), ops.Transpose(back)],
        [ops.Unsqueeze((axis,)), ops.Squeeze((axis,))],
        [ops.Reshape((math.prod(dims),)), ops.Reshape(dims)],
        [ops.Contiguous(), ops.Multibroadcast(dims)],
        [ops.Multibroadcast((2, *dims)), ops.Slice((0,), (1,), (2,)), ops.Squeeze((0,))],
    ]
    return draw(st.sampled_from(made))


@given(st.data(), chains(4))
def test_equal_maps_give_equal_text(data: st.DataObject, chain: tuple[Sizes, Chain]) -> None:
    dims, views = chain
    index = index_of(dims, views)
    made = None if index is None else chain_of(index)
    assume(made is not None and len(made) <= len(views))
    longer: Chain = []
    shape = Shape(F32, dims)
    for op in views:
        if data.draw(st.booleans()):
            longer += data.draw(detours(shape.dims))
        longer.append(op)
        shape = op.compute_shape([shape.as_standard()], ())
    assert made is not None
    after, again = simplified(dims, views), simplified(dims, longer)
    assert shorter(after, made) or shorter(again, made) or str(after) == str(again)


def test_symbols_are_kept_apart_by_name_alone() -> None:
    batch, length = Dim("batch"), Dim("length")
    heads: Chain = [
        ops.Reshape((batch * length, 64)),
        ops.Reshape((batch, length, 4, 16)),
        ops.Transpose((0, 2, 1, 3)),
        ops.Reshape((batch * 4, length, 16)),
        ops.Reshape((batch, 4, length, 16)),
        ops.Transpose((0, 1, 3, 2)),
    ]
    short: Chain = [ops.Reshape((batch, length, 4, 16)), ops.Transpose((0, 2, 3, 1))]
    dims = (batch, length, 64)
    assert str(simplified(dims, heads)) == str(program_of(dims, short))


def test_every_other_place_of_the_first_of_an_axis_of_unknown_size() -> None:
    length = Dim("length")
    pairs: Chain = [
        ops.Slice((1,), (0,), (4,)),
        ops.Reshape((3, 2, 2)),
        ops.Slice((2,), (1,), (2,)),
        ops.Squeeze((2,)),
    ]
    short: Chain = [ops.Slice((1,), (1,), (4,)), ops.Step((1,), (2,))]
    after = simplified((3, length), pairs)
    assert str(after) == str(program_of((3, length), short))
    assert np.array_equal(results(after, (3, 6)), results(program_of((3, length), pairs), (3, 6)))


def test_a_long_chain_takes_linear_time() -> None:
    turns: Chain = [ops.Transpose((1, 0)), ops.Reshape((6, 4))]
    assert len(simplified((4, 6), turns * 200).main) <= 402


def test_no_chain_is_dearer_for_its_copies() -> None:
    assert cost([ops.Transpose((1, 0))]) < cost([ops.Reshape((2, 3))])


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize(
    "text",
    [
        """module main(x: f32[3*n], y: f32[n]) {
          %0 = reshape(x) {dims=(n, 3)}
          %1 = slice(%0) {axes=(1,), starts=(1,), ends=(2,)}
          %2 = squeeze(%1) {axes=(1,)}
          return %2
        }""",
        """module main(x: f32[3*n, 1], y: f32[n]) {
          %0 = reshape(x) {dims=(n, 3)}
          %1 = @literal() {value=[1]} : i64[]
          %2 = gather(%0, %1) {axis=1}
          return %2
        }""",
        """module main(x: f32[n, 3], y: f32[n]) {
          %0 = reshape(x) {dims=(3*n,)}
          %1 = slice(%0) {axes=(0,), starts=(0,), ends=(min(3*n, 2),)}
          %2 = unsqueeze(%1) {axes=(0,)}
          return %2
        }""",
    ],
)
def test_what_is_taken_of_rows_may_be_taken_of_none(text: str, rows: int) -> None:
    program = migx.parse(text)
    dims = program.main.parameters["x"].shape.bind({"n": rows}).dims
    x = np.arange(3 * rows, dtype=np.float32).reshape([int(d) for d in dims])
    inputs = {"x": x, "y": np.zeros(rows, np.float32)}
    before = program.copy().compile("ref").eval(inputs)
    migx.run_passes(program, "simplify_reshapes")
    np.testing.assert_array_equal(program.compile("ref").eval(inputs), before)


@st.composite
def counted_places(draw: st.DrawFn) -> tuple[list[int], int]:
    """Places that are counted by digits of strides drawn, and how many places there are."""
    places = np.array([draw(st.integers(0, 3))])
    for _ in range(draw(st.integers(0, 3))):
        count, stride = draw(st.integers(1, 4)), draw(st.integers(-1, 12))
        places = (places[:, None] + np.arange(count) * stride).reshape(-1)
    assume(places.min() >= 0)
    return places.tolist(), int(places.max()) + draw(st.integers(1, 9))


@given(counted_places(), st.booleans())
def test_a_gather_of_counted_places_gives_what_lies_there(
    drawn: tuple[list[int], int], from_end: bool
) -> None:
    places, extent = drawn
    program = Program()
    x = program.main.add_parameter("x", Shape(F32, (2, extent, 3)))
    given_places = np.array(places) - (extent if from_end else 0)
    indices = program.main.add_literal(given_places)
    program.main.add_return(program.main.add_instruction(ops.Gather(1), x, indices))
    migx.run_passes(program, "simplify_reshapes")
    whole = np.arange(6 * extent, dtype=np.float32).reshape(2, extent, 3)
    np.testing.assert_array_equal(results(program, (2, extent, 3)), whole[:, places])


def test_places_that_are_not_there_stay_refused() -> None:
    program = migx.parse(
        "module main(x: f32[4]) { %0 = @literal() {value=[-5]} : i64[1] "
        "%1 = gather(x, %0) return %1 }"
    )
    assert not migx.run_passes(program, "simplify_reshapes")
