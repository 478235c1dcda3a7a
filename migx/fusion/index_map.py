"""Chains of views as one map: from the index of the result to the index of the source.

An axis of the result counts with *factors*, outermost first, like digits: each factor steps along
one axis of the source, or repeats. So ``[6] -> reshape [2, 3] -> transpose`` has two axes, with the
factors (3 places, 1 apart) and (2 places, 3 apart). Two chains from one source that read the same
elements have equal maps, whatever their views; a backend can turn the factors into strides. Dims
may be symbolic: there is a map as long as extents divide exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from migx import dim
from migx.dim import Extent
from migx.op import Operation
from migx.ops.layout import (
    Broadcast,
    Contiguous,
    Multibroadcast,
    Reshape,
    Slice,
    Squeeze,
    Step,
    Transpose,
    Unsqueeze,
)
from migx.ops.pointwise import Identity
from migx.shape import Dims

REPEATS = -1


@dataclass(frozen=True)
class Factor:
    """``extent`` places, ``stride`` apart along one axis of the source; ``REPEATS`` is no axis."""

    extent: Extent
    axis: int = REPEATS
    stride: Extent = 0

    @property
    def repeats(self) -> bool:
        return self.axis == REPEATS


Axis: TypeAlias = tuple[Factor, ...]
"""The factors of one axis of the result, outermost first; none for an axis of size 1."""


@dataclass(frozen=True)
class IndexMap:
    """Which element of the source each element of the result is.

    ``groups`` are the axes of the source; axes that a reshape cuts across form one group, and only
    their product matters. ``starts`` is the offset of the first element along each group, ``axes``
    how each axis of the result moves from there.
    """

    groups: tuple[Dims, ...]
    starts: Dims
    axes: tuple[Axis, ...]

    @classmethod
    def identity(cls, dims: Dims) -> IndexMap | None:
        """The map of a tensor to itself; None if a dim is 0."""
        if 0 in dims:
            return None
        axes = tuple(tidy((Factor(d, i, 1),)) for i, d in enumerate(dims))
        return cls(tuple((d,) for d in dims), (0,) * len(dims), axes)

    @property
    def source(self) -> Dims:
        """The dims of the source."""
        return tuple(d for group in self.groups for d in group)

    @property
    def dims(self) -> Dims:
        """The dims of the result."""
        return tuple(map(extent_of, self.axes))

    def then(self, op: Operation) -> IndexMap | None:
        """This map followed by one more view; None if that is not exact."""
        made = self._then(op)
        if made is None and (fused := self._fused()) is not None:
            made = fused._then(op)
        return None if made is None else made._parted()

    def _then(self, op: Operation) -> IndexMap | None:
        match op:
            case Identity() | Contiguous():
                return self
            case Transpose(permutation):
                return self._with(self.axes[i] for i in permutation)
            case Squeeze(axes):
                kept = [a for i, a in enumerate(self.axes) if i not in axes]
                return self._with(kept) if not any(self.axes[i] for i in axes) else None
            case Unsqueeze(axes):
                old = iter(self.axes)
                rank = len(self.axes) + len(axes)
                return self._with(() if i in axes else next(old) for i in range(rank))
            case Broadcast(axis, dims):
                after = len(dims) - axis - len(self.axes)
                return self._spread([*[()] * axis, *self.axes, *[()] * after], dims)
            case Multibroadcast(dims):
                return self._spread([*[()] * (len(dims) - len(self.axes)), *self.axes], dims)
            case Slice(axes, starts, ends):
                return self._sliced(axes, starts, ends)
            case Step(axes, steps):
                return self._stepped(axes, steps)
            case Reshape(dims):
                return self._reshaped(dims)
        return None

    def _with(self, axes: Iterable[Axis]) -> IndexMap:
        return replace(self, axes=tuple(axes))

    def _spread(self, axes: Sequence[Axis], dims: Dims) -> IndexMap | None:
        """The axes broadcast to dims; those not of size 1 must fit exactly."""
        if 0 in dims or any(a and extent_of(a) != d for a, d in zip(axes, dims, strict=True)):
            return None
        return self._with(a or tidy((Factor(d),)) for a, d in zip(axes, dims, strict=True))

    def _sliced(self, axes: Sequence[int], starts: Dims, ends: Dims) -> IndexMap | None:
        made, origin = list(self.axes), list(self.starts)
        for i, start, end in zip(axes, starts, ends, strict=True):
            taken = _taken(made[i], start, end - start)
            if taken is None:
                return None
            made[i] = tidy(taken[0])
            for axis, moved in taken[1]:
                origin[axis] = origin[axis] + moved
        return IndexMap(self.groups, tuple(origin), tuple(made))

    def _stepped(self, axes: Sequence[int], steps: Sequence[int]) -> IndexMap | None:
        made = list(self.axes)
        for i, step in zip(axes, steps, strict=True):
            stepped = _every(made[i], step)
            if stepped is None:
                return None
            made[i] = tidy(stepped)
        return self._with(made)

    def _reshaped(self, dims: Dims) -> IndexMap | None:
        axes = regrouped(tidy(f for axis in self.axes for f in axis), dims)
        return None if axes is None else self._with(axes)

    def _fused(self) -> IndexMap | None:
        """This map with all axes of the source in one group."""
        moved = any(s != 0 for s in self.starts)
        if len(self.groups) < 2 or (moved and not all(isinstance(d, int) for d in self.source)):
            return None
        extents = [dim.product(group) for group in self.groups]
        sizes = [dim.product(extents[i + 1 :]) for i in range(len(extents))]
        start = sum((s * n for s, n in zip(self.starts, sizes, strict=True)), 0)
        axes = [
            tidy(f if f.repeats else Factor(f.extent, 0, f.stride * sizes[f.axis]) for f in axis)
            for axis in self.axes
        ]
        return IndexMap((self.source,), (start,), tuple(axes))

    def _parted(self) -> IndexMap:
        """This map with its groups split wherever no factor crosses the bound."""
        cuts = ((k, i) for k, group in enumerate(self.groups) for i in range(1, len(group)))
        made = next((m for k, i in cuts if (m := self._cut(k, i)) is not None), None)
        return self if made is None else made._parted()

    def _cut(self, k: int, i: int) -> IndexMap | None:
        """This map with group ``k`` split before its axis ``i``, if that is exact."""
        group, start = self.groups[k], self.starts[k]
        size = dim.product(group[i:])
        if start != 0 and not (isinstance(start, int) and isinstance(size, int)):
            return None
        starts = (start // size, start % size) if start != 0 else (0, 0)
        axes, last = [], starts[1]
        for axis in self.axes:
            parts = [split(f, k, size) for f in axis]
            if None in parts:
                return None
            factors = tuple(f for part in parts if part is not None for f in part)
            last = last + sum(((f.extent - 1) * f.stride for f in factors if f.axis == k + 1), 0)
            axes.append(tidy(factors))
        if isinstance(last, int) and isinstance(size, int) and last >= size:
            return None
        groups = (*self.groups[:k], group[:i], group[i:], *self.groups[k + 1 :])
        return IndexMap(groups, (*self.starts[:k], *starts, *self.starts[k + 1 :]), tuple(axes))


@lru_cache(maxsize=8192)
def map_of(dims: Dims, ops: tuple[Operation, ...]) -> IndexMap | None:
    """The map of a chain of views of a tensor with these dims; None if there is none."""
    if not ops:
        return IndexMap.identity(dims)
    before = map_of(dims, ops[:-1])
    return None if before is None else before.then(ops[-1])


def exact(a: Extent, b: Extent) -> Extent | None:
    """The quotient if b divides a for all sizes; otherwise None."""
    if b == 0:
        return None
    quotient = a // b
    return quotient if quotient * b == a else None


def extent_of(factors: Iterable[Factor]) -> Extent:
    """The extent of an axis with these factors."""
    return dim.product(f.extent for f in factors)


def tidy(factors: Iterable[Factor]) -> Axis:
    """The fewest equivalent factors."""
    made: list[Factor] = []
    for f in factors:
        if f.extent == 1:
            continue
        if made and made[-1].axis == f.axis and made[-1].stride == f.extent * f.stride:
            made[-1] = Factor(made[-1].extent * f.extent, f.axis, f.stride)
        else:
            made.append(f)
    return tuple(made)


def regrouped(factors: Iterable[Factor], dims: Dims) -> tuple[Axis, ...] | None:
    """Factors, in row-major order, as axes with other dims; split at the bounds of axes."""
    todo = list(factors)[::-1]
    axes = []
    for extent in dims:
        axis = []
        while extent != 1:
            if not todo:
                return None
            f = todo.pop()
            if (rest := exact(extent, f.extent)) is not None:
                axis.append(f)
                extent = rest
            elif (inner := exact(f.extent, extent)) is not None:
                axis.append(Factor(extent, f.axis, f.stride * inner))
                todo.append(Factor(inner, f.axis, f.stride))
                extent = 1
            else:
                return None
        axes.append(tidy(axis))
    return None if todo else tuple(axes)


Moves: TypeAlias = list[tuple[int, Extent]]


def _taken(axis: Axis, start: Extent, count: Extent) -> tuple[Axis, Moves] | None:
    """``count`` places of an axis from ``start`` on, and the offset of the first element."""
    if start == 0 and count == extent_of(axis):
        return axis, []
    if not axis or count == 0:
        return None
    outer, inner = axis[0], axis[1:]
    size = extent_of(inner)
    if not isinstance(size, int):
        return None
    first, places = exact(start, size), exact(count, size)
    if first is not None and places is not None:
        return (replace(outer, extent=places), *inner), _moved(outer, first)
    if not isinstance(start, int) or not isinstance(count, int):
        return None
    first = start // size
    rest = _taken(inner, start % size, count) if (start + count - 1) // size == first else None
    return None if rest is None else (rest[0], _moved(outer, first) + rest[1])


def _moved(factor: Factor, places: Extent) -> Moves:
    return [] if factor.repeats else [(factor.axis, places * factor.stride)]


def _every(axis: Axis, step: int) -> Axis | None:
    """Every ``step``-th place of an axis."""
    if not axis or step == 1:
        return axis
    *outer, f = axis
    if (count := exact(f.extent, step)) is None:
        if outer and isinstance(f.extent, int) and step % f.extent == 0:
            return _every(tuple(outer), step // f.extent)
        if outer or not isinstance(f.extent, int):
            return None
        count = -(-f.extent // step)
    return (*outer, Factor(count, f.axis, f.stride * step))


def split(f: Factor, k: int, size: Extent) -> tuple[Factor, ...] | None:
    """A factor along group ``k`` after that is split in two, the inner part of ``size`` places."""
    if f.axis != k:
        return (replace(f, axis=f.axis + (f.axis > k)),)
    if (stride := exact(f.stride, size)) is not None:
        return (Factor(f.extent, k, stride),)
    if (fits := exact(size, f.stride)) is not None and (outer := exact(f.extent, fits)) is not None:
        return (Factor(outer, k, 1), Factor(fits, k + 1, f.stride))
    if exact(size, f.extent * f.stride) is not None:
        return (Factor(f.extent, k + 1, f.stride),)
    whole = isinstance(size, int) and dim.bounds((f.extent - 1) * f.stride - size)[1] < 0
    return (Factor(f.extent, k + 1, f.stride),) if whole else None
