"""Kernels that unpack elements of 2 and 4 bits outside of products: ``unpack_int4``,
``unpack_int2``, and groups tagged ``int4_gather``, which unpack the rows that are picked.

A byte becomes as many bytes as it has elements without a shuffle: it is widened, shifted copies are
combined so that each byte of the wide word has one of the elements in its low bits, and the rest is
masked. A signed element is sign-extended by inverting its sign bit and subtracting it.
"""

from __future__ import annotations

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.ops.fused import Group
from migx.ops.indexing import Gather
from migx.ops.packing import FLAT, Unpack, UnpackInt2, UnpackInt4
from migx.planning import source
from migx.targets.cpu.emit import I8, I16, I32, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.indices import index_at
from migx.targets.cpu.parts.weight_parameters import lies_at_the_start

ELEMENTS = 1 << 14
"""About how many elements a tile unpacks."""
WIDE = {2: I16, 4: I32}
"""The type a byte is widened to, by the number of its elements."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of one of these, if elements are row-major over the whole or along the last
    axis.
    """
    if isinstance(at.op, Group):
        return _of_rows(at, machine) if at.op.tag == "int4_gather" else None
    op = at.op
    if not isinstance(op, UnpackInt4 | UnpackInt2):
        return None
    given, made = at.inputs[0].shape, at.shape
    last = op.axis == FLAT or op.axis == given.rank - 1
    known = op.axis == FLAT or isinstance(made.dims[-1], int)
    if not last or not known or not given.standard or not made.standard:
        return None
    return _Whole(at, at, machine).kernel()


def _of_rows(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a group that picks rows of a table, all of which begin with a byte."""
    (module,) = at.modules
    gather = next(v for v in module if type(v.op) is Gather)
    table, indices = gather.inputs
    unpack, inputs = source(table), list(module.parameters.values())
    if not isinstance(unpack.op, UnpackInt4 | UnpackInt2) or unpack.op.axis != FLAT:
        return None
    given, shape = (unpack.inputs[0], indices), table.shape
    if gather.op_as(Gather).axis != 0 or not shape.static or not at.shape.standard:
        return None
    if any(v not in inputs for v in given) or module.outputs[0] is not gather:
        return None
    storage, chosen = (at.inputs[inputs.index(v)] for v in given)
    in_rows = shape.standard or (shape.rank == 2 and 1 in (shape.dims[1], shape.true_strides[1]))
    if not in_rows or not storage.shape.standard or not lies_at_the_start(table):
        return None
    if type_of(chosen.shape.dtype) is None:
        return None
    writer = _Rows(at, unpack, machine, table, (inputs.index(given[0]), inputs.index(given[1])))
    return writer.kernel() if writer.begins_with_bytes else None


class _Writer(KernelWriter):
    """Writes the unpacking of lines of elements, each of which begins with a byte."""

    def __init__(self, at: Instruction, unpack: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        stored = unpack.op_as(Unpack).stored(unpack.inputs[0].shape.dtype)
        self.bits, self.per, self.signed = stored.bits, 8 // stored.bits, stored.kind == "int"
        self.taken = max(1, machine.lanes(I8) // self.per)

    def line(self, given: Value, to: Value, count: Value) -> None:
        """Unpacks so many elements, from a byte on."""
        f, step = self.f, self.taken * self.per
        whole = count // step * step
        with f.loop(0, whole, step) as k:
            taken = f.load(f.element(given, k.index // self.per, I8), I8.times(self.taken))
            f.store(self._apart(taken), f.element(to, k.index, I8))
        with f.loop(whole, count) as k:
            byte = f.load(f.element(given, k.index // self.per, I8), I8)
            place = f.cast(k.index % self.per * self.bits, I8)
            low = f.op("lshr", byte, place) & ((1 << self.bits) - 1)
            f.store(self._spread(low), f.element(to, k.index, I8))

    def _apart(self, taken: Value) -> Value:
        """The elements of a vector of bytes, in order."""
        f = self.f
        word = f.cast(taken, WIDE[self.per], signed=False)
        together = word
        for place in range(1, self.per):
            together = together | word << place * (8 - self.bits)
        bytes_ = f.bitcast(together, I8.times(self.taken * self.per))
        return self._spread(bytes_ & ((1 << self.bits) - 1))

    def _spread(self, low: Value) -> Value:
        """Sign-extends elements in the low bits of bytes, if they are signed."""
        sign = 1 << (self.bits - 1)
        return (low ^ sign) - sign if self.signed else low


class _Whole(_Writer):
    """Unpacks a whole tensor, in lines of the axis or, if all bytes are full, of any length."""

    def kernel(self) -> Kernel:
        f, frame, (given,), made = self.f, self.frame, self.at.inputs, self.at.shape
        length: Extent = ELEMENTS
        step: Extent = ELEMENTS // self.per
        along = self.at.op_as(Unpack).axis != FLAT
        if along and made.dims[-1] != given.shape.dims[-1] * self.per:
            length, step = made.dims[-1], given.shape.dims[-1]
        with f.loop(frame.begin, frame.end) as tile:
            first = tile.index * frame.extent(length)
            count = f.minimum(frame.extent(length), frame.extent(made.elements) - first)
            start = f.element(frame.operands[0], tile.index * frame.extent(step), I8)
            self.line(start, f.element(frame.operands[1], first, I8), count)
        return frame.finished(self.at.name, (made.elements + length - 1) // length)


class _Rows(_Writer):
    """Unpacks rows of a table at indices; ``places`` are the numbers of the two inputs."""

    def __init__(
        self,
        at: Instruction,
        unpack: Instruction,
        machine: Machine,
        table: Instruction,
        places: tuple[int, int],
    ) -> None:
        super().__init__(at, unpack, machine)
        self.table, self.places = table.shape, places
        self.length = int(product(table.shape.dims[1:]))
        self.row_bits = int(table.shape.true_strides[0]) * self.bits

    @property
    def begins_with_bytes(self) -> bool:
        """Whether no byte has elements of two rows."""
        return self.row_bits % 8 == 0

    def kernel(self) -> Kernel:
        f, frame = self.f, self.frame
        storage, chosen = self.places
        indices = self.at.inputs[chosen].shape
        rows = Rows(indices.elements, self.length, ELEMENTS)
        with frame.rows(rows) as row:
            places = frame.places(row, indices.dims, range(indices.rank))
            place = frame.offset(indices.true_strides, places)
            index, inside = index_at(frame, place, self.table.dims[0], operand=chosen)
            frame.fails(~inside, f"gather: an index is outside axis 0 of {self.table.text}")
            with f.when(inside):
                start = f.element(frame.operands[storage], index * (self.row_bits // 8), I8)
                to = f.element(frame.operands[len(self.at.inputs)], row * self.length, I8)
                self.line(start, to, f.as_index(self.length))
        return frame.finished("int4 gather", rows.tiles)
