"""Convolutions of 3 x 3 at a stride of 1 by minimal filtering: F(4 x 4, 3 x 3) of A. Lavin and
S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.

Overlapping windows share products. A tile of 4 x 4 results reads 6 x 6 elements d. Linear
combinations of these, and of a kernel g, are multiplied element by element, and the results are
linear combinations of the products, summed over the channels: A ((G g Gt) * (B d Bt)) At. These are
36 products instead of a plain convolution's 144. For each of the 36 places, all tiles and kernels
together are one matrix product.

The group tagged ``winograd`` contains this as plain operations: B (x) B is a convolution with a
stride of 4, A (x) A a transposed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from migx.builders import Builder
from migx.ir import Instruction, Module
from migx.match import Value, find, on, value, var
from migx.op import Array
from migx.ops.fused import Group
from migx.ops.layout import Multibroadcast, Reshape, Transpose
from migx.ops.linear import Convolution, ConvolutionBackwards, Dot

Matrix: TypeAlias = tuple[tuple[float, ...], ...]
TAG = "winograd"
MADE, SEEN, LENGTH = 4, 6, 3
"""Results of a tile along an axis, elements that it reads, and elements of a kernel."""
PLACES = SEEN * SEEN
"""Places of a tile, each with a matrix product."""

INPUT: Matrix = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
"""B: from a row of elements of a tile to factors."""
KERNEL: Matrix = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""G: from a row of a kernel to factors."""
OUTPUT: Matrix = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
"""A: from products to results."""


def in_planes(matrix: Matrix) -> Array:
    """A matrix applied from both sides, as one matrix on planes: a row for each result."""
    return np.kron(np.array(matrix), np.array(matrix))


def _has(rows: Array) -> Value:
    """A pattern for a literal with the elements of a matrix."""
    return value(lambda array: np.array_equal(array.reshape(-1), rows.reshape(-1)))


STEP, TURNED = (MADE, MADE), (0, 2, 1, 3)
FORTH = on(Convolution, on(Reshape, var("x")), _has(in_planes(INPUT)), name="seen", stride=STEP)
PLACED = on(Transpose, on(Reshape, FORTH), permutation=TURNED)
SUMS = on(Transpose, on(Dot, on(Multibroadcast, var("w")), PLACED), permutation=TURNED)
BACK = on(
    ConvolutionBackwards, on(Reshape, SUMS), _has(in_planes(OUTPUT).T), name="made", stride=STEP
)
WRITTEN = on(Reshape, BACK)
"""The pattern of what ``write`` adds."""


@dataclass(frozen=True)
class Filtering:
    """The parts of a ``winograd`` group: the image, the transformed weights [36, O, C], the result,
    and the zeros before the image, down and across.
    """

    image: Instruction
    weights: Instruction
    result: Instruction
    before: tuple[int, int]


def tiles(extent: int) -> int:
    """The number of tiles along an axis with this many results."""
    return -(-extent // MADE)


def write(inner: Module, image: Instruction, weights: Instruction, of: Instruction) -> Instruction:
    """Adds the computation of a convolution from its image and its transformed weights."""
    (items, outputs, *made), (_, channels, *given) = of.shape.dims, image.shape.dims
    (height, width), begins = map(int, made), [int(p) for p in of.op_as(Convolution).padding[:2]]
    down, across = tiles(height), tiles(width)
    seen = MADE * down + LENGTH - 1, MADE * across + LENGTH - 1
    ends = [s - int(g) - b for s, g, b in zip(seen, given, begins, strict=True)]

    add = Builder(inner, origins=of.origins)

    def matrix(rows: Array, length: int) -> Instruction:
        return add.literal(rows.astype(np.float32).reshape(PLACES, 1, length, length))

    x = add(Reshape((items * channels, 1, *given)), image)
    x = add(Convolution((*begins, *ends), STEP), x, matrix(in_planes(INPUT), SEEN))
    x = add(Transpose(TURNED), add(Reshape((items, channels, PLACES, down * across)), x))
    w = add(Multibroadcast((items, PLACES, outputs, channels)), weights)
    x = add(Transpose(TURNED), add(Dot(), w, x))
    x = add(Reshape((items * outputs, PLACES, down, across)), x)
    cut = (0, 0, MADE * down - height, MADE * across - width)
    x = add(ConvolutionBackwards(cut, STEP), x, matrix(in_planes(OUTPUT).T, MADE))
    return add(Reshape(of.shape.dims), x)


def found(at: Instruction) -> Filtering | None:
    """The parts of an instruction that is such a group, maybe with more after it; None for others,
    and for a group with any other contents.
    """
    if not isinstance(at.op, Group) or at.op.tag != TAG:
        return None
    for result in at.modules[0]:
        if type(result.op) is Reshape and (match := find(WRITTEN, result)) is not None:
            image, weights, seen, made = (match.caught[n] for n in ("x", "w", "seen", "made"))
            sizes = *result.shape.dims[2:], *seen.op.padding[:2]
            down, across, above, left = (d if isinstance(d, int) else -1 for d in sizes)
            plain = seen.shape.dims[2:] == (tiles(down), tiles(across)) and min(above, left) >= 0
            if plain and made.op.padding[:2] == (0, 0):
                return Filtering(image, weights, result, (above, left))
    return None
