"""Triton text being written for an instruction.

**The calling convention.** The text defines ``kernel``, whose parameters are a pointer ``p0``,
``p1``, ... to each operand (the instruction's inputs in order, then its results), and then ``n0``,
``n1``, ...: extents known only when sizes are, 32 bits each. A kernel with turns is launched once
for each, with ``turn`` as its last parameter; memory that it keeps between turns is scratch,
operands after the results. Undefined inputs are not operands. What is known when the text is
written is a constant in it, strides of operands included. So text, parameter types and an
architecture determine a binary, and kernels that differ only in names have equal texts. Programs of
a launch are numbered along one axis; each computes a tile of its own, so no program adds to what
another writes, and results do not depend on their order.

Indices and values are those of ``expressions.py``: a load is masked along the axes of the tile over
which its offset varies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from migx import dim
from migx.dim import Extent
from migx.fusion.kernels import fewest
from migx.fusion.narrow_floats import is_narrow
from migx.ir import Instruction
from migx.planning import is_alias, results, shift
from migx.shape import BOOL, OPTIONAL, Dims, DType, Shape
from migx.targets.gpu.emit.expressions import Expr, Pairs, Part, both, by_axis, expr
from migx.targets.gpu.emit.functions import called
from migx.targets.gpu.emit.narrow import decoded, encoded
from migx.targets.gpu.emit.types import POINTERS, stored
from migx.targets.gpu.operations import CodeObject
from migx.targets.gpu.tiles import whole

MOST = (1 << 31) - (1 << 16)
"""Operands of so many elements or more are indexed in 64 bits. The last tile computes indices
beyond the end, too, which must not overflow to negative.
"""
WIDE = ".to(tl.int64)"
"""The conversion of an index to 64 bits."""


@dataclass(frozen=True)
class Kernel:
    """The code object of an instruction, before it is known which operands are aligned, and the
    shapes of the memory it takes after the operands: of the results that it ``writes``, and of
    ``scratch``. One that ``counts`` its results has room for the most in the first, and writes in
    the last how many there are. An instruction has one of these only if no sizes break its shape
    rule.
    """

    op: CodeObject
    writes: tuple[Shape, ...]
    scratch: tuple[Shape, ...]
    counts: bool


class Writer:
    """The text of an instruction's kernel. ``masks`` has, for each axis of the tile, the condition
    of its elements that exist; an axis that is always full has none. ``kinds`` overrides the
    element types of some operands. A kernel that counts its results ``writes`` other shapes than
    the instruction's.
    """

    def __init__(
        self, at: Instruction, scratch: tuple[Shape, ...] = (), writes: tuple[Shape, ...] = ()
    ) -> None:
        self.at, self.scratch, self.counts = at, scratch, bool(writes)
        self.writes = writes or results(at)
        self.masks: dict[int, Expr | None] = {}
        self.kinds: dict[int, str] = {}
        self._lines: list[str] = []
        self._depth, self._count = 1, 0
        self._known: list[dict[str, Expr]] = [{}]
        self._words: dict[Extent, str] = {}
        self._functions: dict[str, str] = {}
        given = [v.shape for v in operands(at)]
        self.shapes: list[Shape] = [*given, *self.writes, *scratch]
        self._wide = any(map(is_vast, self.shapes))
        self.program = self.let(f"tl.program_id(0){WIDE if self._wide else ''}")

    # Text.

    def line(self, text: str) -> None:
        """Adds a line."""
        self._lines.append("    " * self._depth + text)

    def let(self, value: Expr | str, over: frozenset[int] = frozenset()) -> Expr:
        """A name for a value, or for a text that varies ``over`` some axes of the tile; equal texts
        have the same name.
        """
        value = Expr(value, over) if isinstance(value, str) else value
        if value.number is not None or value.text.isidentifier():
            return value
        for known in reversed(self._known):
            if value.text in known:
                return known[value.text]
        made = replace(self.variable(value.text, value.over), alike=value.alike)
        self._known[-1][value.text] = made
        return made

    def variable(self, text: str, over: frozenset[int] = frozenset()) -> Expr:
        """A new variable, which may be assigned again."""
        made = Expr(f"v{self._count}", over)
        self._count += 1
        self.line(f"{made.text} = {text}")
        return made

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines inside a loop or a condition; names made there are local to it."""
        self.line(head)
        self._depth += 1
        self._known.append({})
        try:
            yield
        finally:
            self._known.pop()
            self._depth -= 1

    @contextmanager
    def loop(
        self, end: Extent | Expr, step: Expr | int, begin: Expr | int = 0, *, ahead: int = 1
    ) -> Iterator[Expr]:
        """A loop; gives the start of each iteration. It is unrolled ``ahead`` times, so that so
        many iterations load before the first computes.
        """
        index = Expr(f"v{self._count}")
        self._count += 1
        ahead = min(ahead, max(1, end)) if isinstance(end, int) else ahead
        stop = end if isinstance(end, Expr) else self.extent(end)
        said = f"range({expr(begin).text}, {stop.text}, {expr(step).text}"
        said = f"tl.{said}, loop_unroll_factor={ahead})" if ahead > 1 else f"{said})"
        with self.block(f"for {index.text} in {said}:"):
            yield index

    def share(self, extent: Extent, step: int, number: Expr, count: int) -> tuple[Expr, Expr]:
        """Where the share of an extent that one of so many programs has begins and ends, in whole
        steps but for the last; the last ones may have none.
        """
        length = self.extent((extent + count * step - 1) // (count * step) * step)
        begin = self.let(number * length)
        end = f"tl.minimum({(begin + length).text}, {self.extent(extent).text})"
        return begin, self.let(end)

    def function(self, name: str, parameters: str, result: str) -> str:
        """Adds a function to the text; gives its name."""
        self._functions[name] = f"\n\n@triton.jit\ndef {name}({parameters}):\n    return {result}"
        return name

    def extent(self, extent: Extent, cast: str = "") -> Expr:
        """An extent: a constant, or a word, cast, times the known divisor of the extent. So Triton
        sees which offsets are multiples of 16 bytes, and which lines end there.
        """
        if not isinstance(extent, dim.Dim):
            return expr(int(extent))
        factor = math.gcd(*(coefficient for _, coefficient in extent.terms))
        rest = extent // factor
        if rest not in self._words:
            self._words[rest] = f"n{len(self._words)}"
        cast = cast or WIDE * (factor > MOST)  # too large for 32 bits, the word's
        return Expr(self._words[rest] + cast) * factor

    def distance(self, extent: Extent) -> Expr:
        """A stride in elements, in a type in which its products with indices do not overflow,
        however many elements there are.
        """
        if not self._wide or extent in (0, 1):
            return self.extent(extent)
        if isinstance(extent, dim.Dim):
            return self.extent(extent, WIDE)
        return Expr(f"tl.full([], {extent}, tl.int64)")

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
        """The kernel, once its text is written."""
        parameters = [f"p{i}" for i in range(len(self.shapes))] + list(self._words.values())
        parameters += ["turn"] if turns != 0 else []
        own = self._functions.values()
        functions = [*called("\n".join((*own, *self._lines))), *own]
        head = ["import triton", "import triton.language as tl", *functions]
        lines = [*head, "", "", "@triton.jit", f"def kernel({', '.join(parameters)}):"]
        lines += [*self._lines, ""]
        kinds = {i: POINTERS.get(s.dtype.name, "u8") for i, s in enumerate(self.shapes)}
        pointers = tuple((kinds | self.kinds).values())
        op = CodeObject(
            kernel=name,
            source="\n".join(lines),
            grid=grid,
            pointers=pointers,
            words=tuple(self._words),
            warps=warps,
            stages=stages,
            outputs=len(self.writes),
            flops=flops,
            turns=turns,
            scratch=len(self.scratch),
        )
        return Kernel(op, self.writes, self.scratch, self.counts)

    def operand_of_scratch(self, shape: Shape) -> int:
        """The operand that is scratch of this shape; adds one if there is none."""
        if shape not in self.scratch:
            self.scratch = (*self.scratch, shape)
            self.shapes.append(shape)
        return len(self.shapes) - len(self.scratch) + self.scratch.index(shape)

    # Indices.

    def numbers(
        self, axis: int, of: int, size: int, begin: Expr | int = 0, *, pairs: bool = False
    ) -> Expr:
        """A range along an axis of a tile that has ``of`` axes, which may know its ``pairs``."""
        where = ["None"] * of
        where[axis] = ":"
        spread = f"[{', '.join(where)}]" if of > 1 else ""
        begin = expr(begin)
        line = self.let(f"tl.arange(0, {size}){spread}", frozenset({axis}))
        made = self.let((begin + line).text, frozenset({axis}) | begin.over)
        found = None
        if pairs:
            half = self.numbers(axis, of, size // 2, self.let(begin // 2))
            found = Pairs(half, axis, of)
        return replace(made, outer=(begin // size, size), pairs=found)

    def blocks(self, begin: Expr, size: int, block: int, *, pairs: bool = False) -> Expr:
        """A range from a multiple of ``size``, split over the last two of a tile's three axes:
        blocks, and elements in them.
        """
        first = self.let(begin // block)
        count = Expr(f"tl.arange(0, {size // block})[None, :, None]", frozenset({1}))
        outer = self.let(first + self.let(count))
        inner = self.let(f"tl.arange(0, {block})[None, None, :]", frozenset({2}))
        found = None
        if pairs:
            half = self.blocks(self.let(begin // 2), size // 2, block // 2)
            found = Pairs(half, 2, 3)
        return replace(self.let(outer * block + inner), outer=(outer, block), pairs=found)

    def split(self, part: Part) -> list[Expr]:
        """The index on each axis of an index over several."""
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
        """The offset, in elements, of some indices."""
        total, strides = expr(0), list(strides)
        for part in parts:
            mine, strides = strides[: len(part.dims)], strides[len(part.dims) :]
            if (step := _common(part.dims, mine)) is not None:
                total = total + part.index * self.distance(step)
                continue
            for place, stride in zip(self.split(part), mine, strict=True):
                total = total + place * self.distance(stride)
        return self.let(total)

    def place(self, operand: int, places: Iterable[Expr]) -> Expr:
        """The offset in an operand of some indices, one per axis."""
        shape = self.shapes[operand]
        return self.offset(by_axis(places, shape.dims), shape.true_strides)

    def from_start(self, index: Expr, extent: Extent) -> str:
        """An index counted from the start; negative ones count from the end."""
        size = self.extent(extent)
        wide = self.let(f"{index.text}.to(tl.int64)", index.over)
        return f"tl.where({wide.text} < 0, {wide.text} + {size.text}, {wide.text})"

    def within(self, index: Expr, extent: Extent) -> Expr:
        """An index counted from the start, and clamped to an axis."""
        counted, size = self.from_start(index, extent), self.extent(extent)
        text = f"tl.minimum(tl.maximum({counted}, 0), {size.text} - 1)"
        return self.let(text, index.over)

    def beside(
        self,
        places: Iterable[Expr],
        padding: tuple[Sequence[Extent], Sequence[Extent]],
        dims: Dims,
        there: Expr | None = None,
    ) -> tuple[list[Expr], Expr | None]:
        """Indices into a padded tensor as indices into what is inside; and the condition that they
        are, combined with ``there``; None if it is always true.
        """
        found = []
        for place, begin, end, extent in zip(places, *padding, dims, strict=True):
            if begin != 0 or end != 0:
                place = self.let(place - self.extent(begin))
                there = both(there, place.inside(self.extent(extent)))
            found.append(place)
        return found, None if there is None else self.let(there)

    def where(self, there: Expr, places: Iterable[Expr]) -> list[Expr]:
        """Indices, with 0 in place of those that are not ``there``."""
        return [
            self.let(f"tl.where({there.text}, {p.text}, 0)", p.over | there.over) for p in places
        ]

    # Masks.

    def there(self, index: Expr, extent: Extent, size: int) -> Expr | None:
        """The condition that an index is below an extent; None if tiles of a size are always
        full.
        """
        return None if whole(extent, size) else self.let(index.below(self.extent(extent)))

    @contextmanager
    def masked(self, masks: dict[int, Expr | None]) -> Iterator[None]:
        """Replaces the masks within the context."""
        before, self.masks = self.masks, masks
        try:
            yield
        finally:
            self.masks = before

    def mask(self, over: frozenset[int], also: Expr | None = None) -> Expr | None:
        """The mask along some axes of the tile; None if all of it exists."""
        found = also
        for axis in sorted(over):
            if (mask := self.masks.get(axis)) is not None:
                found = both(found, mask)
        return found

    # Memory.

    def load(
        self,
        operand: int,
        offset: Expr,
        dtype: DType,
        *,
        raw: bool = False,
        also: Expr | None = None,
    ) -> Expr:
        """The value at an offset, in its computing type, or ``raw`` in its type in memory; 0 where
        it is masked off. An offset that is the same for the whole tile is read once, if the
        ``alike`` part of ``also`` allows it.
        """
        alone = also if also is not None and also.over and not offset.over else None
        mask = self.mask(offset.over, also if alone is None else alone.alike)
        masked = "" if mask is None else f", mask={mask.text}, other=0"
        over = offset.over if mask is None else offset.over | mask.over
        text = f"tl.load(p{operand} + {offset.text}{masked})"
        if dtype is BOOL:
            text = f"({text} != 0)"
        elif not raw and dtype.is_float and dtype.bits == 16:
            text = f"{text}.to(tl.float32)"
        elif not raw and is_narrow(dtype):
            text = decoded(self.let(text, over).text, dtype)
        found = self.let(text, over)
        return found if alone is None else self.only(alone, found)

    def only(self, there: Expr, value: Expr) -> Expr:
        """A value where the condition holds, and 0 elsewhere."""
        zero = f"tl.where({there.text}, {value.text}, 0).to({value.text}.dtype)"
        return self.let(zero, there.over | value.over)

    def spread(self, value: Expr, tile: Sequence[int]) -> Expr:
        """A value broadcast to all axes of a tile."""
        over = frozenset(range(len(tile)))
        if value.over == over:
            return value
        if value.number is not None:
            return self.let(f"tl.full({list(tile)}, {value.text}, tl.int32)", over)
        return self.let(f"tl.broadcast_to({value.text}, {list(tile)})", over)

    def store(
        self, operand: int, offset: Expr, value: Expr, dtype: DType, also: Expr | None = None
    ) -> None:
        """Stores a value given in its computing type."""
        mask = self.mask(offset.over, also)
        masked = "" if mask is None else f", mask={mask.text}"
        if is_narrow(dtype):
            value = self.let(encoded(self.let(value).text, dtype), value.over)
        self.line(f"tl.store(p{operand} + {offset.text}, {stored(value.text, dtype)}{masked})")


def is_vast(shape: Shape) -> bool:
    """Whether a nonempty value always has too many elements for 32 bits."""
    if not shape.dtype.is_tensor:
        return False
    if shape.standard:
        return math.prod(max(1, dim.bounds(d)[0]) for d in shape.dims) >= MOST
    return dim.bounds(shape.element_space)[0] >= MOST


def is_aligned(value: Instruction) -> bool:
    """Whether a value on the device is known to be aligned to 16 bytes."""
    while is_alias(value):
        step = shift(value)
        if not isinstance(step, int) or step * value.shape.dtype.bits % 128:
            return False
        value = value.inputs[0]
    return True


def operands(at: Instruction) -> list[Instruction]:
    """The inputs of an instruction that a kernel gets: all that are defined."""
    return [v for v in at.inputs if v.shape.dtype is not OPTIONAL]


def _common(dims: Sequence[Extent], strides: Sequence[Extent]) -> Extent | None:
    """The single stride of an index over several axes, if there is one."""
    axes = fewest((extent, (step,)) for extent, step in zip(dims, strides, strict=True))
    if len(axes) > 1:
        return None
    return axes[0][1][0] if axes else 0
