"""From an outline to memory offsets, for given sizes.

An outline has a ``Form``, see ``form.py``. When sizes are known, it becomes a ``Plan``: an offset
in the arena for each cell, and the words that depend on sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from migx import dim
from migx import op as operations
from migx.base.memory import Memory, aligned, mapped
from migx.dim import Extent
from migx.dims.extents import Latest, Numbers
from migx.ir import Instruction
from migx.op import Operation
from migx.ops.builtin import Slot
from migx.shape import Shape
from migx.sizes import check_room, symbols_of
from migx.targets.cpu.plans.form import Address, Form
from migx.targets.cpu.plans.memory import Layout, block, empty
from migx.targets.cpu.plans.outline import Cell, Kind, Part

TOGETHER = 4096
"""Results of up to so many bytes share a block of memory: one allocation instead of many."""
ALONE = 1 << 16
"""Results of up to so many bytes are allocated faster as arrays than as views of aligned bytes,
which outweighs the slower stores of vectors that cross cache lines.
"""
LARGE = 1 << 20
"""Results of so many bytes take longer to fault in than to compute."""
Patch: TypeAlias = list[tuple[int, int]]
"""The words that hold addresses in one piece of memory, each with its offset there."""


@dataclass
class Block:
    """Memory for results of one run, and the words that hold addresses in it.

    A small result that shares its block with nothing else is an array by itself, of layout
    ``alone``.
    """

    nbytes: int = 0
    patch: Patch = field(default_factory=list)
    alone: Layout | None = None

    def take(self, nbytes: int) -> int:
        """The offset of so many more bytes."""
        start = aligned(self.nbytes)
        self.nbytes = start + nbytes
        return start

    @property
    def is_large(self) -> bool:
        """Whether its memory is worth keeping for other runs."""
        return self.nbytes >= LARGE

    def allocated(self, reused: Memory) -> tuple[NDArray[Any], int]:
        """Memory for the block, and its address: a large one reuses that of results which nobody
        reads any more.
        """
        if (lie := self.alone) is not None:
            return empty(lie.dims, lie.shape.dtype.numpy)
        return block(self.nbytes, reused if self.is_large else None)


class Plan:
    """An outline for given sizes: the words that kernels are called with, and the offsets of cells.

    ``args`` is a template: to the form's words ``in_arena`` the arena's address is added, to its
    ``in_args`` that of the copy itself; those of ``patches`` (values from outside) and ``blocks``
    (results) are filled in for each run, those of ``slots`` for each weight epoch. ``mapped`` are
    the bytes of memory for large results.
    """

    def __init__(self, form: Form, sizes: Mapping[str, int], threads: int) -> None:
        self.form, self.outline = form, form.outline
        self.sizes = {name: sizes[name] for name in self.outline.symbols if name in sizes}
        self._bound: dict[Instruction, tuple[Operation, Shape]] = {}
        self.patches: dict[Cell, Patch] = {}
        self.slots: dict[Cell, Patch] = {}
        self.blocks: list[Block] = []
        self.block_of: dict[Cell, int] = {}
        self._lying: dict[Part, tuple[Cell, Layout] | None] = {}
        numbers = form.numbers(self.sizes)
        offsets = self._arrange(numbers[form.nbytes])
        self.scratch = aligned(int(numbers[form.scratch].max(initial=0)))
        self.total_bytes = self.arena_bytes + threads * self.scratch
        check_room(self.total_bytes + sum(block.nbytes for block in self.blocks), self.sizes)
        self.mapped = sum(mapped(b.nbytes) for b in self.blocks if b.is_large)
        self._fill(numbers, offsets)
        self.handed = [
            (each.at, each.shape.at(self.sizes), [self._place(*p, numbers) for p in each.places])
            for each in form.handed
        ]
        self._set_apart()

    def _arrange(self, nbytes: Numbers) -> Numbers:
        """Places cells of these sizes; gives the offsets of those in the arena."""
        mine = self.form.arena
        offsets, self.arena_bytes = self.form.arranged(nbytes[: len(mine)])
        self.offset_of = dict(zip(mine, offsets.tolist(), strict=True))
        made = nbytes[len(mine) :].tolist()
        for cell, size in zip(self.form.made, made, strict=True):
            self._into_block(cell, size)
        return offsets

    def _into_block(self, cell: Cell, nbytes: int) -> None:
        """Places a result: small ones together, each larger one in memory of its own lifetime."""
        last = len(self.blocks) - 1
        if nbytes > TOGETHER or last < 0 or self.blocks[last].nbytes + nbytes > TOGETHER:
            self.blocks.append(Block())
            last += 1
        self.block_of[cell] = last
        self.offset_of[cell] = self.blocks[last].take(nbytes)

    def _place(
        self, address: Address, layout: Latest[Layout], numbers: Numbers
    ) -> tuple[int, Layout]:
        """The block of a result, and its layout there."""
        start = self.offset_of[address.cell] + address.start(numbers)
        return self.block_of[address.cell], layout.at(self.sizes).at(start)

    def _set_apart(self) -> None:
        """Finds the blocks that are one array each."""
        cells = Counter(self.block_of.values())
        handed = [place for _, _, places in self.handed for place in places]
        views = Counter(number for number, _ in handed)
        for number, lie in handed:
            made = self.blocks[number]
            fits = lie.whole and lie.shape.nbytes == made.nbytes <= ALONE
            if fits and cells[number] == views[number] == 1:
                made.alone = lie

    def lies(self, part: Part) -> tuple[Cell, Layout] | None:
        """The cell and layout of a value; None if it is not in memory of this plan."""
        if part not in self._lying:
            self._lying[part] = self._found(part)
        return self._lying[part]

    def _found(self, part: Part) -> tuple[Cell, Layout] | None:
        reference = self.outline.where.get(part)
        if reference is None or reference.cell.root.kind not in (Kind.ARENA, Kind.RESULT):
            return None
        cell, layout = reference.cell.root, self.layout(reference.shape)
        start = self.number(reference.offset) * layout.shape.dtype.bits // 8
        return cell, layout.at(self.offset_of[cell] + start)

    def _fill(self, numbers: Numbers, offsets: Numbers) -> None:
        form = self.form
        self.args: Numbers = form.words.copy()
        self.args[form.sized[:, 0]] = numbers[form.sized[:, 1]]
        starts = offsets[form.cells_in_arena] + form.in_arena.starts(numbers)
        self.args[form.in_arena.words] = starts
        self.args[form.in_literals.words] += form.in_literals.starts(numbers)
        for word, cell, start in form.in_results.each(numbers):
            self.blocks[self.block_of[cell]].patch.append((word, self.offset_of[cell] + start))
        for word, cell, start in form.in_given.each(numbers):
            patches = self.slots if type(cell.of[0].op) is Slot else self.patches
            patches.setdefault(cell, []).append((word, start))

    def bound_op(self, at: Instruction) -> tuple[Operation, Shape]:
        """An instruction's operation and shape at these sizes."""
        if at not in self._bound:
            self._bound[at] = operations.bind(at.op, self.sizes), self.shape(at.shape)
        return self._bound[at]

    def bound_view(self, at: Instruction, sizes: Mapping[str, int]) -> tuple[Operation, Shape]:
        """The same for a view, which may belong to an earlier piece, so this plan need not know all
        of its sizes.
        """
        if at in self._bound or symbols_of(at) <= self.sizes.keys():
            return self.bound_op(at)
        return operations.bind(at.op, sizes), at.shape.bind(sizes)

    def shape(self, shape: Shape) -> Shape:
        """A shape at these sizes."""
        return self.form.rules.bound(shape, self.sizes)

    def layout(self, shape: Shape) -> Layout:
        """The layout of a shape, from offset 0."""
        return self.form.layout(shape).at(self.sizes)

    def number(self, extent: Extent) -> int:
        """An extent at these sizes."""
        return dim.evaluate(extent, self.sizes)
