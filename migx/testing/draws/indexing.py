"""Draws of operations that read or write at indices, or return indices."""

from __future__ import annotations

from collections.abc import Callable

from migx import ops
from migx.dim import Extent
from migx.op import Operation
from migx.shape import BOOL, F32, I64, Shape
from migx.testing.draws.basics import (
    Dice,
    Dims,
    Draft,
    Draw,
    Want,
    holding,
    least,
    numbers,
    ones,
    put,
    vector,
)


def _places(dice: Dice, dims: Dims, size: Extent, constant: float = 0.5) -> Want:
    """Indices on an axis, occasionally from the end; constant with the given probability."""
    return Want(Shape(I64, dims), size, from_end=dice.chance(0.25), constant=dice.chance(constant))


def _gather(dice: Dice, like: Shape) -> Draft:
    axis, size = dice.some(0, like.rank), dice.room(dice.some(1, 2), 5)
    last = dice.some(axis, min(like.rank, axis + 2))
    data = like.with_dims((*like.dims[:axis], size, *like.dims[last:]))
    return ops.Gather(axis), [Want(data), _places(dice, like.dims[axis:last], size)]


def _gather_elements(dice: Dice, like: Shape) -> Draft:
    if not like.rank:
        return None
    axis, size = dice.some(0, like.rank - 1), dice.room(dice.some(1, 2), 5)
    data = like.with_dims(put(like.dims, axis, size))
    return ops.GatherElements(axis), [Want(data), _places(dice, like.dims, size, 0.2)]


def _scatter(make: Callable[[int], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        known = holding(like.dims, 1)
        if not known or like.dtype is BOOL:
            return None
        axis = dice.one_of(known)
        rows = like.with_dims(put(like.dims, axis, 1))
        at = _places(dice, rows.dims, like.dims[axis], 0.2)
        return make(axis), [Want(like), at, Want(rows)]

    return draw


def _arg(make: Callable[[int], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        alone = ones(like.dims)
        if like.dtype is not I64 or not alone:
            return None
        axis = dice.one_of(alone)
        return make(axis), [Want(Shape(F32, put(like.dims, axis, dice.size(1, 4))))]

    return draw


def _topk(dice: Dice, like: Shape) -> Draft:
    if len(like.parts) != 2 or like.parts[1].dtype is not I64:
        return None
    values = like.parts[0]
    if not (known := numbers(values.dims)):
        return None
    axis = dice.one_of(known)
    size = int(values.dims[axis])
    whole = put(values.dims, axis, dice.room(size, size + 2))
    return ops.Topk(size, axis, dice.chance(0.5)), [Want(values.with_dims(whole))]


def _gathernd(dice: Dice, like: Shape) -> Draft:
    """Gathers whole rows by tuples of indices, occasionally with batch axes."""
    lead = 1 if like.rank > 1 and dice.chance(0.3) else 0
    first, width = dice.some(lead, like.rank), dice.some(1, 2)
    size = dice.room(dice.some(1, 2), 4)
    data = like.with_dims((*like.dims[:lead], *(size,) * width, *like.dims[first:]))
    at = _places(dice, (*like.dims[:first], width), size)
    if first == lead and lead:
        return None
    return ops.Gathernd(lead), [Want(data), at]


def _scatternd(make: Callable[[], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        if not like.rank or like.dtype is BOOL:
            return None
        width, count = dice.some(1, min(2, like.rank)), dice.size(1, 3)
        limit = min(map(least, like.dims[:width]))
        if not limit:
            return None
        updates = Want(like.with_dims((count, *like.dims[width:])))
        at = _places(dice, (count, width), like.dims[0] if width == 1 else limit, 0.2)
        return make(), [Want(like.as_standard()), at, updates]

    return draw


def _onehot(dice: Dice, like: Shape) -> Draft:
    if not (known := numbers(like.dims)):
        return None
    axis = dice.one_of(known)
    depth = int(like.dims[axis])
    at = _places(dice, put(like.dims, axis), max(depth, 1), 0.2)
    return ops.Onehot(axis, depth), [at, Want(like.with_dims((2,)), constant=dice.chance(0.7))]


def _compress(dice: Dice, like: Shape) -> Draft:
    if not (known := numbers(like.dims)):
        return None
    axis = dice.one_of(known)
    kept = [1] * int(like.dims[axis]) + [0] * dice.some(0, 2)
    dice.shuffle(kept)
    x = like.with_dims(put(like.dims, axis, dice.room(len(kept), len(kept) + 1)))
    return ops.Compress(axis, like.dims[axis]), [Want(x), vector(kept, BOOL)]


def _reverse_sequence(dice: Dice, like: Shape) -> Draft:
    if like.rank < 2:
        return None
    time, batch = dice.sample(range(like.rank), 2)
    lens = Want(Shape(I64, (like.dims[batch],)), like.dims[time] + 1)
    return ops.ReverseSequence(batch, time), [Want(like.as_standard()), lens]


DRAWS: dict[str, Draw] = {
    "argmax": _arg(ops.Argmax),
    "argmin": _arg(ops.Argmin),
    "compress": _compress,
    "gather": _gather,
    "gather_elements": _gather_elements,
    "gathernd": _gathernd,
    "onehot": _onehot,
    "reverse_sequence": _reverse_sequence,
    "scatter_add": _scatter(ops.ScatterAdd),
    "scatter_max": _scatter(ops.ScatterMax),
    "scatter_min": _scatter(ops.ScatterMin),
    "scatter_mul": _scatter(ops.ScatterMul),
    "scatter_none": _scatter(ops.ScatterNone),
    "scatternd_add": _scatternd(ops.ScatterndAdd),
    "scatternd_max": _scatternd(ops.ScatterndMax),
    "scatternd_min": _scatternd(ops.ScatterndMin),
    "scatternd_mul": _scatternd(ops.ScatterndMul),
    "scatternd_none": _scatternd(ops.ScatterndNone),
    "topk": _topk,
}
