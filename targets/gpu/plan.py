"""A piece of a lowered module for given sizes: where memory is, and what is done in which order.

Views are no steps. Every value on the device lies in the memory of its *root*: an allocation or a
copy in the arena, a literal, a slot, or what another piece or module has made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from migx import dim
from migx.binding import Sizes
from migx.dim import Extent
from migx.errors import InputError
from migx.ir import Instruction
from migx.ops.builtin import GetTupleElem, Literal, Param, Return, Slot
from migx.ops.layout import Slice
from migx.shape import Shape
from migx.targets.cpu.memory import Life, arranged
from migx.targets.cpu.outline import is_alias
from migx.targets.gpu.device import ALIGNMENT
from migx.targets.gpu.operations import (
    Allocate,
    CodeObject,
    CopyFrom,
    CopyTo,
    DeviceLiteral,
    Sync,
)
from migx.targets.gpu.text import MOST
from migx.text import draw_instruction
from migx.verify import captures

ON_DEVICE = (Allocate, CodeObject, CopyTo, DeviceLiteral, Sync, Slot)


@dataclass(frozen=True)
class Reference:
    """A value on the device: its root, and how many bytes from the root's start."""

    root: Instruction
    offset: int
    shape: Shape


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments: operands, then words."""

    at: Instruction
    grid: int
    operands: tuple[Reference, ...]
    words: tuple[int, ...]


@dataclass
class Step:
    """Kernels one after another, or one instruction that the host has a part in."""

    launches: list[Launch] = field(default_factory=list)
    at: Instruction | None = None


def is_root(at: Instruction) -> bool:
    """Whether a value on the device has memory of its own."""
    return isinstance(at.op, (Allocate, CopyTo, DeviceLiteral, Slot))


class Places:
    """Which instructions are values on the device, and which root each lies in."""

    def __init__(self, instructions: Iterable[Instruction], given: Iterable[Instruction]) -> None:
        self.device = set(given)
        self.roots: dict[Instruction, Instruction] = {at: at for at in self.device}
        for at in instructions:
            self.note(at)

    def note(self, at: Instruction) -> None:
        """Notes where an instruction's value is, if it is on the device."""
        if is_root(at):
            self.roots[at] = at
        elif isinstance(at.op, CodeObject):
            self.roots[at] = at
        elif isinstance(at.op, Sync) or (is_alias(at) and at.inputs[0] in self.roots):
            source = at.inputs[0]
            if isinstance(at.op, GetTupleElem) and isinstance(source.op, CodeObject):
                source = source.inputs[len(source.inputs) - source.op.outputs + at.op.index]
            self.roots[at] = self.roots.get(source, source)
        if isinstance(at.op, CodeObject) and at.op.outputs == 1:
            self.roots[at] = self.roots[at.inputs[-1]]


class Plan:
    """A piece for given sizes. ``offsets`` are those of roots in the arena, ``kept`` the bytes of
    roots that are read after the piece.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        places: Places,
        kept: Iterable[Instruction],
        sizes: Sizes,
    ) -> None:
        self.sizes, self._places = sizes, places
        self.steps: list[Step] = []
        for at in instructions:
            self._step(at)
        outlive = {places.roots[v] for v in kept if v in places.roots}
        self._arrange(instructions, outlive)

    def number(self, extent: Extent) -> int:
        """An extent, of these sizes."""
        return extent if isinstance(extent, int) else dim.evaluate(extent, self.sizes)

    def bound(self, shape: Shape) -> Shape:
        """A shape, of these sizes."""
        return shape if shape.static else shape.bind(self.sizes)

    def reference(self, at: Instruction) -> Reference:
        """Where a value on the device is."""
        offset, value = 0, at
        while value is not self._places.roots[value] and not is_root(value):
            source = value.inputs[0]
            if isinstance(value.op, CodeObject):
                source = value.inputs[-1]
            elif isinstance(value.op, GetTupleElem) and isinstance(source.op, CodeObject):
                source = source.inputs[len(source.inputs) - source.op.outputs + value.op.index]
            elif isinstance(value.op, Slice):
                strides = source.shape.true_strides
                for axis, start in zip(value.op.axes, value.op.starts, strict=True):
                    step = self.number(start) * self.number(strides[axis])
                    offset += step * source.shape.dtype.bits // 8
            value = source
        return Reference(value, offset, at.shape)

    def _step(self, at: Instruction) -> None:
        if isinstance(at.op, CodeObject):
            if not self.steps or self.steps[-1].at is not None:
                self.steps.append(Step())
            if (launch := self._launch(at)).grid:
                self.steps[-1].launches.append(launch)
        elif not (is_root(at) and not isinstance(at.op, CopyTo)) and not (
            at in self._places.roots and not isinstance(at.op, (CopyTo, Sync))
        ):
            if not isinstance(at.op, (Param, Return)):
                self.steps.append(Step(at=at))

    def _launch(self, at: Instruction) -> Launch:
        op = at.op
        assert isinstance(op, CodeObject)
        for value in at.inputs:
            if self.number(value.shape.element_space) >= MOST > dim.bounds(value.shape.element_space)[0]:
                message = f"{value.shape.bind(self.sizes)} has too many elements for this kernel"
                raise InputError(draw_instruction(message, at))
        return Launch(
            at,
            self.number(op.grid),
            tuple(self.reference(v) for v in at.inputs),
            tuple(self.number(w) for w in op.words),
        )

    def _arrange(self, instructions: Sequence[Instruction], outlive: set[Instruction]) -> None:
        first: dict[Instruction, int] = {}
        last: dict[Instruction, int] = {}
        for step, at in enumerate(instructions):
            reads = [*at.inputs, at, *(v for m in at.modules for v in captures(m))]
            for value in reads:
                root = self._places.roots.get(value)
                if root is not None and isinstance(root.op, (Allocate, CopyTo)):
                    if value is at or root in first:
                        first.setdefault(root, step)
                        last[root] = step
        mine = [root for root in first if root not in outlive and root in set(instructions)]
        lives = [Life(self._size(root), first[root], last[root]) for root in mine]
        offsets, self.arena_bytes = arranged(lives)
        self.offsets = dict(zip(mine, offsets, strict=True))
        inside = set(instructions)
        self.kept = {root: self._size(root) for root in outlive if root in inside and root in first}

    def _size(self, root: Instruction) -> int:
        return -(-self.number(root.shape.nbytes) // ALIGNMENT) * ALIGNMENT


def sizes_key(symbols: Iterable[str], sizes: Mapping[str, int]) -> tuple[int | None, ...]:
    """What a plan depends on."""
    return tuple(map(sizes.get, symbols))


