"""From the instructions of a module to steps and cells of memory, for any sizes.

A module is cut into *pieces* after each instruction with sizes that only its result determines. A
piece is outlined once, when the program is compiled: which instructions are kernels, which run on
the host, and which are views and so need no step; and which *cell* of memory each value is in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from migx.dim import Extent
from migx.ir import Instruction, Module
from migx.ops.builtin import GetTupleElem, Literal, Param, Return, Slot, Undefined
from migx.ops.formats import UnpackWeight, of_blocks
from migx.planning import is_alias, is_block, is_memory, root, shift
from migx.shape import TUPLE, U8, Shape
from migx.sizes import read_symbols, symbols_within
from migx.targets.cpu.kernel import Kernel

KernelOf = Callable[[Instruction], Kernel | None]
"""The kernel of an instruction, if it has one."""
Part = tuple[Instruction, int]
"""A value and the number of a part, if it is a tuple; -1 is the value itself."""


class Kind(enum.Enum):
    """The memory of a cell: the arena; an array of its own, as it outlives the run; an argument; a
    literal; none, as it is an object of the host; or a part of a constant, which a step finds.
    """

    ARENA, RESULT, GIVEN, LITERAL, OBJECT, FOUND = range(6)


@dataclass(eq=False)
class Cell:
    """The memory of one value and its views, and its live range in steps."""

    kind: Kind
    shape: Shape
    of: Part
    first: int = 0
    last: int = 0
    same_as: Cell | None = None

    @cached_property
    def nbytes(self) -> Extent:
        """Its size in bytes."""
        return self.shape.nbytes

    @property
    def root(self) -> Cell:
        """The cell whose memory this one reuses."""
        cell = self
        while cell.same_as is not None:
            cell = cell.same_as
        return cell


@dataclass(frozen=True)
class Reference:
    """A value as a step reads it: its cell, and its offset in elements."""

    cell: Cell
    offset: Extent
    shape: Shape


@dataclass(eq=False)
class Label:
    """The target of a jump: the number of a step."""

    step: int = -1


@dataclass(frozen=True)
class Round:
    """How an operand, given by its number, advances: its offset in bytes the first time, and the
    increment for each time after.
    """

    operand: int
    start: Extent
    step: Extent


@dataclass(frozen=True)
class Work:
    """One step: a kernel, or None for an instruction on the host; its operands, and the cells it
    writes. ``captured`` are the values around them that its modules read. With ``to``, it is a
    jump. A step that ``knows_itself`` has its own address after its words; one that ``finds`` a
    cell has the address of a table there.

    A kernel whose tiles each run several ``times`` in sequence has operands that are ``moved`` in
    between.
    """

    at: Instruction
    kernel: Kernel | None
    reads: tuple[Reference, ...]
    writes: tuple[Cell, ...]
    captured: tuple[Instruction, ...] = ()
    to: Label | None = None
    knows_itself: bool = False
    finds: Cell | None = None
    times: Extent | None = None
    moved: tuple[Round, ...] = ()

    @cached_property
    def lasting(self) -> bool:
        """Whether a result is an object, which outlives the run with what it holds."""
        return any(cell.kind is Kind.OBJECT for cell in self.writes)

    @property
    def operands(self) -> tuple[Reference, ...]:
        """The operands of a kernel, inputs then results, in the order of its arguments."""
        return (*self.reads, *(Reference(cell, 0, cell.shape) for cell in self.writes))


def parts_of(at: Instruction) -> dict[int, Shape]:
    """The shapes of an instruction's results, by the numbers of the parts they are."""
    return dict(enumerate(at.shape.parts)) if at.shape.dtype is TUPLE else {-1: at.shape}


def lies_in_literal(at: Instruction) -> bool:
    """Whether a value is a literal or aliases one, so that no piece hands it on."""
    return type(root(at).op) in (Literal, Undefined)


def packed(value: Instruction, form: str | None) -> Instruction | None:
    """The operand of a kernel that takes a value in its packed format: the packed constant itself,
    or a block of one, which a step then finds.
    """
    found = root(value)
    if is_block(found) and form is not None:
        whole, form = found.inputs[0], of_blocks(form, found.shape.rank)
        return found if isinstance(whole.op, UnpackWeight) and whole.op.format == form else None
    fits = isinstance(found.op, UnpackWeight) and found.op.format == form
    return found.inputs[0] if fits else None


def operands(
    at: Instruction, kernel: Kernel | None
) -> list[tuple[Instruction, Instruction | None]]:
    """The inputs of an instruction, each with the packed constant that its kernel takes instead;
    None for those read as they are.
    """
    formats = {} if kernel is None else dict(kernel.formats)
    return [(value, packed(value, formats.get(i))) for i, value in enumerate(at.inputs)]


Writer = Callable[["Outline", Instruction], None]
"""A function that adds the steps of an instruction to an outline."""
NOTHING: Mapping[Any, Any] = MappingProxyType({})


def is_taken_packed(at: Instruction, kernel_of: KernelOf) -> bool:
    """Whether all users of a packed constant, or of a block of one, are kernels that take it
    packed.
    """
    for user in at.users:
        reads = (taken for value, taken in operands(user, kernel_of(user)) if value is at)
        if not (is_taken_packed(user, kernel_of) if is_alias(user) else all(reads)):
            return False
    return True


class Outline:
    """The steps and cells of a piece, for any sizes.

    ``given`` are the values it reads from outside, ``results`` those that are read after it; the
    ``lasting`` ones escape, so they are not in the arena. ``native`` is the control flow whose
    modules are inlined as steps, ``refused`` those of these modules, by number, that cannot be run,
    and why. It ``lends`` results that lie in the arena.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        results: Iterable[Instruction],
        kernel_of: KernelOf,
        native: Mapping[Instruction, Writer],
        refused: Mapping[tuple[Instruction, int], str] = NOTHING,
        lasting: Collection[Instruction] | None = None,
    ) -> None:
        self.native, self.refused, self._kernel_of = native, refused, kernel_of
        self._outer, self.results = list(instructions), list(results)
        self.lasting = self.results if lasting is None else lasting
        self.instructions = [*self._expanded(self._outer)]
        self.works: list[Work] = []
        self.cells: list[Cell] = []
        self.where: dict[Part, Reference] = {}
        self.given: dict[Instruction, None] = {}
        self.absorbed = _absorbed(self.instructions, self.results, kernel_of, native)
        self._own = set(self.instructions)
        names: dict[str, None] = {}
        for at in self.instructions:
            names |= dict.fromkeys(sorted(read_symbols(at)))
            for i, module in enumerate(at.modules):
                if at not in native or (at, i) in refused:  # else its instructions are here
                    names |= dict.fromkeys(sorted(symbols_within(module)))
        for at in self._outer:
            self.outline(at)
        for value in self.results:
            self.read(value)
        self.symbols = tuple(names)
        self._outlive()
        self._share()
        self.lends = any(c.root.kind is Kind.ARENA for c in self._cells(self.results))

    def _expanded(self, instructions: Iterable[Instruction]) -> Iterator[Instruction]:
        """The instructions, and those of the modules inlined among them."""
        for at in instructions:
            yield at
            for i, module in enumerate(at.modules if at in self.native else ()):
                if (at, i) not in self.refused:
                    yield from self._expanded(module)

    def without(self, refused: Mapping[tuple[Instruction, int], str]) -> Outline:
        """An outline in which some modules of control flow are errors."""
        return Outline(
            self._outer, self.results, self._kernel_of, self.native, refused, self.lasting
        )

    # Steps and cells of instructions.

    def outline(self, at: Instruction) -> None:
        """Adds the steps and cells of an instruction."""
        if type(at.op) is Return or root(at) in self.absorbed:
            return
        if at in self.native:
            self.native[at](self, at)
        elif type(at.op) in (Param, Slot):
            self._from_outside(at)
        elif type(at.op) is Literal:
            self.cell(at, -1, at.shape, Kind.LITERAL if is_memory(at.shape) else Kind.OBJECT)
        elif type(at.op) is Undefined:
            self.cell(at, -1, at.shape, Kind.OBJECT)
        elif (found := self._alias(at)) is not None:
            self.where[at, -1] = found
        else:
            self._work(at, self._kernel_of(at))

    def _from_outside(self, at: Instruction) -> None:
        self.given[at] = None
        for index, part in (parts_of(at) | {-1: at.shape}).items():
            self.cell(at, index, part, Kind.GIVEN if is_memory(part) else Kind.OBJECT)

    def _work(self, at: Instruction, kernel: Kernel | None) -> None:
        inner = captured(at, self._kernel_of) if kernel is None else []
        reads = tuple(self.read(taken or value) for value, taken in operands(at, kernel))
        for value in inner:
            self.read(value)
        if kernel is not None and kernel.finds:
            cell = self.cell(at, -1, at.shape, Kind.FOUND)
            self.works.append(Work(at, kernel, reads, (), finds=cell))
            return
        writes = tuple(
            self.cell(at, index, part, Kind.ARENA if is_memory(part) else Kind.OBJECT)
            for index, part in parts_of(at).items()
        )
        if kernel is not None and kernel.shared != 0:
            shared = Shape(U8, (kernel.shared,))
            writes = (*writes, self.cell(at, len(writes), shared))
        self.works.append(Work(at, kernel, reads, writes, tuple(inner)))

    def cell(self, at: Instruction, index: int, shape: Shape, kind: Kind = Kind.ARENA) -> Cell:
        """A new cell for a value, or for a part of it."""
        step = len(self.works)
        cell = Cell(kind, shape, (at, index), step, step)
        self.cells.append(cell)
        self.where[at, index] = Reference(cell, 0, shape)
        return cell

    def read(self, at: Instruction) -> Reference:
        """A value as the next step reads it; extends its live range to that step."""
        if at not in self._own and at not in self.given and (at, -1) not in self.where:
            if lies_in_literal(at):
                self.outline(at)
            else:
                self._from_outside(at)
        step = len(self.works)
        if at.shape.dtype is TUPLE and (at, -1) not in self.where:
            for index in parts_of(at):
                cell = self.where[at, index].cell
                cell.last = max(cell.last, step)
            return Reference(Cell(Kind.OBJECT, at.shape, (at, -1)), 0, at.shape)
        found = self.where[at, -1]
        found.cell.last = max(found.cell.last, step)
        return found

    def _alias(self, at: Instruction) -> Reference | None:
        """A value that aliases its input's memory; None if it does not, so that the host evaluates
        it.
        """
        if not is_alias(at):
            return None
        source = at.inputs[0]
        if type(at.op) is GetTupleElem:
            self.read(source)
            part = self.where.get((source, at.op.index))  # None if the tuple is a member of another
            return None if part is None else Reference(part.cell, part.offset, at.shape)
        found = self.read(source)
        return Reference(found.cell, found.offset + shift(at), at.shape)

    # Memory of cells.

    def _cells(self, values: Iterable[Instruction]) -> Iterator[Cell]:
        """The cells of some values, or of the parts of those that are tuples."""
        for value in values:
            found = (self.where.get((value, index)) for index in parts_of(value))
            yield from (reference.cell for reference in found if reference is not None)

    def _outlive(self) -> None:
        """Gives values that escape arrays of their own."""
        for cell in self._cells(self.lasting):
            if cell.kind is Kind.ARENA:
                cell.kind = Kind.RESULT

    def _share(self) -> None:
        """Lets results reuse the memory of inputs that are dead afterwards, if the kernel has one
        result: with several small ones, each is slower for it. A value that escapes lies in an
        array of its own from the first of them on.
        """
        escaping = {*self._cells(self.lasting)}
        for step, work in enumerate(self.works):
            if len(work.writes) != 1:
                continue
            for written, cell in self.overwritten(step, work):
                fits = written.kind is Kind.ARENA or written in escaping
                if cell.kind is Kind.ARENA and fits:
                    written.same_as, cell.kind = cell, written.kind
                    cell.last = written.last
                    break

    def overwritten(self, step: int, work: Work) -> Iterator[tuple[Cell, Cell]]:
        """The cells a step writes, each with a cell it may overwrite: one that is dead afterwards,
        and whose elements have the same layout.
        """
        if work.kernel is None or work.times is not None:
            return
        for index, result in work.kernel.over:
            read, written = work.reads[index], work.writes[result]
            cell = read.cell.root
            if (
                written.same_as is None
                and cell.last == step
                and cell.shape.dtype.bits == written.shape.dtype.bits
                and cell.shape.element_space == written.shape.element_space
                and read.shape.dims == written.shape.dims
                and read.shape.true_strides == written.shape.true_strides
                and sum(r.cell.root is cell for r in work.reads) == 1
            ):
                yield written, cell


def _absorbed(
    instructions: Sequence[Instruction],
    results: Iterable[Instruction],
    kernel_of: KernelOf,
    native: Mapping[Instruction, Writer],
) -> set[Instruction]:
    """The unpackings of packed constants, in this piece or one before, that this piece does not
    need: all their users here are kernels that take the packed form.
    """
    unpacked = {root(value) for value in results}
    for at in instructions:
        if is_alias(at):
            continue
        kernel = kernel_of(at)
        reads = [value for value, taken in operands(at, kernel) if taken is None]
        inner = captured(at, kernel_of) if kernel is None and at not in native else []
        unpacked |= {root(value) for value in (*reads, *inner)}
    roots = {root(at) for at in instructions if at.op.name != "@return"}
    return {at for at in roots if isinstance(at.op, UnpackWeight) and at not in unpacked}


def captured(at: Instruction, kernel_of: KernelOf) -> list[Instruction]:
    """The values around an instruction that its modules read, except constants that their kernels
    take packed.
    """
    inside: set[Instruction] = set()
    found: dict[Instruction, None] = {}

    def visit(module: Module) -> None:
        inside.update(module)
        for inner in module:
            if is_alias(inner) and len(inner.inputs) < 2:  # others may tell their own sizes
                continue
            kernel = kernel_of(inner)
            for value, taken in operands(inner, kernel):
                while value in inside and is_alias(value):
                    value = value.inputs[0]
                if value not in inside and taken is None:
                    found[value] = None
            for held in inner.modules if kernel is None else ():
                visit(held)

    for module in at.modules:
        visit(module)
    return list(found)
