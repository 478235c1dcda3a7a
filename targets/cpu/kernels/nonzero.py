"""The kernel of ``nonzero``.

It visits the elements in order. A vector of zeros, as most are in sparse masks, is skipped; of any
other the indices of each element are written, over those of the last one if that was zero, so there
is no unpredictable branch. The number of results is known only at the end.
"""

from __future__ import annotations

from collections.abc import Mapping

from migx.dim import product
from migx.fusion.kernels import Access
from migx.ir import Instruction
from migx.ops.indexing import Nonzero
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import apart


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``nonzero`` on elements of rank 1 or more that the machine computes with."""
    if not isinstance(at.op, Nonzero):
        return None
    given = at.inputs[0].shape
    if not given.rank or not elements.computable(given.dtype, machine):
        return None
    return _Writer(at, machine).kernel()


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.given = at.inputs[0].shape
        self.memory = memory_of(self.given.dtype)
        self.lanes = machine.lanes(self.memory)
        self.step, self.pitch = (
            self.frame.extent(strides[k])
            for strides, k in ((self.given.true_strides, -1), (at.shape.true_strides, 0))
        )

    def kernel(self) -> Kernel:
        f, frame, given = self.f, self.frame, self.given
        last = given.rank - 1
        access = Access(0, given.dtype, given.true_strides)
        with f.loop(frame.begin, frame.end):
            lines = frame.extent(product(given.dims[:-1]))
            with f.loop(0, lines, carry=[f.as_index(0)]) as line:
                places = frame.places(line.index, given.dims, range(last))
                line.carry(self._line(frame.start(access, places), places, line.carried[0]))
            frame.tell(line.carried[0])
        return frame.finished("nonzero", 1, flops=given.elements, most=given.elements)

    def _line(self, first: Value, places: Mapping[int, Value], count: Value) -> Value:
        """Appends the indices of a line's nonzero elements to those written; gives the new
        number.
        """
        f, end = self.f, self.frame.extent(self.given.dims[-1])
        whole = end // self.lanes * self.lanes
        with f.loop(0, whole, self.lanes, carry=[count]) as k:
            with f.when(f.any_of(self._counts(first, k.index, self.lanes)), k.carried) as some:
                after = k.index + self.lanes
                some.carry(self._each(first, places, k.index, after, k.carried[0]))
            k.carry(*some.carried)
        return self._each(first, places, whole, end, k.carried[0])

    def _each(
        self, first: Value, places: Mapping[int, Value], begin: Value, end: Value, count: Value
    ) -> Value:
        """The same for a half-open range of elements."""
        f, result = self.f, self.frame.operands[1]
        with f.loop(begin, end, carry=[count]) as k:
            for axis, place in {**places, len(places): k.index}.items():
                f.store(place, f.element(result, self.pitch * axis + k.carried[0], I64))
            is_one = f.cast(self._counts(first, k.index, 0), I64, signed=False)
            k.carry(k.carried[0] + is_one)
        return k.carried[0]

    def _counts(self, first: Value, index: Value, lanes: int) -> Value:
        """Whether the element of a line at an index is nonzero; with lanes, for each of several."""
        f, dtype = self.f, self.given.dtype
        place = f.element(first, index * self.step, self.memory)
        raw = apart(f, place, self.step, self.memory.times(lanes), None)
        return f.compare("ne", elements.loaded(f, raw, dtype), 0)
