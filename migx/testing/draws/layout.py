"""Draws of operations that move elements and round none: views, copies, pads, concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from migx import ops
from migx.dim import Dim, Extent, bounds
from migx.op import Operation
from migx.shape import BOOL, F32, I32, I64, MOST_AXES, Shape
from migx.testing.draws.basics import Dice, Draft, Draw, Want, least, numbers, ones, put, vector


def _same(op: Callable[[], Operation]) -> Draw:
    return lambda dice, like: (op(), [Want(like.as_standard())])


def _transpose(dice: Dice, like: Shape) -> Draft:
    order, x = _permuted(dice, like)
    return ops.Transpose(order), [x]


def _permuted(dice: Dice, like: Shape) -> tuple[tuple[int, ...], Want]:
    """A permutation, and an input that has the wanted shape when permuted."""
    order = dice.sample(range(like.rank), like.rank)
    dims: list[Extent] = [0] * like.rank
    for i, axis in enumerate(order):
        dims[axis] = like.dims[i]
    return tuple(order), Want(like.with_dims(dims))


def _reshape(dice: Dice, like: Shape) -> Draft:
    dims = list(like.dims)
    for _ in range(dice.some(1, 2)):
        splits = [i for i, d in enumerate(dims) if isinstance(d, int) and d > 3 and d % 2 == 0]
        if len(dims) > 1 and (dice.chance(0.5) or not splits):
            i = dice.some(0, len(dims) - 2)
            dims[i : i + 2] = [dims[i] * dims[i + 1]]
        elif splits:
            i = dice.one_of(splits)
            dims[i : i + 1] = [2, dims[i] // 2]
        else:
            dims.insert(dice.some(0, len(dims)), 1)
    of = [Want(like.with_dims(dims))]
    if like.static and dice.chance(0.1):
        return ops.Reshape(like.dims), [*of, vector(like.dims)]
    return ops.Reshape(like.dims, allowzero=dice.chance(0.1)), of


def _dimensions(dice: Dice, like: Shape) -> Draft:
    if like.dtype is not I64 or like.rank != 1 or not isinstance(like.dims[0], int):
        return None
    size = like.dims[0]
    if size >= MOST_AXES:
        return None
    of = Shape(F32, [dice.size(1, 4) for _ in range(size + dice.some(0, 1))])
    return ops.DimensionsOf(0, size), [Want(of)]


def _squeeze(dice: Dice, like: Shape) -> Draft:
    axis = dice.some(0, like.rank)
    dims = (*like.dims[:axis], 1, *like.dims[axis:])
    return ops.Squeeze((axis,)), [Want(like.with_dims(dims))]


def _unsqueeze(dice: Dice, like: Shape) -> Draft:
    if not (alone := ones(like.dims)):
        return None
    axis = dice.one_of(alone)
    return ops.Unsqueeze((axis,)), [Want(like.with_dims(put(like.dims, axis)))]


def _broadcast(dice: Dice, like: Shape) -> Draft:
    first = dice.some(0, like.rank)
    last = dice.some(first, min(like.rank, first + 2))
    return ops.Broadcast(first, like.dims), [Want(like.with_dims(like.dims[first:last]))]


def _multibroadcast(dice: Dice, like: Shape) -> Draft:
    dims = [1 if dice.chance(0.5) else d for d in like.dims]
    return ops.Multibroadcast(like.dims), [Want(like.with_dims(dims[dice.some(0, like.rank) :]))]


def _slice(dice: Dice, like: Shape) -> Draft:
    return _sliced(dice, like, range(like.rank))


def _sliced(dice: Dice, like: Shape, known: Sequence[int]) -> Draft:
    """A slice along one or two of some axes."""
    if not known:
        return None
    axes = dice.sample(known, dice.one_of((1, 1, 1, min(2, len(known)))))
    whole, starts = list(like.dims), list[int]()
    for axis in axes:
        starts.append(dice.some(0, 2))
        whole[axis] = starts[-1] + like.dims[axis] + dice.size(0, 2)
    ends = [start + like.dims[axis] for axis, start in zip(axes, starts, strict=True)]
    return ops.Slice(tuple(axes), tuple(starts), tuple(ends)), [Want(like.with_dims(whole))]


def _step(dice: Dice, like: Shape) -> Draft:
    if not like.rank:
        return None
    axis, step = dice.some(0, like.rank - 1), dice.some(1, 3)
    last = dice.some(1, step) if least(like.dims[axis]) else step
    whole = put(like.dims, axis, (like.dims[axis] - 1) * step + last)
    return ops.Step((axis,), (step,)), [Want(like.with_dims(whole))]


def _pad(dice: Dice, like: Shape) -> Draft:
    known = [i for i, d in enumerate(like.dims) if bounds(d)[0] >= (2 if isinstance(d, int) else 1)]
    if not known or like.dtype is BOOL:
        return None
    axis = dice.one_of(known)
    size = like.dims[axis]
    more = dice.some(1, size - 1) if isinstance(size, int) else 1
    before = dice.some(0, more)
    pads = [0] * (2 * like.rank)
    pads[axis], pads[axis + like.rank] = before, more - before
    inputs = [Want(like.with_dims(put(like.dims, axis, size - more)))]
    if dice.chance(0.3):
        inputs.append(Want(like.with_dims(()), constant=True))
    has_edges = len(inputs) == 1 and bounds(size - more)[0] > 0
    mode = dice.one_of(("constant", "constant", "edge")) if has_edges else "constant"
    return ops.Pad(tuple(pads), mode), inputs


def _reverse(dice: Dice, like: Shape) -> Draft:
    return (ops.Reverse((dice.some(0, like.rank - 1),)), [Want(like)]) if like.rank else None


def _trilu(dice: Dice, like: Shape) -> Draft:
    return (ops.Trilu(dice.chance(0.5)), [Want(like)]) if like.rank > 1 else None


def _concat(dice: Dice, like: Shape) -> Draft:
    known = [i for i, d in enumerate(like.dims) if len(_parts(dice, d)) > 1]
    if not known:
        return None
    axis = dice.one_of(known)
    parts = _parts(dice, like.dims[axis])
    return ops.Concat(axis), [Want(like.with_dims(put(like.dims, axis, n))) for n in parts]


def _parts(dice: Dice, extent: Extent) -> list[Extent]:
    """Extents that add up to one: the terms of a sum, or two halves of any other symbolic dim."""
    if isinstance(extent, Dim):
        first = extent // 2 if len(extent.terms) == 1 else Dim.of(dict(extent.terms[:1]))
        rest = extent - first
        return [first, rest] if min(bounds(first)[0], bounds(rest)[0]) >= 0 else [extent]
    parts = list[Extent]()
    while extent:
        even = extent // 2 if extent % 2 == 0 and not parts else 0
        parts.append(even or dice.some(1, extent))
        extent -= int(parts[-1])
    return parts


def _convert(dice: Dice, like: Shape) -> Draft:
    return ops.Convert(like.dtype), [Want(like.with_type(dice.one_of(dice.types())))]


def _bit_cast(dice: Dice, like: Shape) -> Draft:
    alike = {16: ("i16", "u16"), 32: ("i32", "u32"), 64: ("i64", "u64"), 8: ("i8", "u8")}.get(
        like.dtype.bits, ()
    )
    other = [t for t in alike if t != like.dtype.name]
    if not like.dtype.is_integer or not other:
        return None
    return ops.BitCast(like.dtype), [Want(like.with_type(dice.one_of(other)))]


def _dynamic_transpose(dice: Dice, like: Shape) -> Draft:
    order, x = _permuted(dice, like)
    return ops.DynamicTranspose(like.dims), [x, vector(order)]


def _dynamic_pad(dice: Dice, like: Shape) -> Draft:
    found = _pad(dice, like)
    if found is None:
        return None
    op: Any = found[0]
    x, *value = found[1]
    return ops.DynamicPad(like.dims, op.mode), [x, vector(op.pads), *value]


def _dynamic_slice(dice: Dice, like: Shape) -> Draft:
    found = _sliced(dice, like, numbers(like.dims))
    if found is None:
        return None
    op: Any = found[0]
    spans = (op.starts, op.ends, (1,) * len(op.axes))
    extents = tuple(like.dims[axis] for axis in op.axes)
    return ops.DynamicSlice(op.axes, extents), [*found[1], *map(vector, spans)]


def _dynamic_range(dice: Dice, like: Shape) -> Draft:
    if like.rank != 1 or not like.static or not (like.dtype.is_float or like.dtype.is_integer):
        return None
    start, step = dice.some(0, 3), dice.some(1, 2)
    ends = (start, start + step * int(like.dims[0]), step)
    scalar = like.with_dims(())
    return ops.DynamicRange(like.dims[0]), [Want(scalar, values=(n,)) for n in ends]


def _dim_literal(dice: Dice, like: Shape) -> Draft:
    if like.dtype not in (I64, I32) or not like.static or like.elements > 8:
        return None
    values = tuple(dice.size(0, 4) for _ in range(int(like.elements)))
    return ops.DimLiteral(values, tuple(map(int, like.dims)), like.dtype), []


DRAWS: dict[str, Draw] = {
    "bit_cast": _bit_cast,
    "broadcast": _broadcast,
    "concat": _concat,
    "contiguous": _same(ops.Contiguous),
    "convert": _convert,
    "dim_literal": _dim_literal,
    "dimensions_of": _dimensions,
    "dynamic_pad": _dynamic_pad,
    "dynamic_range": _dynamic_range,
    "dynamic_slice": _dynamic_slice,
    "dynamic_transpose": _dynamic_transpose,
    "identity": _same(ops.Identity),
    "multibroadcast": _multibroadcast,
    "pad": _pad,
    "reshape": _reshape,
    "reverse": _reverse,
    "slice": _slice,
    "squeeze": _squeeze,
    "step": _step,
    "transpose": _transpose,
    "trilu": _trilu,
    "unsqueeze": _unsqueeze,
}
