"""Results that are as long as the run finds out: what a piece waits for, run natively.

Nothing says beforehand how often a loop runs, or how many boxes a ``nonmaxsuppression`` keeps. The
result is given room, and what is left over is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from migx import dim
from migx import op as operations
from migx.argument import Argument
from migx.binding import Sizes
from migx.dim import Dim
from migx.errors import InputError
from migx.ir import Instruction
from migx.ops.layout import along
from migx.targets.cpu import control
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.outline import Outline, Writer
from migx.targets.cpu.piece import Piece
from migx.targets.cpu.running import Call, Values

if TYPE_CHECKING:
    from migx.targets.cpu.executable import CpuExecutable

SHORTEST = 64
"""How many iterations a loop is given room for at first."""


class GrowingLoop:
    """A loop whose scan outputs are as long as it turns out to run. Its room is for a power of two
    of iterations, and where that was not enough, for twice as many; the next run begins with it.
    """

    def __init__(
        self, executable: CpuExecutable, at: Instruction, flow: Mapping[Instruction, Writer]
    ) -> None:
        self.at, self.length = at, control.growing(at) or ""
        self.state = list(at.modules[0].parameters.values())[:2]
        outline = Outline([at], [at, *self.state], executable.kernels.get, flow)
        self.piece = Piece(executable, outline, outline)
        self.most = SHORTEST

    def run(self, values: Values, sizes: Sizes, call: Call) -> Sizes | None:
        """Adds the result to the values and gives the sizes known by it; None where the module
        refuses the sizes.
        """
        most = self.room(values)
        while True:
            try:
                self.piece.run(values, {**sizes, self.length: most}, call)
            except InputError:
                return None
            count, holds = (values.pop(at).array.item() for at in self.state)
            result = values.pop(self.at)
            if not holds or count < most:
                break
            most *= 2
        self.most = max(most, SHORTEST) if 4 * count > most else max(self.most // 2, SHORTEST)
        kept = len(self.at.inputs) - 2
        cut = [Argument.of(part.array[:count]) for part in result.parts[kept:]]
        values[self.at] = Argument.tuple([*result.parts[:kept], *cut])
        return {**sizes, self.length: count}

    def room(self, values: Values) -> int:
        """The length to begin with: what has been needed, but little more than the trip count."""
        trips = values.get(self.at.inputs[0])
        if trips is None or not trips.shape.dtype.is_tensor:
            return self.most
        return min(self.most, 1 << max(int(trips.array.item()), 0).bit_length())


class Counted:
    """An instruction whose kernel counts: there is a greatest length, and in the last element of
    room for one more than that it says how many there are.
    """

    def __init__(self, executable: CpuExecutable, at: Instruction, kernel: Kernel) -> None:
        self.at, self.kernel = at, kernel
        self.axis, self.length = _length(at)
        outline = Outline([at], [at], executable.counting.get)
        self.piece = Piece(executable, outline, outline)

    def run(self, values: Values, sizes: Sizes, call: Call) -> Sizes:
        """Adds the result to the values, and gives the sizes known by it."""
        most = dim.evaluate(self.kernel.most, sizes)
        self.piece.run(values, {**sizes, self.length: most + 1}, call)
        room = values.pop(self.at).array
        count = int(room.reshape(-1)[-1])
        values[self.at] = Argument.of(room[along(room.ndim, (self.axis,), [slice(count)])].copy())
        return {**sizes, self.length: count}


def _length(at: Instruction) -> tuple[int, str]:
    """The axis that is as long as it turns out, and the symbol that is its length."""
    count = operations.attributes(at.op)["count"]
    assert isinstance(count, Dim)
    assert count.symbol is not None
    return at.shape.dims.index(count), count.symbol.name
