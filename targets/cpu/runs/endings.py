"""How pieces end: with an instruction whose result tells sizes of what comes after it.

Neither the trip count of a loop nor the number of boxes a ``nonmaxsuppression`` keeps is known
beforehand. If kernels compute them, the result gets a buffer, and is then shortened to what is in
use.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from migx import dim
from migx import op as operations
from migx.argument import Argument
from migx.base.recent import Recent
from migx.binding import Sizes
from migx.dim import Dim, Extent
from migx.dims.extents import BySizes
from migx.errors import InputError
from migx.ir import Instruction
from migx.ops.builtin import Literal
from migx.ops.layout import along
from migx.shape import Shape
from migx.sizes import ShapeRules, bound, symbols_in, symbols_of
from migx.targets.cpu.plans.control_steps import Late
from migx.targets.cpu.plans.outline import Outline, Writer, captured
from migx.targets.cpu.runs.piece import PLANS, Piece
from migx.targets.cpu.runs.running import Call, Run, Values

if TYPE_CHECKING:
    from migx.targets.cpu.runs.executable import CpuExecutable

SHORTEST = 64
"""The iterations for which a loop first gets room."""


class OnHost:
    """An instruction that runs on the host after the piece, by its own meaning."""

    def __init__(self, executable: CpuExecutable, at: Instruction) -> None:
        self.at, self.captured = at, captured(at, executable.kernel_of)
        self._bound = BySizes(symbols_of(at), partial(bound, at), PLANS)
        self.told = symbols_in(at.shape)

    def room(self, sizes: Sizes) -> Sizes:
        """The sizes to plan the piece with."""
        return sizes

    def run(self, run: Run) -> Sizes:
        """Adds the result to the values of a run, and gives the sizes it tells."""
        sizes = run.late(self.at, *self._bound.at(run.sizes), self.captured)
        return {name: sizes[name] for name in self.told}


class GrowingLoop(OnHost):
    """A loop whose run determines dims of its results: its trip count, or the length of its state.
    Its buffers have room for a power of two of iterations, doubled until it suffices; the next run
    starts with that. If its module refuses some sizes, it runs on the host.
    """

    def __init__(
        self, executable: CpuExecutable, at: Instruction, flow: Mapping[Instruction, Writer]
    ) -> None:
        super().__init__(executable, at)
        late = flow[at]
        assert isinstance(late, Late)
        self.late = late
        self.state = list(at.modules[0].parameters.values())[:2]
        outline = Outline([at], [at, *self.state], executable.kernel_of, flow)
        self.piece = Piece(executable, outline)
        self.begins = next((w.kernel for w in outline.works if w.knows_itself), None)
        self.most, self._limit = SHORTEST, late.room
        self._rules = ShapeRules(outline.instructions)
        self._allowed: Recent[tuple[int | None, ...], bool] = Recent(PLANS)

    def run(self, run: Run) -> Sizes:
        """Adds the result to the values of a run, and gives the sizes it tells."""
        found = self._natively(run.values, run.sizes, run.call)
        return super().run(run) if found is None else found

    def _natively(self, values: Values, sizes: Sizes, call: Call) -> Sizes | None:
        """Adds the result to the values and gives the sizes it tells; None if the module refuses
        the sizes.
        """
        most = self._first_room(values)
        while True:
            try:
                planned = self._planned(sizes, most)
                self.piece.run(values, planned, call)
            except InputError:
                return None
            count, holds = (values.pop(at).array.item() for at in self.state)
            result = values.pop(self.at)
            if not holds or count < most or count < dim.evaluate(self._limit, planned):
                break
            most *= 2
        self.most = max(most, SHORTEST) if 4 * count > most else max(self.most // 2, SHORTEST)
        after = self.late.after(count, sizes)
        shapes = [self._rules.bound(shape, after) for shape in self.at.shape.parts]
        values[self.at] = Argument.tuple([*map(_shortened, result.parts, shapes)])
        return {name: after[name] for name in self.told}

    def _planned(self, sizes: Sizes, most: int) -> Sizes:
        """The sizes to plan with for so many iterations. Raises ``InputError`` if the sizes of some
        iteration are refused, or nothing grows. Five iterations decide: a shape rule compares at
        most products of four dims, each linear in the iteration.
        """
        found = self.late.after(most, sizes)
        if self.begins is None:
            return found
        key = tuple(map(found.get, self.piece.outline.symbols))
        if key not in self._allowed:
            for count in (0, 1, 2, 3, most):
                self._rules.check(self.late.after(count, sizes))
            if dim.evaluate(self._limit, found) < most:
                raise InputError("state that is to grow does not")
            self._allowed[key] = True
        return found

    def _first_room(self, values: Values) -> int:
        """The iterations to allow for at first: what has been needed, but little more than the trip
        count.
        """
        given = self.at.inputs[0]
        trips = given.op.value if type(given.op) is Literal else values.get(given)
        if trips is None or not trips.shape.dtype.is_tensor:
            return self.most
        return min(self.most, 1 << max(int(trips.array.item()), 0).bit_length())


def _shortened(room: Argument, shape: Shape) -> Argument:
    """The start of a buffer as a value of a static shape that is no larger."""
    if room.shape.dims == shape.dims:
        return room
    return Argument(shape, room.array.reshape(-1)[: int(shape.elements)].reshape(shape.dims))


class Counted:
    """An instruction whose kernel counts its results, the last step of its piece: the maximal
    length is known, and the kernel writes the actual one in the last element of a buffer one
    longer.
    """

    def __init__(self, at: Instruction, most: Extent) -> None:
        self.at, self.most = at, most
        self.axis, self.length = _length(at)

    def room(self, sizes: Sizes) -> Sizes:
        """The sizes to plan the piece with."""
        return {**sizes, self.length: dim.evaluate(self.most, sizes) + 1}

    def run(self, run: Run) -> Sizes:
        """Shortens the result to its actual length, and gives that."""
        room = run.values[self.at].array
        count = int(room.reshape(-1)[-1])
        kept = room[along(room.ndim, (self.axis,), [slice(count)])].copy()
        run.values[self.at] = Argument(Shape(self.at.shape.dtype, kept.shape), kept)
        return {self.length: count}


def _length(at: Instruction) -> tuple[int, str]:
    """The axis whose length depends on data, and the symbol of that length."""
    count = operations.attributes(at.op)["count"]
    assert isinstance(count, Dim)
    assert count.symbol is not None
    return at.shape.dims.index(count), count.symbol.name
