"""Merges lookups in many tables into one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np

from migx.builders import Builder, full_like
from migx.dim import Extent, offsets
from migx.fusion.outlining import Bundle, Outlining, dependences, only_reader
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal
from migx.ops.indexing import Gather
from migx.ops.layout import Broadcast, Concat, Multibroadcast, Reshape, Slice, Squeeze, Unsqueeze
from migx.ops.logic import Less
from migx.ops.pointwise import Add, Where


class FuseHorizontal(Outlining):
    """Merges lookups of rows of equal width in different tables into one ``gather``, if at least
    ``at_least`` of them do not depend on each other (MIGraphX pass of this name).

    Indices may have any dims. The tables are concatenated, which ``propagate_constant`` then folds,
    and indices are offset by the start of their table. Only fixed tables that nothing else reads
    are taken. An index outside its table, which was an error, finds a row of another.
    """

    at_least: int = 4

    def bundles(self, module: Module) -> list[Bundle]:
        found: dict[Hashable, list[Instruction]] = {}
        levels: dict[Instruction, int] = {}
        for at, before in dependences(module):
            levels[at] = max((levels[v] + _is_lookup(v) for v in before), default=0)
            if _is_lookup(at):
                table, indices = (v.shape for v in at.inputs)
                alike = (levels[at], table.dtype, table.dims[1:], indices.dtype)
                found.setdefault(alike, []).append(at)
        batches = [b for b in found.values() if len(b) >= self.at_least and _can_count(b)]
        return [Lookups(batch, Gather(0)) for batch in batches]


class Lookups(Bundle):
    """Lookups that become one in their concatenated tables."""

    def prepare(self, around: Module) -> None:
        """Nothing is needed ahead."""

    def become(self, following: Instruction) -> dict[Instruction, Instruction]:
        at = Builder.before(following, self.origins)
        tables, indices = zip(*(m.inputs for m in self.members), strict=True)
        form = stacked if len({v.shape.dims for v in indices}) == 1 else joined
        every, first, behind, ends = form(at, indices, _starts(tables))
        places = at(Where(), at(Less(), every, full_like(at, every, 0)), behind, first)
        found = at(Gather(0), at(Concat(0), *tables), places)
        results = {}
        for member, bounds in zip(self.members, pairwise(ends), strict=True):
            own = Builder.before(following, member.origins)
            rows = own(Slice((0,), *((end,) for end in bounds)), found)
            if rows.shape.dims == (1, *member.shape.dims):
                rows = own(Squeeze((0,)), rows)
            same = rows.shape.dims == member.shape.dims
            results[member] = rows if same else own(Reshape(member.shape.dims), rows)
        return results


Form: TypeAlias = tuple[Instruction, Instruction, Instruction, Sequence[Extent]]
"""The indices of all lookups as one; these offset by the start of each table, and by its end for
negative ones; and the bounds of each lookup's indices among them.
"""


def stacked(at: Builder, indices: Sequence[Instruction], starts: list[int]) -> Form:
    """Indices of equal dims: a row for each lookup."""
    every = at(Concat(0), *(at(Unsqueeze((0,)), v) for v in indices))

    def moved(by: list[int]) -> Instruction:
        literal = at.literal(np.array(by), every.shape.dtype)
        return at(Add(), every, at(Broadcast(0, every.shape.dims), literal))

    return every, moved(starts[:-1]), moved(starts[1:]), range(len(starts))


def joined(at: Builder, indices: Sequence[Instruction], starts: list[int]) -> Form:
    """Indices of any dims: one list, lookup after lookup."""
    lists = [at(Reshape((v.shape.elements,)), v) if v.shape.rank != 1 else v for v in indices]

    def moved(by: list[int]) -> Instruction:
        numbers = (at.literal(number, v.shape.dtype) for number, v in zip(by, lists, strict=True))
        spread = (at(Multibroadcast(v.shape.dims), n) for n, v in zip(numbers, lists, strict=True))
        return at(Concat(0), *(at(Add(), v, n) for v, n in zip(lists, spread, strict=True)))

    ends = offsets(v.shape.dims[0] for v in lists)
    return at(Concat(0), *lists), moved(starts[:-1]), moved(starts[1:]), ends


def _is_lookup(at: Instruction) -> bool:
    """Whether an instruction takes rows of a fixed table that nothing else reads."""
    if not isinstance(at.op, Gather) or at.op.axis != 0:
        return False
    table = at.inputs[0]
    fixed = type(table.op) is Literal and not table.op.replaceable
    return fixed and table.module is at.module and only_reader(table) is at


def _starts(tables: Sequence[Instruction]) -> list[int]:
    """The row at which each table starts in their concatenation, and the end of the last."""
    rows: list[int] = [int(table.shape.dims[0]) for table in tables]
    return list(accumulate(rows, initial=0))


def _can_count(lookups: list[Instruction]) -> bool:
    """Whether the type of the indices can count the rows of all tables."""
    dtype = lookups[0].inputs[1].shape.dtype
    last = _starts([at.inputs[0] for at in lookups])[-1]
    return dtype.is_integer and last <= int(np.iinfo(dtype.numpy).max)
