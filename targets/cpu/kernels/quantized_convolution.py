"""Kernels of convolutions of bytes by constant bytes, with their epilogues.

They are those of ``convolution.py`` on channels in groups of four: an element is four bytes of one
pixel, one per channel, and is multiplied by four bytes of a kernel in one instruction
(``dot4.py``). So spreading also interleaves the bytes of four channels, and weights are packed four
channels deep. Channels missing from the last group are read as the last channel, as their weights
are zero.

**Why it is fast.** The inner loop is that of floats, and each instruction in it does four times the
arithmetic on a quarter of the memory. Bytes are spread as they are and never widened. Requantised
results are stored as bytes, directly from the sums in registers.
"""

from __future__ import annotations

from dataclasses import replace

from migx.ir import Instruction
from migx.ops.builtin import Literal
from migx.ops.layout import Pad
from migx.ops.linear import QuantConvolution
from migx.shape import I32 as WORD
from migx.targets.cpu.emit import I8, I32, Type, Value
from migx.targets.cpu.emit.dot4 import BYTES, FLIP, ONES, Signs, dot4
from migx.targets.cpu.kernel import Frame, Kernel, input_number
from migx.targets.cpu.kernels.convolution import Problem, Writer, convolution_in, described
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.cutting import Cut
from migx.targets.cpu.parts.epilogue import Epilogue
from migx.targets.cpu.parts.spread import Spread
from migx.targets.cpu.parts.strips import Inner, Share, Straight, Turned


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a convolution of bytes whose weights are constant, alone or in a group."""
    inner = convolution_in(at)
    if inner is None or type(inner.op) is not QuantConvolution or machine.lanes(I32) < BYTES:
        return None
    problem = described(at, machine, padded=True)
    if problem is None or not problem.literal:
        return None
    if problem.groups > 1 and problem.channels % BYTES:
        return None  # four channels would straddle two groups
    writer = _Writer(at, machine, problem)
    if problem.groups > 1 and problem.outputs % writer.cut.unit:
        return None  # so would a strip of kernels
    return writer.kernel()


def filling(frame: Frame) -> Value:
    """The byte that represents padding: 0, or the value of a ``pad`` in the group."""
    f, at = frame.function, frame.at
    inner = convolution_in(at)
    pad = None if inner is None or inner is at else inner.inputs[0]
    if pad is None or not isinstance(pad.op, Pad) or len(pad.inputs) == 1:
        return f.const(I8, 0)
    value = pad.inputs[1]
    if isinstance(value.op, Literal):
        return f.opaque(f.const(I8, int(value.op.value.array.reshape(-1)[0])))
    number = input_number(at, pad, value)
    assert number is not None
    return f.load(frame.operands[number], I8)


class _Spread(Spread):
    """Spreads four of ``channels`` channels at a time; their bytes are adjacent."""

    def __init__(
        self, of: Problem, channels: int, frame: Frame, cut: Cut, flip: bool, fill: Value
    ) -> None:
        """``fill`` is the byte that represents padding."""
        super().__init__(frame, of.axes, cut, of.types[0], of.sum)
        f = frame.function
        self.channels = channels
        self.flip = f.const(self.vector, FLIP) if flip else None
        word = f.const(I32, 0) if fill.number == 0 else f.cast(fill, I32, signed=False) * ONES
        word = f.splat(word, cut.lanes)
        self.fill = word ^ FLIP if flip else word

    @property
    def vector(self) -> Type:
        """A vector of groups of four bytes."""
        return self.sum.times(self.cut.lanes)

    def enter(self, channel: Value, step: Value) -> None:
        """Finds the four channels; ``step`` is the stride to the next four."""
        f, last = self.f, self.f.as_index(BYTES - 1)
        if self.channels % BYTES:
            last = f.minimum(self.channels - 1 - channel * BYTES, last)
        self.offsets = [f.minimum(last, i) * (step // BYTES) for i in range(1, BYTES)]

    def nothing(self) -> Value:
        """A vector of padding, in the form in which the image is multiplied."""
        return self.fill

    def seen(self, line: Value, first: Value, limit: Value | None) -> Value:
        """The bytes of four channels in each lane."""
        f, lanes, made = self.f, self.cut.lanes, self.flip
        for place, offset in enumerate((f.as_index(0), *self.offsets)):
            here = f.element(line, offset, I8)
            vector = self.width.vector(self.frame, here, first, limit, self.dtype, lanes)
            wide = f.cast(vector, self.sum, signed=False)
            wide = wide << 8 * place if place else wide
            made = wide if made is None else made ^ wide
        assert made is not None
        if limit is None or (self.flip is None and self.fill.number == 0):
            return made
        return f.select(self.width.inside(self.frame, first, limit, lanes), made, self.fill)


class _Bytes(Inner):
    """What multiplying bytes changes in the inner loops."""

    signs: Signs

    def multiplied(self, number: Value, pixel: Value, total: Value) -> Value:
        """A total plus the products of four bytes."""
        return dot4(self.frame.function, total, pixel, number, self.signs)

    def enter(self, share: Share) -> None:
        """Sums the weights of a share, if the upper bits of the image's bytes are inverted."""
        if not self.signs.flip:
            return
        f, cut, vector = self.frame.function, self.cut, self.sum.times(self.cut.lanes)
        places = range(0, cut.unit, cut.lanes)
        ones, zeros = f.const(vector, ONES), [f.const(vector, 0)] * len(places)
        with f.loop(0, share.channels * (self.depth * self.taps), carry=zeros) as k:
            line = f.element(share.weights, k.index * cut.unit, self.sum)
            made = list[Value]()
            for place, total in zip(places, k.carried, strict=True):
                there = cut.unit - place
                mask = f.first_lanes(f.as_index(there), cut.lanes) if there < cut.lanes else None
                weights = f.load(f.element(line, place, self.sum), vector, mask=mask)
                made.append(dot4(f, total, ones, weights, self.signs))
            k.carry(*made)
        self.surplus = [total * self.signs.surplus for total in k.carried]

    def begun(self, share: Share, places: list[Value]) -> list[Value]:
        """Vectors of initial sums, less what inverted upper bits will add."""
        sums = super().begun(share, places)
        if not self.signs.flip:
            return sums
        f, cut = self.frame.function, self.cut
        many = len(sums) // cut.rows
        if cut.turned:
            taken = self.surplus * cut.rows
        else:
            each = (f.extract(self.surplus[i // cut.lanes], i % cut.lanes) for i in range(cut.rows))
            taken = [v for one in each for v in [f.splat(one, cut.lanes)] * many]
        return [total - surplus for total, surplus in zip(sums, taken, strict=True)]


class _Straight(_Bytes, Straight):
    """Vectors of pixels, four bytes per lane."""


class _Turned(_Bytes, Turned):
    """Vectors of output channels, four bytes per lane."""


class _Writer(Writer):
    """Writes the kernel of a convolution of bytes, its channels in groups of four."""

    padding_counts = True  # it is the zero point of the image

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        x, w = problem.types
        lanes = machine.lanes(I32)
        self.signs = Signs.chosen(machine, lanes, x=x.kind == "int", w=w.kind == "int")
        self.channels, (item, channel) = problem.channels, problem.steps
        fours, steps = -(-self.channels // BYTES), (item, channel * BYTES)
        super().__init__(
            at, machine, replace(problem, channels=fours, steps=steps, types=(x, WORD))
        )

    def kernel(self) -> Kernel:
        problem, made = self.problem, super().kernel()
        planes = self.channels * problem.axes[0].length
        outputs = problem.items * problem.groups * problem.outputs
        flops = 2 * outputs * problem.pixels * planes * problem.taps + problem.epilogue.flops
        return replace(made, name=f"byte {made.name}", flops=flops)

    def _cut(self) -> Cut:
        """All channels at once, if the last group has fewer than four."""
        cut = super()._cut()
        return replace(cut, chunk=self.problem.channels) if self.channels % BYTES else cut

    def _format(self) -> str:
        """Strips of kernels, four channels deep."""
        rank = self.at.inputs[self.problem.kernels].shape.rank
        taps = "".join(chr(ord("a") + i) for i in range(2, rank))
        unit = self.cut.unit
        return f"AB{taps}{unit}a{BYTES}b" if unit > 1 else f"aB{taps}{BYTES}b"

    def _inner(self, finish: Epilogue, table: Value) -> Straight | Turned:
        """The inner loops on bytes."""
        problem, cut, frame = self.problem, self.cut, self.frame
        spread = _Spread(problem, self.channels, frame, cut, self.signs.flip, filling(frame))
        counts = problem.channels, problem.axes[0].length, problem.taps
        kind = _Turned if cut.turned else _Straight
        made = kind(frame, cut, problem.sum, spread, finish, *counts, table)
        made.signs = self.signs
        return made
