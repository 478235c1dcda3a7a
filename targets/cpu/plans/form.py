"""What all plans of an outline share, for any sizes.

A ``Form`` is the block of arguments of every kernel, filled except for what depends on sizes. A
program that runs at new sizes each time, such as a decoder, waits for its plans; so a form
evaluates all extents as one matrix product, caches each check and each shape, recomputing only
those with a symbol whose size has changed, and reuses the layout of the arena for nearby sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from migx.base.memory import aligned
from migx.dim import Extent
from migx.dims.extents import Latest, Numbers
from migx.ir import Instruction
from migx.planning import Arena
from migx.shape import Shape
from migx.sizes import Numbered
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.plans.control_kernels import ROUNDS
from migx.targets.cpu.plans.memory import Layout
from migx.targets.cpu.plans.outline import Cell, Kind, Outline, Reference, Work, parts_of
from migx.targets.cpu.threads.runtime import STEP_WORDS, TILES_WORD


def rounds_of(work: Work) -> list[Extent]:
    """The words of ``ROUNDS`` after the address of the code: the number of words in a tile's copy,
    the bytes these take, the number of calls, and the operands to advance. Empty for a step that
    runs once.
    """
    if work.kernel is None or work.times is None:
        return []
    count = len(work.operands) + len(work.kernel.words)
    room = aligned(8 * count)
    moved = [word for each in work.moved for word in (each.operand, each.start, each.step)]
    return [count, room, work.times, len(work.moved), *moved]


def scratch_of(work: Work, kernel: Kernel) -> Extent:
    """The bytes of scratch that a step needs."""
    return kernel.scratch + sum(rounds_of(work)[1:2])


@dataclass(frozen=True)
class Address:
    """An address in a cell: ``offset`` is the index, among the form's numbers, of the distance in
    elements of ``bits`` each.
    """

    cell: Cell
    offset: int
    bits: int

    def start(self, numbers: Numbers) -> int:
        """The distance in bytes from the start of the cell."""
        return int(numbers[self.offset]) * self.bits // 8


class Addresses:
    """The words that hold addresses in one kind of memory."""

    def __init__(self, kind: Kind, addresses: Mapping[int, Address]) -> None:
        own = {word: a for word, a in addresses.items() if a.cell.kind is kind}
        self.cells = [a.cell for a in own.values()]
        self._listed = [*own]
        self.words = np.array(self._listed, np.int64)
        self._offsets = np.array([a.offset for a in own.values()], np.int64)
        self._bits = np.array([a.bits for a in own.values()], np.int64)

    def starts(self, numbers: Numbers) -> Numbers:
        """The distance of each from the start of its cell, in bytes."""
        found: Numbers = numbers[self._offsets] * self._bits // 8
        return found

    def each(self, numbers: Numbers) -> Iterator[tuple[int, Cell, int]]:
        """The words, with their cells and their distances from the start of these in bytes."""
        return zip(self._listed, self.cells, self.starts(numbers).tolist(), strict=True)


@dataclass(frozen=True)
class Handed:
    """A result, and the addresses and layouts of its arrays; none if it is not computed by the
    piece.
    """

    at: Instruction
    shape: Latest[Shape]
    places: list[tuple[Address, Latest[Layout]]]


class Form(Numbered):
    """What all plans of an outline share. ``words`` are those that kernels are called with;
    ``sized`` pairs words with the ``numbers`` they hold, ``in_arena`` and the like are words with
    addresses in one kind of memory, ``in_args`` words with addresses of words.

    ``runs`` are the steps in order: ranges of kernels, and between them works for the host.
    ``faults`` are the words in which kernels report wrong operands.
    """

    def __init__(
        self,
        outline: Outline,
        code_of: Mapping[str, int],
        literals: Callable[[Instruction], int],
    ) -> None:
        super().__init__(outline.instructions)
        self.outline = outline
        self._layouts: dict[Shape, Latest[Layout]] = {}
        own = [cell for cell in outline.cells if cell.same_as is None]
        mine = [cell for cell in own if cell.kind is Kind.ARENA]
        self.arena = dict(zip(mine, range(len(mine)), strict=True))
        self.arranged = Arena([(c.nbytes, c.first, c.last) for c in mine]).arranged
        self.made = [cell for cell in own if cell.kind is Kind.RESULT]
        self.nbytes = np.array([self.place(c.nbytes) for c in (*self.arena, *self.made)], int)
        self.handed = [
            Handed(at, self.rules.latest(at.shape), self._places(at)) for at in outline.results
        ]
        self.runs: list[tuple[int, int] | Work] = []
        addresses = self._fill(code_of)
        self._sequence()
        self.in_arena, self.in_results, self.in_given, self.in_literals, *_ = (
            Addresses(kind, addresses) for kind in Kind
        )
        self.cells_in_arena = np.array([self.arena[c] for c in self.in_arena.cells], int)
        for word, cell in zip(self.in_literals.words, self.in_literals.cells, strict=True):
            self.words[word] = literals(cell.of[0])

    def layout(self, shape: Shape) -> Latest[Layout]:
        """The layout of a value of a shape, in memory that begins with it."""
        if shape not in self._layouts:
            bound = self.rules.latest(shape)
            self._layouts[shape] = Latest(bound.names, lambda s: Layout.of_shape(bound.at(s)))
        return self._layouts[shape]

    def _places(self, at: Instruction) -> list[tuple[Address, Latest[Layout]]]:
        found = [self.outline.where.get((at, index)) for index in parts_of(at)]
        own = [r for r in found if r is not None and r.cell.root.kind is Kind.RESULT]
        if len(own) < len(found):
            return []
        return [(self.address(r), self.layout(r.shape)) for r in own]

    def address(self, reference: Reference) -> Address:
        """The address of the referenced value."""
        offset, bits = self.place(reference.offset), reference.shape.dtype.bits
        return Address(reference.cell.root, offset, bits)

    def _fill(self, code_of: Mapping[str, int]) -> dict[int, Address]:
        """Writes the words; gives those that are addresses."""
        kernels = [(w, w.kernel) for w in self.outline.works if w.kernel is not None]
        numbers = [0, *accumulate(w.kernel is not None for w in self.outline.works)]
        made = _Words(self, len(kernels))
        for number, (work, kernel) in enumerate(kernels):
            to = 0 if work.to is None else numbers[work.to.step]
            made.add(number, work, kernel, code_of, to)
        made.add_tables()
        self.works, self.faults = [work for work, _ in kernels], made.faults
        self.scratch = np.array([self.place(scratch_of(w, k)) for w, k in kernels], int)
        self.words = np.array(made.words, np.int64)
        self.sized = np.array(made.sized, np.int64).reshape(-1, 2)
        self.in_args = np.array(made.in_args, np.int64)
        return made.addresses

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


class _Words:
    """The words of a form while they are laid out: a header for each step, then the arguments of
    each, then tables. The fields are those of the form.
    """

    def __init__(self, form: Form, steps: int) -> None:
        self.form = form
        self.words = [0] * (STEP_WORDS * steps)
        self.sized: list[tuple[int, int]] = []
        self.in_args: list[int] = []
        self.addresses: dict[int, Address] = {}
        self.faults: dict[int, Work] = {}
        self._tables: dict[Cell, int] = {}
        self._found: dict[Cell, list[int]] = {}

    def add(
        self, number: int, work: Work, kernel: Kernel, code_of: Mapping[str, int], to: int
    ) -> None:
        """Adds the header and the arguments of a step; ``to`` is the step it jumps to."""
        first = STEP_WORDS * number
        code = code_of[kernel.symbol] if work.to is None else 0
        called = code if work.times is None else code_of[ROUNDS.symbol]
        self.words[first : first + STEP_WORDS] = called, 8 * len(self.words), 0, to
        self.in_args.append(first + 1)
        self.sized.append((first + TILES_WORD, self.form.place(kernel.tiles)))
        if said := rounds_of(work):
            self.words.append(code)
            self._add_numbers(said)
        for reference in work.operands:
            self._add_operand(reference)
        if kernel.fault:
            self.faults[len(self.words) + kernel.words.index(0)] = work
        self._add_numbers(kernel.words)
        if work.knows_itself:
            self._add_place(8 * first)
        if work.finds is not None:
            self._tables[work.finds] = len(self.words)
            self._add_place(0)

    def _add_numbers(self, extents: Sequence[Extent]) -> None:
        places = map(self.form.place, extents)
        self.sized += enumerate(places, len(self.words))
        self.words += [0] * len(extents)

    def _add_operand(self, reference: Reference) -> None:
        cell, word = reference.cell.root, len(self.words)
        if cell.kind is Kind.FOUND:
            self._found.setdefault(cell, []).append(word)
        elif cell.kind is not Kind.OBJECT:
            self.addresses[word] = self.form.address(reference)
        self.words.append(0)

    def _add_place(self, nbytes: int) -> None:
        """Adds a word for an address, at so many bytes from the first word."""
        self.in_args.append(len(self.words))
        self.words.append(nbytes)

    def add_tables(self) -> None:
        """Adds the tables of steps that find cells: the number of words that hold an address in the
        cell, and the address of each of these words.
        """
        for cell, place in self._tables.items():
            read = self._found.get(cell, [])
            self.words[place] = 8 * len(self.words)
            self.words.append(len(read))
            for word in read:
                self._add_place(8 * word)
