"""A piece of a lowered module for given sizes: where memory is, and what is done in which order.

A piece has a ``Form``: its steps, with all that sizes decide as extents that are evaluated
together. When sizes are known, it becomes a ``Plan``. Views are no steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from migx import dim
from migx import op as operations
from migx.base.recent import Recent
from migx.binding import Sizes
from migx.dim import Extent
from migx.dims.extents import Extents, Numbers
from migx.errors import InputError
from migx.ir import Instruction
from migx.op import Operation
from migx.ops.builtin import GetTupleElem, Literal, Param, Return
from migx.ops.control import Assume
from migx.planning import Arena
from migx.shape import Shape
from migx.sizes import ShapeRules
from migx.targets.gpu.devices.device import ALIGNMENT
from migx.targets.gpu.emit.text import MOST, is_vast
from migx.targets.gpu.operations import Allocate, CodeObject, CopyTo, DeviceLiteral, Sync
from migx.targets.gpu.runs.places import Places, may_be_there
from migx.text import draw_instruction
from migx.verify import captures_of

GRAPHS = 16
"""How many sets of addresses that a stretch of kernels had are remembered."""


Replay = Callable[[], None]
"""What enqueues again what was recorded."""


class Reference(NamedTuple):
    """A value on the device: its root, and how many bytes from the root's start."""

    root: Instruction
    offset: int


class Place(NamedTuple):
    """Where a value on the device is, and its shape."""

    root: Instruction
    offset: int
    shape: Shape


class Launch(NamedTuple):
    """A kernel with its arguments: operands, then words."""

    at: Instruction
    grid: int
    operands: tuple[Reference, ...]
    words: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Kernels one after another. ``varying`` are the roots that they read or write whose addresses
    may change from run to run; with those of a run before, the kernels may have been recorded.
    """

    launches: Sequence[Launch]
    varying: tuple[Instruction, ...]
    _recorded: Recent[tuple[int, ...], Replay | None] = field(
        default_factory=partial(Recent, GRAPHS), compare=False
    )

    def replay(
        self, addresses: tuple[int, ...], record: Callable[[], Replay | None]
    ) -> Replay | None:
        """What enqueues the kernels at once, if they were enqueued with these addresses before: the
        second time they are recorded. Of ``GRAPHS`` sets of addresses at a time, so that what goes
        to and fro between two sets of weights is recorded for both.
        """
        seen = addresses in self._recorded
        found = self._recorded.get(addresses)
        if found is None:
            found = self._recorded[addresses] = record() if seen else None
        return found


@dataclass(frozen=True)
class KernelForm:
    """A kernel, for any sizes. By their places among the numbers: its ``grid``, ``turns`` and
    ``words``; its ``operands``, how far each is from its root; those that must be ``equal``, by
    twos; and the elements of operands that may be ``large``, too many for indices of 32 bits.
    """

    at: Instruction
    grid: int
    turns: int | None
    words: tuple[int, ...]
    operands: tuple[tuple[Instruction, int], ...]
    equal: tuple[int, ...]
    large: tuple[tuple[Instruction, int], ...]

    def launches(self, numbers: Sequence[int]) -> list[Launch]:
        """The kernel for given numbers, once for each turn; never where it has no programs."""
        grid, words = numbers[self.grid], tuple([numbers[i] for i in self.words])
        operands = tuple([Reference(root, numbers[i]) for root, i in self.operands])
        turns = [()] if self.turns is None else [(i,) for i in range(numbers[self.turns])]
        return [Launch(self.at, grid, operands, (*words, *turn)) for turn in turns] if grid else []

    def check(self, numbers: Sequence[int], sizes: Sizes) -> None:
        """Raises ``InputError``, drawn, where the kernel is not for such sizes."""
        op = self.at.op_as(CodeObject)
        for pair in range(0, len(self.equal), 2):
            a, b = (numbers[i] for i in self.equal[pair : pair + 2])
            if a != b:
                first, second = op.equal[pair : pair + 2]
                message = f"{first} is {a} and {second} is {b}: they must be equal"
                raise InputError(draw_instruction(message, self.at))
        for value, elements in self.large:
            if numbers[elements] >= MOST:
                message = f"{value.shape.bind(sizes)} has too many elements for this kernel"
                raise InputError(draw_instruction(message, self.at))


class Stretch(NamedTuple):
    """Kernels one after another, and the roots among their operands whose addresses may change from
    run to run.
    """

    kernels: list[KernelForm]
    varying: tuple[Instruction, ...]


class Form:
    """What all plans of a piece share. ``steps`` are kernels, and instructions that the host has a
    part in; ``inside`` are the roots that lie in the arena, and ``outlive`` those that are read
    after the piece.
    """

    def __init__(
        self, instructions: Sequence[Instruction], places: Places, kept: Iterable[Instruction]
    ) -> None:
        self.places, self.rules = places, ShapeRules(instructions)
        self._extents = Extents()
        first, last = self._lives(instructions)
        given = (v for at in instructions if at.modules for v in at.inputs)  # and maybe given back
        later = {places.roots[v] for v in (*kept, *given) if v in places.roots}
        self.inside = [root for root in first if root not in later]
        self.outlive = [root for root in first if root in later]
        every = (*self.inside, *self.outlive)
        self._nbytes = np.array([self._place(r.shape.nbytes) for r in every], int)
        self._arena = Arena([(r.shape.nbytes, first[r], last[r]) for r in self.inside])
        self.steps: list[Stretch | Instruction] = []
        self._add_steps(instructions)

    def numbers(self, sizes: Sizes) -> Numbers:
        """All extents with the sizes put in, which the shape rules have been asked about."""
        self.rules.check(sizes)
        return self._extents.at(sizes)

    def arranged(self, numbers: Numbers) -> tuple[list[int], int, list[int]]:
        """The offsets of roots in the arena, its bytes, and those of the roots that outlive it."""
        nbytes = -(-numbers[self._nbytes] // ALIGNMENT) * ALIGNMENT
        count = len(self.inside)
        offsets, total = self._arena.arranged(nbytes[:count])
        return offsets.tolist(), total, nbytes[count:].tolist()

    def _place(self, extent: Extent) -> int:
        return self._extents.place(extent)

    def _lives(
        self, instructions: Sequence[Instruction]
    ) -> tuple[dict[Instruction, int], dict[Instruction, int]]:
        """From where what is needed in this piece is made, to its last reader."""
        first: dict[Instruction, int] = {}
        last: dict[Instruction, int] = {}
        for step, at in enumerate(instructions):
            if isinstance(at.op, (Allocate, CopyTo)):
                first[at] = step
            for value in (*at.inputs, at, *captures_of(at)):
                if (root := self.places.roots.get(value)) in first:
                    last[root] = step
        return first, last

    def _add_steps(self, instructions: Sequence[Instruction]) -> None:
        stretch: list[KernelForm] = []
        for at in instructions:
            if isinstance(at.op, CodeObject):
                stretch.append(self._kernel(at, at.op))
            elif isinstance(at.op, (Assume, CopyTo, Sync)) or not self._is_no_step(at):
                self._end(stretch)
                stretch = []
                self.steps.append(at)
        self._end(stretch)

    def _end(self, stretch: list[KernelForm]) -> None:
        if stretch:
            roots = dict.fromkeys(root for kernel in stretch for root, _ in kernel.operands)
            literals = {r for r in roots if isinstance(r.op, DeviceLiteral)}
            copied = {r for r in roots if isinstance(r.op, CopyTo) and may_be_there(r)}
            fixed = literals.union(self.inside) - copied
            self.steps.append(Stretch(stretch, tuple(r for r in roots if r not in fixed)))

    def _is_no_step(self, at: Instruction) -> bool:
        """Whether there is nothing to do for an instruction: it is memory, a view of some, is there
        already, or says what goes in and out.
        """
        return at in self.places.roots or isinstance(at.op, (GetTupleElem, Literal, Param, Return))

    def _kernel(self, at: Instruction, op: CodeObject) -> KernelForm:
        starts = [self.places.start(value) for value in at.inputs]
        spaces = [(value, value.shape.element_space) for value in at.inputs]
        return KernelForm(
            at,
            grid=self._place(op.grid),
            turns=None if op.turns == 0 else self._place(op.turns),
            words=tuple(map(self._place, op.words)),
            operands=tuple((root, self._place(offset)) for root, offset in starts),
            equal=tuple(map(self._place, op.equal)),
            large=tuple(
                (value, self._place(space))
                for value, space in spaces
                if dim.bounds(space)[1] >= MOST and not is_vast(value.shape)
            ),
        )


class Plan:
    """A piece for given sizes. ``offsets`` are those of roots in the arena, ``kept`` the bytes of
    roots that are read after the piece.
    """

    def __init__(self, form: Form, sizes: Sizes) -> None:
        self.form, self.sizes = form, sizes
        self._places: dict[Instruction, Place] = {}
        self._ops: dict[Instruction, Operation] = {}
        found = form.numbers(sizes)
        numbers = found.tolist()
        self.steps = [self._step(step, numbers) for step in form.steps]
        offsets, self.arena_bytes, kept = form.arranged(found)
        self.offsets = dict(zip(form.inside, offsets, strict=True))
        self.kept = dict(zip(form.outlive, kept, strict=True))

    def _step(self, step: Stretch | Instruction, numbers: Sequence[int]) -> Batch | Instruction:
        if isinstance(step, Instruction):
            return step
        kernels, varying = step
        for kernel in kernels:
            kernel.check(numbers, self.sizes)
        return Batch([e for k in kernels for e in k.launches(numbers)], varying)

    def number(self, extent: Extent) -> int:
        """An extent, of these sizes."""
        return dim.evaluate(extent, self.sizes)

    def bound(self, shape: Shape) -> Shape:
        """A shape, of these sizes."""
        return self.form.rules.bound(shape, self.sizes)

    def op(self, at: Instruction) -> Operation:
        """The operation of an instruction, of these sizes."""
        found = self._ops.get(at)
        if found is None:
            found = self._ops[at] = operations.bind(at.op, self.sizes)
        return found

    def place(self, at: Instruction) -> Place:
        """Where a value on the device is."""
        found = self._places.get(at)
        if found is None:
            root, offset = self.form.places.start(at)
            found = self._places[at] = Place(root, self.number(offset), self.bound(at.shape))
        return found
