"""Triton text being written for an instruction.

**The calling convention.** The text defines ``kernel``, whose parameters are a pointer ``p0``,
``p1``, ... to each operand (the instruction's inputs in their order, then its results), and then
``n0``, ``n1``, ...: extents known only when sizes are, 32 bits each. A kernel that takes turns is
launched once for each, with ``turn`` as its last parameter; and what it keeps from turn to turn is
scratch, operands behind the results. Undefined inputs are no operands. What is known when the text
is written is a constant in it, strides of operands too. So text, the types of its parameters and an
architecture make a binary, and kernels that are equal but for names have equal texts. Programs of
the launch are numbered along one axis; each computes a tile of its own, so nobody adds to what
another writes, and results do not depend on the order.

A tile has axes, and each index or value is an ``Expr`` that varies over some of them: what is read
is masked by these alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

from migx import dim
from migx.dim import Extent
from migx.ir import Instruction
from migx.shape import BOOL, OPTIONAL, DType, Shape
from migx.targets.gpu.functions import called
from migx.targets.gpu.narrow import decoded, encoded, is_narrow

NARROW = tuple(name for name, dtype in DType.known.items() if is_narrow(dtype))
"""Floats of eight bits, which lie as bytes; only arithmetic by element computes them."""
POINTERS = {
    "f16": "fp16",
    "bf16": "bf16",
    "f32": "fp32",
    "f64": "fp64",
    "bool": "u8",
    "i4": "u8",
    "u4": "u8",
    **{f"{sign}{bits}": f"{sign}{bits}" for sign in "iu" for bits in (8, 16, 32, 64)},
}
"""How elements lie in memory, by Triton's names for pointers to them."""
COMPUTING = {
    **dict.fromkeys(NARROW, "tl.float32"),
    "f16": "tl.float32",
    "bf16": "tl.float32",
    "f32": "tl.float32",
    "f64": "tl.float64",
    "bool": "tl.int1",
    **{f"i{bits}": f"tl.int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"tl.uint{bits}" for bits in (8, 16, 32, 64)},
}
"""What elements are computed in: floats under 32 bits in f32."""
STORED = {
    **COMPUTING,
    **dict.fromkeys(NARROW, "tl.uint8"),
    "f16": "tl.float16",
    "bf16": "tl.bfloat16",
    "bool": "tl.uint8",
}
MOST = (1 << 31) - (1 << 16)
"""Operands of so many elements or more are indexed in 64 bits. The last tile counts places beyond
the end, too, which must not come out below 0.
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel as text. ``grid`` is the number of programs, ``words`` the extents after the
    pointers, of which ``pointers`` has the element types. ``warps`` and ``stages`` are how many
    threads a program has, in warps, and how many loads run ahead. ``flops`` is for reports.
    ``turns`` is how often a kernel that takes turns is launched, 0 for one that takes none;
    ``scratch`` is memory it has for all of them.
    """

    name: str
    source: str
    grid: Extent
    pointers: tuple[str, ...]
    words: tuple[Extent, ...] = ()
    warps: int = 4
    stages: int = 2
    flops: Extent = 0
    turns: Extent = 0
    scratch: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Expr:
    """A piece of text, the axes of the tile it varies over, and its number where that is known.

    An index that counts every other place knows its ``half``: the index of the pair, and which of
    the two it is. One may know the ``outer`` index that it has when divided by a number, which
    varies over less.
    """

    text: str
    over: frozenset[int] = frozenset()
    number: int | None = None
    half: tuple[Expr, int] | None = None
    outer: tuple[Expr, int] | None = None

    def __add__(self, other: Expr | int) -> Expr:
        other = expr(other)
        if self.number == 0 or other.number == 0:
            return other if self.number == 0 else self
        return _combined(self, "+", other)

    def __sub__(self, other: Expr | int) -> Expr:
        other = expr(other)
        return self if other.number == 0 else _combined(self, "-", other)

    def __mul__(self, other: Expr | int) -> Expr:
        other = expr(other)
        if self.number == 0 or other.number == 0:
            return expr(0)
        if self.number == 1 or other.number == 1:
            return other if self.number == 1 else self
        return _combined(self, "*", other)

    def __floordiv__(self, other: Expr | int) -> Expr:
        other = expr(other)
        return self if other.number == 1 else _combined(self, "//", other)

    def __mod__(self, other: Expr | int) -> Expr:
        other = expr(other)
        return expr(0) if other.number == 1 else _combined(self, "%", other)

    def below(self, other: Expr | int) -> Expr:
        """Whether it is less than another."""
        return _combined(self, "<", expr(other))

    def __and__(self, other: Expr) -> Expr:
        return _combined(self, "&", other)


def expr(value: Expr | int) -> Expr:
    """An expression, or a number as one."""
    return value if isinstance(value, Expr) else Expr(str(value), number=value)


def _combined(x: Expr, sign: str, y: Expr) -> Expr:
    if x.number is not None and y.number is not None and sign in ("+", "-", "*"):
        found = {"+": x.number + y.number, "-": x.number - y.number, "*": x.number * y.number}
        return expr(found[sign])
    return Expr(f"({x.text} {sign} {y.text})", x.over | y.over)


@dataclass(frozen=True)
class Part:
    """An index that counts the places of some neighbouring axes at once."""

    index: Expr
    dims: tuple[Extent, ...]


@dataclass
class Writer:
    """The text of an instruction's kernel. ``masks`` say, for each axis of the tile, which places
    of it are there; an axis that is always whole has none. ``kinds`` are the element types as which
    some operands are read and written, whatever lies there.
    """

    at: Instruction
    masks: dict[int, Expr] = field(default_factory=dict)
    scratch: tuple[Shape, ...] = ()
    kinds: dict[int, str] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)
    _depth: int = 1
    _known: list[dict[str, Expr]] = field(default_factory=lambda: [{}])
    _words: dict[Extent, str] = field(default_factory=dict)
    _functions: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        given = [v.shape for v in operands(self.at)]
        self.shapes: list[Shape] = [*given, *results(self.at), *self.scratch]
        tensors = [s for s in self.shapes if s.dtype.is_tensor]
        wide = any(dim.bounds(s.element_space)[0] >= MOST for s in tensors)
        cast = ".to(tl.int64)" if wide else ""
        self.program = self.let(Expr(f"tl.program_id(0){cast}"))

    # Text.

    def line(self, text: str) -> None:
        """Adds a line."""
        self._lines.append("    " * self._depth + text)

    def let(self, value: Expr) -> Expr:
        """A name for a value, the same one for the same text."""
        if value.number is not None or value.text.isidentifier():
            return value
        for known in reversed(self._known):
            if value.text in known:
                return known[value.text]
        made = self.variable(value.text, value.over)
        self._known[-1][value.text] = made
        return made

    def variable(self, text: str, over: frozenset[int] = frozenset()) -> Expr:
        """A name of its own, which may be given another value later."""
        made = Expr(f"v{self._count}", over)
        self._count += 1
        self.line(f"{made.text} = {text}")
        return made

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines inside a loop or a condition; names made there are known there alone."""
        self.line(head)
        self._depth += 1
        self._known.append({})
        try:
            yield
        finally:
            self._known.pop()
            self._depth -= 1

    @contextmanager
    def loop(self, end: Extent | Expr, step: Expr | int, begin: Expr | int = 0) -> Iterator[Expr]:
        """A loop, and where each turn of it begins."""
        index = Expr(f"v{self._count}")
        self._count += 1
        stop = end if isinstance(end, Expr) else self.extent(end)
        said = f"{expr(begin).text}, {stop.text}, {expr(step).text}"
        with self.block(f"for {index.text} in range({said}):"):
            yield index

    @contextmanager
    def unrolled(self, end: int, times: int) -> Iterator[Expr]:
        """A loop from 0 on, so many turns of which are written out, and the number of each."""
        index = Expr(f"v{self._count}")
        self._count += 1
        with self.block(f"for {index.text} in tl.range({end}, loop_unroll_factor={times}):"):
            yield index

    def function(self, name: str, parameters: str, result: str) -> str:
        """The name of a function, which the text has from now on."""
        self._functions[name] = f"\n\n@triton.jit\ndef {name}({parameters}):\n    return {result}"
        return name

    def extent(self, extent: Extent) -> Expr:
        """An extent: a constant, or one of the words times what is known to divide it. So Triton
        sees which places are at multiples of 16 bytes, and which lines end there.
        """
        if not isinstance(extent, dim.Dim):
            return expr(int(extent))
        factor = math.gcd(*(coefficient for _, coefficient in extent.terms))
        rest = extent // factor
        if rest not in self._words:
            self._words[rest] = f"n{len(self._words)}"
        return Expr(self._words[rest]) * factor

    def finished(
        self,
        name: str,
        grid: Extent,
        *,
        warps: int = 4,
        stages: int = 2,
        flops: Extent = 0,
        turns: Extent = 0,
    ) -> Kernel:
        """The kernel, when its text is written."""
        parameters = [f"p{i}" for i in range(len(self.shapes))] + list(self._words.values())
        parameters += ["turn"] if turns != 0 else []
        own = self._functions.values()
        functions = [*called("\n".join((*own, *self._lines))), *own]
        head = ["import triton", "import triton.language as tl", *functions]
        lines = [*head, "", "", "@triton.jit", f"def kernel({', '.join(parameters)}):"]
        lines += [*self._lines, ""]
        kinds = {i: POINTERS.get(s.dtype.name, "u8") for i, s in enumerate(self.shapes)}
        pointers = tuple((kinds | self.kinds).values())
        extents, text = tuple(self._words), "\n".join(lines)
        return Kernel(
            name, text, grid, pointers, extents, warps, stages, flops, turns, self.scratch
        )

    def operand_of_scratch(self, shape: Shape) -> int:
        """The operand that is scratch of a shape, which there is from now on."""
        if shape not in self.scratch:
            self.scratch = (*self.scratch, shape)
            self.shapes.append(shape)
        return len(self.shapes) - len(self.scratch) + self.scratch.index(shape)

    # Places.

    def numbers(
        self, axis: int, of: int, size: int, begin: Expr | int = 0, phase: int | None = None
    ) -> Expr:
        """So many numbers along an axis of a tile that has ``of`` axes; of a ``phase``, half of
        them: the even ones or the odd ones.
        """
        if phase is not None:
            pair = self.numbers(axis, of, size // 2, self.let(expr(begin) // 2))
            return Expr(f"({pair.text} * 2 + {phase})", pair.over, half=(pair, phase))
        where = ["None"] * of
        where[axis] = ":"
        spread = f"[{', '.join(where)}]" if of > 1 else ""
        begin = expr(begin)
        line = self.let(Expr(f"tl.arange(0, {size}){spread}", frozenset({axis})))
        made = self.let(Expr((begin + line).text, frozenset({axis}) | begin.over))
        return replace(made, outer=(begin // size, size))

    def blocks(self, begin: Expr, size: int, block: int) -> Expr:
        """So many numbers from a multiple of ``size`` on, as the last two of a tile's three axes:
        blocks, and places in them.
        """
        first = self.let(begin // block)
        count = Expr(f"tl.arange(0, {size // block})[None, :, None]", frozenset({1}))
        outer = self.let(first + self.let(count))
        inner = self.let(Expr(f"tl.arange(0, {block})[None, None, :]", frozenset({2})))
        return replace(self.let(outer * block + inner), outer=(outer, block))

    def split(self, part: Part) -> list[Expr]:
        """The place on each axis that an index counts."""
        places: list[Expr] = []
        rest = part.index
        for number, extent in reversed(list(enumerate(part.dims))):
            if extent == 1:
                places.append(expr(0))
                continue
            if any(d != 1 for d in part.dims[:number]):
                size = self.extent(extent)
                places.append(self.let(rest % size))
                rest = self.let(rest // size)
            else:
                places.append(rest)
                rest = expr(0)
        return places[::-1]

    def offset(self, parts: Sequence[Part], strides: Sequence[Extent]) -> Expr:
        """How many elements from the first the place of some indices is."""
        total, strides = expr(0), list(strides)
        for part in parts:
            mine, strides = strides[: len(part.dims)], strides[len(part.dims) :]
            if (step := _common(part.dims, mine)) is not None:
                total = total + part.index * self.extent(step)
                continue
            for place, stride in zip(self.split(part), mine, strict=True):
                total = total + place * self.extent(stride)
        return self.let(total)

    # Memory.

    def mask(self, over: frozenset[int], also: Expr | None = None) -> Expr | None:
        """What is there of the tile, along some axes; None where all of it is."""
        found = also
        for axis in sorted(over):
            if (mask := self.masks.get(axis)) is not None:
                found = mask if found is None else found & mask
        return found

    def load(
        self,
        operand: int,
        offset: Expr,
        dtype: DType,
        *,
        raw: bool = False,
        also: Expr | None = None,
    ) -> Expr:
        """What lies there, in its computing type, or ``raw`` as it lies; 0 where nothing is. A
        place that is the same for all of a tile is read whatever ``also`` says of that.
        """
        alone = also if also is not None and also.over and not offset.over else None
        mask = self.mask(offset.over, None if alone else also)
        masked = "" if mask is None else f", mask={mask.text}, other=0"
        over = offset.over if mask is None else offset.over | mask.over
        text = f"tl.load(p{operand} + {offset.text}{masked})"
        if dtype is BOOL:
            text = f"({text} != 0)"
        elif not raw and dtype.is_float and dtype.bits == 16:
            text = f"{text}.to(tl.float32)"
        elif not raw and is_narrow(dtype):
            text = decoded(self.let(Expr(text, over)).text, dtype)
        found = self.let(Expr(text, over))
        return found if alone is None else self.only(alone, found)

    def only(self, there: Expr, value: Expr) -> Expr:
        """A value where it is there, and 0 elsewhere."""
        zero = f"tl.where({there.text}, {value.text}, 0).to({value.text}.dtype)"
        return self.let(Expr(zero, there.over | value.over))

    def spread(self, value: Expr, tile: Sequence[int]) -> Expr:
        """A value that varies over all axes of a tile."""
        over = frozenset(range(len(tile)))
        if value.over == over:
            return value
        if value.number is not None:
            return self.let(Expr(f"tl.full({list(tile)}, {value.text}, tl.int32)", over))
        return self.let(Expr(f"tl.broadcast_to({value.text}, {list(tile)})", over))

    def store(
        self, operand: int, offset: Expr, value: Expr, dtype: DType, also: Expr | None = None
    ) -> None:
        """Writes a value, which is in its computing type."""
        mask = self.mask(offset.over, also)
        masked = "" if mask is None else f", mask={mask.text}"
        if is_narrow(dtype):
            value = self.let(Expr(encoded(self.let(value).text, dtype), value.over))
        self.line(f"tl.store(p{operand} + {offset.text}, {stored(value.text, dtype)}{masked})")


def stored(text: str, dtype: DType) -> str:
    """A value in its computing type, as it lies in memory."""
    return f"{text}.to({STORED[dtype.name]})"


def operands(at: Instruction) -> list[Instruction]:
    """The inputs of an instruction that a kernel gets: all that are defined."""
    return [v for v in at.inputs if v.shape.dtype is not OPTIONAL]


def results(at: Instruction) -> tuple[Shape, ...]:
    """The shapes of what an instruction writes: of each part, where its result is a tuple."""
    return at.shape.parts or (at.shape,)


def storable(dtype: DType) -> bool:
    """Whether kernels of all families can compute elements of a type."""
    return dtype.name in COMPUTING and not is_narrow(dtype)


def power_of_two(least: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(0, least - 1).bit_length()


def tiles(extent: Extent, size: int) -> Extent:
    """How many tiles of a size cover an extent."""
    return (extent + size - 1) // size


def whole(extent: Extent, size: int) -> bool:
    """Whether tiles of a size are always full: not the one that covers nothing."""
    return extent != 0 and (size == 1 or (isinstance(extent, int) and extent % size == 0))


def _common(dims: Sequence[Extent], strides: Sequence[Extent]) -> Extent | None:
    """The one step by which an index over several axes moves, if they lie so."""
    kept = [(d, s) for d, s in zip(dims, strides, strict=True) if d != 1]
    if not kept:
        return 0
    for (_, outer), (extent, inner) in pairwise(kept):
        if outer != inner * extent:
            return None
    return kept[-1][1]
