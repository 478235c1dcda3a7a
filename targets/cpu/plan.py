"""From an outline to places in memory, for given sizes.

An outline has a ``Form``: the block of arguments of every kernel, filled as far as no size decides
it. When sizes are known, it becomes a ``Plan``: an offset in the arena for each cell, and the words
that sizes decide. A program that is run at other sizes each time, as one that decodes is, waits for
its plans; so a form remembers what each extent and each check came to, and asks anew only those
that have a symbol whose size is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from migx import dim
from migx import op as operations
from migx.dim import Extent
from migx.ir import Instruction
from migx.op import Operation
from migx.planning import ALIGNMENT, Life, arranged
from migx.shape import Shape
from migx.sizes import check_room, check_sizes, read_symbols, symbols_in
from migx.targets.cpu.memory import Layout
from migx.targets.cpu.outline import Cell, Kind, Outline, Part, Reference, Work
from migx.targets.cpu.runtime import STEP_WORDS

TOGETHER = 4096
"""Results of up to so many bytes share a block of memory: one allocation instead of many."""
Patch: TypeAlias = list[tuple[int, int]]
"""Words of the arguments that hold addresses in one piece of memory, and how far in each lies."""
Found = TypeVar("Found")


class Latest(Generic[Found]):
    """What something comes to for sizes, asked anew where one of its symbols has another size than
    the time before.
    """

    def __init__(self, names: Iterable[str], ask: Callable[[Mapping[str, int]], Found]) -> None:
        self._names, self._ask = tuple(names), ask
        self._known: tuple[tuple[int | None, ...], Found] | None = None

    def at(self, sizes: Mapping[str, int]) -> Found:
        """What it comes to."""
        key = tuple(map(sizes.get, self._names))
        known = self._known
        if known is None or known[0] != key:
            known = self._known = (key, self._ask(sizes))
        return known[1]


@dataclass
class Block:
    """Memory for results of one run, and the words that hold addresses in it."""

    nbytes: int = 0
    patch: Patch = field(default_factory=list)

    def take(self, nbytes: int) -> int:
        """Where bytes begin for which room is made."""
        start = self.nbytes
        self.nbytes += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return start


@dataclass(frozen=True)
class Address:
    """A word that is an address: in what cell, and how many elements of so many bits from where
    that begins, by its place among the numbers.
    """

    word: int
    cell: Cell
    offset: int
    bits: int

    def start(self, numbers: Sequence[int]) -> int:
        """How many bytes from where the cell begins."""
        return numbers[self.offset] * self.bits // 8


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
        self._places: dict[Extent, int] = {}
        self._numbers: list[Latest[int]] = []
        self._shapes: dict[Shape, Latest[Shape]] = {}
        self._checks = [
            Latest(sorted(read_symbols(at)), partial(self._check, at)) for at in outline.checks
        ]
        self.arena = [c for c in outline.cells if c.kind is Kind.ARENA and c.same_as is None]
        self.made = [c for c in outline.cells if c.kind is Kind.RESULT]
        self.nbytes_of = {c: self.place(c.nbytes) for c in (*self.arena, *self.made)}
        self.works: list[Work] = []
        self.runs: list[tuple[int, int] | Work] = []
        self.faults: dict[int, Work] = {}
        addresses = self._fill(code_of)
        self._sequence()
        of_kind = {kind: [a for a in addresses if a.cell.kind is kind] for kind in Kind}
        self.in_arena, self.in_results = of_kind[Kind.ARENA], of_kind[Kind.RESULT]
        self.in_literals, self.in_given = of_kind[Kind.LITERAL], of_kind[Kind.GIVEN]
        for address in self.in_literals:
            self.words[address.word] = literals(address.cell.of[0])
        self.arena_words = np.array([a.word for a in self.in_arena], np.int64)
        self.literal_words = np.array([a.word for a in self.in_literals], np.int64)

    def place(self, extent: Extent) -> int:
        """Where an extent is among the numbers."""
        if extent not in self._places:
            names = sorted({symbol.name for symbol in dim.symbols(extent)})
            self._places[extent] = len(self._numbers)
            self._numbers.append(Latest(names, partial(dim.evaluate, extent)))
        return self._places[extent]

    def shape(self, shape: Shape, sizes: Mapping[str, int]) -> Shape:
        """A shape with the sizes put in."""
        if shape.static:
            return shape
        if shape not in self._shapes:
            self._shapes[shape] = Latest(sorted(symbols_in(shape)), shape.bind)
        return self._shapes[shape].at(sizes)

    def _check(self, at: Instruction, sizes: Mapping[str, int]) -> None:
        check_sizes(at, sizes, lambda shape: self.shape(shape, sizes))

    def numbers(self, sizes: Mapping[str, int]) -> list[int]:
        """All extents with the sizes put in, which the checks have been asked about."""
        for check in self._checks:
            check.at(sizes)
        return [number.at(sizes) for number in self._numbers]

    def _fill(self, code_of: Mapping[str, int]) -> list[Address]:
        """Writes the words; gives those that are addresses."""
        addresses: list[Address] = []
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
                if (cell := reference.cell.root).kind is not Kind.OBJECT:
                    offset, bits = self.place(reference.offset), reference.shape.dtype.bits
                    addresses.append(Address(len(words), cell, offset, bits))
                words.append(0)
            if kernel.fault:
                self.faults[len(words) + kernel.words.index(0)] = work
            sized += [(len(words) + i, self.place(w)) for i, w in enumerate(kernel.words)]
            words += [0] * len(kernel.words)
        self.scratch = [self.place(kernel.scratch) for _, kernel in kernels]
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


class Plan:
    """An outline for given sizes: the words that kernels are called with, and where cells lie.

    ``args`` is a template: the form's ``arena_words`` want the arena's address added, its
    ``in_args`` that of the copy itself, and those of ``patches``, for what is given, and of
    ``blocks``, for what is made, are filled in for each run.
    """

    def __init__(self, form: Form, sizes: Mapping[str, int], threads: int) -> None:
        self.form, self.outline = form, form.outline
        self.sizes = {name: sizes[name] for name in self.outline.symbols if name in sizes}
        self._bound: dict[Instruction, tuple[Operation, Shape]] = {}
        self.offset_of: dict[Cell, int] = {}
        self.patches: dict[Cell, Patch] = {}
        self.blocks: list[Block] = []
        self.block_of: dict[Cell, int] = {}
        self._lying: dict[Part, tuple[Cell, Layout] | None] = {}
        numbers = form.numbers(self.sizes)
        self._arrange(numbers)
        self.scratch = -(-max((numbers[i] for i in form.scratch), default=0) // 64) * 64
        self.total_bytes = self.arena_bytes + threads * self.scratch
        check_room(self.total_bytes + sum(block.nbytes for block in self.blocks), self.sizes)
        self._fill(numbers)

    def _arrange(self, numbers: list[int]) -> None:
        form = self.form
        lives = [Life(numbers[form.nbytes_of[c]], c.first, c.last) for c in form.arena]
        offsets, self.arena_bytes = arranged(lives)
        self.offset_of = dict(zip(form.arena, offsets, strict=True))
        for cell in form.made:
            self._into_block(cell, numbers[form.nbytes_of[cell]])
        self.handed = [(at, self.shape(at.shape), self._places(at)) for at in self.outline.results]

    def _into_block(self, cell: Cell, nbytes: int) -> None:
        """Places a result: small ones together, any other in memory that lives as long as it."""
        last = len(self.blocks) - 1
        if nbytes > TOGETHER or last < 0 or self.blocks[last].nbytes + nbytes > TOGETHER:
            self.blocks.append(Block())
            last += 1
        self.block_of[cell] = last
        self.offset_of[cell] = self.blocks[last].take(nbytes)

    def _places(self, at: Instruction) -> list[tuple[int, Layout]]:
        """The blocks that a result lies in, and how; none where it is no array of this piece's."""
        indices = range(len(at.shape.parts)) if at.shape.parts else (-1,)
        found = [place for index in indices if (place := self.lies((at, index))) is not None]
        own = all(cell.kind is Kind.RESULT for cell, _ in found)
        if not own or len(found) < len(indices):
            return []
        return [(self.block_of[cell], layout) for cell, layout in found]

    def lies(self, part: Part) -> tuple[Cell, Layout] | None:
        """The cell that a value lies in, and how; None where that is no memory of this plan's."""
        if part not in self._lying:
            self._lying[part] = self._found(part)
        return self._lying[part]

    def _found(self, part: Part) -> tuple[Cell, Layout] | None:
        reference = self.outline.where.get(part)
        if reference is None or reference.cell.root.kind not in (Kind.ARENA, Kind.RESULT):
            return None
        cell, shape = reference.cell.root, self.shape(reference.shape)
        start = (
            self.offset_of.get(cell, 0)
            + dim.evaluate(reference.offset, self.sizes) * shape.dtype.bits // 8
        )
        return cell, Layout.of_shape(shape, start)

    def _fill(self, numbers: list[int]) -> None:
        form = self.form
        self.args: NDArray[np.int64] = form.words.copy()
        self.args[form.sized[:, 0]] = np.array(numbers, np.int64)[form.sized[:, 1]]
        starts = [self.offset_of[a.cell] + a.start(numbers) for a in form.in_arena]
        self.args[form.arena_words] = np.array(starts, np.int64)
        starts = [a.start(numbers) for a in form.in_literals]
        self.args[form.literal_words] += np.array(starts, np.int64)
        for a in form.in_results:
            block = self.blocks[self.block_of[a.cell]]
            block.patch.append((a.word, self.offset_of[a.cell] + a.start(numbers)))
        for a in form.in_given:
            self.patches.setdefault(a.cell, []).append((a.word, a.start(numbers)))

    def bound_op(self, at: Instruction) -> tuple[Operation, Shape]:
        """An instruction's operation and shape with the sizes put in."""
        if at not in self._bound:
            self._bound[at] = operations.bind(at.op, self.sizes), self.shape(at.shape)
        return self._bound[at]

    def shape(self, shape: Shape) -> Shape:
        """A shape with the sizes put in."""
        return self.form.shape(shape, self.sizes)

    def number(self, extent: Extent) -> int:
        """An extent with the sizes put in."""
        return dim.evaluate(extent, self.sizes)
