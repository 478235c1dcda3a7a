"""A piece of a lowered module for given sizes: where memory is, and what is done in which order.

Views are no steps. Every value on the device lies in the memory of its *root*: an allocation or a
copy in the arena, a literal, a slot, or what another piece or module has made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from migx import dim
from migx.binding import Sizes
from migx.dim import Extent
from migx.errors import InputError
from migx.ir import Instruction
from migx.ops.builtin import GetTupleElem, Param, Return, Slot
from migx.ops.control import Assume
from migx.ops.layout import Slice
from migx.planning import Life, arranged, is_alias
from migx.shape import Shape
from migx.sizes import asked_again, check_sizes
from migx.targets.gpu.device import ALIGNMENT, Buffer
from migx.targets.gpu.operations import (
    Allocate,
    CodeObject,
    CopyTo,
    DeviceLiteral,
    Sync,
)
from migx.targets.gpu.text import MOST
from migx.text import draw_instruction
from migx.verify import captures

GRAPHS = 16
"""How many stretches of kernels, each with the addresses it had, a workspace remembers."""


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
    """Kernels one after another, or one instruction that the host has a part in. ``varying`` are
    the roots that kernels read or write whose addresses may change from run to run.
    """

    launches: list[Launch] = field(default_factory=list)
    at: Instruction | None = None
    varying: tuple[Instruction, ...] = ()


def is_root(at: Instruction) -> bool:
    """Whether a value on the device has memory of its own."""
    return isinstance(at.op, (Allocate, CopyTo, DeviceLiteral, Slot))


def lies_in(at: Instruction) -> Instruction | None:
    """The value in whose memory one lies, if it is on the device when that is; None for others."""
    if isinstance(at.op, CodeObject):
        return at.op.result(at.inputs, 0) if at.op.outputs == 1 else None
    if isinstance(at.op, GetTupleElem):
        source = at.inputs[0]
        if isinstance(source.op, CodeObject):
            return source.op.result(source.inputs, at.op.index)
        return None
    return at.inputs[0] if isinstance(at.op, (Assume, Sync)) or is_alias(at) else None


def is_aligned(value: Instruction) -> bool:
    """Whether a value on the device is known to begin at a multiple of 16 bytes."""
    while is_alias(value):
        if isinstance(value.op, Slice):
            source = value.inputs[0].shape
            for axis, start in zip(value.op.axes, value.op.starts, strict=True):
                step = start * source.true_strides[axis]
                if not isinstance(step, int) or step * source.dtype.bits % 128:
                    return False
        value = value.inputs[0]
    return True


class Places:
    """The ``roots`` of the values of a module that are on the device; of those ``given`` from
    outside, themselves.
    """

    def __init__(self, instructions: Iterable[Instruction], given: Iterable[Instruction]) -> None:
        self.roots: dict[Instruction, Instruction] = {at: at for at in given}
        for at in instructions:
            source = lies_in(at)
            if is_root(at):
                self.roots[at] = at
            elif source is not None and source in self.roots:
                self.roots[at] = self.roots[source]


class Workspace:
    """Memory of one run of a plan at a time: its arena; and the addresses that stretches of kernels
    had lately, with what replays them there, where they were recorded.
    """

    def __init__(self) -> None:
        self.arena: Buffer | None = None
        self._recorded: dict[tuple[int, ...], Callable[[], None] | None] = {}

    def replay(
        self, key: tuple[int, ...], record: Callable[[], Callable[[], None] | None]
    ) -> Callable[[], None] | None:
        """What replays a stretch of kernels, by its number and addresses, if it has been run so
        before; of so many stretches at once as ``GRAPHS``, so that what goes to and fro between two
        sets of weights is recorded for both.
        """
        seen = key in self._recorded
        found = self._recorded.pop(key, None)
        if seen and found is None:
            found = record()
        for old in list(self._recorded)[: len(self._recorded) + 1 - GRAPHS]:
            del self._recorded[old]
        self._recorded[key] = found
        return found


class Plan:
    """A piece for given sizes. ``offsets`` are those of roots in the arena, ``kept`` the bytes of
    roots that are read after the piece; ``idle`` are the workspaces that no run has now, by the
    stream whose memory they have.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        places: Places,
        kept: Iterable[Instruction],
        sizes: Sizes,
    ) -> None:
        self.sizes, self._places = sizes, places
        self.idle: dict[int, list[Workspace]] = {}
        self.steps: list[Step] = []
        for at in asked_again(instructions, {}).values():
            check_sizes(at, sizes)
        for at in instructions:
            self._step(at)
        outlive = {places.roots[v] for v in kept if v in places.roots}
        self._arrange(instructions, outlive)
        for step in self.steps:
            roots = dict.fromkeys(r.root for launch in step.launches for r in launch.operands)
            inside = self.offsets.keys() | {r for r in roots if isinstance(r.op, DeviceLiteral)}
            step.varying = tuple(r for r in roots if r not in inside)

    def number(self, extent: Extent) -> int:
        """An extent, of these sizes."""
        return extent if isinstance(extent, int) else dim.evaluate(extent, self.sizes)

    def bound(self, shape: Shape) -> Shape:
        """A shape, of these sizes."""
        return shape if shape.static else shape.bind(self.sizes)

    def reference(self, at: Instruction) -> Reference:
        """Where a value on the device is."""
        offset, value = 0, at
        while value is not self._places.roots[at]:
            source = lies_in(value)
            assert source is not None
            if isinstance(value.op, Slice):
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
            self.steps[-1].launches += self._launches(at)
        elif isinstance(at.op, (Assume, CopyTo, Sync)) or not self._is_no_step(at):
            self.steps.append(Step(at=at))

    def _is_no_step(self, at: Instruction) -> bool:
        """Whether there is nothing to do for an instruction: it is memory, a view of some, or says
        what goes in and out.
        """
        return at in self._places.roots or isinstance(at.op, (Param, Return))

    def _launches(self, at: Instruction) -> list[Launch]:
        """A kernel, once for each turn; never where it has no programs."""
        op = at.op
        assert isinstance(op, CodeObject)
        for a, b in zip(op.equal[::2], op.equal[1::2], strict=True):
            if self.number(a) != self.number(b):
                message = f"{a} is {self.number(a)} and {b} is {self.number(b)}: they must be equal"
                raise InputError(draw_instruction(message, at))
        for value in at.inputs:
            if (
                self.number(value.shape.element_space)
                >= MOST
                > dim.bounds(value.shape.element_space)[0]
            ):
                message = f"{value.shape.bind(self.sizes)} has too many elements for this kernel"
                raise InputError(draw_instruction(message, at))
        grid, references = self.number(op.grid), tuple(self.reference(v) for v in at.inputs)
        words = tuple(self.number(w) for w in op.words)
        turns = [()] if op.turns == 0 else [(turn,) for turn in range(self.number(op.turns))]
        return [Launch(at, grid, references, (*words, *turn)) for turn in turns] if grid else []

    def _arrange(self, instructions: Sequence[Instruction], outlive: set[Instruction]) -> None:
        """Lays out what is needed in this piece alone, from where it is made to its last reader."""
        first: dict[Instruction, int] = {}
        last: dict[Instruction, int] = {}
        for step, at in enumerate(instructions):
            if isinstance(at.op, (Allocate, CopyTo)):
                first[at] = step
            for value in (*at.inputs, at, *(v for m in at.modules for v in captures(m))):
                if (root := self._places.roots.get(value)) in first:
                    last[root] = step
        mine = [root for root in first if root not in outlive]
        lives = [Life(self._size(root), first[root], last[root]) for root in mine]
        offsets, self.arena_bytes = arranged(lives)
        self.offsets = dict(zip(mine, offsets, strict=True))
        self.kept = {root: self._size(root) for root in first if root in outlive}

    def _size(self, root: Instruction) -> int:
        return -(-self.number(root.shape.nbytes) // ALIGNMENT) * ALIGNMENT
