"""Kernels of depthwise convolutions, whose channels do not mix, with their epilogues.

Each element of the image is used by few sums, so reading it is most of the work, and it is read in
place: see ``sliding.py``. The elements of a kernel stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

from migx.ir import Instruction
from migx.targets.cpu.emit import Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of
from migx.targets.cpu.kernels.convolution import Problem, described
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.epilogue import Destination, Epilogue
from migx.targets.cpu.parts.matrix import widened
from migx.targets.cpu.parts.sliding import UNROLLED, Fold, Sliding, Tap, WindowVector

S = TypeVar("S", bound=Sliding)


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a convolution with one channel per group. Several outputs of a single-channel
    image are left to matrix products, which share its reads.
    """
    problem = described(at, machine)
    if problem is None or problem.channels > 1 or problem.levels:
        return None
    if problem.groups == 1 and (problem.outputs > 1 or problem.taps > UNROLLED):
        return None
    return Writer(at, machine, problem).kernel()


class Writer(KernelWriter):
    """Writes the kernel of one problem."""

    name: ClassVar[str] = "depthwise convolution"

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        super().__init__(at, machine)
        self.problem, self.lanes = problem, machine.lanes(problem.sum)
        self.all = problem.groups * problem.outputs
        self.epilogue = Epilogue(self.frame, problem.epilogue, problem.sum, self.lanes, self.all)

    def kernel(self) -> Kernel:
        problem = self.problem
        sliding = self._sliding()
        tiles = sliding.write()
        elements = problem.items * self.all * problem.pixels
        return self.frame.finished(
            self.name,
            tiles,
            flops=2 * elements * problem.taps * problem.axes[0].length + problem.epilogue.flops,
            over=problem.over,
        )

    def _sliding(self) -> Sliding:
        """The loops over the windows."""
        zero = self.f.const(self.problem.sum.times(self.lanes), 0)
        return self._made(Sliding, lambda: zero, self._multiplied)

    def _made(self, kind: type[S], begun: Callable[[], Value], fold: Fold) -> S:
        """Loops of a kind, with these functions to begin and to accumulate."""
        problem = self.problem
        return kind(
            self.frame,
            problem.axes,
            problem.types[0],
            self.lanes,
            problem.image,
            (problem.items, problem.groups, problem.outputs),
            problem.steps,
            begun=begun,
            fold=fold,
            done=self._done,
        )

    def _multiplied(self, total: Value, seen: Value, channel: Value, tap: Tap) -> Value:
        f, problem = self.f, self.problem
        memory = memory_of(problem.types[1])
        kernel, _, *steps = (self.frame.extent(e) for e in problem.apart)
        place = sum((s * i for s, i in zip(steps, tap, strict=True)), f.as_index(0))
        first = channel % self.all * kernel
        at = f.element(self.frame.operands[problem.kernels], first + place, memory)
        number = widened(f, f.load(at, memory), problem.types[1], problem.sum)
        image = widened(f, seen, problem.types[0], problem.sum)
        return f.muladd(f.splat(number, self.lanes), image, total)

    def _done(self, at: WindowVector, total: Value) -> None:
        _, height, width = self.problem.axes
        e = self.frame.extent
        pixel = (at.depth * e(height.made) + at.row) * e(width.made) + at.column
        one = self.f.as_index(1)
        to = Destination(at.channel // self.all, at.channel % self.all, pixel, one)
        left = None if at.mask is None else e(width.made) - at.column
        self.epilogue.write(to, [total], 1, left)
