"""Arithmetic gives what quantising and dequantising give, at the edges too."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import migx
from migx import ops
from migx.ir import Module
from migx.observers import Verify
from migx.op import Operation
from migx.ops.quantization import QUANTIZED
from migx.program import Program
from migx.shape import F16, F32, F64, I32, DType, Shape

DIMS = (3, 5)
SCALES = {(): (0, 0), (1,): (0, 0), (5,): (1, 0), (3, 3): (1, 2), (3, 1): (1, 5)}
"""The dims of scales, and the axis and block by which they fit ``DIMS``."""
EDGES = [0, -0.0, 0.5, 1.5, -2.5, 127.5, 300, -300, 3e38, -np.inf, np.inf, 6e4, 1e-40, 7, 2.2]


def agrees(program: Program, x: Any) -> None:
    after = program.copy()
    assert migx.run_passes(after, "rewrite_quantization", [Verify()])
    assert not {"quantizelinear", "dequantizelinear"} & {at.name for at in after.main}
    first, second = (p.compile("ref", passes="").eval({"x": x})[0] for p in (program, after))
    np.testing.assert_array_equal(second, first)


def applied(
    op: Operation, x: DType, scale: DType, dims: tuple[int, ...], zero: DType | None
) -> Program:
    program = Program()
    main: Module = program.main
    rng = np.random.default_rng(1)
    inputs = [main.add_parameter("x", Shape(x, DIMS))]
    inputs.append(main.add_literal(rng.random(dims) + 0.1, scale))
    if zero is not None:
        inputs.append(main.add_literal(rng.integers(0, 9, dims), zero))
    main.add_return(main.add_instruction(op, *inputs))
    return program


@pytest.mark.parametrize("dims", SCALES)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("x", "scale", "to"), list(product((F16, F32, I32), (F16, F32, F64), QUANTIZED))
)
def test_quantising(
    x: DType, scale: DType, to: DType, dims: tuple[int, ...], shifted: bool
) -> None:
    axis, block = SCALES[dims]
    op = ops.QuantizeLinear(axis, block, to)
    with np.errstate(all="ignore"):
        values = np.array(EDGES).reshape(DIMS).astype(x.numpy)
    agrees(applied(op, x, scale, dims, to if shifted else None), values)


@pytest.mark.parametrize("dims", SCALES)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("x", "scale"), list(product((*QUANTIZED, I32), (F16, F32, F64))))
def test_dequantising(x: DType, scale: DType, dims: tuple[int, ...], shifted: bool) -> None:
    axis, block = SCALES[dims]
    values = np.random.default_rng(0).integers(-(2**31), 2**31, DIMS).astype(np.int32)
    held = values.view(np.uint8)[:, ::4].astype(np.uint8) if x.bits == 8 else values
    given = held.view(x.numpy) if x.bits == 8 else held.astype(x.numpy)
    op = ops.DequantizeLinear(axis, block)
    agrees(applied(op, x, scale, dims, x if shifted else None), given)
