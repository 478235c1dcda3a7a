"""A doubly linked list whose members know their order.

Each member has an integer label that grows along the list, so ``a`` comes before ``b`` when its
label is less. A member inserted where no label is free spreads its neighbourhood: the smallest
range of labels around it that is not too full is shared out evenly (Bender et al., "Two simplified
algorithms for maintaining order in a list", ESA 2002). An insertion costs O(log n) amortised,
wherever it happens; everything else O(1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_BITS = 62
_CROWDED = 1.3  # how much emptier each doubling of the range must be; between 1 and 2
_STEP = 1 << 32  # what is left free after the last member, so that appending never spreads


class Ordered:
    """A member of at most one list. A removed one keeps its links, for iterations at it."""

    __slots__ = ("_label", "_linked", "_next", "_previous")
    _label: int
    _linked: bool
    _next: Ordered
    _previous: Ordered

    @staticmethod
    def ring() -> Ordered:
        """An empty list: the member that is before the first and after the last."""
        ends = Ordered()
        ends._label, ends._linked = -1, False
        ends._next = ends._previous = ends
        return ends


def insert_before(new: Ordered, at: Ordered) -> None:
    """Links ``new`` in just before ``at``, a member or the ring itself for the end."""
    previous = at._previous
    new._previous, new._next, new._linked = previous, at, True
    previous._next = at._previous = new
    end_of_list = at._label < 0
    if end_of_list and previous._label + _STEP < 1 << _BITS:
        new._label = previous._label + _STEP if previous._label >= 0 else _STEP
        return
    above = (1 << _BITS) if end_of_list else at._label
    if above - previous._label < 2:
        _spread(new, at if not end_of_list else previous)
    else:
        new._label = (previous._label + above) // 2


def unlink(member: Ordered) -> None:
    """Takes a member out. Its own links stay, for iterations that stand on it."""
    member._previous._next, member._next._previous = member._next, member._previous
    member._linked = False


def onwards(member: Ordered) -> Iterator[Any]:
    """The members after one, or all of a ring, in order. Survives any change meanwhile: what is
    inserted after the current member is visited; removed members, and what is inserted in their
    place, are not.
    """
    at = member._next
    while at._label >= 0:
        if at._linked:
            yield at
        at = at._next


def backwards(member: Ordered) -> Iterator[Any]:
    """The same for the members before one, from the nearest to the first."""
    at = member._previous
    while at._label >= 0:
        if at._linked:
            yield at
        at = at._previous


def relabel(ring: Ordered) -> None:
    """Labels the members of a list as if each had just been appended to an empty one."""
    label, member = 0, ring._next
    while member is not ring:
        label += _STEP
        member._label, member = label, member._next


def built_at(member: Ordered) -> int:
    """How many members had been appended, or were in the list when it was relabelled, up to this
    one or the one that it was inserted before. What is inserted or removed elsewhere does not
    change it, unless a neighbourhood is spread.
    """
    return -(-member._label // _STEP)


def _spread(new: Ordered, near: Ordered) -> None:
    """Relabels the smallest sparse enough range of labels that surrounds ``new``."""
    new._label = near._label
    first = last = new
    count, size, capacity = 1, 1, 1.0
    while True:
        low = new._label & -size
        high = low + size
        while low <= first._previous._label < high:
            first, count = first._previous, count + 1
        while low <= last._next._label < high:
            last, count = last._next, count + 1
        if count < capacity or size >= 1 << _BITS:
            break
        size, capacity = size * 2, capacity * 2 / _CROWDED
    gap, at = size // (count + 1), first
    for index in range(1, count + 1):
        at._label = low + index * gap
        at = at._next
