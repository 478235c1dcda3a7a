"""The canonical chain of views of an index map: the shortest of a few ways to write it.

The ways differ in where axes are split and joined: before slicing, before the transpose, or after
it. The order is always

    reshape, slice, step, reshape or squeeze or unsqueeze, transpose, broadcast, reshape

without those not needed. The choice depends on the map alone, so equal maps give equal
chains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from migx import dim
from migx.dim import Extent
from migx.fusion.index_map import Axis, Factor, IndexMap, exact, extent_of, map_of, split
from migx.op import Operation
from migx.ops.layout import (
    Broadcast,
    Multibroadcast,
    Reshape,
    Slice,
    Squeeze,
    Step,
    Transpose,
    Unsqueeze,
)
from migx.shape import Dims

Chain = list[Operation]
LEAST = (1, 0, 0)
"""The cost of a chain that only the empty one undercuts."""


@dataclass(frozen=True)
class Window:
    """Every ``step``-th index of an axis of ``extent``, ``count`` of them from ``start`` on."""

    extent: Extent
    start: Extent
    step: Extent
    count: Extent

    @property
    def end(self) -> Extent:
        """The end of the slice that holds them all: after the last and its step, or the end of the
        axis; if it is not known which is first, after the last, if there is one.
        """
        after = self.start + self.count * self.step
        first = after if self.step == 1 else dim.minimum(after, self.extent)
        if first in (after, self.extent) or dim.bounds(self.count)[0] < 1:
            return first
        return after - self.step + 1

    @property
    def is_said(self) -> bool:
        """Whether a slice up to the end, and then a step, provably leave ``count``."""
        return (self.end - self.start + (self.step - 1)) // self.step == self.count

    @property
    def is_there(self) -> bool:
        """Whether the slice provably lies within the axis, even if it is empty."""
        gaps = self.end - self.start, self.extent - self.end
        return all(dim.bounds(gap)[0] >= 0 for gap in gaps)

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.step == 1 and self.end == self.extent


@dataclass(frozen=True)
class Run:
    """Adjacent axes, the window of each, and the factors that enumerate them together."""

    windows: tuple[Window, ...]
    axis: Axis

    @property
    def extent(self) -> Extent:
        return dim.product(w.extent for w in self.windows)

    @property
    def whole(self) -> bool:
        return all(w.whole for w in self.windows)


def cost(ops: Iterable[Operation]) -> tuple[int, int, int]:
    """The cost of a chain: its length; then its copies, of which a reshape of the source is none;
    then its reshapes.
    """
    listed = list(ops)
    copies = [i for i, op in enumerate(listed) if op.name in ("reshape", "contiguous")]
    return len(listed), sum(i > 0 for i in copies), len(copies)


@lru_cache(maxsize=8192)
def canonical(dims: Dims, ops: tuple[Operation, ...]) -> tuple[Operation, ...] | None:
    """The canonical chain equivalent to another; None if none is known."""
    index = map_of(dims, ops)
    return None if index is None else chain_of(index)


def chain_of(index: IndexMap) -> tuple[Operation, ...] | None:
    """The canonical chain of an index map; None if none is known."""
    found: list[Chain] = []
    for chain in _ways(index):
        if cost(chain) <= LEAST:
            return tuple(chain)
        found.append(chain)
    return tuple(min(found, key=cost)) if found else None


def _ways(index: IndexMap) -> Iterator[Chain]:
    """The chains that implement a map, the empty one first if it does. If the result may be empty,
    only those whose slices provably lie within the axes.
    """
    full = dim.bounds(dim.product(index.dims))[0] >= 1
    for apart in (False, True):
        runs = _runs(index, apart)
        windows = [w for run in runs or () for w in run.windows]
        if runs is not None and all(w.is_said and (full or w.is_there) for w in windows):
            taken = _taken(windows, index.source)
            yield from ([*taken, *moved] for moved in _arranged(runs, index.axes))
            yield from _early(runs, index) if apart else ()


def _taken(windows: Sequence[Window], source: Dims) -> Chain:
    """The operations that select the windows of a tensor."""
    ops: Chain = []
    dims = tuple(w.extent for w in windows)
    if dims != source:
        ops.append(Reshape(dims))
    cut = [(i, w.start, w.end) for i, w in enumerate(windows) if w.start != 0 or w.end != w.extent]
    if cut:
        ops.append(Slice(*zip(*cut, strict=True)))
    if stepped := [(i, w.step) for i, w in enumerate(windows) if w.step != 1]:
        ops.append(Step(*zip(*stepped, strict=True)))
    return ops


def _runs(index: IndexMap, apart: bool) -> list[Run] | None:
    """The axes that are sliced, and the window of each.

    With ``apart`` each factor has an axis of its own; else only if no slice can hold several.
    """
    runs: list[Run] = []
    for k, (dims, start) in enumerate(zip(index.groups, index.starts, strict=True)):
        factors = _ordered([f for axis in index.axes for f in axis if f.axis == k])
        levels = None if factors is None else _levels(dim.product(dims), start, factors, apart)
        if levels is None:
            return None
        if len(levels) == 1 and (kept := _along(dims, levels[0].windows[0])) is not None:
            runs.append(Run(kept, levels[0].axis))
        else:
            runs += levels
    return runs


def _along(dims: Dims, window: Window) -> tuple[Window, ...] | None:
    """A window of flattened axes as a window of each; None if there are no such windows."""
    windows: list[Window] = []
    for i in range(1, len(dims)):
        size = dim.product(dims[i:])
        parts = split(Factor(window.count, 0, window.step), 0, size)
        if parts is None or (window.start != 0 and not _integers(window.start, size)):
            return None
        outer, inner = (
            next((f for f in parts if f.axis == axis), Factor(1, axis, 1)) for axis in (0, 1)
        )
        first, rest = (window.start // size, window.start % size) if window.start != 0 else (0, 0)
        windows.append(Window(dims[i - 1], first, outer.stride, outer.extent))
        window = Window(size, rest, inner.stride, inner.extent)
        if rest != 0 and not _fits(window):
            return None
    return (*windows, window)


def _integers(*extents: Extent) -> bool:
    return all(isinstance(e, int) for e in extents)


def _fits(w: Window) -> bool:
    last = w.start + (w.count - 1) * w.step
    return not _integers(last, w.extent) or last < w.extent


def _ordered(factors: list[Factor]) -> Axis | None:
    """The factors along one axis of the source, largest strides first; None where unknown."""

    def outside(f: Factor, g: Factor) -> bool:
        if isinstance(f.stride, int) and isinstance(g.stride, int):
            return f.stride > g.stride
        return f is not g and exact(f.stride, g.stride) is not None

    ranks = [sum(outside(f, g) for g in factors) for f in factors]
    if sorted(ranks) != list(range(len(factors))):
        return None
    return tuple(f for _, f in sorted(zip(ranks, factors, strict=True), key=lambda r: -r[0]))


def _levels(extent: Extent, start: Extent, factors: Axis, apart: bool) -> list[Run] | None:
    """The axes one axis of the source is split into, so that each is sliced on its own."""
    levels: list[Run] = []
    unit: Extent = 1
    rest = list(factors)
    while True:
        axis = [rest.pop()] if rest else []
        while rest and not apart and rest[-1].stride == axis[0].stride * axis[0].extent:
            axis.insert(0, rest.pop())
        step = exact(axis[-1].stride, unit) if axis else 1
        if step is None:
            return None
        size: Extent | None = None
        if apart and step != 1 and exact(extent, step) is not None:
            rest += axis
            size, step, axis = step, 1, []
        elif rest and (size := _inner(extent, [exact(f.stride, unit) for f in rest])) is None:
            return None
        whole = Window(extent if size is None else size, start, step, extent_of(axis))
        if size is None:
            return [Run((whole,), tuple(axis)), *levels[::-1]]
        if start != 0 and not _integers(start, size):
            return None
        start, first = (start // size, start % size) if start != 0 else (0, 0)
        inner = Window(size, first, step, whole.count)
        if not _fits(inner):
            return None
        levels.append(Run((inner,), tuple(axis)))
        extent, unit = extent // size, unit * size


def _inner(extent: Extent, strides: list[Extent | None]) -> Extent | None:
    """The largest extent of the inner of two axes that an axis is split into, such that the strides
    are multiples of it.
    """
    if all(isinstance(s, int) for s in (extent, *strides)):
        return math.gcd(extent, *strides)  # type: ignore[arg-type]
    last = strides[-1]
    fits = last is not None and all(s is not None and exact(s, last) is not None for s in strides)
    return last if fits and last is not None and exact(extent, last) is not None else None


def _arranged(have: list[Run], want: tuple[Axis, ...]) -> Iterator[Chain]:
    """Chains that turn the axes at hand into those wanted, in order of preference."""
    flat = [f for axis in want for f in axis]
    if _pure(want):
        if all(len(run.windows) == 1 for run in have):
            yield from _moved([run.axis for run in have], want)
        yield from _remade(have, want)
    final = Reshape(tuple(map(extent_of, want)))
    single, whole = _opened(have, flat)
    if (row := _row_of(single, whole)) is not None:
        for kept in (row, _with_ones(row, single)):
            yield from ([*ops, final] for ops in _moved(single, kept))
    order = [f for run in have for f in run.axis]
    if (row := _row_of([(f,) for f in order], flat)) is not None:
        yield from ([*ops, final] for ops in _remade(have, _joined(row, order)))


def _pure(want: tuple[Axis, ...]) -> bool:
    """Whether each axis either repeats or moves along the source."""
    return all(len(axis) < 2 or not _repeats(axis) for axis in want)


def _repeats(axis: Axis) -> bool:
    return any(f.repeats for f in axis)


def _opened(have: list[Run], flat: list[Factor]) -> tuple[list[Axis], list[Factor]]:
    """The axes, each with factors of its own, and the wanted factors in terms of these."""
    single: list[Axis] = []
    for run in have:
        size = len(run.axis)
        at = next((i for i in range(len(flat)) if tuple(flat[i : i + size]) == run.axis), None)
        if len(run.windows) == 1 or at is None or not run.axis:
            single.append(run.axis)
            continue
        own = [
            Factor(w.count, run.axis[0].axis, w.step * dim.product(v.extent for v in rest))
            for w, rest in ((w, run.windows[i + 1 :]) for i, w in enumerate(run.windows))
        ]
        flat = [*flat[:at], *(f for f in own if f.extent != 1), *flat[at + size :]]
        single += [(f,) if f.extent != 1 else () for f in own]
    return single, flat


def _row_of(have: list[Axis], flat: list[Factor]) -> tuple[Axis, ...] | None:
    """The wanted factors as a row of the axes at hand and of repeats; None if one is split."""
    first = {axis[0]: axis for axis in have if axis}
    row: list[Axis] = []
    at = 0
    while at < len(flat):
        axis = (flat[at],) if flat[at].repeats else first.get(flat[at])
        if axis is None or tuple(flat[at : at + len(axis)]) != axis:
            return None
        row.append(axis)
        at += len(axis)
    return tuple(row)


def _with_ones(row: tuple[Axis, ...], have: list[Axis]) -> tuple[Axis, ...]:
    """The row with the axes of extent 1 inserted, each after the axis it follows already."""
    made = list(row)
    for i, axis in reversed(list(enumerate(have))):
        if not axis:
            before = next((a for a in reversed(have[:i]) if a), None)
            made.insert(0 if before is None else made.index(before) + 1, ())
    return tuple(made)


def _joined(row: tuple[Axis, ...], order: list[Factor]) -> tuple[Axis, ...]:
    """Axes of one factor each, joined where they are adjacent in the source as well."""
    made: list[Axis] = []
    for axis in row:
        follows = made and not axis[0].repeats and not made[-1][-1].repeats
        if follows and order.index(axis[0]) == order.index(made[-1][-1]) + 1:
            made[-1] = made[-1] + axis
        else:
            made.append(axis)
    return tuple(made)


def _moved(have: list[Axis], want: tuple[Axis, ...]) -> Iterator[Chain]:
    """Chains without a reshape, if each wanted axis is at hand."""
    bare = tuple(() if _repeats(a) else a for a in want)
    if {a for a in have if a} != {a for a in bare if a}:
        return
    for core, spread in _spreads(want):
        yield [*_ones_fitted(have, core), *spread]
    free = [i for i, a in enumerate(bare) if not a]
    new = len(free) - sum(not a for a in have)
    if any(map(_repeats, want)) and new >= 0:
        kept = iter(free[new:])
        order = free[:new] + [bare.index(a) if a else next(kept) for a in have]
        moved = Transpose(tuple(order.index(i) for i in range(len(want))))
        yield [Multibroadcast(tuple(extent_of(want[i]) for i in order)), moved]


def _remade(have: list[Run], want: tuple[Axis, ...]) -> Iterator[Chain]:
    """Chains that begin with a reshape, if each wanted axis is contiguous in the source."""
    order = [f for run in have for f in run.axis]
    for core, spread in _spreads(want):
        if (row := _source_order(core, order)) is not None:
            made = Reshape(tuple(extent_of(core[i]) for i in row))
            yield [made, *_transposed(row), *spread]


def _early(have: list[Run], index: IndexMap) -> Iterator[Chain]:
    """Chains whose one reshape comes before the slice, with an axis for each factor."""
    order = [f for run in have for f in run.axis]
    for core, spread in _spreads(index.axes) if _pure(index.axes) else ():
        row = _source_order(core, order)
        if row is not None and (windows := _laid(have, [core[i] for i in row])) is not None:
            yield [*_taken(windows, index.source), *_transposed(row), *spread]


def _laid(have: list[Run], row: list[Axis]) -> list[Window] | None:
    """The windows whose selected elements form a row of axes; None if others are left."""
    todo = [run for run in reversed(have) if run.extent != 1]
    windows = []
    for axis in row:
        if not axis:
            alone = todo and not todo[-1].axis
            windows.append(todo.pop().windows[0] if alone else Window(1, 0, 1, 1))
            continue
        runs = [todo.pop() for _ in axis[: len(todo)]]
        if tuple(f for run in runs for f in run.axis) != axis:
            return None
        if len(runs) > 1 and not all(run.whole for run in runs):
            return None
        extent = dim.product(run.extent for run in runs)
        windows.append(Window(extent, 0, 1, extent) if len(runs) > 1 else runs[0].windows[0])
    return None if todo else windows


def _source_order(core: Sequence[Axis], order: list[Factor]) -> list[int] | None:
    """The indices of some axes in the order of the source, those of extent 1 after the axis they
    follow already; None if an axis is not contiguous in the source.
    """
    places = [(order.index(a[0]), i) for i, a in enumerate(core) if a]
    if any(tuple(order[at : at + len(core[i])]) != core[i] for at, i in places):
        return None
    row: list[int] = []
    for i in (-1, *(i for _, i in sorted(places))):
        after = next((j for j in range(i + 1, len(core)) if core[j]), len(core))
        row += range(max(i, 0), after)
    return row


def _transposed(row: list[int]) -> Chain:
    """The transpose that puts axes in order, if they are not."""
    order = tuple(row.index(i) for i in range(len(row)))
    return [] if row == sorted(row) else [Transpose(order)]


def _spreads(want: tuple[Axis, ...]) -> Iterator[tuple[tuple[Axis, ...], Chain]]:
    """Each set of axes from which one broadcast makes those wanted, with that broadcast."""
    if not any(map(_repeats, want)):
        yield want, []
        return
    bare = tuple(() if _repeats(a) else a for a in want)
    dims = tuple(map(extent_of, want))
    full = [i for i, a in enumerate(bare) if a] or [len(bare)]
    for first in range(full[0], -1, -1):
        yield bare[first:], [Multibroadcast(dims)]
    for first in range(full[0], -1, -1):
        for after in range(max(full[-1] + 1, first), len(bare)):
            if not any(map(_repeats, want[first:after])):
                yield bare[first:after], [Broadcast(first, dims)]


def _ones_fitted(have: list[Axis], want: Sequence[Axis]) -> Chain:
    """Squeezes, unsqueezes and a transpose from axes to those wanted, which differ only in order
    and in axes of extent 1.
    """
    if (extra := _left_over(have, want)) is not None:
        return [Squeeze(extra)] if extra else []
    if (missing := _left_over(want, have)) is not None:
        return [Unsqueeze(missing)]
    ops: Chain = []
    ones = [i for i, a in enumerate(have) if not a]
    more = sum(not a for a in want) - len(ones)
    if more < 0:
        ops.append(Squeeze(tuple(ones[:-more])))
        have = [a for i, a in enumerate(have) if i not in ones[:-more]]
    elif more > 0:
        ops.append(Unsqueeze(tuple(range(more))))
        have = [()] * more + have
    free = iter([i for i, a in enumerate(have) if not a])
    order = tuple(have.index(a) if a else next(free) for a in want)
    return [*ops, Transpose(order)]


def _left_over(have: Sequence[Axis], want: Sequence[Axis]) -> tuple[int, ...] | None:
    """The axes of extent 1 whose removal gives those wanted; None if it does not."""
    extra = []
    rest = list(want)
    for i, axis in enumerate(have):
        if rest and axis == rest[0]:
            rest.pop(0)
        elif axis:
            return None
        else:
            extra.append(i)
    return None if rest else tuple(extra)
