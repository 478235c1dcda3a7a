"""A piece of a lowered module for given sizes: memory offsets, and the order of steps.

A piece has a ``Form``: its steps, with all that depends on sizes as extents that are evaluated
together. When sizes are known, it becomes a ``Plan``. Views need no steps.
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
from migx.dims.extents import Numbers
from migx.errors import InputError
from migx.ir import Instruction
from migx.op import Operation
from migx.planning import Arena
from migx.shape import Shape
from migx.sizes import Numbered
from migx.targets.gpu.devices.device import ALIGNMENT
from migx.targets.gpu.emit.text import MOST, is_vast
from migx.targets.gpu.operations import Allocate, CodeObject, CopyFrom, CopyTo, DeviceLiteral
from migx.targets.gpu.runs.places import Places, may_be_there
from migx.text import draw_instruction
from migx.verify import captures_of

GRAPHS = 16
"""The cached sets of addresses of a stretch of kernels."""


Replay = Callable[[], None]
"""A function that replays a recording."""


class Place(NamedTuple):
    """The location of a value on the device, and its shape."""

    root: Instruction
    offset: int
    shape: Shape


class Launch(NamedTuple):
    """A kernel and its arguments: operands, as roots and offsets there in bytes; then words."""

    at: Instruction
    grid: int
    operands: tuple[tuple[Instruction, int], ...]
    words: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Consecutive kernels. ``varying`` are the roots that they read or write whose addresses may
    change between runs; for addresses of an earlier run, the kernels may have been recorded.
    """

    launches: Sequence[Launch]
    varying: tuple[Instruction, ...]
    _recorded: Recent[tuple[int, ...], Replay | None] = field(
        default_factory=partial(Recent, GRAPHS), compare=False
    )

    def replay(
        self, addresses: tuple[int, ...], record: Callable[[], Replay | None]
    ) -> Replay | None:
        """A function that enqueues the kernels at once, if they were enqueued with these addresses
        before: the second time they are recorded. ``GRAPHS`` sets of addresses are kept, so that
        alternating between two sets of weights records both.
        """
        seen = addresses in self._recorded
        found = self._recorded.get(addresses)
        if found is None:
            found = self._recorded[addresses] = record() if seen else None
        return found


@dataclass(frozen=True)
class KernelForm:
    """A kernel, for any sizes. As indices among the numbers: its ``grid``, ``turns`` and ``words``;
    the offsets of its ``operands`` from their roots; and the element counts of operands that may be
    too ``large`` for 32-bit indices.
    """

    at: Instruction
    grid: int
    turns: int | None
    words: tuple[int, ...]
    operands: tuple[tuple[Instruction, int], ...]
    large: tuple[tuple[Instruction, int], ...]

    def launches(self, numbers: Sequence[int]) -> list[Launch]:
        """The launches for given numbers, one for each turn; none if it has no programs."""
        grid, words = numbers[self.grid], tuple([numbers[i] for i in self.words])
        operands = tuple([(root, numbers[i]) for root, i in self.operands])
        turns = [()] if self.turns is None else [(i,) for i in range(numbers[self.turns])]
        return [Launch(self.at, grid, operands, (*words, *turn)) for turn in turns] if grid else []

    def check(self, numbers: Sequence[int], sizes: Sizes) -> None:
        """Raises ``InputError``, with the instruction drawn, if the kernel does not support these
        sizes.
        """
        for value, elements in self.large:
            if numbers[elements] >= MOST:
                message = f"{value.shape.bind(sizes)} has too many elements for this kernel"
                raise InputError(draw_instruction(message, self.at))


class Stretch(NamedTuple):
    """Consecutive kernels, and the roots among their operands whose addresses may change between
    runs.
    """

    kernels: list[KernelForm]
    varying: tuple[Instruction, ...]


class Form(Numbered):
    """What all plans of a piece share. ``steps`` are kernels, and instructions in which the host
    takes part; ``inside`` are the roots in the arena, and ``outlive`` those that are read after the
    piece.
    """

    def __init__(
        self, instructions: Sequence[Instruction], places: Places, kept: Iterable[Instruction]
    ) -> None:
        super().__init__(instructions)
        self.places = places
        instructions = self._ordered(instructions)
        first, last = self._lives(instructions)
        runs = (at for at in instructions if at.modules and not isinstance(at.op, CodeObject))
        given = (v for at in runs for v in at.inputs)  # and may be returned
        later = {places.roots[v] for v in (*kept, *given) if v in places.roots}
        self.inside = [root for root in first if root not in later]
        self.outlive = [root for root in first if root in later]
        every = (*self.inside, *self.outlive)
        self._nbytes = np.array([self.place(r.shape.nbytes) for r in every], int)
        self._arena = Arena([(r.shape.nbytes, first[r], last[r]) for r in self.inside])
        self.steps: list[Stretch | Instruction] = []
        self._add_steps(instructions)

    def arranged(self, numbers: Numbers) -> tuple[list[int], int, list[int]]:
        """The offsets of roots in the arena, its bytes, and the bytes of the roots that outlive
        it.
        """
        nbytes = -(-numbers[self._nbytes] // ALIGNMENT) * ALIGNMENT
        count = len(self.inside)
        offsets, total = self._arena.arranged(nbytes[:count])
        return offsets.tolist(), total, nbytes[count:].tolist()

    def _ordered(self, instructions: Sequence[Instruction]) -> list[Instruction]:
        """The instructions, but with copies to the host just before the next step of the host, so
        that kernels before and after them are enqueued together.
        """
        made: list[Instruction] = []
        waiting: list[Instruction] = []
        for at in instructions:
            if isinstance(at.op, CopyFrom):
                waiting.append(at)
            elif self.places.host_takes_part(at):
                made += [*waiting, at]
                waiting = []
            else:
                made.append(at)
        return made + waiting

    def _lives(
        self, instructions: Sequence[Instruction]
    ) -> tuple[dict[Instruction, int], dict[Instruction, int]]:
        """The live ranges, in steps, of the roots made in this piece: the first and the last."""
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
            elif self.places.host_takes_part(at):
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

    def _kernel(self, at: Instruction, op: CodeObject) -> KernelForm:
        starts = [self.places.start(value) for value in at.inputs]
        spaces = [(value, value.shape.element_space) for value in at.inputs]
        return KernelForm(
            at,
            grid=self.place(op.grid),
            turns=None if op.turns == 0 else self.place(op.turns),
            words=tuple(map(self.place, op.words)),
            operands=tuple((root, self.place(offset)) for root, offset in starts),
            large=tuple(
                (value, self.place(space))
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
        """An extent at these sizes."""
        return dim.evaluate(extent, self.sizes)

    def bound(self, shape: Shape) -> Shape:
        """A shape at these sizes."""
        return self.form.rules.bound(shape, self.sizes)

    def op(self, at: Instruction) -> Operation:
        """The operation of an instruction at these sizes."""
        found = self._ops.get(at)
        if found is None:
            found = self._ops[at] = operations.bind(at.op, self.sizes)
        return found

    def place(self, at: Instruction) -> Place:
        """The location of a value on the device."""
        found = self._places.get(at)
        if found is None:
            root, offset = self.form.places.start(at)
            found = self._places[at] = Place(root, self.number(offset), self.bound(at.shape))
        return found
