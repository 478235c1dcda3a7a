"""Kernels of convolutions with their epilogues: ``convolution``, ``quant_convolution``, and groups
of one of these and what follows it.

A convolution is computed as a product of matrices: kernels are the rows on the left, and on the
right windows are columns, one for each pixel. ``cutting.py`` cuts it into tiles: some rows of the
image by some output channels.

**Why it is fast.** The matrix of windows is never made. A tile first *spreads* the rows of the
image that it reads, some channels at a time, into scratch: one copy for each column of the kernel,
shifted so that the elements which adjacent windows see there are contiguous, with zeros for
padding; rows that strided windows see are grouped. Then every tap of every channel is a line of
scratch at an offset of its own, held by a small table, whatever stride, dilation and padding are; a
kernel of 3 x 3 copies each element three times, not nine, and only once if vectors fill a row of
windows. The inner loop never tests for an edge. It is that of matrix products: a strip of kernels
by a panel of pixels, some 24 vectors of sums in registers, for each tap of each channel three loads
of pixels and eight elements of the kernels, packed ahead in the order in which they are read.
Weights that are not constant are packed by the tile that reads them, a strip at a time, whatever
their layout: squares of vectors are transposed in registers, which costs as much as a few pixels.
Those stored narrower than sums are packed ahead, and widened to f32 a piece of a strip at a time:
see ``narrow_weights.py``. The spread image stays in the L2 cache until all kernels have passed over
it, a strip of kernels in the L1 cache; the next data are prefetched. Sums go through the epilogue
from registers when their last channel has been added, unless the epilogue is long. An image whose
elements are the windows, as for 1 x 1 kernels, is read in place, with some channels prefetched: see
``InPlace``; it is nevertheless spread for many outputs if its channels map to the same set of the
L1 cache. Small images are transposed: see ``strips.py``.
An image of unknown size is cut for several sizes at once.

Each sum is accumulated in the order of the weights by one thread, so bits depend neither on the
number of threads nor on the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from migx.dim import Extent, product
from migx.fusion.kernels import CONVOLUTIONS, FusedKernel, core_of, epilogue, fewest
from migx.ir import Instruction
from migx.ops._windows import joined
from migx.ops.layout import Pad
from migx.ops.linear import Convolution
from migx.shape import Dims, DType, Shape
from migx.targets.cpu.emit import I64, Type, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, behind, input_number, memory_of, narrower
from migx.targets.cpu.machine import PAGE, Machine, places_apart
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.cutting import Cut, Work, chosen
from migx.targets.cpu.parts.epilogue import Destination, Epilogue, writable
from migx.targets.cpu.parts.matrix import Matrix, widened
from migx.targets.cpu.parts.narrow_weights import Narrow, Widening, format_of, levels_of
from migx.targets.cpu.parts.spread import InPlace, Spread, Windows, in_lines
from migx.targets.cpu.parts.strips import Share, Straight, Turned
from migx.targets.cpu.parts.tile import SUMS, sum_type
from migx.targets.cpu.parts.transpose import gather_lines
from migx.targets.cpu.parts.windows import Axis, axes_of


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a convolution, alone or in a group with its epilogue."""
    problem = described(at, machine)
    if problem is None:
        return None
    writer = Writer(at, machine, problem)
    return None if problem.levels and writer.format is None else writer.kernel()


@dataclass(frozen=True)
class Problem:
    """A convolution and its epilogue.

    ``image`` and ``kernels`` are numbers of inputs; ``axes`` are depth, height and width. ``steps``
    are the image's strides between items and between channels; ``apart`` the weights' strides along
    kernels, channels and the three axes. ``channels`` and ``outputs`` are per group, of which there
    are ``groups``. If ``literal``, the weights may be packed ahead, and be ``levels``.
    """

    image: int
    kernels: int
    types: tuple[DType, DType]
    sum: Type
    axes: tuple[Axis, Axis, Axis]
    items: Extent
    groups: int
    channels: int
    outputs: int
    steps: tuple[Extent, Extent]
    apart: Dims
    literal: bool
    levels: Narrow | None
    epilogue: FusedKernel

    @property
    def taps(self) -> int:
        """Elements of a kernel in one plane of one channel."""
        return self.axes[1].length * self.axes[2].length

    @property
    def planes(self) -> int:
        """Planes that a kernel sees: its depth for each channel."""
        return self.channels * self.axes[0].length

    @property
    def kernel(self) -> list[tuple[Extent, tuple[Extent]]]:
        """The axes of the elements of a kernel, merged where contiguous, and the stride of each.
        The first is that of channels, with what continues it.
        """
        extents = self.channels, *(axis.length for axis in self.axes)
        steps = [(step,) for step in self.apart[1:]]
        return fewest(zip(extents, steps, strict=True)) or [(1, (1,))]

    @property
    def over(self) -> tuple[tuple[int, int], ...]:
        """Operands of the epilogue alone whose memory the result may take."""
        return self.epilogue.in_place(self.image, self.kernels)

    @property
    def pixels(self) -> Extent:
        """Elements of a channel of the result."""
        return product(axis.made for axis in self.axes)


def described(at: Instruction, machine: Machine, *, padded: bool = False) -> Problem | None:
    """The convolution an instruction computes; None if there is none, or its operands are not
    inputs as they are. If ``padded``, a ``pad`` in the group counts as padding.
    """
    inner = convolution_in(at)
    if inner is None:
        return None
    op, weights = inner.op_as(Convolution), inner.inputs[1]
    value, padding = _padded(inner) if padded and inner is not at else (inner.inputs[0], op.padding)
    levels, given = None, weights
    if inner is not at:
        levels, given = levels_of(at, weights), narrower(weights)
    image = input_number(at, inner, value)
    kernels = input_number(at, inner, given) if levels is None else levels.operand
    if image is None or kernels is None or padding is None:
        return None
    x, w = at.inputs[image].shape, (at.inputs[kernels] if levels is None else weights).shape
    sum_, dims = sum_type(inner.shape.dtype), [d for d in w.dims if isinstance(d, int)]
    computed = all(elements.computable(t, machine) for t in (x.dtype, w.dtype))
    if sum_ is None or not computed or len(dims) != w.rank or 0 in dims:
        return None
    rest = epilogue(at, inner, product(inner.shape.dims[2:]))
    axes = axes_of(x, inner.shape.dims[2:], dims[2:], padding, op.stride, op.dilation)
    if axes is None or rest is None or not writable(rest, machine):
        return None
    return Problem(
        image,
        kernels,
        types=(x.dtype, w.dtype),
        sum=sum_,
        axes=axes,
        items=x.dims[0],
        groups=op.group,
        channels=dims[1],
        outputs=dims[0] // op.group,
        steps=(x.true_strides[0], x.true_strides[1]),
        apart=_apart(w, axes),
        literal=is_literal(at, kernels, rest),
        levels=levels,
        epilogue=rest,
    )


def _padded(inner: Instruction) -> tuple[Instruction, Dims | None]:
    """The image of a convolution, and its padding, merged with that of a ``pad`` before it."""
    value, padding = inner.inputs[0], inner.op_as(Convolution).padding
    if not isinstance(value.op, Pad):
        return value, padding
    return value.inputs[0], joined(value.op.pads, padding)


def convolution_in(at: Instruction) -> Instruction | None:
    """The convolution in an instruction."""
    return core_of(at, CONVOLUTIONS)


def _apart(weights: Shape, axes: Sequence[Axis]) -> Dims:
    """The strides of weights along kernels, channels and the three axes."""
    kernel, channel, *taps = weights.true_strides
    within = (step for step, extent in zip(taps, weights.dims[2:], strict=True) if extent != 1)
    return kernel, channel, *(0 if axis.length == 1 else next(within) for axis in axes)


def is_literal(at: Instruction, number: int, rest: FusedKernel) -> bool:
    """Whether an input is a whole constant in standard layout that the epilogue does not read."""
    value, root = at.inputs[number], behind(at.inputs[number])
    whole = root is not None and root.shape.dims == value.shape.dims and value.shape.standard
    return whole and all(a.operand != number for a in rest.accesses)


class Writer(KernelWriter):
    """Writes the kernel of one problem."""

    padding_counts: ClassVar[bool] = False
    """Whether padding may be nonzero."""

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        super().__init__(at, machine)
        self.problem = problem
        self.cut: Cut = self._cut()
        self.strips = -(-problem.outputs // self.cut.unit)
        self.format = self._format()
        self.widening = self._widening()
        self.stages = not self._lie_as_read()
        self.piece = self._piece()
        self._divide_scratch()

    def _cut(self) -> Cut:
        """The cut of the convolution."""
        problem = self.problem
        work = Work(
            problem.axes,
            problem.channels,
            problem.outputs,
            problem.items * problem.groups,
            problem.sum,
            may_turn=problem.groups == 1,
            lines=in_lines(problem.axes, problem.types[0], problem.sum),
            aliased=places_apart(problem.steps[1] * problem.sum.nbytes) > PAGE // 4,
            padding_counts=self.padding_counts,
            pairs=problem.levels is not None and problem.levels.in_pairs,
        )
        return chosen(self.frame.machine, work)

    def _format(self) -> str | None:
        """The weight format: strips of kernels, element by element."""
        problem, unit = self.problem, self.cut.unit
        if not problem.literal or unit == 1 or (problem.groups > 1 and problem.outputs % unit):
            return None
        stored = self.frame.at.inputs[problem.kernels].shape
        return format_of(stored.rank, unit)

    def _widening(self) -> Widening | None:
        """The writer that widens packed weights to f32."""
        problem, cut, at = self.problem, self.cut, self.frame.at
        if self.format is None:
            return None
        narrow, dtype = None, problem.types[1]
        if problem.levels is not None:
            inner = convolution_in(at)
            assert inner is not None
            narrow = levels_of(at, inner.inputs[1], cut.unit)
        elif dtype.is_float and memory_of(dtype) != problem.sum:
            size, formats = problem.planes * problem.taps, ((problem.kernels, self.format),)
            narrow = Narrow(problem.kernels, dtype, size, formats, size)
        return None if narrow is None else Widening(self.frame, narrow, cut.unit, cut.lanes)

    def _formats(self) -> tuple[tuple[int, str], ...]:
        """The inputs that are read in a weight format, with their formats."""
        if self.widening is not None:
            return self.widening.of.formats
        return () if self.format is None else ((self.problem.kernels, self.format),)

    def _lie_as_read(self) -> bool:
        """Whether weights have the layout that the inner loops read."""
        problem = self.problem
        alone = self.cut.unit == 1 and [step for _, step in problem.kernel] == [(1,)]
        as_sums = problem.levels is None and memory_of(problem.types[1]) == problem.sum
        return as_sums and (self.format is not None or alone)

    def _piece(self) -> Extent:
        """The channels over which a strip is summed for all pixels before the next: all that are
        spread; if weights are widened first, as many as then fit in half of the L1 cache.
        """
        problem, cut = self.problem, self.cut
        if self.widening is None:
            return cut.chunk
        each = problem.axes[0].length * problem.taps * cut.unit * problem.sum.nbytes
        chunk = cut.chunk if isinstance(cut.chunk, int) else problem.channels
        pieces = -(-chunk // max(1, self.frame.machine.l1 // 2 // each))
        return -(-chunk // pieces)

    def _divide_scratch(self) -> None:
        """Takes the table of offsets, the inner loops' scratch, a strip of weights, and the spread
        image.
        """
        problem, cut, frame = self.problem, self.cut, self.frame
        take, depth = frame.take, problem.axes[0].length
        outputs, planes = problem.groups * problem.outputs, cut.chunk * depth
        finish = Epilogue(frame, problem.epilogue, problem.sum, cut.lanes, outputs)
        self.inner = self._inner(finish, take(problem.taps * (1 + cut.skips), I64))
        self.inner.in_pieces = self.piece != cut.chunk
        self.inner.take()
        piece = self.piece if isinstance(self.piece, int) else problem.channels
        staged = piece * depth * problem.taps + cut.lanes  # in whole squares
        self.staged = take((staged * cut.unit + cut.lanes) * self.stages, problem.sum)
        beyond = cut.panel + cut.rows + 2 * cut.lanes
        self.made = take(self.inner.spread.room(planes) + beyond, problem.sum)

    def _inner(self, finish: Epilogue, table: Value) -> Straight | Turned:
        """The inner loops, with what spreads the image for them."""
        problem, cut, sum_ = self.problem, self.cut, self.problem.sum
        of = self.frame, problem.axes, cut, problem.types[0]
        spread = InPlace(*of, problem.steps[1]) if cut.in_place else Spread(*of, sum_)
        counts = problem.channels, problem.axes[0].length, problem.taps
        made = Turned if cut.turned else Straight
        return made(self.frame, cut, sum_, spread, finish, *counts, table)

    def kernel(self) -> Kernel:
        f, problem, cut = self.f, self.problem, self.cut
        _, height, width = problem.axes
        rows, columns = cut.height, cut.width
        counts: list[Extent] = [
            problem.items,
            problem.groups,
            -(-self.strips // cut.strips),
            problem.axes[0].made,
            (height.made + rows - 1) // rows,
            (width.made + columns - 1) // columns,
        ]
        with f.loop(self.frame.begin, self.frame.end) as number:
            places = self.frame.places(number.index, tuple(counts), range(len(counts)))
            item, group, block, depth, down, across = (places[k] for k in range(len(counts)))
            corner = depth, down * self._e(rows), across * self._e(columns)
            self._tile(item, group, block, corner)
        outputs = problem.groups * problem.outputs
        flops = 2 * problem.items * outputs * problem.pixels * problem.planes * problem.taps
        return self.frame.finished(
            "convolution" if len(problem.epilogue.nodes) == 1 else "convolution and epilogue",
            product(counts),
            flops=flops + problem.epilogue.flops,
            formats=self._formats(),
            over=problem.over,
        )

    def _e(self, extent: Extent) -> Value:
        return self.frame.extent(extent)

    def _tile(
        self, item: Value, group: Value, block: Value, corner: tuple[Value, Value, Value]
    ) -> None:
        """Some rows of an item by some of its output channels."""
        f, problem, cut = self.f, self.problem, self.cut
        (depth, top, left), (_, height, width) = corner, problem.axes
        rows = f.minimum(self._e(height.made) - top, self._e(cut.height))
        columns = f.minimum(self._e(width.made) - left, self._e(cut.width))
        windows = Windows(depth, top, left, rows, columns)
        pixel = (depth * self._e(height.made) + top) * self._e(width.made) + left
        step = self._e(problem.steps[1])
        image = item * self._e(problem.steps[0]) + group * (step * problem.channels)
        first = block * cut.strips
        last = f.minimum(first + cut.strips, self.strips)
        chunk = self._e(cut.chunk)
        spread = self.inner.spread
        self.inner.live = spread.begin(self.inner.table, windows)
        with f.loop(0, problem.channels, chunk) as channel:
            channels = f.minimum(problem.channels - channel.index, chunk)
            start = f.element(
                self.frame.operands[problem.image],
                image + channel.index * step,
                memory_of(problem.types[0]),
            )
            lines = spread.write(self.made, start, channels, step, windows)
            with f.loop(first, last) as strip:
                output = strip.index * cut.unit
                there = f.minimum(problem.outputs - output, cut.unit)
                made = Destination(item, group * problem.outputs + output, pixel, there)
                number, pixels = strip.index - first, (rows * columns, columns)
                with self._pieces(lines, channel.index, channels) as piece:
                    weights = self._weights(group, strip.index, *piece[1:])
                    self.inner.write(Share(made, weights, *piece, number, *pixels))

    @contextmanager
    def _pieces(
        self, lines: Value, channel: Value, channels: Value
    ) -> Iterator[tuple[Value, Value, Value]]:
        """Iterates over the channels of a chunk, all at once or piece by piece: the address of
        their lines, the first of them, and their number.
        """
        f, piece = self.f, self._e(self.piece)
        if not self.inner.in_pieces:
            yield lines, channel, channels
            return
        step = self._e(self.inner.spread.plane * self.problem.axes[0].length)
        with f.loop(0, channels, piece) as turn:
            here = f.element(lines, turn.index * step, self.problem.sum)
            yield here, channel + turn.index, f.minimum(channels - turn.index, piece)

    def _weights(self, group: Value, strip: Value, channel: Value, channels: Value) -> Value:
        """A strip of kernels from a channel on, element by element."""
        f, problem, unit = self.f, self.problem, self.cut.unit
        dtype = problem.types[1]
        each, axes = problem.axes[0].length * problem.taps, problem.kernel
        number = group * (problem.outputs // unit) + strip
        if self.widening is not None:
            self.widening.write(number, channel * each, (channel + channels) * each, self.staged)
            return self.staged
        if self.format is not None:
            first = (number * problem.channels + channel) * (each * unit)
            row, axes = f.as_index(1), [(problem.channels * each, (unit,))]
        else:
            row, step = (self._e(e) for e in problem.apart[:2])
            first = (group * problem.outputs + strip * unit) * row + channel * step
        start = f.element(self.frame.operands[problem.kernels], first, memory_of(dtype))
        if not self.stages:
            return start
        whole, *inner = [(self._e(extent), self._e(step)) for extent, (step,) in axes]
        several = channels * (whole[0] // problem.channels), whole[1]
        gather_lines(
            Matrix(start, row, row, dtype),
            f.minimum(problem.outputs - strip * unit, unit),
            [several, *inner],
            Matrix.dense(self.staged, unit, SUMS[problem.sum]),
            unit,
            min(self.cut.lanes, max(2, 1 << (unit - 1).bit_length())),
            lambda vector: widened(f, vector, dtype, problem.sum),
        )
        return self.staged
