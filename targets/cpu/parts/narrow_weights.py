"""Weights of convolutions that are stored narrower than they are multiplied, widened to f32 by the
tile that reads them: 16-bit floats, and quantised levels of eight or four bits.

They are packed in strips of output channels, like f32: for each element of the kernels, those of a
strip's channels are contiguous. So are scales and zero points, for each block of elements. **Why it
is fast.** Little is read from memory, which is the limit for f32. A piece that fits in the L1 cache
is widened, and read there by all pixels of the tile. A vector takes a few instructions, the
arithmetic of ``dequantizelinear``: widen, subtract the zero points, multiply by the scales. Four
bits are widened by shifts that differ by lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from migx.ir import Instruction
from migx.ops.packing import UnpackInt4
from migx.ops.quantization import DequantizeLinear
from migx.planning import source
from migx.shape import F32 as FLOAT
from migx.shape import DType
from migx.targets.cpu.emit import F32, I8, I32, Type, Value
from migx.targets.cpu.kernel import Frame, memory_of
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.weight_parameters import (
    Parameter,
    WeightGroup,
    block_of,
    lies_at_the_start,
    parameter_of,
)

BYTE = 8
ONE, NOTHING = Parameter(FLOAT, 1.0), Parameter(FLOAT)


@dataclass(frozen=True)
class Narrow:
    """Weights of a convolution: the number of their input, their type there, and their number
    (``size``) for each output channel. Each ``block`` of levels has a scale and a zero point;
    floats have none. ``formats`` are the inputs that are read by strips of channels, with their
    formats.
    """

    operand: int
    dtype: DType
    size: int
    formats: tuple[tuple[int, str], ...]
    block: int
    scale: Parameter = ONE
    zero: Parameter = NOTHING

    @property
    def in_pairs(self) -> bool:
        """Whether two of them share a byte, or two zero points do."""
        return self.dtype.is_packed or self.zero.dtype.is_packed


def levels_of(at: Instruction, weights: Instruction, unit: int = 2) -> Narrow | None:
    """The quantised levels behind the weights of a convolution in its group, in strips of ``unit``
    channels, an even number; None if there are none, or they are stored otherwise.
    """
    linear = source(weights)
    if not isinstance(linear.op, DequantizeLinear):
        return None
    bits = 4 if isinstance(source(linear.inputs[0]).op, UnpackInt4) else BYTE
    of = WeightGroup(at, bits, unit)
    stored = of.levels(linear.inputs[0])
    operand = None if stored is None else of.operand(stored)
    if stored is None or operand is None or not _in_order(weights, linear, stored):
        return None
    if linear.shape.rank != 2 and linear.op.axis % linear.shape.rank != 0:
        return None
    scale, zero = (parameter_of(of, linear, i, (1, 0)) for i in (1, 2))
    if scale is None or zero is None or {scale.dtype, linear.shape.dtype} != {FLOAT}:
        return None
    formats = {operand: format_of(stored.shape.rank, unit)}
    formats |= {p.operand: p.format for p in (scale, zero) if p.operand is not None and p.format}
    size = prod(int(d) for d in weights.shape.dims[1:])
    block = block_of(linear, 1, size)
    return Narrow(operand, stored.shape.dtype, size, tuple(formats.items()), block, scale, zero)


def format_of(rank: int, unit: int) -> str:
    """The format of strips of so many channels, element by element."""
    return f"A{''.join(chr(ord('a') + i) for i in range(1, rank))}{unit}a"


def _in_order(weights: Instruction, linear: Instruction, stored: Instruction) -> bool:
    """Whether weights have the order of their stored levels, channel by channel."""
    views = weights, linear.inputs[0]
    every = (*views, linear, stored)
    lie = all(v.shape.static and v.shape.standard for v in every)
    alike = len({(v.shape.dims[0], v.shape.elements) for v in every}) == 1
    return lie and alike and all(map(lies_at_the_start, views))


class Widening:
    """Writes the widening of narrow weights to f32, in strips of ``unit`` channels."""

    def __init__(self, frame: Frame, of: Narrow, unit: int, lanes: int) -> None:
        self.frame, self.f, self.of = frame, frame.function, of
        self.unit, self.lanes, self.places = unit, lanes, range(0, unit, lanes)
        self.rows = max(1, lanes // unit)

    def write(self, strip: Value, begin: Value, end: Value, to: Value) -> None:
        """Widens a half-open range of elements of a strip; its channels are contiguous. There must
        be room for a vector after them.
        """
        f, of = self.f, self.of
        with f.loop(begin // of.block, (end + (of.block - 1)) // of.block) as block:
            scales = self._parameters(of.scale, strip, block.index)
            zeros = self._parameters(of.zero, strip, block.index)

            def write(k: Value, *, alone: bool) -> None:
                row, line = strip * of.size + k, f.element(to, (k - begin) * self.unit, F32)
                for place, *by in zip(self.places, scales, zeros, strict=True):
                    self._fetch(row + (end - begin), place)
                    made = self._made(row, place, *by, alone=alone)
                    f.store(made, f.element(line, place, F32))

            first = f.maximum(begin, block.index * of.block)
            last = f.minimum(end, (block.index + 1) * of.block)
            between = f.maximum(first, f.minimum(last, of.size - self._beyond))
            with f.loop(first, between, self.rows) as k:
                write(k.index, alone=False)
            if self._beyond:
                with f.loop(between, last) as k:
                    write(k.index, alone=True)

    @property
    def _beyond(self) -> int:
        """How many rows a vector may read beyond its first: results for them are overwritten, but
        their memory must exist.
        """
        return (len(self.places) * self.lanes - 1) // self.unit

    def _made(self, row: Value, place: int, scale: Value, zero: Value, *, alone: bool) -> Value:
        """A vector of a row of weights."""
        of = self.of
        read = self._read(of.operand, of.dtype, row, place, alone=alone)
        return read if of.dtype.is_float else self.f.cast(read - zero, F32) * scale

    def _fetch(self, row: Value, place: int) -> None:
        """Prefetches a vector of a row."""
        f, of = self.f, self.of
        bits = (row * self.unit + place) * of.dtype.bits
        f.prefetch(f.element(self.frame.operands[of.operand], bits // BYTE, I8))

    def _parameters(self, of: Parameter, strip: Value, block: Value) -> Sequence[Value]:
        """Scales, or zero points as i32, of the channels of a strip, vector by vector; repeated for
        as many rows as fit in one.
        """
        f, one = self.f, F32 if of.dtype.is_float else I32
        if of.operand is None:
            return [f.const(one.times(self.lanes), of.number)] * len(self.places)
        if of.by_column:
            row = of.panel(strip, block)
            read = [self._read(of.operand, of.dtype, row, p, alone=True) for p in self.places]
            order = [i % self.unit for i in range(self.lanes)]
            return [f.shuffle(v, v, order) for v in read] if self.rows > 1 else read
        return [f.splat(of.shared(self.frame, block, one), self.lanes)] * len(self.places)

    def _read(self, operand: int, dtype: DType, row: Value, place: int, *, alone: bool) -> Value:
        """A vector of a row of a strip, from channel ``place`` on: floats as f32, integers as i32.
        If ``alone``, nothing after the row is touched.
        """
        f, first = self.f, self.frame.operands[operand]
        count = min(self.unit - place, self.lanes)
        there = count if alone and count < self.lanes else 0
        if dtype.is_packed:
            at = row * (self.unit // 2) + place // 2
            pairs = self._loaded(f.element(first, at, I8), I8.times(self.lanes // 2), there // 2)
            return self._halves(pairs, dtype.kind == "int")
        memory = memory_of(dtype)
        at = f.element(first, row * self.unit + place, memory)
        read = elements.loaded(f, self._loaded(at, memory.times(self.lanes), there), dtype)
        return read if dtype.is_float else f.cast(read, I32, signed=dtype.kind == "int")

    def _loaded(self, at: Value, vector: Type, there: int) -> Value:
        """A vector, or the first ``there`` lanes of it if that is not 0."""
        f = self.f
        mask = f.first_lanes(f.as_index(there), vector.lanes) if there else None
        return f.load(at, vector, mask=mask)

    def _halves(self, pairs: Value, signed: bool) -> Value:
        """The halves of bytes as i32, the low one of each first."""
        f, lanes, each = self.f, self.lanes, I32.bits // 4
        missing = max(0, I32.nbytes - pairs.type.lanes)
        if missing:
            pairs = f.shuffle(pairs, pairs, [*range(pairs.type.lanes), *[-1] * missing])
        words = f.bitcast(pairs, I32.times(max(1, lanes // each)))
        words = f.shuffle(words, words, [i // each for i in range(lanes)])
        shifts = [4 * (i % each) for i in range(lanes)]
        if not signed:
            return words >> f.vector(I32, shifts) & 15
        high = words << f.vector(I32, [I32.bits - 4 - shift for shift in shifts])
        return f.op("ashr", high, I32.bits - 4)
