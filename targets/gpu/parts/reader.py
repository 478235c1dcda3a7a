"""Reads a value inside an instruction at given indices, through the operations that compute it from
the inputs.

The operations between an operand of a product and the inputs (views, unpacking, scales, gathers,
elementwise arithmetic) are applied to the indices or to what is read there; no intermediate is
written to memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from migx import op as operations
from migx.dim import product
from migx.ir import Instruction
from migx.ops._windows import split
from migx.ops.builtin import Literal
from migx.ops.indexing import Gather
from migx.ops.layout import (
    Broadcast,
    Contiguous,
    Multibroadcast,
    Pad,
    Reshape,
    Slice,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from migx.ops.packing import FLAT, Unpack
from migx.ops.pointwise import Identity
from migx.ops.quantization import DequantizeLinear
from migx.shape import F32, Shape
from migx.targets.gpu.emit.expressions import Expr, Pairs, Part, by_axis, expr, over_any
from migx.targets.gpu.emit.narrow import decoded
from migx.targets.gpu.emit.text import Writer
from migx.targets.gpu.emit.types import COMPUTING, STORED, storable
from migx.targets.gpu.parts import elements

SAME_ORDER = (Contiguous, Identity, Reshape, Squeeze, Unsqueeze)
"""Operations that keep the order of elements."""
VIEWS = (*SAME_ORDER, Broadcast, Multibroadcast, Transpose, Slice)
"""Operations whose result is elements of their input, found by the index alone."""


APART, MASK = 0x1001, 0xF000F
"""What moves the upper half of a byte 16 bits from the lower one, as a factor: shifts would be
undone. And the mask of both.
"""


class Reader:
    """Writes the reading of values of an instruction, or inside it."""

    def __init__(self, writer: Writer, at: Instruction) -> None:
        self.writer, self.at = writer, at
        inside = list(at.modules[0].parameters.values()) if at.modules else list(at.inputs)
        self.operands = {value: number for number, value in enumerate(inside)}

    def shape(self, value: Instruction) -> Shape:
        """The shape of a value; for an operand, with the layout of the input."""
        number = self.operands.get(value)
        return value.shape if number is None else self.at.inputs[number].shape

    def readable(self, value: Instruction) -> bool:
        """Whether all operations that compute a value have a text."""
        if value in self.operands:
            return value.shape.dtype.name in COMPUTING
        op = value.op
        if isinstance(op, Literal):
            return not op.replaceable and value.shape.elements == 1 and storable(value.shape.dtype)
        if isinstance(op, Unpack):
            return _through(value.inputs[0]) in self.operands and storable(value.shape.dtype)
        if isinstance(op, DequantizeLinear):
            return all(map(self.readable, value.inputs)) and storable(value.shape.dtype)
        if isinstance(op, Gather):
            return all(map(self.readable, value.inputs))
        if isinstance(op, Pad):
            return op.mode == "constant" and all(map(self.readable, value.inputs))
        if isinstance(op, VIEWS):
            return len(value.inputs) == 1 and self.readable(value.inputs[0])
        if not operations.traits(op).pointwise:
            return False
        types = [v.shape.dtype for v in value.inputs]
        return elements.has(op, types, value.shape.dtype) and all(map(self.readable, value.inputs))

    def varies(self, value: Instruction, axes: Iterable[int]) -> bool:
        """Whether a value may vary along some of its axes."""
        along = set(axes) - {i for i, d in enumerate(value.shape.dims) if d == 1}
        if not along:
            return False
        if value in self.operands:
            return any(self.shape(value).true_strides[i] != 0 for i in along)
        op = value.op
        if isinstance(op, Literal):
            return False
        if isinstance(op, VIEWS):
            if (below := axes_below(value)) is None:
                return True
            steps = [below[i] for i in along]
            return self.varies(value.inputs[0], [i for i in steps if i is not None])
        rank = value.shape.rank
        pads = isinstance(op, Pad) and value.shape.dims != value.inputs[0].shape.dims
        unpacks = isinstance(op, Unpack) and op.axis % rank in along
        if pads or unpacks or isinstance(op, Gather):
            return True
        # All other inputs have the value's axes, but for a line of scales along one of them.
        line = [0] if isinstance(op, DequantizeLinear) and op.axis % rank in along else []
        return any(self.varies(v, along if v.shape.rank == rank else line) for v in value.inputs)

    def pairs_along(self, value: Instruction) -> int | None:
        """The axis along which pairs of a value's elements share a byte; None if there is none, or
        an element may be unpaired.
        """
        if (
            value in self.operands
            or not value.shape.rank
            or isinstance(value.op, (Literal, Gather))
        ):
            return None
        op, source = value.op, value.inputs[0]
        if isinstance(op, Unpack):
            axis = _packed_axis(value, op)
            extent = value.shape.dims[axis]
            paired = op.stored(source.shape.dtype).bits == 4 and source in self.operands
            return axis if paired and isinstance(extent, int) and extent % 2 == 0 else None
        if (below := self.pairs_along(source)) is None:
            return None
        if isinstance(op, VIEWS) and not isinstance(op, Slice):
            axes = axes_below(value)
            return None if axes is None else axes.index(below)
        return below if value.shape.dims == source.shape.dims else None

    def block_of(self, value: Instruction) -> int:
        """The length of the blocks that share a scale, among the operations of an operand; 0 if
        none.
        """
        while value not in self.operands and value.inputs:
            if isinstance(value.op, DequantizeLinear):
                return value.op.block
            value = value.inputs[0]
        return 0

    def raw(self, value: Instruction, parts: Sequence[Part]) -> Expr:
        """The value at some indices, in its type in memory."""
        value, parts = self._plain(value, parts)
        if value in self.operands:
            return self._loaded(value, parts, raw=True)
        found = self.value(value, parts)
        kind = STORED[value.shape.dtype.name]
        return self.writer.let(f"{found.text}.to({kind})", found.over)

    def value(self, value: Instruction, parts: Sequence[Part]) -> Expr:
        """The value at some indices, in its computing type; a part has the index of one or more
        axes.
        """
        value, parts = self._plain(value, parts)
        if value in self.operands:
            return self._loaded(value, parts)
        op = value.op
        if isinstance(op, Literal):
            return self.writer.let(elements.constant(op.value))
        if isinstance(op, Unpack):
            return self._unpacked(value, op, parts)
        if isinstance(op, DequantizeLinear):
            return self._dequantized(value, op, parts)
        if isinstance(op, Pad):
            return self._padded(value, op, parts)
        if isinstance(op, Gather):
            return self._picked(value, op, parts)
        given = [self.value(v, parts) for v in value.inputs]
        types = [v.shape.dtype for v in value.inputs]
        text = elements.apply(op, [v.text for v in given], types, value.shape.dtype)
        return self.writer.let(text, over_any(given))

    def _loaded(self, value: Instruction, parts: Sequence[Part], *, raw: bool = False) -> Expr:
        """An operand at some indices."""
        number, shape = self.operands[value], self.shape(value)
        where = self.writer.offset(parts, shape.true_strides)
        return self.writer.load(number, where, shape.dtype, raw=raw)

    def _plain(
        self, value: Instruction, parts: Sequence[Part]
    ) -> tuple[Instruction, Sequence[Part]]:
        """The value behind views, and the indices there."""
        while value not in self.operands:
            if not isinstance(value.op, VIEWS):
                break
            (source,) = value.inputs
            parts = self._below(value, source, parts)
            value = source
        return value, parts

    def _below(
        self, view: Instruction, source: Instruction, parts: Sequence[Part]
    ) -> Sequence[Part]:
        """The indices in the source of a view."""
        dims, axes = source.shape.dims, axes_below(view)
        if isinstance(view.op, SAME_ORDER) and view.shape.dims == dims:
            return parts
        if axes is None:
            standard = Shape(view.shape.dtype, view.shape.dims)
            return [Part(self.writer.offset(parts, standard.true_strides), dims)]
        places = [expr(0)] * len(dims)
        for axis, place in zip(axes, self._places(parts), strict=True):
            if axis is not None and dims[axis] != 1:
                places[axis] = place
        if isinstance(view.op, Slice):
            for axis, start in zip(view.op.axes, view.op.starts, strict=True):
                places[axis] = self.writer.let(places[axis] + self.writer.extent(start))
        return by_axis(places, dims)

    def _places(self, parts: Sequence[Part]) -> list[Expr]:
        return [place for part in parts for place in self.writer.split(part)]

    def _unpacked(
        self, value: Instruction, op: Unpack, parts: Sequence[Part], *, scaled: bool = False
    ) -> Expr:
        """A packed element, from the byte that holds it. One that is then ``scaled`` may have more
        bits than its type.
        """
        w, packed = self.writer, value.inputs[0]
        places, axis = self._places(parts), _packed_axis(value, op)
        pairs = places[axis].pairs if places else None
        if pairs is not None and self.pairs_along(value) is not None:
            return self._of_pairs(value, places, pairs, scaled=scaled)
        bits = op.stored(packed.shape.dtype).bits
        per = 8 // bits
        if op.axis == FLAT:
            packed, parts = self._plain(packed, parts)
            index = w.offset(parts, Shape(packed.shape.dtype, packed.shape.dims).true_strides)
            where, lane = w.let(index // per), w.let(index % per)
        else:
            lane = w.let(places[axis] % per)
            places[axis] = w.let(places[axis] // per)
            packed, parts = self._plain(packed, by_axis(places, packed.shape.dims))
            where = w.offset(parts, self.shape(packed).true_strides)
        byte = w.load(self.operands[packed], where, self.shape(packed).dtype, raw=True)
        return self._level(value, byte, f"({lane.text} * {bits}).to(tl.uint8)", lane.over)

    def _of_pairs(
        self, value: Instruction, places: list[Expr], pairs: Pairs, *, scaled: bool
    ) -> Expr:
        """Four bits each of bytes that are loaded once for both of their halves."""
        op = value.op_as(Unpack)
        w, packed, axis = self.writer, value.inputs[0], _packed_axis(value, op)
        dims = list(value.shape.dims)
        dims[axis] = dims[axis] // 2
        places = [pairs.index if i == axis else p for i, p in enumerate(places)]
        parts = by_axis(places, dims)
        shape = Shape(packed.shape.dtype, dims) if op.axis == FLAT else self.shape(packed)
        where = w.offset(parts, shape.true_strides)
        masks = dict(w.masks)
        if masks.get(pairs.axis) is not None:
            masks[pairs.axis] = w.let(pairs.index.below(w.extent(dims[axis])))
        with w.masked(masks):
            byte = w.load(self.operands[packed], where, packed.shape.dtype, raw=True)
        kind = COMPUTING[value.shape.dtype.name]
        wide = kind.replace("int8", "int16")  # bytes would be taken out of words one by one
        if op.stored(packed.shape.dtype).kind == "uint":
            halves = self._halves(byte)
        else:
            halves = [self._level(value, byte, shift, frozenset()).text for shift in ("0", "4")]
        text = pairs.of_halves(*(f"{half}.to({wide})" for half in halves))
        return w.let(text if scaled else f"{text}.to({kind})", byte.over)

    def _halves(self, byte: Expr) -> list[str]:
        """The unsigned numbers of both halves of a byte. They are masked together, 16 bits apart,
        and so in the places where a register has two of them.
        """
        text = f"(({byte.text}.to(tl.uint8).to(tl.uint32) * {APART}) & {MASK})"
        both = self.writer.let(text, byte.over)
        return [f"{both.text}.to(tl.uint16)", f"({both.text} >> 16).to(tl.uint16)"]

    def _level(self, value: Instruction, byte: Expr, shift: str, over: frozenset[int]) -> Expr:
        """The value of a few bits of a byte, shifted by ``shift``."""
        w = self.writer
        stored = value.op_as(Unpack).stored(value.inputs[0].shape.dtype)
        code = f"(({byte.text}.to(tl.uint8) >> {shift}) & {(1 << stored.bits) - 1})"
        found = w.let(code, byte.over | over)
        if stored.is_float:
            text = elements.converted(decoded(found.text, stored), F32, value.shape.dtype)
            return w.let(text, found.over)
        if stored.kind == "uint":
            return w.let(f"{found.text}.to(tl.uint8)", found.over)
        sign = 1 << (stored.bits - 1)
        signed = f"((({found.text}.to(tl.int32) ^ {sign}) - {sign}).to(tl.int8))"
        return w.let(signed, found.over)

    def _dequantized(self, value: Instruction, op: DequantizeLinear, parts: Sequence[Part]) -> Expr:
        """A number from its level, scale and zero point."""
        places = self._places(parts)
        level, below = self._plain(value.inputs[0], parts)
        if isinstance(level.op, Unpack):
            given = [self._unpacked(level, level.op, below, scaled=True)]
        else:
            given = [self.value(level, below)]
        given += [self.value(p, self.granular(value, op, p, places)) for p in value.inputs[1:]]
        types = [v.shape.dtype for v in value.inputs]
        text = elements.apply(op, [v.text for v in given], types, value.shape.dtype)
        return self.writer.let(text, over_any(given))

    def _padded(self, value: Instruction, op: Pad, parts: Sequence[Part]) -> Expr:
        """The source where an index lies in it, and the padding elsewhere."""
        w, (source, *others) = self.writer, value.inputs
        dims = source.shape.dims
        places, there = w.beside(self._places(parts), split(op.pads), dims)
        if there is None:
            return self.value(source, by_axis(places, dims))
        found = self.value(source, by_axis(w.where(there, places), dims))
        beside = elements.number_of(0, value.shape.dtype)
        if others:
            origin = by_axis([expr(0)] * others[0].shape.rank, others[0].shape.dims)
            beside = self.value(others[0], origin).text
        text = f"tl.where({there.text}, {found.text}, {beside})"
        return w.let(text, found.over | there.over)

    def _picked(self, value: Instruction, op: Gather, parts: Sequence[Part]) -> Expr:
        """An element picked by an index."""
        source, indices = value.inputs
        places, after = self._places(parts), op.axis + indices.shape.rank
        index = self.value(indices, by_axis(places[op.axis : after], indices.shape.dims))
        dims = source.shape.dims
        within = self.writer.within(index, dims[op.axis])
        return self.value(source, by_axis([*places[: op.axis], within, *places[after:]], dims))

    def granular(
        self, value: Instruction, op: DequantizeLinear, parameter: Instruction, places: list[Expr]
    ) -> list[Part]:
        """The index of a scale or zero point: one for all, one for each index of an axis, or one
        per block.
        """
        dims = parameter.shape.dims
        if product(dims) == 1:
            return by_axis([expr(0)] * len(dims), dims)
        axis = op.axis % value.shape.rank
        if not op.block:
            return [Part(places[axis], dims)]
        found, place, block = list(places), places[axis], op.block
        if (outer := place.outer) is not None and block % outer[1] == 0:
            place, block = outer[0], block // outer[1]
        found[axis] = self.writer.let(place // block)
        return by_axis(found, dims)


def axes_below(view: Instruction) -> Sequence[int | None] | None:
    """For each axis of a view, the axis of its source that it steps along, None where elements
    repeat; None if the axes of the two do not correspond.
    """
    (source,), op, rank = view.inputs, view.op, view.shape.rank
    if isinstance(op, Transpose):
        return op.permutation
    if isinstance(op, (Broadcast, Multibroadcast)):
        before = op.axis if isinstance(op, Broadcast) else rank - source.shape.rank
        own = range(source.shape.rank)
        return [i - before if i - before in own else None for i in range(rank)]
    dims = source.shape.dims
    if isinstance(op, Slice) or view.shape.dims == dims:
        return range(rank)
    if [d for d in dims if d != 1] != [d for d in view.shape.dims if d != 1]:
        return None
    kept = iter([i for i, d in enumerate(dims) if d != 1])
    return [None if d == 1 else next(kept) for d in view.shape.dims]


def _packed_axis(value: Instruction, op: Unpack) -> int:
    """The axis of an unpacked value along which elements share bytes: the last, if ``FLAT``."""
    return op.axis % max(1, value.shape.rank)


def _through(value: Instruction) -> Instruction:
    """The value behind views that keep or permute its elements."""
    while isinstance(value.op, (*SAME_ORDER, Transpose)):
        value = value.inputs[0]
    return value
