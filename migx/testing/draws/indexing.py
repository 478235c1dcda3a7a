"""How to draw what reads or writes at places that are inputs, and what answers with places."""

from __future__ import annotations

from collections.abc import Callable

from migx import ops
from migx.op import Operation
from migx.shape import BOOL, F32, I64, Shape
from migx.testing.draws.basics import Dice, Draft, Draw, Want, numbers, ones, put, vector


def _gather(dice: Dice, like: Shape) -> Draft:
    axis, size = dice.some(0, like.rank), dice.count(2, 5)
    last = dice.some(axis, min(like.rank, axis + 2))
    data = like.with_dims((*like.dims[:axis], size, *like.dims[last:]))
    at = Shape(I64, like.dims[axis:last])
    return ops.Gather(axis), [Want(data), Want(at, size, constant=dice.chance(0.5))]


def _gather_elements(dice: Dice, like: Shape) -> Draft:
    if not like.rank:
        return None
    axis, size = dice.some(0, like.rank - 1), dice.count(2, 5)
    data = like.with_dims(put(like.dims, axis, size))
    return ops.GatherElements(axis), [Want(data), Want(like.with_type(I64), size)]


def _scatter(make: Callable[[int], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        known = numbers(like.dims, 1)
        if not known or like.dtype is BOOL:
            return None
        axis = dice.one_of(known)
        rows = like.with_dims(put(like.dims, axis, 1))
        return make(axis), [Want(like), Want(rows.with_type(I64), int(like.dims[axis])), Want(rows)]

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
    whole = put(values.dims, axis, size + dice.some(0, 2))
    return ops.Topk(size, axis, dice.chance(0.5)), [Want(values.with_dims(whole))]


def _gathernd(dice: Dice, like: Shape) -> Draft:
    """Whole rows of data at tuples of indices, with axes that both have in front now and then."""
    lead = 1 if like.rank > 1 and dice.chance(0.3) else 0
    first, width, size = dice.some(lead, like.rank), dice.some(1, 2), dice.some(2, 4)
    data = like.with_dims((*like.dims[:lead], *(size,) * width, *like.dims[first:]))
    at = Want(Shape(I64, (*like.dims[:first], width)), size, constant=dice.chance(0.5))
    if first == lead and lead:
        return None
    return ops.Gathernd(lead), [Want(data), at]


def _scatternd(make: Callable[[], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        known = [d for d in like.dims if isinstance(d, int) and d > 0]
        if not like.rank or len(known) < like.rank or like.dtype is BOOL:
            return None
        width, count = dice.some(1, min(2, like.rank)), dice.some(1, 3)
        updates = Want(like.with_dims((count, *like.dims[width:])))
        at = Want(Shape(I64, (count, width)), min(known[:width]))
        return make(), [Want(like.as_standard()), at, updates]

    return draw


def _onehot(dice: Dice, like: Shape) -> Draft:
    if not (known := numbers(like.dims)):
        return None
    axis = dice.one_of(known)
    depth = int(like.dims[axis])
    at = Want(Shape(I64, put(like.dims, axis)), max(depth, 1))
    return ops.Onehot(axis, depth), [at, Want(like.with_dims((2,)), constant=dice.chance(0.7))]


def _compress(dice: Dice, like: Shape) -> Draft:
    if not (known := numbers(like.dims)):
        return None
    axis = dice.one_of(known)
    kept = [1] * int(like.dims[axis]) + [0] * dice.some(0, 2)
    dice.shuffle(kept)
    x = like.with_dims(put(like.dims, axis, len(kept)))
    return ops.Compress(axis, like.dims[axis]), [Want(x), vector(kept, BOOL)]


def _reverse_sequence(dice: Dice, like: Shape) -> Draft:
    if like.rank < 2 or not (known := numbers(like.dims)):
        return None
    time = dice.one_of(known)
    batch = dice.one_of([i for i in range(like.rank) if i != time])
    lens = Want(Shape(I64, (like.dims[batch],)), int(like.dims[time]) + 1)
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
