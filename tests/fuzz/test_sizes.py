"""Programs have dims of unknown size, 0 among them, and what passes leave runs at two sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import migx
from migx import ops
from migx.argument import Argument
from migx.binding import check_inputs
from migx.cli._inputs import read
from migx.dim import Dim, Extent, bounds
from migx.ir import Instruction
from migx.manager import Pass, Pipeline
from migx.match import attr, on, var
from migx.rewrite import Cursor, RuleSet, rule
from migx.shape import F32, I64, Shape
from migx.sizes import given_symbols, symbols_in
from migx.testing.draws import Dice, Want, any_shape, draft
from migx.testing.draws.sizes import draw_sizes, draw_symbols
from migx.testing.fuzz import Subject, fuzz
from migx.testing.oracles import Trial, Violation, run_on_ref
from migx.testing.programs import Author, Drawn, draw_program
from migx.testing.values import poisoned

x = var("x")


@rule(on(ops.ReduceSum, on(ops.Multibroadcast, x, name="b"), axes=attr("axes"), name="r"))
def sum_of_three(
    at: Cursor, x: Instruction, b: Instruction, r: Instruction, axes: tuple[int, ...]
) -> Instruction | None:
    """Takes 3 for the size of what has none yet."""
    spread = x.shape.rank == b.shape.rank and all(x.shape.dims[a] == 1 for a in axes)
    if not spread or x.shape.dtype.name != "f32":
        return None
    count = 1
    for extent in (b.shape.dims[a] for a in axes):
        count *= extent if isinstance(extent, int) else 3
    factor = at(ops.Multibroadcast(r.shape.dims), at.literal(float(count), "f32"))
    rest = x if x.shape.dims == r.shape.dims else at(ops.Multibroadcast(r.shape.dims), x)
    return at(ops.Mul(), rest, factor)


@rule(on(ops.ReduceSum, x, axes=attr("axes"), name="r"))
def sum_as_mean(
    at: Cursor, x: Instruction, r: Instruction, axes: tuple[int, ...]
) -> Instruction | None:
    """The mean times the number of elements, which is NaN where there are none."""
    if x.shape.dtype.name != "f32" or r.shape.dims == x.shape.dims:
        return None
    count: Extent = 1
    for axis in axes:
        count = count * x.shape.dims[axis]
    number = at(ops.Convert("f32"), at(ops.DimLiteral((count,), ())))
    return at(ops.Mul(), at(ops.ReduceMean(axes), x), at(ops.Multibroadcast(r.shape.dims), number))


class Three(Pass):
    """Right at one size."""

    rules = RuleSet(sum_of_three)


class NeverEmpty(Pass):
    """Right at all sizes but 0."""

    rules = RuleSet(sum_as_mean)


@pytest.mark.parametrize("planted", [Three, NeverEmpty])
@pytest.mark.parametrize("seed", [1, 3])
def test_a_pass_that_is_right_at_some_sizes_is_found(
    planted: Callable[[], Pass], seed: int, tmp_path: Path
) -> None:
    subject = Subject(Pipeline((planted(),)))
    report = fuzz([subject], programs=250, seed=seed, folder=tmp_path, enough=1)
    (failure,) = report.failures
    assert failure.oracle == "same outputs"
    made = migx.parse(failure.text)
    assert len(made.main) <= 6
    assert failure.file is not None
    shapes = {name: parameter.shape for name, parameter in made.main.parameters.items()}
    inputs = check_inputs(made.main, read(failure.file.with_suffix(".npz"), shapes))
    with pytest.raises(Violation, match="same outputs"):
        Trial(made, inputs).passes(subject.pipeline)


def symbolic(seed: int) -> Drawn:
    """A program with symbols."""
    author = Author(Dice(seed), symbolic=True)
    return author.finished([author.value(Want(author.shape()), 4) for _ in range(2)])


def test_symbols_have_bounds_of_several_kinds_and_sizes_within_them() -> None:
    seen, counts, zeros = set[tuple[float, float]](), set[int](), 0
    for seed in range(100):
        dice = Dice(seed)
        symbols = draw_symbols(dice)
        counts.add(len(symbols))
        for symbol, size in zip(symbols, draw_sizes(dice, symbols).values(), strict=True):
            low, high = bounds(symbol)
            seen.add((low, high))
            assert low <= size <= high
            zeros += size == 0
    assert counts == {1, 2, 3}
    assert {low for low, _ in seen} == {0, 1, 2}
    assert len(seen) >= 5
    assert zeros > 3


def test_a_program_has_inputs_of_other_sizes() -> None:
    found = [symbolic(seed) for seed in range(40)]
    for drawn in found:
        (other,) = drawn.others
        assert other.keys() == drawn.inputs.keys()
        assert Trial(drawn.program, other).outputs(Pipeline())
    changed = [any(v.shape != d.others[0][n].shape for n, v in d.inputs.items()) for d in found]
    assert sum(changed) > 20


def test_what_is_reduced_may_have_an_unknown_size() -> None:
    """And so may what is put together, cut and padded."""
    names = set[str]()
    for seed in range(150):
        for module in symbolic(seed).program.modules.values():
            for at in module:
                grown = [d for v in at.inputs for d in v.shape.dims if isinstance(d, Dim)]
                if grown and at.shape.dims != at.inputs[0].shape.dims:
                    names.add(at.op.name)
    assert {"reduce_sum", "concat", "slice", "pad", "dot"} <= names


@rule(on(ops.ReduceSum, x, axes=attr("axes"), name="r"))
def sum_as_max(
    at: Cursor, x: Instruction, r: Instruction, axes: tuple[int, ...]
) -> Instruction | None:
    """Wrong for sums over as many elements as the run tells."""
    told = symbols_in(*(Shape(F32, (x.shape.dims[a],)) for a in axes))
    return None if told <= given_symbols(r.owner.program) else at(ops.ReduceMax(axes), x)


class AsMax(Pass):
    """Sums of unknown size as maxima."""

    rules = RuleSet(sum_as_max)


def test_sizes_that_the_run_tells_are_in_modules_of_all_kinds() -> None:
    where = Counter[str]()
    names = set[str]()
    for seed in range(400):
        program = draw_program(Dice(f"told.{seed}")).program
        given = given_symbols(program)
        for module in program.modules.values():
            told = [at for at in module if not symbols_in(at.shape) <= given]
            where[module.name.rstrip("0123456789_")] += bool(told)
            names.update(at.name for at in told)
    assert min(where["main"], where["arm"], where["body"]) > 3
    assert {"compress", "dynamic_slice", "gather", "multibroadcast", "nonzero", "reshape"} <= names


def test_elements_of_sizes_that_the_run_tells_have_finite_bounds() -> None:
    program = migx.parse(
        """
        module main(x: f32[3], c: bool[4]) {
          %0 = nonzero(c) {count=t0} : i64[1, t0]
          %1 = unsqueeze(x) {axes=(1,)} : f32[3, 1]
          %2 = multibroadcast(%1) {out_lens=(3, t0)} : f32[3, t0]
          %3 = convert(%0) {to=f32} : f32[1, t0]
          %4 = transpose(%3) {permutation=(1, 0)} : f32[t0, 1]
          %5 = dot(%2, %4) : f32[3, 1]
          return %5
        }
        """
    )
    inputs = {"x": np.arange(3, dtype=np.float32), "c": np.array([True, False, True, True])}
    given = {name: Argument.of(value) for name, value in inputs.items()}
    ((result, bound),) = run_on_ref(program, given, program)
    assert result.array.tolist() == [[0], [5], [10]]
    assert isinstance(bound, np.ndarray)
    assert bound.max() < 1e-5


def test_what_is_computed_with_sizes_that_the_run_tells_is_judged(tmp_path: Path) -> None:
    report = fuzz([Subject(Pipeline((AsMax(),)))], programs=500, folder=tmp_path, enough=1)
    assert [failure.oracle for failure in report.failures] == ["same outputs"]


PICKERS = {
    *("topk", "gather", "gather_elements", "scatter_add", "scatter_none", "dynamic_slice"),
    *("compress", "prefix_scan_sum", "reverse", "step", "argmax"),
}
"""Operations of one axis that pick places on it, or count on it."""


def test_the_axis_picked_from_may_have_an_unknown_size() -> None:
    """And the pixels of an image, of which windows pick; at all sizes there is what is picked."""
    names, windows, dice = set[str](), 0, Dice("picked")
    dice.extents = draw_symbols(dice)
    for name in sorted(PICKERS) * 30:
        like = any_shape(dice)
        if name == "topk":
            like = Shape.tuple(like.with_type(F32), like.with_type(I64))
        found = draft(name, dice, like.with_type(I64) if name == "argmax" else like)
        if found is None:
            continue
        op, wants = found
        axes = getattr(op, "axes", None) or (getattr(op, "axis", 0),)
        names |= {name} if isinstance(wants[0].shape.dims[axes[0]], Dim) else set()
        assert all(bounds(want.below)[0] > 0 for want in wants if want.below)
    assert names == PICKERS
    for _ in range(300):
        found = draft("convolution", dice, any_shape(dice).with_type(F32))
        windows += found is not None and any(isinstance(d, Dim) for d in found[1][0].shape.dims[2:])
    assert windows > 5


def test_places_count_from_the_end_too() -> None:
    author, counted = Author(Dice("end")), 0
    for _ in range(100):
        found = draft("gather", author.dice, Shape(F32, (2, 3)))
        assert found is not None
        at = found[1][1]
        assert isinstance(at.below, int)
        held = author.data[author.given(at)].array
        assert (held < at.below).all()
        assert (held >= (-at.below if at.from_end else 0)).all()
        counted += bool((held < 0).any())
    assert 3 < counted < 50


def test_poison_is_in_floats_alone() -> None:
    x, i = np.ones((2, 3), np.float32), np.ones(3, np.int64)
    made = poisoned({"x": Argument.of(x), "i": Argument.of(i)})
    assert np.isnan(made["x"].array).all()
    assert np.array_equal(made["i"].array, i)
