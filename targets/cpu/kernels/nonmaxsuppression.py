"""Kernels of ``nonmaxsuppression``.

The scores of each class that are high enough are sorted. Each box in turn is compared with those
kept before it, a vector of them at a time, until one overlaps it too much; so a suppressed box
costs little more than finding the better one. The number of boxes kept is known only at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from migx.ir import Instruction
from migx.ops.detection import Nonmaxsuppression
from migx.shape import OPTIONAL, DType
from migx.targets.cpu.emit import F32, F64, I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.matrix import apart
from migx.targets.cpu.parts.ordering import Buffer, key_type, rising

MOST, OVERLAP, SCORE = 2, 3, 4
"""The inputs that are limits."""
CORNERS = 4


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``nonmaxsuppression`` on floats that are computed as they are stored."""
    if not isinstance(at.op, Nonmaxsuppression):
        return None
    limits = [v.shape.dtype for v in at.inputs[MOST:] if v.shape.dtype is not OPTIONAL]
    if type_of(at.inputs[0].shape.dtype) not in (F32, F64) or None in map(type_of, limits):
        return None
    return _Writer(at, machine).kernel()


@dataclass(frozen=True)
class _Box:
    """A box, or a vector of them: the two lower and the two upper edges, and the area."""

    low: tuple[Value, Value]
    high: tuple[Value, Value]
    area: Value

    @property
    def values(self) -> tuple[Value, ...]:
        return (*self.low, *self.high, self.area)


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.op = at.op_as(Nonmaxsuppression)
        self.boxes, self.scores = (v.shape for v in at.inputs[:2])
        self.dtype: DType = self.boxes.dtype
        self.number = memory_of(self.dtype)
        self.lanes = machine.lanes(self.number)
        self.batch, self.classes, self.each = self.scores.dims
        self.buffer = Buffer(self.frame, key_type(self.dtype), self.each, self.lanes)
        room = self.each + self.lanes
        self.kept = [self.frame.take(room, self.number) for _ in range(CORNERS + 1)]

    def kernel(self) -> Kernel:
        f, frame = self.f, self.frame
        most = self.batch * self.classes * self.each
        self.most = self._limit(MOST)
        self.overlap = self._limit(OVERLAP)
        classes = frame.extent(self.classes)
        with f.loop(frame.begin, frame.end):
            with f.loop(0, frame.extent(self.batch * self.classes), carry=[f.as_index(0)]) as k:
                k.carry(self._class(k.index // classes, k.index % classes, k.carried[0]))
            frame.tell(k.carried[0])
        return frame.finished("nonmaxsuppression", 1, most=most)

    def _limit(self, index: int) -> Value | None:
        """A limit, as an i64 or in the type of boxes; None if there is none."""
        at, to = self.at, I64 if index == MOST else self.number
        if index >= len(at.inputs) or at.inputs[index].shape.dtype is OPTIONAL:
            return None if index == SCORE else self.f.const(to, 0)
        dtype = at.inputs[index].shape.dtype
        raw = self.f.load(self.frame.operands[index], memory_of(dtype))
        return self.f.cast(raw, to, signed=dtype.kind == "int")

    def _class(self, batch: Value, kind: Value, written: Value) -> Value:
        """Appends the boxes kept of one class to those written; gives the new number."""
        f, frame = self.f, self.frame
        count = self._candidates(batch, kind)
        self.buffer.sort(count)
        assert self.most is not None
        with f.loop(0, count, carry=[f.as_index(0)]) as k:
            (kept,) = k.carried
            with f.when(kept < self.most, [kept]) as goes_on:
                index = self.buffer.index(k.index)
                box = self._box(batch, index)
                with f.unless(self._is_overlapped(box, kept), [kept]) as stays:
                    for value, place in zip(box.values, self.kept, strict=True):
                        f.store(value, f.element(place, kept, self.number))
                    to = f.element(frame.operands[-1], (written + kept) * 3, I64)
                    for number, value in enumerate((batch, kind, index)):
                        f.store(value, f.element(to, number, I64))
                    stays.carry(kept + 1)
                goes_on.carry(*stays.carried)
            k.carry(*goes_on.carried)
        return written + k.carried[0]

    def _candidates(self, batch: Value, kind: Value) -> Value:
        """Puts the scores of a class that are high enough into the buffer; gives their number."""
        f, buffer, least = self.f, self.buffer, self._limit(SCORE)
        b, c, step = (self.frame.extent(s) for s in self.scores.true_strides)
        first = f.element(self.frame.operands[1], batch * b + kind * c, self.number)

        def key_of(index: Value) -> tuple[Value, Value]:
            score = f.load(f.element(first, index * step, self.number), self.number)
            high = f.compare("eq", index, index) if least is None else score > least
            return rising(-score, self.dtype), high

        count, end = f.as_index(0), self.frame.extent(self.each)
        if least is None:
            return buffer.entered(count, end, count, key_of)
        whole = end // self.lanes * self.lanes
        with f.loop(0, whole, self.lanes, carry=[count]) as k:
            start = f.element(first, k.index * step, self.number)
            scores = apart(f, start, step, self.number.times(self.lanes), None)
            high = scores > f.splat(least, self.lanes)
            with f.when(f.any_of(high), k.carried) as some:
                keys = rising(-scores, self.dtype)
                some.carry(buffer.packed(k.index, keys, high, k.carried[0]))
            k.carry(*some.carried)
        return buffer.entered(whole, end, k.carried[0], key_of)

    def _box(self, batch: Value, index: Value) -> _Box:
        """A box as its corners, the lower before the upper."""
        f = self.f
        b, n, step = (self.frame.extent(s) for s in self.boxes.true_strides)
        first = f.element(self.frame.operands[0], batch * b + index * n, self.number)
        given = [
            f.load(f.element(first, step * i, self.number), self.number) for i in range(CORNERS)
        ]
        if self.op.center_point_box:
            halves = [v / 2.0 for v in given[2:]]
            centre = given[:2]
            given = [c - h for c, h in zip(centre, halves, strict=True)]
            given += [c + h for c, h in zip(centre, halves, strict=True)]
        low = (f.minimum(given[0], given[2]), f.minimum(given[1], given[3]))
        high = (f.maximum(given[0], given[2]), f.maximum(given[1], given[3]))
        return _Box(low, high, (high[0] - low[0]) * (high[1] - low[1]))

    def _is_overlapped(self, box: _Box, kept: Value) -> Value:
        """Whether a box overlaps one of those kept more than it may."""
        f, lanes = self.f, self.lanes
        none = f.compare("ne", kept, kept)
        with f.loop(0, kept, lanes, carry=[none]) as k:
            with f.unless(k.carried[0], k.carried) as look:
                many = [
                    f.load(f.element(place, k.index, self.number), self.number.times(lanes))
                    for place in self.kept
                ]
                others = _Box((many[0], many[1]), (many[2], many[3]), many[4])
                near = self._shares(box, others) & f.first_lanes(kept - k.index, lanes)
                look.carry(f.any_of(near))
            k.carry(*look.carried)
        return k.carried[0]

    def _shares(self, box: _Box, others: _Box) -> Value:
        """Whether intersection over union is above the limit, for each of some boxes."""
        f = self.f
        assert self.overlap is not None
        sides = [
            f.maximum(
                f.minimum(f.splat(box.high[i], self.lanes), others.high[i])
                - f.maximum(f.splat(box.low[i], self.lanes), others.low[i]),
                0.0,
            )
            for i in range(2)
        ]
        shared = sides[0] * sides[1]
        ratio = shared / (others.area + box.area - shared)
        return (shared > 0.0) & ~(ratio <= f.splat(self.overlap, self.lanes))
