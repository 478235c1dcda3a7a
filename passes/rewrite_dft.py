"""Turns discrete Fourier transforms into products with a matrix."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from migx.builders import astype
from migx.dim import product
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops.layout import Reshape, Transpose
from migx.ops.linear import Dot
from migx.ops.signal import Dft
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import F64

MOST = 8 << 20
"""A matrix of more bytes than this takes longer to read than a fast transform takes."""


@rule(on(Dft, var("x"), name="root"))
def transformed(
    at: Cursor, x: Instruction, root: Instruction, most: int = MOST
) -> Instruction | Declined:
    """A transform is a product with a matrix, the transforms of unit vectors. Real and imaginary
    parts are separate elements. Sums are f64, because a spectrum has elements far smaller than
    their terms.
    """
    op = root.op_as(Dft)
    length, parts = x.shape.dims[op.axis], x.shape.dims[-1]
    if not all(isinstance(n, int) and n > 0 for n in (length, parts, op.length)):
        return Declined("its length is not known")
    axis, last = op.axis, x.shape.rank - 1
    others = tuple(i for i in range(last) if i != axis)
    dims, made = x.shape.dims, (root.shape.dims[axis], root.shape.dims[last])
    depth, width = int(length * parts), int(product(made))
    if depth * width * F64.bits // 8 > most:
        return Declined("the matrix is large")
    units = np.eye(depth).reshape(depth, int(length), int(parts))
    columns = dataclasses.replace(op, axis=1).compute(units) + 0.0  # never -0.0
    matrix = columns.reshape(depth, width)
    dtype = root.shape.dtype
    data = astype(at, x, F64)
    order = (*others, axis, last)
    rows = at(Reshape((product(dims[i] for i in others), depth)), _turned(at, data, order))
    result = at(Dot(), rows, at.literal(matrix))
    result = at(Reshape((*(dims[i] for i in others), *made)), result)
    result = _turned(at, result, tuple(order.index(i) for i in range(last + 1)))
    return astype(at, result, dtype)


def _turned(at: Cursor, x: Instruction, order: tuple[int, ...]) -> Instruction:
    """The axes in another order."""
    return x if order == tuple(range(len(order))) else at(Transpose(order), x)


class RewriteDft(Pass):
    """Turns discrete Fourier transforms of a known, moderate length into products with a matrix, of
    at most ``most`` bytes.
    """

    constant_allowance: ClassVar[int] = MOST

    rules = RuleSet(transformed)
    most: int = MOST
