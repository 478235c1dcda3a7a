"""Kernels of ``topk``.

The keys of a line that are no worse than the worst of the best known are put into a buffer; most
vectors have none, and cost a load and a comparison. When the buffer is full it is sorted and
truncated to the best k. If k is small, an initial limit is the k-th of the best in each lane of the
first vectors: nothing worse can be among the best k.
"""

from __future__ import annotations

from collections.abc import Sequence

from migx.dim import bounds, maximum, minimum
from migx.ir import Instruction
from migx.ops.reduce import Topk
from migx.targets.cpu.emit import I1, I64, Value
from migx.targets.cpu.kernel import Kernel, memory_of
from migx.targets.cpu.kernels.lines import Lines
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import apart
from migx.targets.cpu.parts.ordering import Buffer, in_order, key_type, rising

SPARE, LEAST = 4, 32
"""The room of the buffer, as a multiple of k, and at least."""
FIRST = 32
"""The vectors that give the initial limit."""
FEW = 16
"""Lines of up to so many vectors are put into the buffer as a whole, without unpredictable
branches.
"""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``topk``, with a k known from sizes, on elements that the machine computes
    with.
    """
    if not isinstance(at.op, Topk) or len(at.inputs) != 1:
        return None
    if not elements.computable(at.inputs[0].shape.dtype, machine):
        return None
    return _Best(at, machine).kernel()


class _Best(Lines):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.op, self.side_by_side = at.op_as(Topk), False
        self.key = key_type(self.dtype)
        self.lanes = machine.lanes(self.key)
        self.count = self.frame.extent(self.op.k)
        self.most = minimum(maximum(SPARE * self.op.k, LEAST), self.given.dims[self.axis])
        self.buffer = Buffer(self.frame, self.key, self.most, self.lanes)

    def line(self, given: Value, made: Sequence[Value], lanes: int) -> None:
        f = self.f
        whole = self.length // self.lanes * self.lanes
        with f.loop(0, whole, self.lanes, carry=[f.as_index(0), self._limit(given, whole)]) as k:
            keys, enter = self._key(given, k.index, k.carried[1], self.lanes)
            few = bounds(self.given.dims[self.axis])[1] <= FEW * self.lanes
            with f.when(f.const(I1, 1) if few else f.any_of(enter), k.carried) as entered:
                count, limit = k.carried
                count = self.buffer.packed(k.index, keys, enter, count)
                entered.carry(*self._cleared(count, limit))
            k.carry(*entered.carried)
        count, limit = k.carried
        count = self.buffer.entered(whole, self.length, count, lambda i: self._key(given, i, limit))
        self.buffer.sort(count)
        memory = memory_of(self.dtype)
        with f.loop(0, self.count) as k:
            index = self.buffer.index(k.index)
            value = f.load(f.element(given, index * self.step, memory), memory)
            for number, (one, type_) in enumerate(((value, memory), (index, I64))):
                step = self.frame.extent(self.at.shape.parts[number].true_strides[self.axis])
                f.store(one, f.element(made[number], k.index * step, type_))

    def _limit(self, given: Value, whole: Value) -> Value:
        """The k-th of the best in each lane of some vectors; all ones if they are too few."""
        f, lanes = self.f, self.lanes
        none = f.const(self.key, -1)
        if not isinstance(self.op.k, int) or not 0 < self.op.k <= lanes:
            return none
        end = f.minimum(whole, FIRST * lanes)
        with f.loop(0, end, lanes, carry=[f.splat(none, lanes)]) as k:
            keys, _ = self._key(given, k.index, none, lanes)
            k.carry(f.intrinsic("umin", keys, k.carried[0]))
        return f.extract(in_order(k.carried[0]), self.op.k - 1)

    def _key(self, given: Value, index: Value, limit: Value, lanes: int = 0) -> tuple[Value, Value]:
        """The keys of the elements from an index on, and whether they are within a limit."""
        f, memory = self.f, memory_of(self.dtype)
        start = f.element(given, index * self.step, memory)
        raw = apart(f, start, self.step, memory.times(lanes), None)
        key = rising(elements.loaded(f, raw, self.dtype), self.dtype)
        key = ~key if self.op.largest else key
        return key, f.compare("le", key, f.splat(limit, lanes), signed=False)

    def _cleared(self, count: Value, limit: Value) -> list[Value]:
        """Truncates the buffer to the best k keys if it is full; gives their number then, and the
        limit.
        """
        f, buffer = self.f, self.buffer
        with f.when(count > self.frame.extent(self.most), [count, limit]) as full:
            buffer.sort(count)
            last = f.maximum(self.count - 1, 0)
            worst = f.load(f.element(buffer.keys, last, self.key), self.key)
            full.carry(self.count, f.intrinsic("usub.sat", worst, 1))
        return full.carried
