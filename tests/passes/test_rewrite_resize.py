"""Whatever is made of a resize picks the elements that the resize picks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx import ops
from migx.dim import Dim
from migx.observers import Verify
from migx.ops.resize import COORDINATES, ROUNDINGS
from migx.program import Program
from migx.shape import F32, Shape

WAYS = list(product(COORDINATES, ROUNDINGS))
EVEN = [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")]
"""Two common ways that repeat each element of a multiple."""


def rewritten(program: Program) -> tuple[Program, bool]:
    after = program.copy()
    return after, migx.run_passes(after, "rewrite_resize", [Verify()])


def equal_on(x: NDArray[np.float32], *programs: Program) -> bool:
    first, second = (p.compile("ref", passes="").eval({"x": x})[0] for p in programs)
    return np.array_equal(first, second)


@pytest.mark.parametrize(("coordinates", "rounding"), WAYS)
@pytest.mark.parametrize(("length", "size"), [(1, 1), (1, 4), (2, 6), (3, 3), (5, 7), (7, 2)])
def test_known_sizes(coordinates: str, rounding: str, length: int, size: int) -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape(F32, (2, length)))
    op = ops.Resize((2, size), (), "nearest", coordinates, rounding, roi=(0.0, 0.1, 1.0, 0.9))
    program.main.add_return(program.main.add_instruction(op, x))
    after, changed = rewritten(program)
    assert changed == (coordinates != "tf_crop_and_resize")
    assert equal_on(np.arange(2 * length, dtype=np.float32).reshape(2, length), program, after)


@pytest.mark.parametrize(("coordinates", "rounding"), WAYS)
@pytest.mark.parametrize("times", [1, 2, 3, 7])
@pytest.mark.parametrize("scaled", [True, False])
def test_multiples_of_a_symbol(coordinates: str, rounding: str, times: int, scaled: bool) -> None:
    program, length = Program(), Dim("length", 1)
    x = program.main.add_parameter("x", Shape(F32, (length,)))
    op = ops.Resize(
        (length * times,),
        (float(times),) if scaled else (),
        "nearest",
        coordinates,
        rounding,
        roi=(0.0, 1.0),
    )
    program.main.add_return(program.main.add_instruction(op, x))
    after, changed = rewritten(program)
    assert changed or (coordinates, rounding) not in EVEN
    for size in (1, 2, 5, 8):
        assert equal_on(np.arange(size, dtype=np.float32), program, after)


def test_a_scale_that_is_not_the_quotient_of_the_sizes_counts() -> None:
    program, length = Program(), Dim("length", 1)
    x = program.main.add_parameter("x", Shape(F32, (length,)))
    op = ops.Resize((length * 2,), (2.5,), "nearest", "asymmetric", "floor")
    program.main.add_return(program.main.add_instruction(op, x))
    assert not rewritten(program)[1]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_what_changes_no_axis_is_dropped(mode: str, coordinates: str) -> None:
    program, n = Program(), Dim("n")
    x = program.main.add_parameter("x", Shape(F32, (n, 1, 6)))
    ends = (0.0, 0.0, 0.1, 1.0, 1.0, 0.9)
    wide = mode != "nearest"
    op = ops.Resize((n, 1, 6), (), mode, coordinates, "floor", antialias=wide, roi=ends)
    program.main.add_return(program.main.add_instruction(op, x))
    after, _ = rewritten(program)
    if coordinates not in ("tf_half_pixel_for_nn", "tf_crop_and_resize"):
        assert after.main.outputs[0].name == "@param"
    assert equal_on(np.linspace(-2, 3, 24, dtype=np.float32).reshape(4, 1, 6), program, after)
