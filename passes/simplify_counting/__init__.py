"""Finds the lengths of slices and ranges whose ends are counted by loops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from migx import dim, ops
from migx.builders import broadcast_to
from migx.dim import Extent
from migx.errors import DimError, ShapeError
from migx.ir import Instruction
from migx.iterations import Iterations
from migx.manager import Pass, PassManager
from migx.match import on, var
from migx.ops.control import Assume, Loop
from migx.passes.simplify_counting.counters import Counters, is_told
from migx.passes.simplify_counting.facts import Replaced, replaced
from migx.passes.simplify_counting.trips import count_trips
from migx.passes.simplify_dyn_ops import equations
from migx.passes.simplify_dyn_ops.forms import bounds_of
from migx.program import Program
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import I64
from migx.sizes import given_symbols
from migx.specialise import substitute_symbols

MOST = 1024
"""The largest length of a slice that becomes a gather."""
BEHIND = "a slice must be of one row, but begins at -1 and ends at 0"


class Cut(NamedTuple):
    """The begin and length of a slice along an axis. If ``counted``, it begins at the value of its
    start operand, else at an extent of the program. If ``asked``, the run checks that this start is
    not -1, where a slice of one element would end at 0.
    """

    begin: Extent
    length: Extent
    counted: bool = False
    asked: bool = False


@rule(on(ops.DynamicSlice, var("x"), var("starts"), var("ends"), var("steps"), name="root"))
def counted_slice(
    at: Cursor, x: Instruction, starts: Instruction, root: Instruction
) -> Instruction | Declined:
    """A slice of a known length that starts at a loop counter is a gather of the indices from
    there.
    """
    op = root.op_as(ops.DynamicSlice)
    found = cuts(root, Counters())
    if found is None:
        return Declined("its length is not known")
    if x.shape.dtype.is_packed and any(cut.counted for cut in found):
        return Declined("its elements are not whole bytes")
    if tuple(cut.length for cut in found) != op.out_lens:
        return Declined("the dims of its result are not these lengths")
    for number, (axis, cut) in enumerate(zip(op.axes, found, strict=True)):
        if cut.counted:
            one = len(op.axes) == 1
            place = starts if one else at(ops.Slice((0,), (number,), (number + 1,)), starts)
            x = at(ops.Gather(axis), x, places(at, place, cut))
        elif (cut.begin, cut.length) != (0, x.shape.dims[axis]):
            x = at(ops.Slice((axis,), (cut.begin,), (cut.begin + cut.length,)), x)
    return x


def places(at: Cursor, start: Instruction, cut: Cut) -> Instruction:
    """The indices of a slice along an axis, as i64, from its start on."""
    start = start if start.shape.dtype is I64 else at(ops.Convert(I64), start)
    if cut.asked:
        behind = at(ops.Equal(), start, at.literal(np.array([-1])))
        start = at(Assume(False, BEHIND), start, at(ops.Reshape(()), behind))
    if not isinstance(cut.length, int) or cut.length == 1:
        return start
    return at(ops.Add(), broadcast_to(at, start, (cut.length,)), at.literal(np.arange(cut.length)))


class SimplifyCounting(Pass):
    """Gives loops that end when a counter reaches a bound a trip count. Finds the lengths of
    ``dynamic_slice`` and ``dynamic_range`` that are the same in every iteration of the loops around
    them, though their ends are counted: ``x[i:i + 1]`` is one row if ``i`` is less than the length
    of ``x``, as the trip count or the condition may imply, or if it is squeezed, which fails for
    any other length. The symbols of their results are replaced, and such a slice becomes a gather.
    """

    rules = RuleSet(counted_slice)

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        loops = [at for at in program.instructions() if isinstance(at.op, Loop)]
        found = [count_trips(at) for at in loops if at.modules[0].parent is at]
        changed = any(found)
        while told := equations(program, partial(sizes_of, counters=Counters())):
            try:
                substitute_symbols(program, {name: known for name, (known, _) in told.items()})
            except (DimError, ShapeError):
                break
            changed = True
        return manager.apply(self) or changed


def sizes_of(at: Instruction, counters: Counters) -> Iterator[tuple[Extent, Extent]]:
    """The dims of a result with their known extents, if these hold outside its module as well."""
    given, is_main = given_symbols(at.owner.program), at.owner.parent is None
    for mine, known in lengths(at, counters):
        if is_main or given.issuperset(symbol.name for symbol in dim.symbols(known)):
            yield mine, known


def lengths(at: Instruction, counters: Counters) -> Iterator[tuple[Extent, Extent]]:
    """The dims of a result that follow from counters, with their extents."""
    if isinstance(at.op, ops.DynamicSlice):
        found = cuts(at, counters)
        if found is not None:
            yield from zip(at.op.out_lens, (cut.length for cut in found), strict=True)
    elif isinstance(at.op, Loop):
        trips = Iterations.of(at).count
        rows = at.shape.parts[len(at.inputs) - 2 :]
        yield from ((row.dims[0], trips) for row in rows if trips is not None)
    elif isinstance(at.op, ops.DynamicRange) and not at.shape.dtype.is_float:
        start, limit, step = (counters.one(v) for v in at.inputs)
        if start is None or limit is None or not isinstance(step, int) or step <= 0:
            return
        count = dim.maximum((limit - start + (step - 1)) // step, 0)
        told = (replaced(count, by) for by in ([], counters.replaced(at.module)))
        yield from ((at.op.count, each) for each in told if is_told(each))


def cuts(at: Instruction, counters: Counters) -> list[Cut] | None:
    """The cut of a ``dynamic_slice`` along each axis; None if one is unknown, or differs between
    iterations.
    """
    op = at.op_as(ops.DynamicSlice)
    starts, ends, steps = (counters.of(v) for v in at.inputs[1:])
    if starts is None or ends is None or steps is None or any(s != 1 for s in steps.tolist()):
        return None
    by, dims = counters.replaced(at.module), at.inputs[0].shape.dims
    found = [
        _cut(start, end, dims[axis], by, alone=_is_taken_alone(at, axis))
        for axis, start, end in zip(op.axes, starts.tolist(), ends.tolist(), strict=True)
    ]
    return None if None in found else [cut for cut in found if cut is not None]


def _is_taken_alone(at: Instruction, axis: int) -> bool:
    """Whether all users of a slice squeeze an axis, which must have extent 1 then."""
    users = [*at.users]
    alone = all(isinstance(u.op, ops.Squeeze) and axis in u.op.axes for u in users)
    return alone and bool(users) and all(u.module is at.module for u in users)


def _cut(start: Extent, end: Extent, extent: Extent, by: Replaced, *, alone: bool) -> Cut | None:
    """The cut of an axis of some extent: as sizes give it, or of one length in all iterations, with
    the symbols replaced ``by`` their extents there. One taken ``alone`` has one element, or the run
    fails.
    """
    for counted, known in ((False, []), (True, by)):
        first, last, whole = (replaced(each, known) for each in (start, end, extent))
        try:
            begin, behind = bounds_of(first, last, 1, whole)
        except DimError:
            continue
        length = behind - begin
        if not counted and is_told(begin) and is_told(length):
            return Cut(begin, length)
        if isinstance(length, int) and length <= MOST and begin in (first, first + whole):
            return Cut(start, length, counted=True)
    if alone and end - start == 1:
        asked = dim.may_equal(replaced(start, by), -1)
        return Cut(start, 1, counted=True, asked=asked)
    return None
