"""Kernels that scatter or gather single elements: ``gather_elements``, and the scatters.

A scatter is one tile, as its updates are ordered: the data is copied, unless the result has taken
over its memory, and then the updates are applied.
"""

from __future__ import annotations

from collections.abc import Mapping

from migx.dim import product
from migx.fusion.kernels import Access, FusedKernel, Node, collapsed, fewest
from migx.ir import Instruction
from migx.ops.indexing import GatherElements, Scatter, ScatterElements, ScatterND
from migx.planning import is_memory
from migx.shape import DType, Shape, row_major
from migx.targets.cpu.emit import I1, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, bits_of, type_of
from migx.targets.cpu.kernels import fused
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.indices import fail_outside, index_at

ELEMENTS = 1 << 13
"""About how many elements a tile gathers."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of one of these, for elements and indices of whole bytes; scatters with a
    reduction only for types that are computed as they are stored, and by a ufunc that can reduce.
    """
    if not isinstance(at.op, GatherElements | Scatter) or at.shape.rank == 0:
        return None
    dtype = at.shape.dtype
    moved = is_memory(at.shape) and not dtype.is_packed
    if not moved or type_of(at.inputs[1].shape.dtype) is None:
        return None
    match at.op:
        case GatherElements():
            return _Fetch(at, machine).kernel()
        case Scatter(combine=combine) if combine and not (
            combine in elements.FOLDS and elements.is_computed_as_stored(dtype)
        ):
            return None
        case ScatterElements():
            return _Put(at, machine).kernel()
        case ScatterND() if isinstance(at.inputs[1].shape.dims[-1], int):
            return _PutSlices(at, machine).kernel()
    return None


class _Writer(KernelWriter):
    """What these share: the loop over all indices, row by row."""

    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.memory = bits_of(at.shape.dtype)
        self.result = self.frame.operands[len(at.inputs)]

    def offset(self, shape: Shape, places: Mapping[int, Value]) -> Value:
        """The offset of an element of a value, given its indices."""
        return self.frame.offset(shape.true_strides, places)

    def element(self, number: int, offset: Value) -> Value:
        """The address of an element of an operand."""
        return self.f.element(self.frame.operands[number], offset, self.memory)


class _Fetch(_Writer):
    """``gather_elements``: the index of each element of the result is replaced along one axis."""

    def kernel(self) -> Kernel:
        f, frame, (data, indices) = self.f, self.frame, [v.shape for v in self.at.inputs]
        axis, last = self.at.op_as(GatherElements).axis % data.rank, data.rank - 1
        rows = Rows(product(indices.dims[:last]), indices.dims[last], ELEMENTS)
        with frame.rows(rows) as row, f.loop(0, frame.extent(indices.dims[last])) as k:
            places = {**frame.places(row, indices.dims, range(last)), last: k.index}
            index, inside = index_at(frame, self.offset(indices, places), data.dims[axis])
            fail_outside(frame, inside, [axis])
            with f.when(inside):
                offset = self.offset(data, {**places, axis: index})
                value = f.load(self.element(0, offset), self.memory)
                f.store(value, self.element(2, self.offset(self.at.shape, places)))
        return frame.finished(self.at.name, rows.tiles)


class _Put(_Writer):
    """``scatter_elements``: the index of each update is replaced along one axis."""

    def kernel(self) -> Kernel:
        f, frame = self.f, self.frame
        with f.when(frame.begin < frame.end):
            self.copy()
            self.walk()
        return frame.finished(self.at.name, tiles=1, over=((0, 0),))

    def copy(self) -> None:
        """Copies the data, unless the result is in its memory."""
        f, given, made = self.f, self.at.inputs[0].shape, self.at.shape
        dtype = DType.of(f"u{made.dtype.bits}")
        read = Node(Access(0, dtype, given.true_strides), dtype, False)
        to = Access(len(self.at.inputs), dtype, made.true_strides)
        whole = FusedKernel(made.dims, (False,) * made.rank, (read,), ((0, to),))
        with f.when(f.compare("ne", self.frame.operands[0], self.result)):
            writer = fused.Writer(self.frame, collapsed(whole))
            writer.write(f.as_index(0), self.frame.extent(writer.tiles))

    def walk(self) -> None:
        """Applies one update after another."""
        f, frame, made = self.f, self.frame, self.at.shape
        indices, updates = (v.shape for v in self.at.inputs[1:])
        axis = self.at.op_as(ScatterElements).axis % made.rank
        with f.loop(0, frame.extent(indices.elements)) as row:
            places = frame.places(row.index, indices.dims, range(indices.rank))
            index, inside = index_at(frame, self.offset(indices, places), made.dims[axis])
            fail_outside(frame, inside, [axis])
            with f.when(inside):
                self.put(self.offset(updates, places), self.offset(made, {**places, axis: index}))

    def put(self, update: Value, to: Value, lanes: int = 0) -> None:
        """Combines an update, or a vector of them, with the element there."""
        f, op, dtype = self.f, self.at.op_as(Scatter), self.at.shape.dtype
        there, memory = self.element(3, to), self.memory.times(lanes)
        new = f.load(self.element(2, update), memory)
        if op.combine is not None:
            computing = elements.computing(dtype).times(lanes)
            old, new = (f.bitcast(v, computing) for v in (f.load(there, memory), new))
            new = f.bitcast(elements.combined(f, op.combine, old, new, dtype), memory)
        f.store(new, there)


class _PutSlices(_Put):
    """``scatternd``: each update, a slice, goes to a tuple of indices."""

    def walk(self) -> None:
        f, frame, made = self.f, self.frame, self.at.shape
        indices, updates = (v.shape for v in self.at.inputs[1:])
        width = int(indices.dims[-1])
        counted = indices.dims[:-1]
        with f.loop(0, frame.extent(product(counted))) as row:
            places = frame.places(row.index, counted, range(len(counted)))
            start, step = self.offset(indices, places), frame.extent(indices.true_strides[-1])
            to: dict[int, Value] = {}
            inside = f.const(I1, 1)
            for axis in range(width):
                to[axis], fits = index_at(frame, start + step * axis, made.dims[axis])
                inside = inside & fits
            fail_outside(frame, inside, range(width))
            with f.when(inside):
                self._slice(self.offset(updates, places), self.offset(made, to))

    def _slice(self, update: Value, to: Value) -> None:
        """Applies a slice line by line, along the last axes contiguous in both: by vectors if
        elements are adjacent, and the rest one by one.
        """
        f, frame, (indices, updates) = self.f, self.frame, (v.shape for v in self.at.inputs[1:])
        count = indices.rank - 1
        dims, strides = updates.dims[count:], updates.true_strides[count:]
        axes = fewest(zip(dims, zip(strides, row_major(dims), strict=True), strict=True))
        length, (step, _) = axes.pop() if axes else (1, (1, 1))
        outer = tuple(extent for extent, _ in axes)
        here, there = ([steps[side] for _, steps in axes] for side in (0, 1))
        lanes = self.machine.lanes(self.memory) if step == 1 else 0
        with f.loop(0, frame.extent(product(outer))) as line:
            places = frame.places(line.index, outer, range(len(outer)))
            start, end = update + frame.offset(here, places), to + frame.offset(there, places)
            for at, many in f.by_vectors(0, frame.extent(length), lanes):
                self.put(start + at * frame.extent(step), end + at, many)
