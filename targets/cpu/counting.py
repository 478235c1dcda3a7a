"""Results that are as long as their kernels find out, in the run.

Nothing says beforehand how many boxes a ``nonmaxsuppression`` keeps, but there is a greatest
number. The kernel is given room for one more than that and says in the last element of the room how
many there are; what is left over is cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from migx import dim
from migx import op as operations
from migx.argument import Argument
from migx.binding import Sizes
from migx.dim import Dim
from migx.ir import Instruction
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.outline import Outline
from migx.targets.cpu.running import Call, Values

if TYPE_CHECKING:
    from migx.targets.cpu.emit import Value
    from migx.targets.cpu.executable import CpuExecutable
    from migx.targets.cpu.kernel import Kernel


def tell(frame: Frame, count: Value) -> None:
    """Writes the end of such a kernel, whose result is of i64: how many it has made."""
    f, result = frame.function, frame.operands[len(frame.at.inputs)]
    last = frame.extent(frame.at.shape.elements) - 1
    f.store(count, f.element(result, last, count.type))


class Counted:
    """An instruction that a piece waits for, and whose kernel counts."""

    def __init__(self, executable: CpuExecutable, at: Instruction, kernel: Kernel) -> None:
        from migx.targets.cpu.executable import Piece

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
        values[self.at] = Argument.of(np.array(room.take(range(count), self.axis)))
        return {**sizes, self.length: count}


def counted(executable: CpuExecutable, at: Instruction | None) -> Counted | None:
    """What runs an instruction that a piece waits for, where its kernel counts."""
    kernel = None if at is None else executable.counting.get(at)
    return None if at is None or kernel is None else Counted(executable, at, kernel)


def _length(at: Instruction) -> tuple[int, str]:
    """The axis that is as long as it turns out, and the symbol that is its length."""
    count = operations.attributes(at.op)["count"]
    assert isinstance(count, Dim)
    assert count.symbol is not None
    return at.shape.dims.index(count), count.symbol.name
