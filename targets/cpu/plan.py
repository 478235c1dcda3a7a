"""From an outline to places in memory, for given sizes.

When sizes are known, an outline becomes a ``Plan``: an offset in the arena for each cell, and the
block of arguments of every kernel, filled but for what changes from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeAlias

import numpy as np

from migx import dim
from migx import op as operations
from migx.dim import Extent
from migx.ir import Instruction
from migx.op import Operation
from migx.planning import ALIGNMENT, Life, arranged
from migx.shape import Shape
from migx.sizes import (
    check_room,
    check_sizes,
)
from migx.targets.cpu.memory import Layout
from migx.targets.cpu.outline import Cell, Kind, Outline, Part, Reference, Work
from migx.targets.cpu.runtime import STEP_WORDS

TOGETHER = 4096
"""Results of up to so many bytes share a block of memory: one allocation instead of many."""
Patch: TypeAlias = list[tuple[int, int]]
"""Words of the arguments that hold addresses in one piece of memory, and how far in each lies."""


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


class Plan:
    """An outline for given sizes: the words that kernels are called with, and where cells lie.

    ``args`` is a template: words in ``in_arena`` want the arena's address added, those in
    ``in_args`` that of the copy itself, and those of ``patches``, for what is given, and of
    ``blocks``, for what is made, are filled in for each run.
    ``runs`` are the steps in order: kernels from one number to before another, and works for the
    host between. ``faults`` are the words in which kernels say that their operands are wrong.
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
        self._bound: dict[Instruction, tuple[Operation, Shape]] = {}
        self._shapes: dict[Cell, Shape] = {}
        for at in outline.checks:
            check_sizes(at, self.sizes)
        self.offset_of: dict[Cell, int] = {}
        self.patches: dict[Cell, Patch] = {}
        self.blocks: list[Block] = []
        self.block_of: dict[Cell, int] = {}
        self.runs: list[tuple[int, int] | Work] = []
        self._literals, self._code_of = literals, code_of
        self._lying: dict[Part, tuple[Cell, Layout] | None] = {}
        self._arrange()
        self._fill(threads)

    def _arrange(self) -> None:
        cells = [c for c in self.outline.cells if c.kind is Kind.ARENA and c.same_as is None]
        lives = [Life(self.number(c.nbytes), c.first, c.last) for c in cells]
        offsets, self.arena_bytes = arranged(lives)
        self.offset_of = dict(zip(cells, offsets, strict=True))

        for cell in self.outline.cells:
            if cell.kind is Kind.RESULT:
                self._into_block(cell, self.number(cell.nbytes))
        self.handed = [
            (at, at.shape.bind(self.sizes), self._places(at)) for at in self.outline.results
        ]

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
        cell, shape = reference.cell.root, reference.shape.bind(self.sizes)
        start = self.offset_of.get(cell, 0) + self.number(reference.offset) * shape.dtype.bits // 8
        return cell, Layout.of_shape(shape, start)

    def _fill(self, threads: int) -> None:
        kernels = [(w, w.kernel) for w in self.outline.works if w.kernel is not None]
        numbers = [0, *accumulate(w.kernel is not None for w in self.outline.works)]
        words = [0] * (STEP_WORDS * len(kernels))
        in_arena: list[int] = []
        in_args: list[int] = []
        self.works: list[Work] = []
        self.faults: dict[int, Work] = {}
        scratch = 0
        for work, kernel in kernels:
            place = STEP_WORDS * len(self.works)
            self.works.append(work)
            words[place : place + STEP_WORDS] = (
                self._code_of[kernel.symbol] if work.to is None else 0,
                8 * len(words),
                self.number(kernel.tiles),
                0 if work.to is None else numbers[work.to.step],
            )
            in_args.append(place + 1)
            for reference in (*work.reads, *(Reference(c, 0, c.shape) for c in work.writes)):
                self._operand(reference, words, in_arena)
            if kernel.fault:
                self.faults[len(words) + kernel.words.index(0)] = work
            words += [self.number(w) for w in kernel.words]
            scratch = max(scratch, self.number(kernel.scratch))
        self.scratch = -(-scratch // 64) * 64
        self.total_bytes = self.arena_bytes + threads * self.scratch
        check_room(self.total_bytes + sum(block.nbytes for block in self.blocks), self.sizes)
        self.args = np.array(words, np.int64)
        self.in_arena, self.in_args = np.array(in_arena, np.int64), np.array(in_args, np.int64)
        self.fault_words = np.array([*self.faults], np.int64)
        self._sequence()

    def _operand(self, reference: Reference, words: list[int], in_arena: list[int]) -> None:
        cell = reference.cell.root
        offset = self.number(reference.offset) * reference.shape.dtype.bits // 8
        match cell.kind:
            case Kind.ARENA:
                in_arena.append(len(words))
                words.append(self.offset_of[cell] + offset)
            case Kind.RESULT:
                block = self.blocks[self.block_of[cell]]
                block.patch.append((len(words), self.offset_of[cell] + offset))
                words.append(0)
            case Kind.LITERAL:
                words.append(self._literals(cell.of[0]) + offset)
            case Kind.OBJECT:
                words.append(0)
            case _:
                self.patches.setdefault(cell, []).append((len(words), offset))
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

    def bound_op(self, at: Instruction) -> tuple[Operation, Shape]:
        """An instruction's operation and shape with the sizes put in."""
        if at not in self._bound:
            self._bound[at] = operations.bind(at.op, self.sizes), at.shape.bind(self.sizes)
        return self._bound[at]

    def shape_of(self, cell: Cell) -> Shape:
        """A cell's shape with the sizes put in."""
        if cell not in self._shapes:
            self._shapes[cell] = cell.shape.bind(self.sizes)
        return self._shapes[cell]

    def number(self, extent: Extent) -> int:
        """An extent with the sizes put in."""
        if isinstance(extent, int):
            return extent
        found = self._numbers.get(extent)
        if found is None:
            found = self._numbers[extent] = dim.evaluate(extent, self.sizes)
        return found
