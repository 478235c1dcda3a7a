"""From the instructions of a module to steps and places in memory.

A module is cut into *pieces* after each instruction whose sizes only its result decides. A piece is
outlined once, when the program is compiled: which instructions are kernels, which run on the host,
and which are views, that is, no step at all; and which *cell* of memory each value lies in. When
sizes are known, an outline becomes a ``Plan``: an offset in the arena for each cell, and the block
of arguments of every kernel, filled but for what changes from run to run.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from migx import dim
from migx import op as operations
from migx.dim import Extent
from migx.errors import DimError, InputError, ShapeError
from migx.ir import Instruction, Module
from migx.ops.builtin import GetTupleElem, Literal, Param, Return, Slot
from migx.ops.formats import UnpackWeight
from migx.ops.layout import Reshape, Slice
from migx.shape import Shape
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.memory import Layout, Life, arranged
from migx.targets.cpu.pool import STEP_WORDS
from migx.text import draw_instruction
from migx.verify import captures

Part = tuple[Instruction, int]
"""A value, or with the number of the part, one of a tuple; -1 is the value itself."""


class Kind(enum.Enum):
    """Where a cell is: in the arena; in an array of its own, because it outlives the piece; given
    from outside; a literal; or no memory at all, but an object of the host.
    """

    ARENA, RESULT, GIVEN, LITERAL, OBJECT = range(5)


@dataclass(eq=False)
class Cell:
    """Memory of one value and its views, and the steps from which to which it is needed."""

    kind: Kind
    shape: Shape
    of: Part
    first: int = 0
    last: int = 0
    same_as: Cell | None = None

    @cached_property
    def nbytes(self) -> Extent:
        """Its bytes."""
        return self.shape.nbytes

    @property
    def root(self) -> Cell:
        """The cell whose memory this one takes over."""
        cell = self
        while cell.same_as is not None:
            cell = cell.same_as
        return cell


@dataclass(frozen=True)
class Reference:
    """A value as a step reads it: its cell, and how many elements from its start."""

    cell: Cell
    offset: Extent
    shape: Shape


@dataclass(frozen=True)
class Work:
    """One step: a kernel, or where there is none, an instruction for the host; what it reads, and
    the cells it writes. ``captured`` is what its modules read of the values around them.
    """

    at: Instruction
    kernel: Kernel | None
    reads: tuple[Reference, ...]
    writes: tuple[Cell, ...]
    captured: tuple[Instruction, ...] = ()


def is_memory(shape: Shape) -> bool:
    """Whether a value is bytes that a kernel can address; others are objects of the host."""
    return shape.dtype.is_tensor and shape.dtype.kind != "string"


def is_alias(at: Instruction) -> bool:
    """Whether a value lies in its first input's memory, so that there is nothing to do."""
    if operations.traits(at.op).view != 0 or not at.inputs:
        return False
    if type(at.op) is GetTupleElem:
        return True
    if not is_memory(at.shape) or at.shape.dtype.is_packed:
        return False
    return not isinstance(at.op, Reshape) or at.inputs[0].shape.strides is None


def _root(at: Instruction) -> Instruction:
    """What a value is an alias of, whole."""
    while is_alias(at) and type(at.op) is not GetTupleElem:
        at = at.inputs[0]
    return at


def _lies_in_literal(at: Instruction) -> bool:
    """Whether a value is a literal or lies in one's memory, so that no piece hands it to another."""
    return type(_root(at).op) is Literal


def packed(value: Instruction, form: str | None) -> Instruction | None:
    """What a kernel reads that takes a value in the format in which it is packed: the packed
    constant itself.
    """
    op = _root(value).op
    return _root(value).inputs[0] if isinstance(op, UnpackWeight) and op.format == form else None


def pieces(module: Module, known: set[str]) -> list[tuple[list[Instruction], Instruction | None]]:
    """The instructions between those whose sizes only their result decides, each list with the one
    that follows it; ``known`` are the symbols known around the module.
    """
    sized = set(known)
    made: list[tuple[list[Instruction], Instruction | None]] = [([], None)]
    for at in module:
        names = symbols_of(at)
        if type(at.op) is Param:
            sized |= names
        late = not names <= sized
        if late:
            made[-1] = (made[-1][0], at)
            made.append(([], None))
            sized |= names
        else:
            made[-1][0].append(at)
    return made


def symbols_of(at: Instruction) -> set[str]:
    """The symbols in an instruction's shape and attributes."""
    return {s.name for s in (*at.shape.symbols(), *operations.symbols(at.op))}


def read_symbols(at: Instruction) -> set[str]:
    """These, and those in what it reads."""
    return symbols_of(at).union(*(symbols_of(v) for v in at.inputs))


class Outline:
    """The steps and cells of a piece, for any sizes.

    ``given`` are the values it reads from outside, ``results`` those that are read after it.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        results: Iterable[Instruction],
        kernel_of: Callable[[Instruction], Kernel | None],
    ) -> None:
        self.instructions = list(instructions)
        self.results = list(results)
        self.works: list[Work] = []
        self.cells: list[Cell] = []
        self.where: dict[Part, Reference] = {}
        self.given: dict[Instruction, None] = {}
        self.absorbed = _absorbed(self.instructions, self.results, kernel_of)
        self._own = set(self.instructions)
        names: dict[str, None] = {}
        for at in self.instructions:
            names |= dict.fromkeys(sorted(read_symbols(at)))
            for module in at.modules:
                names |= dict.fromkeys(sorted(_symbols_within(module)))
            if type(at.op) is not Return and _root(at) not in self.absorbed:
                self._outline(at, kernel_of)
        for value in self.results:
            self._read(value)
        self.symbols = tuple(names)
        self.checks = list(_checks(self.instructions, {}).values())
        self._outlive()
        self._share()

    # What each instruction becomes.

    def _outline(self, at: Instruction, kernel_of: Callable[[Instruction], Kernel | None]) -> None:
        if type(at.op) in (Param, Slot):
            self._from_outside(at)
        elif type(at.op) is Literal:
            self._cell(at, -1, at.shape, Kind.LITERAL if is_memory(at.shape) else Kind.OBJECT)
        elif (found := self._alias(at)) is not None:
            self.where[at, -1] = found
        else:
            self._work(at, kernel_of(at))

    def _from_outside(self, at: Instruction) -> None:
        self.given[at] = None
        if at.shape.parts:
            for index, part in enumerate(at.shape.parts):
                self._cell(at, index, part, Kind.GIVEN if is_memory(part) else Kind.OBJECT)
        self._cell(at, -1, at.shape, Kind.GIVEN if is_memory(at.shape) else Kind.OBJECT)

    def _work(self, at: Instruction, kernel: Kernel | None) -> None:
        inner = dict.fromkeys(v for m in at.modules for v in captures(m)) if kernel is None else {}
        formats = {} if kernel is None else dict(kernel.formats)
        given = [packed(v, formats.get(i)) or v for i, v in enumerate(at.inputs)]
        reads = tuple(map(self._read, given))
        for value in inner:
            self._read(value)
        parts = at.shape.parts if _is_tuple(at.shape) else (at.shape,)
        first = 0 if _is_tuple(at.shape) else -1
        writes = tuple(
            self._cell(at, first + i, s, Kind.ARENA if is_memory(s) else Kind.OBJECT)
            for i, s in enumerate(parts)
        )
        self.works.append(Work(at, kernel, reads, writes, tuple(inner)))

    def _cell(self, at: Instruction, index: int, shape: Shape, kind: Kind) -> Cell:
        step = len(self.works)
        cell = Cell(kind, shape, (at, index), step, step)
        self.cells.append(cell)
        self.where[at, index] = Reference(cell, 0, shape)
        return cell

    def _read(self, at: Instruction) -> Reference:
        """A value as the next step reads it, which keeps its memory until then."""
        if at not in self._own and at not in self.given and (at, -1) not in self.where:
            if _lies_in_literal(at):
                self._outline(at, lambda _: None)
            else:
                self._from_outside(at)
        step = len(self.works)
        if _is_tuple(at.shape) and (at, -1) not in self.where:
            for index in range(len(at.shape.parts)):
                cell = self.where[at, index].cell
                cell.last = max(cell.last, step)
            return Reference(Cell(Kind.OBJECT, at.shape, (at, -1)), 0, at.shape)
        found = self.where[at, -1]
        found.cell.last = max(found.cell.last, step)
        return found

    def _alias(self, at: Instruction) -> Reference | None:
        """A value that lies in its input's memory, if it does."""
        if not is_alias(at):
            return None
        source = at.inputs[0]
        if type(at.op) is GetTupleElem:
            self._read(source)
            found = self.where[source, at.op.index]
            return Reference(found.cell, found.offset, at.shape)
        found = self._read(source)
        offset = found.offset
        if isinstance(at.op, Slice):
            strides = source.shape.true_strides
            for axis, start in zip(at.op.axes, at.op.starts, strict=True):
                offset = offset + start * strides[axis]
        return Reference(found.cell, offset, at.shape)

    # Where cells lie.

    def _outlive(self) -> None:
        """Gives what is read after the piece arrays of its own."""
        for value in self.results:
            indices = range(len(value.shape.parts)) if _is_tuple(value.shape) else (-1,)
            for index in indices:
                found = self.where.get((value, index))
                if found is not None and found.cell.kind is Kind.ARENA:
                    found.cell.kind = Kind.RESULT

    def _share(self) -> None:
        """Lets results take over the memory of inputs that nobody reads afterwards."""
        for step, work in enumerate(self.works):
            if work.kernel is None or len(work.writes) != 1:
                continue
            (written,) = work.writes
            for index in work.kernel.in_place:
                read = work.reads[index]
                cell = read.cell.root
                if (
                    written.kind is cell.kind is Kind.ARENA
                    and cell.last == step
                    and cell.shape.dtype.bits == written.shape.dtype.bits
                    and cell.shape.element_space == written.shape.element_space
                    and read.shape.dims == written.shape.dims
                    and read.shape.true_strides == written.shape.true_strides
                    and sum(r.cell.root is cell for r in work.reads) == 1
                ):
                    written.same_as = cell
                    cell.last = written.last
                    break


def _absorbed(
    instructions: Sequence[Instruction],
    results: Iterable[Instruction],
    kernel_of: Callable[[Instruction], Kernel | None],
) -> set[Instruction]:
    """The readings of packed constants that need not be done: all who read them are kernels that
    take the packed form.
    """
    unpacked = {_root(value) for value in results}
    for at in instructions:
        kernel = None if is_alias(at) else kernel_of(at)
        formats = {} if kernel is None else dict(kernel.formats)
        reads = [v for i, v in enumerate(at.inputs) if packed(v, formats.get(i)) is None]
        inner = [v for m in at.modules for v in captures(m)] if kernel is None else []
        if not is_alias(at):
            unpacked |= {_root(value) for value in (*reads, *inner)}
    return {at for at in instructions if isinstance(at.op, UnpackWeight) and at not in unpacked}


def _is_tuple(shape: Shape) -> bool:
    return shape.dtype.name == "tuple"


def _symbols_within(module: Module) -> set[str]:
    found = set[str]()
    for at in module:
        found |= read_symbols(at)
        for inner in at.modules:
            found |= _symbols_within(inner)
    return found


@dataclass
class Patch:
    """Words of the arguments that hold the address of one cell, and what is added to it."""

    words: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def apply(self, args: NDArray[np.int64], base: int) -> None:
        """Fills the words in."""
        for word, offset in zip(self.words, self.offsets, strict=True):
            args[word] = base + offset


class Plan:
    """An outline for given sizes: the words that kernels are called with, and where cells lie.

    ``args`` is a template: words in ``in_arena`` want the arena's address added, those in
    ``in_args`` that of the copy itself, and those of ``patches`` are filled in for each run.
    ``runs`` are the steps in order: kernels from one number to before another, and works for the
    host between.
    """

    def __init__(
        self,
        outline: Outline,
        sizes: Mapping[str, int],
        code_of: Mapping[str, int],
        literals: Callable[[Instruction], int],
        threads: int,
    ) -> None:
        self.outline = outline
        self.sizes = {name: sizes[name] for name in outline.symbols if name in sizes}
        self._numbers: dict[Extent, int] = {}
        for at in outline.checks:
            check_sizes(at, self.sizes)
        self.offset_of: dict[Cell, int] = {}
        self.patches: dict[Cell, Patch] = {}
        self.runs: list[tuple[int, int] | Work] = []
        self._literals, self._code_of = literals, code_of
        self._arrange()
        self._fill(threads)

    def _arrange(self) -> None:
        cells = [c for c in self.outline.cells if c.kind is Kind.ARENA and c.same_as is None]
        lives = [Life(self.number(c.nbytes), c.first, c.last) for c in cells]
        offsets, self.arena_bytes = arranged(lives)
        self.offset_of = dict(zip(cells, offsets, strict=True))

        self.results = [
            (c, self.number(c.nbytes)) for c in self.outline.cells if c.kind is Kind.RESULT
        ]
        self.handed = [self._handed(at) for at in self.outline.results]

    def _handed(self, at: Instruction) -> tuple[Instruction, Cell, Layout | None]:
        """A result, the cell it lies in and how; None where that is no array of this piece's."""
        found = self.outline.where.get((at, -1))
        if found is None or found.cell.root.kind is not Kind.RESULT:
            return at, Cell(Kind.OBJECT, at.shape, (at, -1)), None
        shape = found.shape.bind(self.sizes)
        start = self.number(found.offset) * shape.dtype.bits // 8
        return at, found.cell.root, Layout.of_shape(shape, start)

    def _fill(self, threads: int) -> None:
        kernels = [(w, w.kernel) for w in self.outline.works if w.kernel is not None]
        words = [0] * (STEP_WORDS * len(kernels))
        in_arena: list[int] = []
        in_args: list[int] = []
        self.works: list[Work] = []
        scratch = 0
        for work, kernel in kernels:
            place = STEP_WORDS * len(self.works)
            self.works.append(work)
            words[place : place + 3] = (
                self._code_of[kernel.text],
                8 * len(words),
                self.number(kernel.tiles),
            )
            in_args.append(place + 1)
            for reference in (*work.reads, *(Reference(c, 0, c.shape) for c in work.writes)):
                self._operand(reference, words, in_arena)
            words += [self.number(w) for w in kernel.words]
            scratch = max(scratch, self.number(kernel.scratch))
        self.scratch = -(-scratch // 64) * 64
        self.total_bytes = self.arena_bytes + threads * self.scratch
        self.args = np.array(words, np.int64)
        self.in_arena, self.in_args = np.array(in_arena, np.int64), np.array(in_args, np.int64)
        self._sequence()

    def _operand(self, reference: Reference, words: list[int], in_arena: list[int]) -> None:
        cell = reference.cell.root
        offset = self.number(reference.offset) * reference.shape.dtype.bits // 8
        match cell.kind:
            case Kind.ARENA:
                in_arena.append(len(words))
                words.append(self.offset_of[cell] + offset)
            case Kind.LITERAL:
                words.append(self._literals(cell.of[0]) + offset)
            case Kind.OBJECT:
                words.append(0)
            case _:
                patch = self.patches.setdefault(cell, Patch())
                patch.words.append(len(words))
                patch.offsets.append(offset)
                words.append(0)

    def _sequence(self) -> None:
        step = 0
        for work in self.outline.works:
            if work.kernel is None:
                self.runs.append(work)
                continue
            last = self.runs[-1] if self.runs else None
            if isinstance(last, tuple):
                self.runs[-1] = (last[0], step + 1)
            else:
                self.runs.append((step, step + 1))
            step += 1

    def number(self, extent: Extent) -> int:
        """An extent with the sizes put in."""
        if isinstance(extent, int):
            return extent
        found = self._numbers.get(extent)
        if found is None:
            found = self._numbers[extent] = dim.evaluate(extent, self.sizes)
        return found


Checks = dict[object, Instruction]


def _checks(instructions: Iterable[Instruction], found: Checks) -> Checks:
    """The instructions whose shape rules must be asked again when sizes are known, those of fused
    modules included; of several that are alike, one.
    """
    for at in instructions:
        if symbols_of(at) and not at.modules and type(at.op) not in (Param, Slot, Return):
            key = (operations.key(at.op), tuple(v.shape for v in at.inputs), at.shape)
            found.setdefault(key, at)
        if at.op.name in ("pointwise", "fused_reduce", "group"):
            for module in at.modules:
                _checks(module, found)
    return found


def check_sizes(at: Instruction, sizes: Mapping[str, int]) -> None:
    """Raises ``InputError``, drawn, where sizes are such that a shape rule refuses them."""
    try:
        op = operations.bind(at.op, sizes)
        inferred = op.compute_shape([v.shape.bind(sizes) for v in at.inputs], ())
        same = inferred.same_type(at.shape.bind(sizes))
    except (ShapeError, DimError) as error:
        raise InputError(draw_instruction(f"with {_listed(sizes)}: {error}", at)) from error
    if not same:
        message = f"with {_listed(sizes)}: {inferred} instead of {at.shape.bind(sizes)}"
        raise InputError(draw_instruction(message, at))


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "these sizes"
