"""The place of each result of a kernel that finds out how many there are.

Such a kernel takes two turns. In the first each program counts its own results, and stores the
number in scratch; in the second it adds up the numbers of the programs before it, and writes its
results from there on. So results are in order, with no gaps, and no program waits for another
within a launch.
"""

from __future__ import annotations

from migx.dim import Extent
from migx.shape import I32, I64, Shape
from migx.targets.gpu.emit.expressions import Expr, expr
from migx.targets.gpu.emit.text import Writer

AT_ONCE = 1024
"""The numbers that are added up together."""
NUMBER = Shape(I64, (1,))
"""The last result of such a kernel: how much of the others is in use."""


class Counts:
    """The results of each of so many programs of a kernel, which writes their number last."""

    def __init__(self, writer: Writer, programs: Extent) -> None:
        self.writer, self._programs = writer, programs
        self._scratch = writer.operand_of_scratch(Shape(I32, (programs,)))

    def tell(self, count: Expr) -> None:
        """Stores this program's number, in the first turn."""
        self.writer.store(self._scratch, self.writer.program, count, I32)

    @property
    def own(self) -> Expr:
        """In the second turn: this program's number."""
        return self.writer.load(self._scratch, self.writer.program, I32)

    def known(self) -> tuple[Expr, Expr]:
        """In the second turn: the results of the programs before this one, and of all. The first
        program writes the latter.
        """
        w, program = self.writer, self.writer.program
        before, total = w.variable("0"), w.variable("0")
        with w.loop(self._programs, AT_ONCE) as start:
            number = w.numbers(0, 1, AT_ONCE, start)
            with w.masked({0: w.there(number, self._programs, AT_ONCE)}):
                found = w.load(self._scratch, number, I32).text
            earlier = f"tl.where({number.text} < {program.text}, {found}, 0)"
            w.line(f"{before.text} += tl.sum({earlier})")
            w.line(f"{total.text} += tl.sum({found})")
        with w.block(f"if {program.text} == 0:"):
            w.store(len(w.shapes) - len(w.scratch) - 1, expr(0), total, I64)
        return before, total
