"""What a kernel is: its text, and how a plan calls it.

**The calling convention.** The text defines

    void @kernel(ptr args, i64 begin, i64 end, ptr scratch)

which computes the tiles from ``begin`` to before ``end``. Tiles are independent of each other: any
thread may run any of them, in any order, so none may add to what another writes, and each must give
the same bits whoever runs it. ``args`` is a block of 64-bit words: the addresses of the operands
(the instruction's inputs in their order, then its result, or each part of it where it is a tuple),
and then the words of ``Kernel.words``, which are extents known only when sizes are. What is known
when the kernel is made is a constant in its text. ``scratch`` is memory of the calling thread's
own, aligned to 64 bytes, ``Kernel.scratch`` bytes of it, with no meaning before or after the call.

Tiles that must know of each other may still be called in any order: they share memory, whose
address is one more operand, and count in words of ``args`` that are 0 between runs. ``together.py``
has what they go by.

The address of an operand is that of its first element; where the others lie, its shape's strides
say: ``at.inputs[k].shape.true_strides`` (not the shape of a parameter inside a fused instruction,
which is standard). A view has run by then: its strides and offset are in the shape and the address.
Results are written in the layout of ``at.shape``. Addresses are aligned to the element; those of
literals to 64 bytes. A ``bool`` is a byte, 0 or 1. An operand of no elements may have any address,
and ``begin`` may equal ``end``. Of an input that is a host value (an optional, strings) the address
is 0.

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
from migx.ir import Instruction
from migx.ops.builtin import Literal, Slot
from migx.ops.formats import UnpackWeight
from migx.ops.pointwise import Convert
from migx.planning import is_block, lies_in, results
from migx.shape import Dims, DType
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
}
"""How elements lie in memory. Types that are not here (f8, four bits) have no scalar in LLVM."""

PARAMETERS = (("args", PTR), ("begin", I64), ("end", I64), ("scratch", PTR))
"""Those of a kernel; see the calling convention."""


def behind(value: Instruction) -> Instruction | None:
    """The constant that a kernel may ask for in a weight format: what an input lies in, where that
    is a literal or a slot, or reads back what has been packed for it; or the block of such a
    constant that an index picks.
    """
    found, _ = lies_in(value)
    constant = found.inputs[0] if is_block(found) else found
    return found if isinstance(constant.op, Literal | Slot | UnpackWeight) else None


def type_of(dtype: DType) -> Type | None:
    """The scalar an element is in memory; None where LLVM has none."""
    return TYPES.get(dtype.name)


def memory_of(dtype: DType) -> Type:
    """The scalar an element is in memory, of a type that LLVM has."""
    return TYPES[dtype.name]


def bits_of(dtype: DType) -> Type:
    """The integer as which an element is moved, whatever it stands for, or the byte it shares."""
    return Type(f"i{max(8, dtype.bits)}")


@dataclass(frozen=True)
class Kernel:
    """A compiled instruction. ``tiles`` says how many tiles there are for given sizes, ``words``
    what follows the addresses in the block of arguments, ``scratch`` the bytes each thread needs,
    ``shared`` those all have in common, ``flops`` the arithmetic done, for reports.

    ``formats`` are inputs that are constants, and the weight format each is read in (``(1,
    "ABcd16a4b")``): that of what is ``behind`` the views on it. ``in_place`` are inputs whose
    memory the result may take, each element being read before it is written, where nobody else
    reads them and they lie as the result does; where there are several results, ``over`` says so of
    inputs each with the number of a result. ``symbol`` names the machine code; a kernel that
    comes from a file has no text.

    ``fault`` says what is wrong with the operands where the kernel has put 1 into the word that is
    given as 0: then there is no result, and the run ends with an error.

    ``most`` says of a kernel whose result is as long as it turns out how long that can be. There is
    room for one more, and in its last element the kernel says the length: see ``growing.py``.

    One that ``finds`` writes no result, but says where in its first input it lies: it is given the
    address of a table behind its words, see ``finding.py``.
    """

    name: str
    text: str
    tiles: Extent
    words: tuple[Extent, ...] = ()
    scratch: Extent = 0
    shared: Extent = 0
    flops: Extent = 0
    formats: tuple[tuple[int, str], ...] = ()
    in_place: tuple[int, ...] = ()
    fault: str = ""
    symbol: str = ""
    most: Extent | None = None
    finds: bool = False
    over: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.symbol:
            object.__setattr__(self, "symbol", jit.symbol(self.text))


@dataclass(frozen=True)
class Rows:
    """Rows that tiles share out: how many there are, the elements (or bytes) of each, and about how
    many of these a tile is to have; it has one row at least.
    """

    count: Extent
    size: Extent
    about: int

    @property
    def height(self) -> Extent:
        """How many rows a tile has."""
        return dim.maximum(self.about // dim.maximum(self.size, 1), 1)

    @property
    def tiles(self) -> Extent:
        """How many tiles there are."""
        return (self.count + self.height - 1) // self.height


@dataclass
class Frame:
    """A kernel being written for an instruction: its ``function``, its ``operands``' addresses, and
    its run-time words. The last operand of one that ``shares`` is the memory all tiles have. Its
    scratch is as much as has been taken.

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
        """An extent as i64: a constant, or what the plan puts into the block of arguments."""
        if not isinstance(extent, dim.Dim):
            return self.function.const(I64, extent)
        if extent not in self._extents:
            self._extents[extent] = self._loaded(len(self.operands) + len(self._words), I64)
            self._words.append(extent)
        return self._extents[extent]

    def take(self, count: Extent, type_: Type) -> Value:
        """Where there is scratch for so many of a type, from a line of the cache on."""
        words = self.extent(self._taken // I64.nbytes)
        self._taken = self._taken + (count * type_.nbytes + (LINE - 1)) // LINE * LINE
        return self.function.element(self._scratch, words, I64)

    def counters(self, count: int) -> Value:
        """Where some words are that begin as 0 and must be 0 again when all tiles are done; the
        first is aligned to a line of the cache.
        """
        f = self.function
        start = self._address(len(self.operands) + len(self._words))
        self._words += [0] * (count + LINE // I64.nbytes - 1)
        number = f.hoisted(f"ptrtoint ptr {start.text} to i64", I64)
        ahead = f.hoisted(f"sub i64 0, {number.text}", I64)
        short = f.hoisted(f"and i64 {ahead.text}, {LINE - 1}", I64)
        return f.hoisted(f"getelementptr i8, ptr {start.text}, i64 {short.text}", PTR)

    def places(self, number: Value, dims: Dims, axes: Sequence[int]) -> dict[int, Value]:
        """Where along some axes of a space that is which has a number among all their places; from
        one to the next, the last axis moves first.
        """
        found: dict[int, Value] = {}
        for axis in reversed(axes[1:]):
            extent = self.extent(dims[axis])
            found[axis] = number % extent
            number = number // extent
        return found | dict.fromkeys(axes[:1], number)

    def offset(self, strides: Sequence[Extent], places: Mapping[int, Value]) -> Value:
        """How far some places along axes are from the first."""
        found = self.function.as_index(0)
        for axis, place in places.items():
            found = found + place * self.extent(strides[axis])
        return found

    @contextmanager
    def rows(self, rows: Rows, end: Value | None = None) -> Iterator[Value]:
        """The number of each row; of the tiles, those before ``end``, if that is given."""
        f = self.function
        with f.loop(self.begin, self.end if end is None else end) as tile:
            height = self.extent(rows.height)
            top = tile.index * height
            bottom = f.minimum(top + height, self.extent(rows.count))
            with f.loop(top, bottom) as row:
                yield row.index

    def by_vectors(self, count: Value, lanes: int) -> Iterator[tuple[Value, int, Value | None]]:
        """Loops over so many places by vectors, and over what is left under a mask, or one by one
        where the CPU has none: gives the index, the lanes from there on, 0 of one by itself, and
        the mask. What follows is written twice.
        """
        f = self.function
        if self.machine.masks:
            yield from ((at, lanes, mask) for at, mask in f.under_masks(count, lanes))
        else:
            yield from ((at, many, None) for at, many in f.by_vectors(0, count, lanes))

    def start(
        self, access: Access, places: Mapping[int, Value], origin: Value | None = None
    ) -> Value:
        """The address of the first element of an operand that is at some places along axes; that of
        its first element at all, the ``origin``, may be known.
        """
        offset = self.offset(access.strides, places)
        if origin is None:
            origin, offset = self.operands[access.operand], offset + self.extent(access.offset)
        return self.function.element(origin, offset, memory_of(access.dtype))

    def fails(self, where: Value, fault: str) -> None:
        """Ends the run with an error that says ``fault``, where an i1 holds; the kernel goes on."""
        f = self.function
        if not self._fault:
            assert 0 not in self._words, "the first word that is 0 is the one for faults"
            self._fails = self._address(len(self.operands) + len(self._words))
            self._words.append(0)
        self._fault = fault
        with f.when(where):
            f.store(f.const(I64, 1), self._fails)

    def tell(self, count: Value) -> None:
        """Says how many there are of a result of i64 that is as long as it turns out: in the last
        element of its room.
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
        in_place: tuple[int, ...] = (),
        most: Extent | None = None,
        over: tuple[tuple[int, int], ...] = (),
    ) -> Kernel:
        """The kernel, when its function is written."""
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
            in_place,
            self._fault,
            most=most,
            over=over,
        )

    def _address(self, index: int) -> Value:
        """Where a word of the block of arguments is."""
        return self.function.hoisted(f"getelementptr i64, ptr %args, i64 {index}", PTR)

    def _loaded(self, index: int, type_: Type) -> Value:
        at = self._address(index)
        return self.function.hoisted(f"load {type_}, ptr {at.text}, !invariant.load !{{}}", type_)


class KernelWriter(ABC):
    """Writes the kernel of one instruction ``at``: in a ``frame``, whose function is ``f``."""

    def __init__(self, at: Instruction, machine: Machine, *, shares: bool = False) -> None:
        self.at, self.machine = at, machine
        self.frame = Frame(at, machine, shares)
        self.f: Function = self.frame.function

    @abstractmethod
    def kernel(self) -> Kernel:
        """The kernel, when all of it is written."""


def input_number(at: Instruction, inside: Instruction, value: Instruction) -> int | None:
    """The number of the input that an operand of an instruction, or of one inside it, is; None
    where it is computed inside.
    """
    if inside is at:
        return at.inputs.index(value)
    parameters = list(at.modules[0].parameters.values())
    return parameters.index(value) if value in parameters else None


def narrower(value: Instruction) -> Instruction:
    """The floats of 16 bits that a value is in f32, which a product widens as it reads them; itself
    where it is something else.
    """
    if type(value.op) is not Convert:
        return value
    types = [v.shape.dtype for v in (value.inputs[0], value)]
    floats = all(t.is_float for t in types) and [t.bits for t in types] == [16, 32]
    return value.inputs[0] if floats else value


def call(
    kernel: Kernel,
    operands: Sequence[NDArray[Any]],
    sizes: Mapping[str, int] | None = None,
    repeat: int = 1,
) -> None:
    """Runs a kernel by itself, on this thread, on arrays for its operands, results last: for tests
    and measurements. Inputs of ``kernel.formats`` must be packed already.
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
