"""What a kernel is: its text, and how a plan calls it.

**The calling convention.** The text defines

    void @kernel(ptr args, i64 begin, i64 end, ptr scratch)

which computes the tiles ``begin`` to ``end - 1``. Tiles are independent: any thread may run any of
them, in any order, so no tile may add to what another writes, and its bits must not depend on the
thread. ``args`` is a block of 64-bit words: the addresses of the operands (the instruction's inputs
in order, then its result, or each part of a tuple), then the words of ``Kernel.words``, extents
known only when sizes are. Extents known when the kernel is made are constants in its text.
``scratch`` is ``Kernel.scratch`` bytes that belong to the calling thread, aligned to 64 bytes, with
no defined content before or after the call.

Tiles that must synchronise may still be called in any order: they share memory, whose address is
one more operand, and count in words of ``args`` that are 0 between runs. See ``together.py``.

The address of an operand is that of its first element; its strides are those of its shape,
``at.inputs[k].shape.true_strides`` (not of the parameter inside a fused instruction, whose shape is
standard). Views have been applied by then: their strides and offset are in the shape and the
address. Results are written in the layout of ``at.shape``. Addresses are aligned to the element;
those of literals to 64 bytes. A ``bool`` is a byte, 0 or 1. An operand without elements may have
any address, and ``begin`` may equal ``end``. The address of an input that is a host value (an
optional, strings) is 0.

``Frame`` writes the common part of such a function, and a ``KernelWriter`` the rest of one.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx import dim
from migx.dim import Extent
from migx.fusion.kernels import Access
from migx.fusion.narrow_floats import FORMATS
from migx.ir import Instruction
from migx.ops.builtin import Literal, Slot
from migx.ops.formats import UnpackWeight
from migx.ops.pointwise import Convert
from migx.planning import is_block, results, root
from migx.shape import F8E8M0, Dims, DType
from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import BF16, F16, F32, F64, I64, PTR, Function, Module, Type, Value
from migx.targets.cpu.machine import LINE, Machine

TYPES = {
    "f16": F16,
    "bf16": BF16,
    "f32": F32,
    "f64": F64,
    "bool": Type("i8"),
    **{f"{sign}{bits}": Type(f"i{bits}") for sign in "iu" for bits in (8, 16, 32, 64)},
    **{dtype.name: Type("i8") for dtype in (*FORMATS, F8E8M0)},
}
"""Element types in memory. Those of less than a byte are missing."""

PARAMETERS = (("args", PTR), ("begin", I64), ("end", I64), ("scratch", PTR))
"""The parameters of a kernel; see the calling convention."""


def behind(value: Instruction) -> Instruction | None:
    """The constant behind an input, which a kernel may ask for in a weight format: the literal or
    slot in whose memory the input lies, or an ``UnpackWeight`` of a packed one; or the block of
    such a constant that an index picks.
    """
    found = root(value)
    constant = found.inputs[0] if is_block(found) else found
    return found if isinstance(constant.op, Literal | Slot | UnpackWeight) else None


def type_of(dtype: DType) -> Type | None:
    """The LLVM scalar of an element in memory; None if elements share bytes."""
    return TYPES.get(dtype.name)


def memory_of(dtype: DType) -> Type:
    """The LLVM scalar of an element in memory; the type must have one."""
    return TYPES[dtype.name]


def bits_of(dtype: DType) -> Type:
    """The integer type that moves an element regardless of its meaning, or the byte that it
    shares.
    """
    return Type(f"i{max(8, dtype.bits)}")


@dataclass(frozen=True)
class Kernel:
    """A compiled instruction. ``tiles`` is the number of tiles for given sizes, ``words`` are the
    extents after the addresses in the block of arguments, ``scratch`` is the bytes each thread
    needs, ``shared`` the bytes all threads have in common, ``flops`` the arithmetic done, for
    reports.

    ``formats`` are the inputs that are constants, each with the weight format it is read in
    (``(1, "ABcd16a4b")``), which is the format of the constant ``behind`` its views. ``over`` are
    inputs, each with the number of a result that may take its memory if nobody else reads it and it
    has the result's layout: the kernel reads each element before it writes it. ``symbol`` names the
    machine code; a kernel loaded from a file has no text.

    ``fault`` is the error message for wrong operands. A kernel that finds them wrong stores 1 into
    its word that is initialised to 0; there is then no result, and the run ends with an error.

    ``most`` is the maximal length of a result whose length depends on data. Its buffer has one more
    element, the last, into which the kernel writes the length: see ``endings.py``.

    A kernel that ``finds`` writes no result, but where in its first input the result lies: after
    its words it is given the address of a table, see ``finding.py``.
    """

    name: str
    text: str
    tiles: Extent
    words: tuple[Extent, ...] = ()
    scratch: Extent = 0
    shared: Extent = 0
    flops: Extent = 0
    formats: tuple[tuple[int, str], ...] = ()
    over: tuple[tuple[int, int], ...] = ()
    fault: str = ""
    symbol: str = ""
    most: Extent | None = None
    finds: bool = False

    def __post_init__(self) -> None:
        if not self.symbol:
            object.__setattr__(self, "symbol", jit.symbol(self.text))


@dataclass(frozen=True)
class Rows:
    """Rows shared out to tiles: their ``count``, the elements (or bytes) of each, and ``about`` how
    many of these a tile is to have; a tile has at least one row.
    """

    count: Extent
    size: Extent
    about: int

    @property
    def height(self) -> Extent:
        """The rows of a tile."""
        return dim.maximum(self.about // dim.maximum(self.size, 1), 1)

    @property
    def tiles(self) -> Extent:
        """The number of tiles."""
        return (self.count + self.height - 1) // self.height


@dataclass
class Frame:
    """A kernel being written for an instruction: its ``function``, the addresses of its
    ``operands``, and its run-time words. If it ``shares``, the last operand is the memory common to
    all tiles. Its scratch is the sum of what has been taken.

    ::

        frame = Frame(at, machine)
        f = frame.function
        with f.loop(frame.begin, frame.end) as tiles:
            ...  # tile number tiles.index
        return frame.finished("negation", tiles=...)
    """

    at: Instruction
    machine: Machine
    shares: bool = False
    module: Module = field(init=False)
    function: Function = field(init=False)
    operands: list[Value] = field(init=False)
    _words: list[Extent] = field(default_factory=list)
    _numbers: dict[Extent, int] = field(default_factory=dict)
    _extents: dict[Extent, Value] = field(default_factory=dict)
    _taken: Extent = 0
    _fails: Value = field(init=False)
    _fault: str = ""

    def __post_init__(self) -> None:
        self.module = Module(self.machine.features)
        self.function = self.module.function("kernel", PARAMETERS)
        self.args, self.begin, self.end, self._scratch = self.function.parameters
        count = len(self.at.inputs) + len(results(self.at)) + self.shares
        self.operands = [self._loaded(k, PTR) for k in range(count)]

    def extent(self, extent: Extent) -> Value:
        """An extent as i64: a constant, or a word that the plan puts into the block of
        arguments.
        """
        if not isinstance(extent, dim.Dim):
            return self.function.const(I64, extent)
        if extent not in self._extents:
            self._extents[extent] = self._loaded(self.word(extent), I64)
        return self._extents[extent]

    def word(self, extent: Extent) -> int:
        """The number, in the block of arguments, of the word that the plan sets to an extent."""
        if extent not in self._numbers:
            self._numbers[extent] = len(self.operands) + len(self._words)
            self._words.append(extent)
        return self._numbers[extent]

    def take(self, count: Extent, type_: Type) -> Value:
        """The address of scratch for ``count`` scalars of a type, aligned to a cache line."""
        words = self.extent(self._taken // I64.nbytes)
        self._taken = self._taken + (count * type_.nbytes + (LINE - 1)) // LINE * LINE
        return self.function.element(self._scratch, words, I64)

    def counters(self, count: int) -> Value:
        """The address of words that are 0 before the first tile and must be 0 again after the last,
        aligned to a cache line.
        """
        f = self.function
        start = self._address(len(self.operands) + len(self._words))
        self._words += [0] * (count + LINE // I64.nbytes - 1)
        number = f.hoisted(f"ptrtoint ptr {start.text} to i64", I64)
        ahead = f.hoisted(f"sub i64 0, {number.text}", I64)
        short = f.hoisted(f"and i64 {ahead.text}, {LINE - 1}", I64)
        return f.hoisted(f"getelementptr i8, ptr {start.text}, i64 {short.text}", PTR)

    def places(self, number: Value, dims: Dims, axes: Sequence[int]) -> dict[int, Value]:
        """The index along each of some axes of a point, given its ``number`` in row-major order."""
        found: dict[int, Value] = {}
        for axis in reversed(axes[1:]):
            extent = self.extent(dims[axis])
            found[axis] = number % extent
            number = number // extent
        return found | dict.fromkeys(axes[:1], number)

    def offset(self, strides: Sequence[Extent], places: Mapping[int, Value]) -> Value:
        """The offset, in elements, of the point at some indices along axes."""
        found = self.function.as_index(0)
        for axis, place in places.items():
            found = found + place * self.extent(strides[axis])
        return found

    @contextmanager
    def rows(self, rows: Rows, end: Value | None = None) -> Iterator[Value]:
        """Loops over the rows of the tiles, of those before ``end`` if it is given: yields the
        number of each row.
        """
        f = self.function
        with f.loop(self.begin, self.end if end is None else end) as tile:
            height = self.extent(rows.height)
            top = tile.index * height
            bottom = f.minimum(top + height, self.extent(rows.count))
            with f.loop(top, bottom) as row:
                yield row.index

    def by_vectors(self, count: Value, lanes: int) -> Iterator[tuple[Value, int, Value | None]]:
        """Loops over ``count`` elements by vectors, and over the rest under a mask, or one by one
        if the CPU has none: gives the index, the lanes (0 for a scalar) and the mask. The body is
        written twice.
        """
        f = self.function
        if self.machine.masks:
            yield from ((at, lanes, mask) for at, mask in f.under_masks(count, lanes))
        else:
            yield from ((at, many, None) for at, many in f.by_vectors(0, count, lanes))

    def start(
        self, access: Access, places: Mapping[int, Value], origin: Value | None = None
    ) -> Value:
        """The address of an operand's element at some indices along axes; ``origin`` is the address
        of its first element, if that is known.
        """
        offset = self.offset(access.strides, places)
        if origin is None:
            origin, offset = self.operands[access.operand], offset + self.extent(access.offset)
        return self.function.element(origin, offset, memory_of(access.dtype))

    def fails(self, where: Value, fault: str) -> None:
        """Ends the run with the error ``fault`` if an i1 holds; the kernel itself goes on."""
        f = self.function
        if not self._fault:
            assert 0 not in self._words, "the first word that is 0 is the one for faults"
            self._fails = self._address(len(self.operands) + len(self._words))
            self._words.append(0)
        self._fault = fault
        with f.when(where):
            f.store(f.const(I64, 1), self._fails)

    def tell(self, count: Value) -> None:
        """Stores the length of an i64 result whose length depends on data, in the last element of
        its buffer.
        """
        f, result = self.function, self.operands[len(self.at.inputs)]
        last = self.extent(self.at.shape.elements) - 1
        f.store(count, f.element(result, last, count.type))

    def finished(
        self,
        name: str,
        tiles: Extent,
        *,
        shared: Extent = 0,
        flops: Extent = 0,
        formats: tuple[tuple[int, str], ...] = (),
        over: tuple[tuple[int, int], ...] = (),
        most: Extent | None = None,
    ) -> Kernel:
        """The kernel, once its function is written."""
        assert self.shares == (shared != 0)
        text, words = self.module.text, tuple(self._words)
        return Kernel(
            name,
            text,
            tiles,
            words,
            self._taken,
            shared,
            flops,
            formats,
            over,
            self._fault,
            most=most,
        )

    def _address(self, index: int) -> Value:
        """The address of a word of the block of arguments."""
        return self.function.hoisted(f"getelementptr i64, ptr %args, i64 {index}", PTR)

    def _loaded(self, index: int, type_: Type) -> Value:
        at = self._address(index)
        return self.function.hoisted(f"load {type_}, ptr {at.text}, !invariant.load !{{}}", type_)


class KernelWriter(ABC):
    """Writes the kernel of one instruction ``at``, in the function ``f`` of its ``frame``."""

    def __init__(self, at: Instruction, machine: Machine, *, shares: bool = False) -> None:
        self.at, self.machine = at, machine
        self.frame = Frame(at, machine, shares)
        self.f: Function = self.frame.function

    @abstractmethod
    def kernel(self) -> Kernel:
        """Writes and returns the kernel."""


def input_number(at: Instruction, inside: Instruction, value: Instruction) -> int | None:
    """The number of the input that is an operand of an instruction, or of one inside it; None for
    an operand computed inside.
    """
    if inside is at:
        return at.inputs.index(value)
    parameters = list(at.modules[0].parameters.values())
    return parameters.index(value) if value in parameters else None


def narrower(value: Instruction) -> Instruction:
    """The narrower float that a value in f32 was converted from, which a product widens as it
    reads it; the value itself otherwise.
    """
    if type(value.op) is not Convert:
        return value
    types = [v.shape.dtype for v in (value.inputs[0], value)]
    floats = all(t.is_float for t in types) and types[0].bits < types[1].bits == 32
    return value.inputs[0] if floats else value


def call(
    kernel: Kernel,
    operands: Sequence[NDArray[Any]],
    sizes: Mapping[str, int] | None = None,
    repeat: int = 1,
) -> None:
    """Runs a kernel alone, on this thread, on arrays for its operands, results last: for tests and
    measurements. Inputs in ``kernel.formats`` must be packed already.
    """
    known = dict(sizes or {})
    code = jit.load([kernel.text])[kernel.text]
    if kernel.shared != 0:
        operands = [*operands, np.empty(dim.evaluate(kernel.shared, known), np.uint8)]
    words = [a.ctypes.data for a in operands] + [dim.evaluate(w, known) for w in kernel.words]
    args = np.array(words, np.int64)
    scratch = np.empty(dim.evaluate(kernel.scratch, known) + LINE, np.uint8)
    aligned = -(-scratch.ctypes.data // LINE) * LINE
    function = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    )(code.address)
    tiles = dim.evaluate(kernel.tiles, known)
    for _ in range(repeat if tiles else 0):
        function(args.ctypes.data, 0, tiles, aligned)
