"""Gathers lookups in many tables into one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate

import numpy as np

from migx.builders import Builder, full_like
from migx.fusion.outlining import Bundle, Outlining, dependences, only_reader
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal
from migx.ops.indexing import Gather
from migx.ops.layout import Broadcast, Concat, Slice, Squeeze, Unsqueeze
from migx.ops.logic import Less
from migx.ops.pointwise import Add, Where


class FuseHorizontal(Outlining):
    """Merges lookups of rows of equal width in different tables into one ``gather``, if there are
    ``at_least`` so many that do not depend on each other (MIGraphX pass of this name).

    The tables are concatenated, which ``propagate_constant`` then folds, and each index is offset
    by the start of its table. Only fixed tables without other users are merged. An index outside
    its table, which was an error, finds a row of another.
    """

    at_least: int = 4

    def bundles(self, module: Module) -> list[Bundle]:
        found: dict[Hashable, list[Instruction]] = {}
        levels: dict[Instruction, int] = {}
        for at, before in dependences(module):
            levels[at] = max((levels[v] + _is_lookup(v) for v in before), default=0)
            if _is_lookup(at):
                table, indices = (v.shape for v in at.inputs)
                alike = (levels[at], table.dtype, table.dims[1:], indices.dtype, indices.dims)
                found.setdefault(alike, []).append(at)
        batches = [b for b in found.values() if len(b) >= self.at_least and _can_count(b)]
        return [Lookups(batch, Gather(0)) for batch in batches]


class Lookups(Bundle):
    """Lookups that become one in all their tables."""

    def prepare(self, around: Module) -> None:
        """Nothing is needed ahead."""

    def become(self, following: Instruction) -> dict[Instruction, Instruction]:
        at = Builder.before(following, self.origins)
        tables, indices = zip(*(m.inputs for m in self.members), strict=True)
        every = at(Concat(0), *(at(Unsqueeze((0,)), v) for v in indices))
        places = _moved(at, every, _starts(tables))
        found = at(Gather(0), at(Concat(0), *tables), places)
        results = {}
        for i, member in enumerate(self.members):
            own = Builder.before(following, member.origins)
            results[member] = own(Squeeze((0,)), own(Slice((0,), (i,), (i + 1,)), found))
        return results


def _moved(at: Builder, every: Instruction, starts: list[int]) -> Instruction:
    """Indices into the tables, one row for each, as indices into all of them; a negative one counts
    from the end of its own.
    """

    def spread(values: list[int]) -> Instruction:
        literal = at.literal(np.array(values), every.shape.dtype)
        return at(Broadcast(0, every.shape.dims), literal)

    zeros = full_like(at, every, 0)
    from_start, from_end = (at(Add(), every, spread(v)) for v in (starts[:-1], starts[1:]))
    return at(Where(), at(Less(), every, zeros), from_end, from_start)


def _is_lookup(at: Instruction) -> bool:
    """Whether an instruction takes rows of a fixed table that nothing else reads."""
    if not isinstance(at.op, Gather) or at.op.axis != 0:
        return False
    table = at.inputs[0]
    fixed = type(table.op) is Literal and not table.op.replaceable
    return fixed and table.module is at.module and only_reader(table) is at


def _starts(tables: Sequence[Instruction]) -> list[int]:
    """The row at which each table begins among all, and where they end."""
    rows: list[int] = [int(table.shape.dims[0]) for table in tables]
    return list(accumulate(rows, initial=0))


def _can_count(lookups: list[Instruction]) -> bool:
    """Whether the type of the indices can count the rows of all tables."""
    dtype = lookups[0].inputs[1].shape.dtype
    last = _starts([at.inputs[0] for at in lookups])[-1]
    return dtype.is_integer and last <= int(np.iinfo(dtype.numpy).max)
