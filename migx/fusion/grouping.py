"""Which instructions of a module are fused: the largest groups that no path leaves and re-enters.

Every instruction has a level: at least those of its inputs, and greater if it has a fusible input
that it cannot be fused with. Instructions that can be joined and are on one level are. So a path
that leaves a group goes on at higher levels, and never returns; that holds for all groups at once,
and costs one visit of each edge. Levels are counted from the start, and then from the end: what
cannot join its inputs may still join its users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from migx.dead_code import remove_dead_code
from migx.events import EventLog
from migx.fusion.outlining import Bundle, dependences, outline
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.planning import viewed

Space = TypeVar("Space")
"""What a pass records of a group to decide whether another fits."""


class Edge(NamedTuple):
    """An edge of the graph, skipping views: the source instruction, the value of it that is read,
    the views between (the first is next to the value), and the reader.
    """

    source: Instruction
    value: Instruction
    views: tuple[Instruction, ...]
    reader: Instruction


class Groups(Generic[Space]):
    """The instructions of a module by group.

    ``space`` returns the space of an instruction, None if it cannot be fused; ``join`` the space of
    the union of the groups at the ends of an edge, None if they do not fit.
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
        """Every group, single ones included, with its members in order and its space."""
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
        """Every edge between instructions that are not views."""
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
        """The level of an instruction, which joins the groups on that level."""
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
        """The space of an instruction, given its own, joined with the group at the other end."""
        other = self.spaces[self.first(edge.source if edge.reader is at else edge.reader)]
        if space is None or other is None:
            return None
        return self.join(edge, *((other, space) if edge.reader is at else (space, other)))

    def first(self, at: Instruction) -> Instruction:
        """The representative of an instruction's group."""
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
    """Replaces each group by one instruction with the operation that ``becomes`` returns, unless
    that is None; repeats until nothing can be joined. Dead code is removed first, because it would
    keep values apart. Returns whether anything changed.
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
