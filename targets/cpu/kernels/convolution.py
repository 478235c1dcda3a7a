"""Kernels of convolutions, with the arithmetic on their result: ``convolution``,
``quant_convolution``, and groups of one of these and what follows it.

It is a product of matrices: kernels are the rows on the left, and on the right are the windows,
pixel by pixel as columns. ``cutting.py`` says how it is cut into tiles: some rows of the image by
some output channels.

**Why it is fast.** The matrix of windows is never made. A tile first *spreads* the rows of the
image that it reads, some channels at a time, into scratch: once for each column of the kernel,
moved so far that the elements which windows side by side see there lie side by side, with zeros
where there is padding; rows that windows at a stride see are brought together. Then every tap of
every channel is a line of scratch at an offset of its own, which a small table holds, whatever
stride, dilation and padding are; a kernel of 3 x 3 copies each element three times, not nine, and
no edge is ever tested in the inner loop. This loop is that of matrix products: a strip of
kernels by a panel of pixels, some 24 vectors of sums in registers, for each tap of each channel
three loads of pixels and eight numbers of the kernels, packed ahead as they are read. What is
spread stays in the second level cache until all kernels have passed over it, a strip of kernels in
the first. The sums of a whole strip go through the epilogue from registers.

Each sum is added up in the order of the weights by one thread, so bits depend neither on the number
of threads nor on the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.kernels import FusedKernel, epilogue
from migx.ops.fused import Group
from migx.ops.linear import Convolution, QuantConvolution
from migx.shape import F16, DType
from migx.targets.cpu.cutting import Cut, Work, chosen
from migx.targets.cpu.emit import F32, F64, I8, I32, I64, Type, Value
from migx.targets.cpu.epilogue import in_place, writable
from migx.targets.cpu.finish import Finish, Strip
from migx.targets.cpu.kernel import Frame, Kernel, behind
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.spread import Spread
from migx.targets.cpu.tile import memory_of, multiplied_and_added, widened
from migx.targets.cpu.windows import Axis, axes_of

CONVOLUTIONS = (Convolution, QuantConvolution)


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a convolution, by itself or in a group with its epilogue."""
    problem = described(at, machine)
    return None if problem is None else _Writer(at, machine, problem).kernel()


@dataclass(frozen=True)
class Problem:
    """A convolution and what is done to its elements.

    ``image`` and ``kernels`` are numbers of inputs; ``axes`` are depth, height and width. ``steps``
    are those of the image from one item and from one channel to the next; ``row`` is that of the
    weights from one kernel to the next. ``channels`` and ``outputs`` are those of one of the
    ``groups``. The weights of a ``literal`` may be packed.
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
    row: int
    literal: bool
    rank: int
    epilogue: FusedKernel

    @property
    def taps(self) -> int:
        """Elements of a kernel in one plane of one channel."""
        return self.axes[1].length * self.axes[2].length

    @property
    def planes(self) -> int:
        """Planes that a kernel sees: of each channel as many as it is deep."""
        return self.channels * self.axes[0].length

    @property
    def pixels(self) -> Extent:
        """Elements of a channel of the result."""
        return product(axis.made for axis in self.axes)


def described(at: Instruction, machine: Machine) -> Problem | None:
    """The convolution an instruction computes; None where it is none, or not of its inputs as they
    are.
    """
    inner = convolution_in(at)
    if inner is None:
        return None
    numbers = [_number(at, inner, value) for value in inner.inputs]
    if None in numbers:
        return None
    op, (image, kernels) = inner.op, [n for n in numbers if n is not None]
    assert isinstance(op, Convolution)
    x, w = at.inputs[image].shape, at.inputs[kernels].shape
    sum_, dims = _sum_of(inner.shape.dtype), [d for d in w.dims if isinstance(d, int)]
    rest = after(at, inner)
    if (
        sum_ is None
        or rest is None
        or len(dims) != w.rank
        or not _is_packable(w.true_strides, dims)
    ):
        return None
    if machine.vector_bytes < 32 and not machine.has("neon"):  # halves would be library calls
        if F16 in {x.dtype, w.dtype, *(node.dtype for node in rest.nodes)}:
            return None
    axes = axes_of(x, inner.shape.dims[2:], dims[2:], op.padding, op.stride, op.dilation)
    row = w.true_strides[0]
    assert isinstance(row, int)
    return Problem(
        image,
        kernels,
        (x.dtype, w.dtype),
        sum_,
        axes,
        x.dims[0],
        op.group,
        dims[1],
        dims[0] // op.group,
        (x.true_strides[0], x.true_strides[1]),
        row,
        _is_constant(at.inputs[kernels]),
        w.rank,
        rest,
    )


def convolution_in(at: Instruction) -> Instruction | None:
    """The convolution in an instruction."""
    if type(at.op) in CONVOLUTIONS:
        return at
    if not isinstance(at.op, Group) or at.op.tag != "conv_epilogue":
        return None
    return next((v for v in at.modules[0] if type(v.op) in CONVOLUTIONS), None)


def after(at: Instruction, inner: Instruction) -> FusedKernel | None:
    """What follows a convolution, whose rows are the channels of items; None where there is no way
    to write it.
    """
    pixels: Extent = 1
    for extent in reversed(inner.shape.dims[2:]):
        pixels = pixels * extent
    rest = epilogue(at, inner, pixels)
    return rest if rest is not None and writable(rest) else None


def _number(at: Instruction, inner: Instruction, value: Instruction) -> int | None:
    """The number of the input that an operand is; None where it is computed inside."""
    if inner is at:
        return at.inputs.index(value)
    parameters = list(at.modules[0].parameters.values())
    return parameters.index(value) if value in parameters else None


def _sum_of(dtype: DType) -> Type | None:
    """What products of this type are summed in: integers modulo the width, so at least 32 bits."""
    if dtype.is_float:
        return {64: F64, 32: F32, 16: F32}.get(dtype.bits)
    return (I64 if dtype.bits == 64 else I32) if dtype.is_integer else None


def _is_constant(value: Instruction) -> bool:
    """Whether a value is a constant, all of it as it lies."""
    root = behind(value)
    return root is not None and root.shape.dims == value.shape.dims and value.shape.standard


def _is_packable(strides: Sequence[Extent], dims: Sequence[int]) -> bool:
    """Whether the elements of each kernel lie one after another."""
    dense = 1
    for stride, extent in zip(reversed(strides[1:]), reversed(dims[1:]), strict=True):
        if extent != 1 and stride != dense:
            return False
        dense *= extent
    return 0 not in dims and isinstance(strides[0], int)


class _Writer:
    """Writes the kernel of one problem."""

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        self.problem, self.machine = problem, machine
        self.frame = Frame(at, machine)
        self.f = self.frame.function
        work = Work(
            problem.axes,
            problem.channels,
            problem.outputs,
            problem.items * problem.groups,
            problem.sum,
        )
        self.cut: Cut = chosen(machine, work)
        self.spread = Spread(self.frame, problem.axes, self.cut, problem.types[0], problem.sum)
        outputs = problem.groups * problem.outputs
        self.finish = Finish(self.frame, problem.epilogue, problem.sum, self.cut.lanes, outputs)
        self.strips = -(-problem.outputs // self.cut.rows)
        self.format = self._format()
        self.stages = self.format is None or memory_of(problem.types[1]) != problem.sum
        if self.cut.rows == 1 and memory_of(problem.types[1]) == problem.sum:
            self.stages = False
        self.chunks = -(-problem.channels // self.cut.chunk)

    def _format(self) -> str | None:
        """The weight format: strips of kernels, element by element."""
        problem, rows = self.problem, self.cut.rows
        if not problem.literal or rows == 1:
            return None
        if problem.groups > 1 and problem.outputs % rows:
            return None
        letters = "".join(chr(ord("a") + i) for i in range(1, problem.rank))
        return f"A{letters}{rows}a"

    # The loops around.

    def kernel(self) -> Kernel:
        """The whole of it."""
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
        self._divide_scratch()
        self.spread.begin(self.tables)
        with f.loop(self.frame.begin, self.frame.end) as number:
            places: list[Value] = []
            rest = number.index
            for extent in reversed(counts[1:]):
                places.append(rest % self.frame.extent(extent))
                rest = rest // self.frame.extent(extent)
            across, down, depth, block, group = places
            self._tile(rest, group, block, depth, down * self._e(rows), across * self._e(columns))
        outputs = problem.groups * problem.outputs
        flops = 2 * problem.items * outputs * problem.pixels * problem.planes * problem.taps
        packed = () if self.format is None else ((problem.kernels, self.format),)
        return self.frame.finished(
            "convolution" if len(problem.epilogue.nodes) == 1 else "convolution and epilogue",
            product(counts),
            scratch=self.scratch_bytes,
            flops=flops + problem.epilogue.flops,
            formats=packed,
            in_place=tuple(
                i for i in in_place(problem.epilogue) if i not in (problem.image, problem.kernels)
            ),
        )

    def _e(self, extent: Extent) -> Value:
        return self.frame.extent(extent)

    def _divide_scratch(self) -> None:
        """The table of offsets, then a strip of weights, sums that wait for more, what is spread."""
        problem, cut, size = self.problem, self.cut, self.problem.sum.nbytes
        table = _up(8 * problem.taps)
        deep = min(cut.chunk, problem.channels) * problem.axes[0].length * problem.taps
        staged = _up(deep * cut.rows * size) if self.stages else 0
        panels = -(-cut.positions // cut.panel)
        sums = cut.strips * panels * cut.rows * cut.panel * size if self.chunks > 1 else 0
        held = self.finish.held_bytes(cut.rows, cut.panel)
        first = table + staged + sums + held
        self.tables = self.f.element(self.frame.scratch, 0, I8)
        self.staged = self.f.element(self.frame.scratch, table, I8)
        self.waiting = self.f.element(self.frame.scratch, table + staged, I8)
        self.finish.held = self.f.element(self.frame.scratch, table + staged + sums, I8)
        self.lines = self.f.element(self.frame.scratch, first, I8)
        planes = self.spread.plane * deep // problem.taps
        self.scratch_bytes: Extent = first + (planes + cut.panel + 2 * cut.lanes) * size

    def _tile(
        self, item: Value, group: Value, block: Value, depth: Value, top: Value, left: Value
    ) -> None:
        """Some rows of an item by some of its output channels."""
        f, problem, cut = self.f, self.problem, self.cut
        _, height, width = problem.axes
        rows = f.minimum(self._e(height.made) - top, self._e(cut.height))
        columns = f.minimum(self._e(width.made) - left, self._e(cut.width))
        pixel = (depth * self._e(height.made) + top) * self._e(width.made) + left
        image = item * self._e(problem.steps[0]) + group * (
            self._e(problem.steps[1]) * problem.channels
        )
        first = block * cut.strips
        last = f.minimum(first + cut.strips, self.strips)
        count = rows * columns
        with f.loop(0, problem.channels, cut.chunk) as channel:
            channels = f.minimum(self._e(problem.channels) - channel.index, cut.chunk)
            start = f.element(
                self.frame.operands[problem.image],
                image + channel.index * self._e(problem.steps[1]),
                memory_of(problem.types[0]),
            )
            self.spread.write(
                self.lines,
                start,
                channels,
                self._e(problem.steps[1]),
                (depth, top, left),
                rows,
                columns,
            )
            with f.loop(first, last) as strip:
                output = strip.index * cut.rows
                there = f.minimum(self._e(problem.outputs) - output, cut.rows)
                weights = self._weights(group, strip.index, channel.index, channels)
                made = Strip(item, group * problem.outputs + output, pixel, there)
                self._panels(made, weights, channel.index, channels, strip.index - first, count)

    def _weights(self, group: Value, strip: Value, channel: Value, channels: Value) -> Value:
        """A strip of kernels from a channel on, element by element."""
        f, problem, cut = self.f, self.problem, self.cut
        memory = memory_of(problem.types[1])
        each = problem.axes[0].length * problem.taps
        whole = problem.channels * each
        given = self.frame.operands[problem.kernels]
        packed = self.format is not None
        if packed:
            number = group * (problem.outputs // cut.rows) + strip
            start = f.element(given, (number * whole + channel * each) * cut.rows, memory)
            steps = [f.as_index(i) for i in range(cut.rows)]
        else:
            top = strip * cut.rows
            rows = [f.minimum(top + i, problem.outputs - 1) - top for i in range(cut.rows)]
            first = (group * problem.outputs + top) * problem.row + channel * each
            start, steps = f.element(given, first, memory), [r * problem.row for r in rows]
        if not self.stages:
            return start
        step = cut.rows if packed else 1
        with f.loop(0, channels * each) as k:
            for i, offset in enumerate(steps):
                number = f.load(f.element(start, k.index * step + offset, memory), memory)
                value = widened(f, number, problem.types[1], problem.sum)
                f.store(value, f.element(self.staged, k.index * cut.rows + i, problem.sum))
        return self.staged

    # One strip of kernels.

    def _panels(
        self,
        strip: Strip,
        weights: Value,
        channel: Value,
        channels: Value,
        number: Value,
        count: Value,
    ) -> None:
        """A strip of kernels by all pixels of the tile."""
        f, cut = self.f, self.cut
        across = -(-cut.positions // cut.panel)
        full = count // cut.panel * cut.panel

        def panel(at: Value, vectors: int, columns: Value | None) -> None:
            place = (number * across + at // cut.panel) * (cut.rows * cut.panel)
            waiting = f.element(self.waiting, place, self.problem.sum)
            first = f.element(self.lines, at, self.problem.sum)
            last = (channel + channels) >= self.problem.channels
            sums = self._sums(first, weights, channel, channels, vectors, waiting)
            here = Strip(strip.item, strip.output, strip.pixel + at, strip.rows)
            if self.chunks == 1:
                self.finish.write(here, sums, cut.rows, columns)
                return
            with f.when(last):
                self.finish.write(here, sums, cut.rows, columns)
            with f.unless(last):
                for i, total in enumerate(sums):
                    f.store(total, f.element(waiting, i * cut.lanes, self.problem.sum))

        if cut.fills:
            with f.loop(0, full, cut.panel) as turn:
                panel(turn.index, cut.vectors, None)
        rest = count - full
        below = 0
        for vectors in cut.rests:
            inside = (rest > below * cut.lanes) & (rest <= vectors * cut.lanes)
            with f.when(inside):
                panel(full, vectors, rest)
            below = vectors

    def _sums(
        self,
        first: Value,
        weights: Value,
        channel: Value,
        channels: Value,
        vectors: int,
        waiting: Value,
    ) -> list[Value]:
        """The sums of a strip and a panel, over some channels."""
        f, problem, cut = self.f, self.problem, self.cut
        vector, taps = problem.sum.times(cut.lanes), problem.taps
        begun = [f.const(vector, 0)] * (cut.rows * vectors)
        if self.chunks > 1:
            fresh = f.compare("eq", channel, 0)
            zero = f.const(vector, 0)
            begun = [
                f.select(
                    fresh, zero, f.load(f.element(waiting, i * cut.lanes, problem.sum), vector)
                )
                for i in range(cut.rows * vectors)
            ]
        planes = channels * problem.axes[0].length
        with f.loop(0, planes, carry=begun) as plane:
            line = f.element(first, plane.index * self._e(self.spread.plane), problem.sum)
            if taps == 1:
                kernel = f.element(weights, plane.index * cut.rows, problem.sum)
                plane.carry(*self._step(line, kernel, plane.carried, vectors))
            else:
                with f.loop(0, taps, carry=plane.carried) as tap:
                    offset = f.load(f.element(self.tables, tap.index, I64), I64)
                    k = plane.index * taps + tap.index
                    kernel = f.element(weights, k * cut.rows, problem.sum)
                    there = f.element(line, offset, problem.sum)
                    tap.carry(*self._step(there, kernel, tap.carried, vectors))
                plane.carry(*tap.carried)
        return plane.carried

    def _step(self, line: Value, kernel: Value, sums: list[Value], vectors: int) -> list[Value]:
        """One more element of each kernel."""
        f, lanes, sum_ = self.f, self.cut.lanes, self.problem.sum
        pixels = [
            f.load(f.element(line, j * lanes, sum_), sum_.times(lanes)) for j in range(vectors)
        ]
        made = []
        for i in range(self.cut.rows):
            one = f.splat(f.load(f.element(kernel, i, sum_), sum_), lanes)
            for j in range(vectors):
                made.append(multiplied_and_added(f, one, pixels[j], sums[i * vectors + j]))
        return made


def _up(nbytes: int) -> int:
    """Bytes up to a whole cache line."""
    return -(-nbytes // 64) * 64
