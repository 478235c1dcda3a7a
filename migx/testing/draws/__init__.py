"""Draws: for each operation, how to choose it and its inputs so that the result has a wanted shape.

A draw is given dice and the wanted shape, and returns the operation and a description of each
input, or None if the operation cannot have that shape. A foreign operation declares its own as a
static method ``draft(dice, like)``; pointwise operations and reductions without further attributes
need none.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from migx import dim, ops, plugins
from migx import op as operations
from migx.dim import Dim
from migx.shape import BOOL, F32, I32, I64, DType, Shape
from migx.testing.draws import compute, indexing, layout
from migx.testing.draws.basics import TYPES, Dice, Dims, Draft, Draw, Want, ones, put

__all__ = [
    "MANY",
    "PACKERS",
    "TUPLES",
    "Dice",
    "Draft",
    "Want",
    "any_shape",
    "draft",
    "drawable",
    "volume",
]


def draft(name: str, dice: Dice, like: Shape) -> Draft:
    """An operation with this name whose result has the wanted type and dims, and its inputs."""
    cls = plugins.operation(name)
    draw = getattr(cls, "draft", None)
    apart = TUPLES if like.parts else PACKERS if like.dtype.is_packed else (name,)
    if draw is None and name in apart:
        draw = DRAWS.get(name)
    if draw is not None:
        found: Draft = draw(dice, like)
        return found
    if like.parts or like.dtype.is_packed:
        return None
    if operations.traits(cls).reduction:
        return _reduction(cls, dice, like)
    return _pointwise(cls, dice, like)


@cache
def drawable() -> tuple[str, ...]:
    """The names of all operations that can be drawn."""
    return tuple(n for n, cls in sorted(plugins.operations().items()) if _is_drawable(n, cls))


def _is_drawable(name: str, cls: Any) -> bool:
    if name in DRAWS or hasattr(cls, "draft"):
        return True
    traits = operations.traits(cls)
    if not operations.can_evaluate(cls) or not traits.pure:
        return False
    return traits.reduction or (
        traits.pointwise and any(_signatures(cls, t, TYPES) for t in set(TYPES))
    )


@cache
def _signatures(cls: Any, made: DType, of: tuple[DType, ...]) -> tuple[tuple[DType, ...], ...]:
    """The input types, from this one and others, for which a pointwise operation without attributes
    has a result type.
    """
    try:
        op = cls()
    except TypeError:
        return ()
    found = []
    for t in dict.fromkeys((made, *of)):
        for types in ((t,), (t, t), (BOOL, t, t), (t, t, t)):
            try:
                shape = op.compute_shape([Shape(each, (2, 3)) for each in types], ())
            except (ValueError, IndexError):
                continue  # a ShapeError, or the shape rule failing to unpack this many inputs
            if shape.dtype is made and shape.dims == (2, 3):
                found.append(types)
    return tuple(found)


def _pointwise(cls: Any, dice: Dice, like: Shape) -> Draft:
    known = _signatures(cls, like.dtype, dice.types())
    if not known or not operations.traits(cls).pointwise:
        return None
    return cls(), [Want(Shape(t, like.dims)) for t in dice.one_of(known)]


def _reduction(cls: Any, dice: Dice, like: Shape) -> Draft:
    alone = ones(like.dims)
    if not alone or (like.dtype is BOOL) != (cls.name in ("reduce_all", "reduce_any")):
        return None
    axes = tuple(dice.sample(alone, dice.some(1, len(alone))))
    dims = tuple(dice.size(1, 4) if i in axes else d for i, d in enumerate(like.dims))
    return cls(axes), [Want(like.with_dims(dims))]


def _element(dice: Dice, like: Shape) -> Draft:
    """One of two results: of ``topk``, whose second has indices, or of a recurrent layer."""
    if like.rank in (3, 4) and like.dtype.is_float and like.dims[-3] == 1 and dice.chance(0.5):
        index = int(like.rank == 3)
        states = [like.with_dims(like.dims[-3:])] * dice.some(1, 2)
        steps = (dice.room(1, 3), *like.dims)
        whole = like.with_dims(steps) if index else like.as_standard()
        return ops.GetTupleElem(index), [Want(Shape.tuple(whole, *states))]
    numbers = like.dtype.is_float or like.dtype.is_integer
    if like.parts or not like.rank or not numbers or not like.dtype.is_tensor:
        return None
    places = like.dtype is I64 and dice.chance(0.5)
    values = like.with_type(dice.one_of((F32, I32))) if places else like.as_standard()
    return ops.GetTupleElem(int(places)), [Want(Shape.tuple(values, like.with_type(I64)))]


DRAWS: dict[str, Draw] = {
    "get_tuple_elem": _element,
    **layout.DRAWS,
    **indexing.DRAWS,
    **compute.DRAWS,
}
"""The draws of operations that no general rule covers."""

TUPLES = ("gru", "lstm", "rnn", "topk")
"""Operations whose result is a tuple."""

PACKERS = ("pack_fp4", "pack_int2", "pack_int4")
"""Operations whose result is packed."""

MANY = 65 * 65
"""The most elements of a value."""


def any_shape(dice: Dice) -> Shape:
    """A shape for a result: up to four axes and ``MANY`` elements, mostly f32 (even more so in wide
    programs, since most kernels are f32), occasionally empty.
    """
    dtype = dice.one_of((*(F32,) * (8 if dice.wide else 2), *dice.types()))
    sizes: Dims = (1, 2, 3, *dice.extents, *dice.extents) if dice.extents else (1, 2, 2, 3, 4)
    sizes = (0, *sizes) if dice.chance(0.03) else sizes
    rank = dice.one_of((0, 1, 2, 2, 2, 3, 3, 4))
    shape = Shape(dtype, [dice.one_of(sizes) for _ in range(rank)])
    while volume(shape) > MANY:
        widest = shape.dims.index(max(d for d in shape.dims if isinstance(d, int)))
        shape = shape.with_dims(put(shape.dims, widest, dice.some(1, 3)))
    return shape


def volume(shape: Shape) -> int:
    """The number of elements with each symbol taken as four, and each 0 as 1: values computed from
    empty ones need not be empty.
    """
    each = (s.dims for s in (shape, *shape.parts))
    sizes = ((d if isinstance(d, int) else _at_four(d) for d in dims) for dims in each)
    return max(math.prod(max(size, 1) for size in dims) for dims in sizes)


@cache
def _at_four(extent: Dim) -> int:
    return dim.evaluate(extent, {symbol.name: 4 for symbol in dim.symbols(extent)})
