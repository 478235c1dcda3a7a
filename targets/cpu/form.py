"""What the plans of an outline have in common, whatever the sizes.

A ``Form`` is the block of arguments of every kernel, filled as far as no size decides it. A program
that is run at other sizes each time, as one that decodes is, waits for its plans; so a form knows
its numbers as one product of a matrix, remembers what each check and each shape came to, asking
anew those alone that have a symbol of another size, and keeps how the arena is arranged for sizes
that are near each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx.dim import Dim, Extent
from migx.extents import Extents
from migx.ir import Instruction
from migx.planning import Life, arranged
from migx.shape import Shape
from migx.sizes import drawn, expect_shape, read_symbols, symbols_in
from migx.targets.cpu.memory import Layout
from migx.targets.cpu.outline import Cell, Kind, Outline, Reference, Work
from migx.targets.cpu.runtime import STEP_WORDS

PAGE = 1024
"""What blocks of an arena whose sizes change are rounded up to, in bytes."""
Numbers: TypeAlias = NDArray[np.int64]
Found = TypeVar("Found")


class Latest(Generic[Found]):
    """What something comes to for sizes, asked anew where one of its symbols has another size than
    the time before.
    """

    def __init__(self, names: Iterable[str], ask: Callable[[Mapping[str, int]], Found]) -> None:
        self.names, self._ask = tuple(names), ask
        self._known: tuple[tuple[int | None, ...], Found] | None = None

    def at(self, sizes: Mapping[str, int]) -> Found:
        """What it comes to."""
        key = tuple(map(sizes.get, self.names))
        known = self._known
        if known is None or known[0] != key:
            known = self._known = (key, self._ask(sizes))
        return known[1]


@dataclass(frozen=True)
class Address:
    """How many elements of so many bits from where a cell begins, by its place among the numbers,
    something lies.
    """

    cell: Cell
    offset: int
    bits: int

    def start(self, numbers: Numbers) -> int:
        """How many bytes from where the cell begins."""
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
        """How many bytes from where its cell begins each is."""
        found: Numbers = numbers[self._offsets] * self._bits // 8
        return found

    def each(self, numbers: Numbers) -> Iterator[tuple[int, Cell, int]]:
        """The words, with their cells and how many bytes from where these begin they are."""
        return zip(self._listed, self.cells, self.starts(numbers).tolist(), strict=True)


class Arena:
    """The cells of an arena.

    Where sizes change from run to run, those of the cells that have symbols are rounded up: to so
    many pages, or by a sixteenth at the most. So sizes that are near each other are arranged alike.
    """

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = cells
        self.index = {cell: i for i, cell in enumerate(cells)}
        self._changing = np.array([isinstance(c.nbytes, Dim) for c in cells], bool)
        self._known: tuple[bytes, Numbers, int] | None = None

    def arranged(self, nbytes: Numbers) -> tuple[Numbers, int]:
        """The offset of each cell that takes so many bytes, and the bytes they take together."""
        sixteenth = 2 ** np.maximum(np.frexp(nbytes)[1] - 5, 0)
        step = np.where(self._changing, np.maximum(sixteenth, PAGE), 1)
        roomy = -(-nbytes // step) * step
        key, known = roomy.tobytes(), self._known
        if known is None or known[0] != key:
            pairs = zip(roomy.tolist(), self.cells, strict=True)
            offsets, total = arranged([Life(n, c.first, c.last) for n, c in pairs])
            known = self._known = key, np.array(offsets, np.int64), total
        return known[1:]


@dataclass(frozen=True)
class Handed:
    """A result, and where its arrays lie and how; none where it is no array of the piece's."""

    at: Instruction
    shape: Latest[Shape]
    places: list[tuple[Address, Latest[Layout]]]


class Form:
    """What all plans of an outline share. ``words`` are those that kernels are called with;
    ``sized`` says which of them are which of the ``numbers``, ``in_arena`` and its like which hold
    an address there, and ``in_args`` which that of the words themselves.

    ``runs`` are the steps in order: kernels from one number to before another, and works for the
    host between. ``faults`` are the words in which kernels say that their operands are wrong.
    """

    def __init__(
        self,
        outline: Outline,
        code_of: Mapping[str, int],
        literals: Callable[[Instruction], int],
    ) -> None:
        self.outline = outline
        self._extents = Extents()
        self._shapes: dict[Shape, Latest[Shape]] = {}
        self._layouts: dict[Shape, Latest[Layout]] = {}
        self._checks = [Latest(sorted(read_symbols(at)), self._check(at)) for at in outline.checks]
        self.arena = Arena([c for c in outline.cells if c.kind is Kind.ARENA and c.same_as is None])
        self.made = [c for c in outline.cells if c.kind is Kind.RESULT]
        self.nbytes = np.array([self.place(c.nbytes) for c in (*self.arena.cells, *self.made)], int)
        self.handed = [
            Handed(at, self._shape(at.shape), self._places(at)) for at in outline.results
        ]
        self.works: list[Work] = []
        self.runs: list[tuple[int, int] | Work] = []
        self.faults: dict[int, Work] = {}
        addresses = self._fill(code_of)
        self._sequence()
        self.in_arena, self.in_results, self.in_given, self.in_literals, _ = (
            Addresses(kind, addresses) for kind in Kind
        )
        self.cells_in_arena = np.array([self.arena.index[c] for c in self.in_arena.cells], int)
        for word, cell in zip(self.in_literals.words, self.in_literals.cells, strict=True):
            self.words[word] = literals(cell.of[0])

    def place(self, extent: Extent) -> int:
        """Where an extent is among the numbers."""
        return self._extents.place(extent)

    def numbers(self, sizes: Mapping[str, int]) -> Numbers:
        """All extents with the sizes put in, which the checks have been asked about."""
        for check in self._checks:
            check.at(sizes)
        return self._extents.at(sizes)

    def shape(self, shape: Shape, sizes: Mapping[str, int]) -> Shape:
        """A shape with the sizes put in."""
        return shape if shape.static else self._shape(shape).at(sizes)

    def _shape(self, shape: Shape) -> Latest[Shape]:
        if shape not in self._shapes:
            self._shapes[shape] = Latest(sorted(symbols_in(shape)), shape.bind)
        return self._shapes[shape]

    def _layout(self, shape: Shape) -> Latest[Layout]:
        if shape not in self._layouts:
            bound = self._shape(shape)
            self._layouts[shape] = Latest(bound.names, lambda s: Layout.of_shape(bound.at(s)))
        return self._layouts[shape]

    def _check(self, at: Instruction) -> Callable[[Mapping[str, int]], None]:
        """What raises ``InputError`` where an instruction's shape rule refuses sizes."""
        names = sorted({symbol.name for symbol in operations.symbols(at.op)})
        op = Latest(names, partial(operations.bind, at.op))
        given, wanted = [self._shape(v.shape) for v in at.inputs], self._shape(at.shape)

        def check(sizes: Mapping[str, int]) -> None:
            with drawn(at, sizes):
                shapes = [shape.at(sizes) for shape in given]
                expect_shape(at, op.at(sizes), shapes, partial(wanted.at, sizes))

        return check

    def _places(self, at: Instruction) -> list[tuple[Address, Latest[Layout]]]:
        indices = range(len(at.shape.parts)) if at.shape.parts else (-1,)
        found = [self.outline.where.get((at, index)) for index in indices]
        own = [r for r in found if r is not None and r.cell.root.kind is Kind.RESULT]
        if len(own) < len(indices):
            return []
        return [(self._address(r), self._layout(r.shape)) for r in own]

    def _address(self, reference: Reference) -> Address:
        offset, bits = self.place(reference.offset), reference.shape.dtype.bits
        return Address(reference.cell.root, offset, bits)

    def _fill(self, code_of: Mapping[str, int]) -> dict[int, Address]:
        """Writes the words; gives those that are addresses."""
        addresses: dict[int, Address] = {}
        kernels = [(w, w.kernel) for w in self.outline.works if w.kernel is not None]
        numbers = [0, *accumulate(w.kernel is not None for w in self.outline.works)]
        words = [0] * (STEP_WORDS * len(kernels))
        sized: list[tuple[int, int]] = []
        in_args: list[int] = []
        for work, kernel in kernels:
            first = STEP_WORDS * len(self.works)
            self.works.append(work)
            words[first : first + STEP_WORDS] = (
                code_of[kernel.symbol] if work.to is None else 0,
                8 * len(words),
                0,
                0 if work.to is None else numbers[work.to.step],
            )
            in_args.append(first + 1)
            sized.append((first + 2, self.place(kernel.tiles)))
            for reference in (*work.reads, *(Reference(c, 0, c.shape) for c in work.writes)):
                if reference.cell.root.kind is not Kind.OBJECT:
                    addresses[len(words)] = self._address(reference)
                words.append(0)
            if kernel.fault:
                self.faults[len(words) + kernel.words.index(0)] = work
            sized += [(len(words) + i, self.place(w)) for i, w in enumerate(kernel.words)]
            words += [0] * len(kernel.words)
        self.scratch = np.array([self.place(kernel.scratch) for _, kernel in kernels], int)
        self.words = np.array(words, np.int64)
        self.sized = np.array(sized, np.int64).reshape(-1, 2)
        self.in_args = np.array(in_args, np.int64)
        self.fault_words = np.array([*self.faults], np.int64)
        return addresses

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
