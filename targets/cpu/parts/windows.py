"""How windows slide over the spatial axes of an image: what convolutions and pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migx.dim import Extent
from migx.ops._windows import split
from migx.shape import Dims, DType, Shape
from migx.targets.cpu.emit import I32, I64, Value
from migx.targets.cpu.kernel import Frame, memory_of
from migx.targets.cpu.parts import elements


@dataclass(frozen=True)
class Axis:
    """Windows along one axis: the size of the image (``given``) and the number of windows
    (``made``); the geometry of a window; the padding at the beginning and at the end; and the
    stride of the image in memory, in elements (``step``).
    """

    given: Extent = 1
    made: Extent = 1
    length: int = 1
    stride: int = 1
    dilation: int = 1
    begin: Extent = 0
    end: Extent = 0
    step: Extent = 0

    @property
    def plain(self) -> bool:
        """Whether each window is the single element of its own index."""
        alike = self.length == self.stride == 1 and self.begin == 0
        return alike and self.given == self.made

    @property
    def reach(self) -> int:
        """How far a window reaches beyond its first element."""
        return (self.length - 1) * self.dilation

    @property
    def scattered(self) -> bool:
        """Whether elements of windows are far apart, so that some may see only padding."""
        return self.length > 1 and self.dilation > 1 and (self.begin, self.end) != (0, 0)

    def live(self, step: int) -> float:
        """The average number of window elements with which at least one of ``step`` adjacent
        windows sees the image; all of them if its size is unknown.
        """
        given, begin, made = self.given, self.begin, self.made
        if not (isinstance(given, int) and isinstance(begin, int) and isinstance(made, int)):
            return self.length
        seen = 0
        for first in range(0, made, step):
            last = min(first + step, made) - 1
            places = (i * self.dilation - begin for i in range(self.length))
            near = (p for p in places if p + last * self.stride >= 0)
            seen += (last + 1 - first) * sum(p + first * self.stride < given for p in near)
        return seen / made if made else self.length

    @property
    def padded(self) -> Axis:
        """The same windows on an axis that includes the padding."""
        return replace(self, given=self.begin + self.given + self.end, begin=0, end=0)

    def place(self, frame: Frame, window: Value, tap: Value | int) -> Value:
        """The index in the image of an element of a window; outside its range, padding."""
        return window * self.stride - frame.extent(self.begin) + tap * self.dilation

    def taps(self, frame: Frame, window: Value) -> tuple[Value, Value]:
        """The elements of a window that lie in the image, as a half-open range."""
        f, first = frame.function, self.place(frame, window, 0)
        before = f.maximum(-first, 0) + (self.dilation - 1)
        left = f.maximum(frame.extent(self.given) - first, 0) + (self.dilation - 1)
        end = f.minimum(left // self.dilation, self.length)
        return f.minimum(before // self.dilation, end), end

    def whole(self, frame: Frame) -> tuple[Value, Value]:
        """The windows entirely inside the image, as a half-open range."""
        f, begin = frame.function, frame.extent(self.begin)
        first = (begin + (self.stride - 1)) // self.stride
        free = frame.extent(self.given) + begin - self.reach
        last = f.maximum(free + (self.stride - 1), 0) // self.stride
        end = f.minimum(last, frame.extent(self.made))
        return f.minimum(first, end), end

    def inside(self, frame: Frame, first: Value, limit: Value, lanes: int) -> Value:
        """A mask of the adjacent windows whose indices in the image are at least 0 and below a
        limit.
        """
        f = frame.function
        numbers = f.iota(I32.times(lanes)) * self.stride + f.splat(f.cast(first, I32), lanes)
        return f.compare("lt", numbers, f.splat(f.cast(limit, I32), lanes), signed=False)

    def clear(self, frame: Frame, begin: Value, lanes: int) -> tuple[Value, Value]:
        """The windows, in vectors from the one that begins at an index, that see no padding, as a
        half-open range.
        """
        f, span = frame.function, self.stride * lanes
        first = (f.maximum(-begin, 0) + (span - 1)) // span * lanes
        end = f.maximum(frame.extent(self.given) - begin - self.reach, 0) // span * lanes
        return first, f.maximum(first, end)

    def vector(
        self,
        frame: Frame,
        line: Value,
        first: Value,
        limit: Value | None,
        dtype: DType,
        lanes: int,
        other: float = 0,
    ) -> Value:
        """What adjacent windows see from an index on, in its type in memory; ``other`` where that
        is not ``inside`` a limit. Without a limit, all of it must be inside.
        """
        f, memory = frame.function, memory_of(dtype)
        rest = elements.in_memory(f, other, dtype, lanes)
        if self.step == 1 and self.stride <= 2:
            near = replace(self, stride=1)
            parts = []
            for part in range(self.stride):
                start = first + part * lanes
                mask = near.inside(frame, start, limit, lanes) if limit else None
                at = f.element(line, start, memory)
                parts.append(f.load(at, memory.times(lanes), mask=mask, other=rest))
            if self.stride == 1:
                return parts[0]
            return f.shuffle(parts[0], parts[1], range(0, 2 * lanes, 2))
        mask = self.inside(frame, first, limit, lanes) if limit else None
        places = f.iota(I64.times(lanes)) * self.stride + f.splat(first, lanes)
        read = f.gather(line, places * frame.extent(self.step), memory, mask)
        return read if other == 0 or mask is None else f.select(mask, read, rest)


def axes_of(
    x: Shape,
    made: Dims,
    lengths: Sequence[int],
    padding: Sequence[Extent],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Axis, Axis, Axis] | None:
    """The three axes, outermost first, of an image [N, C, ...]: missing ones have one element, and
    adjacent plain ones that are contiguous are merged. None if more than three remain.
    """
    geometry = zip(
        x.dims[2:],
        made,
        lengths,
        stride,
        dilation,
        *split(padding),
        x.true_strides[2:],
        strict=True,
    )
    kept: list[Axis] = []
    for axis in (Axis(*of_axis) for of_axis in geometry):
        if axis.plain and axis.given == 1:
            continue
        last = kept[-1] if kept else None
        if last and last.plain and axis.plain and last.step == axis.step * axis.given:
            whole = last.given * axis.given
            kept[-1] = replace(axis, given=whole, made=whole)
        else:
            kept.append(axis)
    if len(kept) > 3:
        return None
    depth, height, width = [Axis(step=1)] * (3 - len(kept)) + kept
    return depth, height, width
