"""Which instructions of a module may become one: the largest groups that no path leaves and enters
again.

Every instruction has a level: no less than those of what it reads, and more where it reads
something that can be fused, but not with it. What may be joined and is on one level goes together.
So whatever path leaves a group goes on at higher levels, and never comes back; that holds for all
groups at once, and costs one look at each edge. Levels are counted from the start, and then from
the end, for what could not join what it reads may still join what reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from migx.dead_code import remove_dead_code
from migx.fusion.outlining import Bundle, dependences, outline, viewed
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.rewrite import EventLog

Space = TypeVar("Space")
"""What a pass knows of a group: what it takes to see whether another fits."""


class Edge(NamedTuple):
    """One instruction reads another: the one read, the value of it that is read, the views between,
    the first of them next to the value, and the reader.
    """

    source: Instruction
    value: Instruction
    views: tuple[Instruction, ...]
    reader: Instruction


class Groups(Generic[Space]):
    """The instructions of a module by group.

    ``space`` gives what an instruction brings into a group, None where it stays alone; ``join``
    what the groups at the two ends of an edge make together, None where they do not fit.
    """

    def __init__(
        self,
        module: Module,
        space: Callable[[Instruction], Space | None],
        join: Callable[[Edge, Space, Space], Space | None],
    ) -> None:
        self.module, self.join = module, join
        self.order = [at for at in module if viewed(at) is None]
        self.own = {at: space(at) for at in self.order}
        self.edges = list(self._edges())

    def found(self, from_end: bool = False) -> list[tuple[tuple[Instruction, ...], Space]]:
        """Every group with its members in their order, and its space, those of one member too."""
        self.spaces = dict(self.own)
        self.leader = {at: at for at in self.order}
        near: dict[Instruction, list[Edge]] = {at: [] for at in self.order}
        for edge in self.edges:
            near[edge.source if from_end else edge.reader].append(edge)
        levels: dict[Instruction, int] = {}
        for at in reversed(self.order) if from_end else self.order:
            levels[at] = self.placed(at, near[at], levels)
        members: dict[Instruction, list[Instruction]] = {}
        for at in self.order:
            members.setdefault(self.first(at), []).append(at)
        spaces = ((tuple(group), self.spaces[lead]) for lead, group in members.items())
        return [(group, space) for group, space in spaces if space is not None]

    def _edges(self) -> Iterable[Edge]:
        """Every edge between instructions that are no views."""
        for reader, before in dependences(self.module):
            if reader not in self.own:
                continue
            for value in dict.fromkeys(before):
                views: list[Instruction] = []
                while (below := viewed(value)) is not None and not below.shape.parts:
                    views.insert(0, value)
                    value = below
                source = value if below is None else below
                if source in self.own:
                    yield Edge(source, value, tuple(views), reader)

    def placed(self, at: Instruction, near: list[Edge], levels: dict[Instruction, int]) -> int:
        """The level of an instruction, which joins those on the same."""
        level, ends = 0, []
        for edge in near:
            other = edge.source if edge.reader is at else edge.reader
            fusible = self.spaces[other] is not None
            apart = fusible and self.joined(edge, at, self.spaces[at]) is None
            level = max(level, levels[other] + apart)
            ends += [(other, edge)] if fusible else []
        space, leaders = self.spaces[at], dict[Instruction, None]()
        for other, edge in ends:
            if levels[other] == level:
                space = self.joined(edge, at, space)
                leaders[self.first(other)] = None
        if space is None:
            return level + bool(leaders)
        for each in (at, *leaders):
            self.leader[each] = at
        self.spaces[at] = space
        return level

    def joined(self, edge: Edge, at: Instruction, space: Space | None) -> Space | None:
        """What an instruction, with the space given, and the group at the other end make."""
        other = self.spaces[self.first(edge.source if edge.reader is at else edge.reader)]
        if space is None or other is None:
            return None
        return self.join(edge, *((other, space) if edge.reader is at else (space, other)))

    def first(self, at: Instruction) -> Instruction:
        """The instruction that stands for the group of another."""
        while (above := self.leader[at]) is not at:
            self.leader[at] = above = self.leader[above]
            at = above
        return at


def fuse(
    module: Module,
    space: Callable[[Instruction], Space | None],
    join: Callable[[Edge, Space, Space], Space | None],
    becomes: Callable[[tuple[Instruction, ...], Space], Operation | None],
    pass_name: str = "",
    log: EventLog | None = None,
) -> bool:
    """Makes one instruction of each group, of the operation that ``becomes`` says, None for none;
    again until nothing is left to join. Dead code goes first, for it would keep values apart. Says
    whether anything changed.
    """
    changed, from_end, idle = remove_dead_code(module) > 0, False, 0
    groups = Groups(module, space, join)
    while idle < 2:
        made = [(group, becomes(group, of)) for group, of in groups.found(from_end)]
        bundles = [Bundle(group, op) for group, op in made if op is not None]
        found = outline(module, bundles, pass_name, log)
        if found:
            groups = Groups(module, space, join)
        changed, from_end, idle = changed or found, not from_end, 0 if found else idle + 1
    return changed
