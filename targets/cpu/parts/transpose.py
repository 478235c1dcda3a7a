"""Transposing in registers: what is stored by rows is used by columns, or the reverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from migx.targets.cpu.emit import Function, Value
from migx.targets.cpu.kernel import memory_of
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import Matrix, apart


def turned(f: Function, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square of vectors, as many as they have lanes, a power of two.

    Off-diagonal blocks are swapped, halves first, then halves of these: two shuffles of two vectors
    for each pair, so ``lanes * log2(lanes)`` in all.
    """
    made = list(rows)
    lanes = len(made)
    far = lanes // 2
    while far:
        low, high = _exchanged(lanes, far)
        for i in (i for i in range(lanes) if not i & far):
            a, b = made[i], made[i + far]
            made[i], made[i + far] = f.shuffle(a, b, low), f.shuffle(a, b, high)
        far //= 2
    return made


def folded(f: Function, lanes: int, given: Callable[[int], list[Value]]) -> list[Value]:
    """A vector whose lanes are the sums of the lanes of vectors, as many as they have lanes, a
    power of two; for several such squares, in vectors that are ``given`` by their number.

    Each sum is in the order of ``reductions``. Vectors are requested as they are needed, so that
    few are live at a time.
    """

    def every(step: int, number: int) -> list[Value]:
        if step == lanes:
            return given(number)
        low, high = _exchanged(lanes, step)
        pairs = zip(every(2 * step, number), every(2 * step, number + step), strict=True)
        return [f.shuffle(a, b, low) + f.shuffle(a, b, high) for a, b in pairs]

    return every(1, 0)


def interleaved(f: Function, vectors: Sequence[Value]) -> list[Value]:
    """The lanes of a power of two of vectors interleaved, in as many vectors."""
    made, lanes = list(vectors), vectors[0].type.lanes
    mixed = [n for k in range(lanes) for n in (k, lanes + k)]
    bit = len(made) // 2
    while bit:
        for i in (i for i in range(len(made)) if not i & bit):
            a, b = made[i], made[i | bit]
            made[i], made[i | bit] = f.shuffle(a, b, mixed[:lanes]), f.shuffle(a, b, mixed[lanes:])
        bit //= 2
    return made


def deinterleaved(f: Function, vectors: Sequence[Value]) -> list[Value]:
    """The inverse of ``interleaved``."""
    made, lanes = list(vectors), vectors[0].type.lanes
    even, odd = range(0, 2 * lanes, 2), range(1, 2 * lanes, 2)
    bit = 1
    while bit < len(made):
        for i in (i for i in range(len(made)) if not i & bit):
            a, b = made[i], made[i | bit]
            made[i], made[i | bit] = f.shuffle(a, b, even), f.shuffle(a, b, odd)
        bit *= 2
    return made


def _exchanged(lanes: int, far: int) -> tuple[list[int], list[int]]:
    """The two shuffles that swap blocks of ``far`` lanes of two vectors."""
    low = [i if not i & far else lanes + i - far for i in range(lanes)]
    high = [i + far if not i & far else lanes + i for i in range(lanes)]
    return low, high


def gather_columns(
    given: Matrix,
    count: tuple[Value, Value],
    made: Matrix,
    width: int,
    lanes: int,
    change: Callable[[Value], Value] = lambda value: value,
) -> None:
    """Transposes a matrix of ``count`` rows and columns into ``made``, whose rows have ``width``
    elements in whole vectors; ``change`` is applied to each vector.

    The excess of a row of ``made`` is filled with repetitions or zeros, and ``made`` has room for
    columns up to whole vectors. Nothing outside the matrix is read. If the row stride of ``made``
    is less than whole vectors, each row overwrites the excess of the one before; the last row's
    follows it.
    """
    if given.column.number == 1:
        _by_squares(given, count, made, width, lanes, change)
        return
    f, (rows, columns) = given.into, count
    memory = memory_of(given.dtype)
    with f.loop(0, columns) as j:
        for i in range(0, width, lanes):
            place = given.at(i, j.index)
            mask = f.first_lanes(rows - i, lanes)
            vector = apart(f, place, given.row, memory.times(lanes), mask)
            f.store(change(vector), made.at(j.index, i))


def gather_lines(
    given: Matrix,
    rows: Value,
    axes: Sequence[tuple[Value, Value]],
    made: Matrix,
    width: int,
    lanes: int,
    change: Callable[[Value], Value],
) -> None:
    """``gather_columns`` for a matrix whose columns lie along several ``axes``, each an extent and
    a stride, the outermost first.
    """
    (count, step), *inner = axes
    along = replace(given, column=step)
    if not inner:
        gather_columns(along, (rows, count), made, width, lanes, change)
        return
    f = given.into
    each = prod((extent for extent, _ in inner), start=f.as_index(1))
    with f.loop(0, count) as turn:
        there = made.moved(turn.index * each, 0)
        gather_lines(along.moved(0, turn.index), rows, inner, there, width, lanes, change)


def _by_squares(
    given: Matrix,
    count: tuple[Value, Value],
    made: Matrix,
    width: int,
    lanes: int,
    change: Callable[[Value], Value],
) -> None:
    f, (rows, columns) = given.into, count
    vector = memory_of(given.dtype).times(lanes)
    known = columns.number
    with f.loop(0, width, lanes) as turn:
        i = (width - 1) // lanes * lanes - turn.index  # back to front, as excess is overwritten
        lines = [given.moved(f.minimum(i + k, rows - 1), 0) for k in range(lanes)]
        with f.loop(0, columns, lanes) as j:
            whole = known is not None and known % lanes == 0
            mask = None if whole else f.first_lanes(columns - j.index, lanes)
            square = [f.load(line.at(0, j.index), vector, mask=mask) for line in lines]
            for k, column in enumerate(turned(f, square)):
                f.store(change(column), made.at(j.index + k, i))


def scatter_columns(
    given: Matrix,
    made: Matrix,
    count: tuple[Value, Value],
    width: int,
    lanes: int,
    change: Callable[[Value, Value], Value],
) -> None:
    """Transposes rows of ``given``, of ``width`` elements in whole vectors, into a matrix of
    ``count`` rows and columns, contiguous along rows, rounding to its type. ``change`` is applied
    to each vector, and given the index of its first row.
    """
    f, (rows, columns) = given.into, count
    vector = memory_of(given.dtype).times(lanes)
    with f.loop(0, width, lanes) as i, f.loop(0, columns, lanes) as j:
        square = [
            change(f.load(given.at(j.index + k, i.index), vector), i.index) for k in range(lanes)
        ]
        left = columns - j.index
        for k, line in enumerate(turned(f, square)):
            row = i.index + k
            there = f.first_lanes(f.select(row < rows, left, 0), lanes)
            f.store(elements.stored(f, line, made.dtype), made.at(row, j.index), mask=there)
