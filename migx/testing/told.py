"""Draws of values with a dim that only the run tells, and of what is computed with them.

Such a dim is a symbol of its own. It is known to what follows in the same module and in the modules
of that, so that later draws there have dims of it as of the program's own symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from migx import ops
from migx.dim import Dim
from migx.ir import Instruction
from migx.shape import BOOL, I64, Shape
from migx.testing.draws import Draft, Want
from migx.testing.draws.basics import Dice, holding, put, vector

if TYPE_CHECKING:
    from migx.testing.programs import Author

Teller: TypeAlias = Callable[[Dice, Shape, int, Dim], Draft]
"""An operation whose result has a shape, of which the run tells the dim of an axis; its inputs."""


def counted(author: Author, like: Shape) -> Instruction | None:
    """What is left of a value of unknown size along an axis."""
    if like.parts or like.dtype.is_packed:
        return None
    axis = author.dice.some(0, like.rank)
    known = _retold(author) if author.dice.chance(0.25) else None
    symbol = author.unknown() if known is None else known
    whole = like.with_dims((*like.dims[:axis], symbol, *like.dims[axis:]))
    if known is None and sized(author, whole, axis, symbol) is None:
        return None
    author.dice.extents = (*author.dice.extents, symbol)
    value = author.value(Want(whole), author.dice.some(1, 4))
    if author.dice.chance(0.3):
        return _first(author, value, axis)
    return _folded(author, value, axis)


def sized(author: Author, like: Shape, axis: int, symbol: Dim) -> Instruction | None:
    """The result of an operation that tells the size of an axis."""
    dice = author.dice
    if dice.chance(0.25):
        mask = author.value(Want(Shape(BOOL, (dice.room(1, 5),))), 1)
        at = author.tell(symbol, ops.Nonzero(symbol), [mask])
        row = at and author.apply(ops.Squeeze((0,)), [at])
        given = author.value(Want(like.with_dims(put(like.dims, axis, *mask.shape.dims))), 1)
        return row and author.apply(ops.Gather(axis), [given, row])
    found = dice.one_of(TELLERS)(dice, like, axis, symbol)
    if found is None:
        return None
    op, wants = found
    made = author.tell(symbol, op, [author.value(want, 1) for want in wants])
    if made is None or not made.shape.parts:
        return made
    return author.apply(ops.GetTupleElem(0), [made])


def _retold(author: Author) -> Dim | None:
    """A symbol whose size was told, maybe in another module, and is told here in the same way."""
    there = [
        told
        for told in author.told.items()
        if all(v in author.known.get(v.shape.text, ()) for v in told[1][1])
    ]
    if not there:
        return None
    name, (op, inputs) = author.dice.one_of(there)
    return None if author.apply(op, inputs) is None else Dim(name)


def _folded(author: Author, value: Instruction, axis: int) -> Instruction | None:
    """A value reduced along an axis."""
    kinds = LOGICAL if value.shape.dtype is BOOL else NUMERIC
    made = author.apply(author.dice.one_of(kinds)((axis,)), [value])
    return made and author.apply(ops.Squeeze((axis,)), [made])


def _first(author: Author, value: Instruction, axis: int) -> Instruction | None:
    """The first slice of a value, or of another if the value has none."""
    spare = author.value(Want(value.shape.with_dims(put(value.shape.dims, axis, 1))), 1)
    both = author.apply(ops.Concat(axis), [value, spare])
    made = both and author.apply(ops.Slice((axis,), (0,), (1,)), [both])
    return made and author.apply(ops.Squeeze((axis,)), [made])


def _compressed(dice: Dice, like: Shape, axis: int, symbol: Dim) -> Draft:
    size = dice.size(1, 5)
    kept = Want(Shape(BOOL, (size,)))
    return ops.Compress(axis, symbol), [Want(_at(like, axis, size)), kept]


def _reshaped(dice: Dice, like: Shape, axis: int, symbol: Dim) -> Draft:
    """The other dims are copied, which 0 stands for; the rest is unknown if one has no element."""
    if len(holding(like.dims, 1)) < like.rank - 1:
        return None
    target = [0] * like.rank
    target[axis] = -1
    return ops.Reshape(like.dims), [Want(_at(like, axis, dice.size(1, 4))), vector(target)]


def _repeated(dice: Dice, like: Shape, axis: int, symbol: Dim) -> Draft:
    """Only a last axis: the dims after one that the run tells would be told as well."""
    if axis < like.rank - 1:
        return None
    count = Want(Shape(I64, (1,)), below=5)
    return ops.Multibroadcast(like.dims), [Want(_at(like, axis, 1)), count]


def _sliced(dice: Dice, like: Shape, axis: int, symbol: Dim) -> Draft:
    size, bound = dice.size(1, 5), Want(Shape(I64, (1,)), below=6, from_end=True)
    step = vector([dice.one_of((1, 1, 2, -1))])
    return ops.DynamicSlice((axis,), (symbol,)), [Want(_at(like, axis, size)), bound, bound, step]


def _padded(dice: Dice, like: Shape, axis: int, symbol: Dim) -> Draft:
    around = [0] * 2 * like.rank
    around[axis], around[axis + like.rank] = dice.some(0, 2), dice.some(0, 2)
    return ops.DynamicPad(like.dims), [Want(_at(like, axis, dice.size(1, 4))), vector(around)]


def _distinct(dice: Dice, like: Shape, axis: int, symbol: Dim) -> Draft:
    ordered = dice.chance(0.5)
    return ops.Unique(axis, symbol, ordered), [Want(_at(like, axis, dice.size(1, 4)))]


def _ranged(dice: Dice, like: Shape, axis: int, symbol: Dim) -> Draft:
    if like.rank != 1 or like.dtype is BOOL:
        return None
    start, limit = Want(like.with_dims(()), below=3), Want(like.with_dims(()), below=7)
    return ops.DynamicRange(symbol), [start, limit, Want(like.with_dims(()), positive=True)]


def _at(like: Shape, axis: int, size: Dim | int) -> Shape:
    return like.with_dims(put(like.dims, axis, size))


TELLERS: tuple[Teller, ...] = (
    *(_compressed, _reshaped, _repeated, _sliced, _sliced),
    *(_padded, _distinct, _ranged),
)
"""What tells a size; how many elements are not zero is drawn besides."""

NUMERIC = (ops.ReduceSum, ops.ReduceSum, ops.ReduceMax, ops.ReduceMin, ops.ReduceMean)
LOGICAL = (ops.ReduceAny, ops.ReduceAll)
"""Reductions of numbers, and of truth values."""
