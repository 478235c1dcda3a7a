"""Kernels of depthwise convolutions of bytes, with their epilogues.

Four adjacent elements in a row of a kernel are multiplied by what windows see of them in one
instruction (``dot4.py``): a lane takes the four bytes that its window sees, which one permutation
gathers from a single load. Rows are copied to scratch first, surrounded by padding, so there are
neither edges nor masks; see ``sliding.py``, whose loops these are. The elements of a kernel, in
groups of four filled up with zeros, are in scratch after the rows.

If the instruction needs the image's bytes with the other sign, their upper bits are inverted as
they are copied.
"""

from __future__ import annotations

from collections.abc import Callable

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.linear import QuantConvolution
from migx.targets.cpu.emit import I8, I32, Value
from migx.targets.cpu.emit.dot4 import BYTES, Signs, dot4
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels.convolution import convolution_in, described
from migx.targets.cpu.kernels.depthwise import Writer
from migx.targets.cpu.kernels.quantized_convolution import filling
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.matrix import apart
from migx.targets.cpu.parts.sliding import UNROLLED, Sliding, Tap, WindowVector

WIDE = 64
"""Bytes of a row that are copied at once."""
TURNED = -128
"""The upper bit of a byte."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a convolution of bytes with several groups of one channel, and kernels of up to
    100 elements in a plane.
    """
    inner = convolution_in(at)
    if inner is None or type(inner.op) is not QuantConvolution or machine.lanes(I32) < BYTES:
        return None
    problem = described(at, machine, padded=True)
    if problem is None or problem.channels > 1 or problem.groups == 1:
        return None
    if problem.taps > UNROLLED or not problem.axes[0].plain:
        return None
    return _Writer(at, machine, problem).kernel()


class _Fours(Sliding):
    """The loops over windows whose elements are multiplied in groups of four along a row. ``words``
    are the elements of a kernel, followed by the initial value of sums; ``weigh`` writes them for a
    channel.
    """

    fill: Value
    flip: bool
    words: Value
    weigh: Callable[[Value, Value], None]

    @property
    def copies(self) -> bool:
        """Always, together with the padding."""
        return True

    @property
    def taps(self) -> range:
        """The groups of four in a row of a window."""
        return range(-(-self.axes[2].length // BYTES))

    @property
    def count(self) -> int:
        """The groups of four in a kernel."""
        return self.axes[1].length * len(self.taps)

    @property
    def _span(self) -> int:
        """The bytes read for a vector of windows, a power of two."""
        width = self.axes[2]
        seen = (self.lanes - 1) * width.stride + (BYTES - 1) * width.dilation + 1
        return 1 << (seen - 1).bit_length()

    @property
    def _room(self) -> Extent:
        """The bytes of a copy; lanes that are no windows may read beyond the rows."""
        width = self.axes[2]
        beyond = self._span + self.lanes * width.stride + len(self.taps) * BYTES * width.dilation
        return self._seen_rows(self._rows_of_tile) * self._pitch + beyond

    @property
    def _pitch(self) -> Extent:
        """The row stride of the copy in bytes, whole cache lines."""
        width = self.axes[2]
        return (width.made * width.stride + (width.reach + WIDE)) // WIDE * WIDE

    def _plane(self, channel: Value, depth: Value, top: Value, bottom: Value) -> None:
        self.weigh(self.words, channel)
        super()._plane(channel, depth, top, bottom)

    def _copied(self, image: Value, top: Value, bottom: Value) -> Value:
        """Copies what some rows of windows see to scratch; gives the address of the copy."""
        f, e = self.frame.function, self.frame.extent
        _, height, width = self.axes
        made, pitch = self.copy, e(self._pitch)
        rows = (bottom - top - 1) * height.stride + (height.reach + 1)
        padded = any((axis.begin, axis.end) != (0, 0) for axis in (height, width))
        with f.loop(0, rows) as row:
            place = height.place(self.frame, top, 0) + row.index
            line = f.element(image, place * e(height.step), I8)
            out = f.element(made, row.index * pitch, I8)
            if padded:
                with f.loop(0, pitch, WIDE) as at:
                    f.store(f.splat(self._turned(self.fill), WIDE), f.element(out, at.index, I8))
            with f.when(f.compare("lt", place, e(height.given), signed=False)):
                self._line(line, f.element(out, e(width.begin), I8))
        return made

    def _line(self, line: Value, out: Value) -> None:
        """Copies a row of the image."""
        f, width = self.frame.function, self.axes[2]
        count, step = self.frame.extent(width.given), self.frame.extent(width.step)
        for at, lanes, mask in self.frame.by_vectors(count, WIDE):
            seen = apart(f, f.element(line, at * step, I8), step, I8.times(lanes), mask)
            f.store(self._turned(seen), f.element(out, at, I8), mask=mask)

    def _turned(self, seen: Value) -> Value:
        """Bytes in the form in which they are multiplied."""
        return seen ^ TURNED if self.flip else seen

    def _seen(self, at: WindowVector, plane: Value, row: Value, tap: Value | int) -> Value:
        """What windows see of a row at four of their columns."""
        f, width = self.frame.function, self.axes[2]
        ahead = at.column * width.stride + tap * (BYTES * width.dilation)
        place = f.element(plane, row * self.frame.extent(self._pitch) + ahead, I8)
        read = f.load(place, I8.times(self._span))
        each = (i * width.stride for i in range(self.lanes))
        wanted = [first + i * width.dilation for first in each for i in range(BYTES)]
        return f.bitcast(f.shuffle(read, read, wanted), I32.times(self.lanes))


class _Writer(Writer):
    """Writes the kernel of a depthwise convolution of bytes."""

    name = "byte depthwise convolution"

    def _sliding(self) -> Sliding:
        """The loops over the windows."""
        image, weights = (t.kind == "int" for t in self.problem.types)
        self.signs = Signs.chosen(self.frame.machine, self.lanes, x=image, w=weights)
        made = self._made(_Fours, self._begun, self._by_fours)
        made.fill, made.flip, made.weigh = filling(self.frame), self.signs.flip, self._weigh
        made.words = self.frame.take(made.count + 1, I32)
        self.loops = made
        return made

    def _begun(self) -> Value:
        """The initial value of sums, less what inverted upper bits will add."""
        f, kind = self.f, I32.times(self.lanes)
        if not self.signs.flip:
            return f.const(kind, 0)
        return f.splat(f.load(f.element(self.loops.words, self.loops.count, I32), I32), self.lanes)

    def _by_fours(self, total: Value, seen: Value, channel: Value, tap: Tap) -> Value:
        """A total plus the products of four bytes."""
        f, (_, row, four) = self.f, tap
        assert isinstance(row, int)
        assert isinstance(four, int)
        number = row * len(self.loops.taps) + four
        word = f.splat(f.load(f.element(self.loops.words, number, I32), I32), self.lanes)
        return dot4(f, total, seen, word, self.signs)

    def _weigh(self, words: Value, channel: Value) -> None:
        """Writes the groups of four of a channel's kernel, and the initial value of its sums."""
        f, problem = self.f, self.problem
        kernel, _, _, *steps = (self.frame.extent(e) for e in problem.apart)
        first = channel % self.all * kernel
        (_, height, width), total = problem.axes, f.const(I32, 0)
        for row in range(height.length):
            for four in self.loops.taps:
                word = f.const(I32, 0)
                for i in range(min(BYTES, width.length - four * BYTES)):
                    place = steps[0] * row + steps[1] * (four * BYTES + i)
                    at = f.element(self.frame.operands[problem.kernels], first + place, I8)
                    byte = f.load(at, I8)
                    word = word | (f.cast(byte, I32, signed=False) << 8 * i)
                    total = total + f.cast(byte, I32, signed=self.signs.w)
                number = row * len(self.loops.taps) + four
                f.store(word, f.element(words, number, I32))
        if self.signs.flip:
            begun = total * -self.signs.surplus
            f.store(begun, f.element(words, self.loops.count, I32))
