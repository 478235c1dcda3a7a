"""Packing weights into the order in which a kernel reads them, and back.

A format says how a tensor's axes lie in memory, outermost first. ``hwio`` is a plain order of the
axes of a convolution's weights, which are ``o``, ``i`` and ``d``, ``h``, ``w`` as far as they go;
``ba`` one of any axes, which are ``a``, ``b``, ``c``, ... in their order. A capital letter is an
axis divided into blocks, and what is inside a block stands at the end with its size: ``ABcd16a4b``
has blocks of 16 by 4, ``Ba48b`` panels of 48 columns of a matrix. An axis may be divided more than
once (``AB4b16a4b`` has blocks of 16 along b, as 4 groups of 4); its blocks are then their product.
The last block of an axis is filled up with zeros. (The notation is oneDNN's.)

What is packed below a byte is put in order element by element, and packed again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from migx.argument import Argument, packed_codes
from migx.errors import ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes, Traits
from migx.ops._rules import expect
from migx.shape import DType, Shape

SPATIAL = "dhw"
PART = 1 << 16
"""About how many codes are put in order at a time."""


@dataclass(frozen=True)
class Format:
    """A parsed format: the axes, outermost first, and then the blocks, each an axis and a size."""

    outer: tuple[int, ...]
    inner: tuple[tuple[int, int], ...]

    def block(self, axis: int) -> int:
        """The number of elements of an axis in a block."""
        return math.prod(size for at, size in self.inner if at == axis)

    def dims(self, dims: Sequence[int]) -> tuple[int, ...]:
        """The dims of the packed tensor."""
        outer = [-(-dims[axis] // self.block(axis)) for axis in self.outer]
        return (*outer, *(size for _, size in self.inner))

    def ordered(self, x: Array) -> Array:
        """The elements in this order, as a view of a tensor that blocks divide evenly."""
        whole = [-(-d // self.block(axis)) * self.block(axis) for axis, d in enumerate(x.shape)]
        if tuple(whole) != x.shape:
            x = np.pad(x, [(0, w - d) for w, d in zip(whole, x.shape, strict=True)])
        return x.reshape(self._split(whole)).transpose(self._order())

    def unpack(self, packed: Array, dims: Sequence[int]) -> Array:
        """The tensor of these dims that was packed."""
        whole = [-(-d // self.block(axis)) * self.block(axis) for axis, d in enumerate(dims)]
        x = packed.transpose(np.argsort(self._order())).reshape(whole)
        return np.ascontiguousarray(x[tuple(map(slice, dims))])

    def _split(self, whole: Sequence[int]) -> list[int]:
        """The dims of a padded tensor with each axis followed by its blocks."""
        parts = []
        for axis, d in enumerate(whole):
            parts += [d // self.block(axis), *(size for at, size in self.inner if at == axis)]
        return parts

    def _order(self) -> list[int]:
        """The position of each dim of the packed tensor among the split ones."""
        places: list[list[int]] = []
        count = 0
        for axis in range(len(self.outer)):
            places.append(list(range(count, count + 1 + sum(at == axis for at, _ in self.inner))))
            count += len(places[-1])
        outer = [places[axis].pop(0) for axis in self.outer]
        return outer + [places[axis].pop(0) for axis, _ in self.inner]


@cache
def read(text: str, rank: int) -> Format:
    """Parses a format. ``ShapeError`` if it is not one for tensors of this rank."""
    found = re.fullmatch(r"([A-Za-z]+)((?:\d+[a-z])*)", text)
    if found is None:
        raise ShapeError(f"{text!r} is no weight format; one looks like hwio, ba or ABcd16a4b")
    letters, blocks = found[1], re.findall(r"(\d+)([a-z])", found[2])
    axes = _axes(letters.lower(), rank)
    divided = {axes[c.lower()] for c in letters if c.isupper() and c.lower() in axes}
    if sorted(letters.lower()) != sorted(axes):
        raise ShapeError(f"format {text!r} does not name each of the {rank} axes {''.join(axes)}")
    if {axes.get(c) for _, c in blocks} != divided or any(int(n) < 2 for n, _ in blocks):
        raise ShapeError(
            f"format {text!r}: its capital letters are the axes that have blocks of 2+"
        )
    inner = tuple((axes[c], int(n)) for n, c in blocks)
    return Format(tuple(axes[c] for c in letters.lower()), inner)


def of_blocks(text: str, rank: int) -> str | None:
    """The format of blocks along an additional first axis, each in a format of this rank; None for
    one whose axes are not named by their positions.
    """
    letters = {c.lower() for c in text if c.isalpha()}
    if not letters <= {chr(ord("a") + axis) for axis in range(rank)}:
        return None
    return "a" + "".join(chr(ord(c) + 1) if c.isalpha() else c for c in text)


def _axes(letters: str, rank: int) -> dict[str, int]:
    """The axis that each letter names: by position, or of a convolution's weights."""
    placed = {chr(ord("a") + axis): axis for axis in range(rank)}
    if set(letters) <= set(placed) or rank < 2:
        return placed
    return {c: axis for axis, c in enumerate("oi" + SPATIAL[5 - rank :])}


class PackWeight(Op):
    """A tensor in a ``format``; see ``migx.ops.formats``."""

    traits = Traits(packs=True)
    format: str

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (x,) = shapes
        if not x.static or not x.dtype.is_tensor:
            raise ShapeError(f"{self.name} packs tensors of known dims, not {x}")
        return Shape(x.dtype, read(self.format, x.rank).dims([int(d) for d in x.dims]))

    def compute(self, context: Any, arguments: Arguments) -> Argument:
        if context is not None:
            packed: Argument = context.target.transform_weight(arguments[0], self.format)
            return packed
        return pack(arguments[0], self.format)


class UnpackWeight(Op):
    """The tensor of ``dims`` that pack_weight has put into a ``format``.

    A kernel that takes the format directly skips it. It is never folded: that would undo the
    packing.
    """

    traits = Traits(foldable=False)
    format: str
    dims: tuple[int, ...]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (x,) = shapes
        wanted = read(self.format, len(self.dims)).dims(self.dims)
        if x.dims != wanted:
            raise ShapeError(
                f"{list(self.dims)} in format {self.format} is {list(wanted)}, not {x}"
            )
        return Shape(x.dtype, self.dims)

    def compute(self, arguments: Arguments) -> Argument:
        return unpack(arguments[0], self.format, self.dims)


def pack(value: Argument, text: str) -> Argument:
    """A value in a format."""
    return _stored(read(text, value.shape.rank).ordered(_elements(value)), value.shape.dtype)


def unpack(value: Argument, text: str, dims: Sequence[int]) -> Argument:
    """The value of these dims, from one in a format."""
    return _stored(read(text, len(dims)).unpack(_elements(value), dims), value.shape.dtype)


def _elements(value: Argument) -> Array:
    """The elements as an array; the codes of those that are packed below a byte."""
    return value.elements.view(np.uint8) if value.shape.dtype.is_packed else value.array


def _stored(elements: Array, dtype: DType) -> Argument:
    """The elements, or codes, as a value."""
    data = _packed(elements, dtype.bits) if dtype.is_packed else np.ascontiguousarray(elements)
    return Argument(Shape(dtype, elements.shape), data)


def _packed(codes: Array, bits: int) -> Array:
    """Codes packed in row-major order, some rows at a time: a copy in that order takes two to eight
    times the bytes.
    """
    row = math.prod(codes.shape[1:])
    rows = -(-PART // max(row, 1)) * (8 // bits)  # of whole bytes
    parts = (codes[i : i + rows].reshape(-1) for i in range(0, max(len(codes), 1), rows))
    return np.concatenate([packed_codes(part, bits) for part in parts])
