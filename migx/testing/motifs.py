"""Small pieces of models that operations drawn one by one hardly ever form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from migx import ops
from migx.ir import Instruction
from migx.op import Operation
from migx.shape import F32, I4, I8, I64, U4, U8, Shape
from migx.testing.draws import Want
from migx.testing.draws.basics import holding, least, put
from migx.testing.told import counted

if TYPE_CHECKING:
    from migx.testing.programs import Author

Motif: TypeAlias = "Callable[[Author, Shape], Instruction | None]"
UNARY: tuple[Callable[[], Operation], ...] = (ops.Relu, ops.Neg, ops.Abs, ops.Identity)


def attention(author: Author, like: Shape) -> Instruction | None:
    """dot(softmax(dot(q, k) * s), v)."""
    if like.rank < 2 or not like.dtype.is_float:
        return None
    *lead, rows, columns = like.dims
    inner, width = author.dice.count(1, 3), author.dice.size(2, 4)
    q, k, v = (
        author.value(Want(like.with_dims((*lead, *d))), 1)
        for d in ((rows, inner), (inner, width), (width, columns))
    )
    scores = author.apply(ops.Dot(), [q, k])
    if scores is not None and author.dice.chance(0.6):
        scale = author.leaf(Want(scores.shape.as_standard()))
        scores = author.apply(ops.Mul(), [scores, scale])
    weights = scores and author.apply(ops.Softmax(like.rank - 1), [scores])
    return author.apply(ops.Dot(), [weights, v]) if weights else None


def lookups(author: Author, like: Shape) -> Instruction | None:
    """The sum of gathered rows of several tables."""
    if like.rank < 1 or not isinstance(like.dims[-1], int) or not like.dtype.is_float:
        return None
    total: Instruction | None = None
    for _ in range(author.dice.some(4, 5)):
        size = author.dice.count(2, 4)
        table = author.literal_of(Want(like.with_dims((size, *like.dims[-1:]))))
        at = author.leaf(Want(Shape(I64, like.dims[:-1]), below=size))
        row = author.apply(ops.Gather(0), [table, at])
        if row is None:
            return None
        total = row if total is None else author.apply(ops.Add(), [total, row])
        if total is None:
            return None
    return total


def tiles(author: Author, like: Shape) -> Instruction | None:
    """All slices of a value along an axis, each processed in the same way, concatenated."""
    known = holding(like.dims, 2)
    if not known:
        return None
    axis, whole = author.dice.one_of(known), author.value(Want(like.as_standard()), 1)
    end, cut = like.dims[axis], author.dice.some(1, least(like.dims[axis]) - 1)
    spans = ((0, cut), (cut, end))
    parts = [author.apply(ops.Slice((axis,), (a,), (b,)), [whole]) for a, b in spans]
    if author.dice.chance(0.5):
        made = author.dice.one_of(UNARY)()
        parts = [p and author.apply(made, [p]) for p in parts]
    return _joined(author, axis, parts)


def twins(author: Author, like: Shape) -> Instruction | None:
    """One operation applied to several values, concatenated."""
    known = [i for i, d in enumerate(like.dims) if d != 0 and d % 2 == 0]
    if not known:
        return None
    axis = author.dice.one_of(known)
    dims = put(like.dims, axis, like.dims[axis] // 2)
    first = author.result(like.with_dims(dims), 2, author.focus)
    if first is None or first.modules:
        return None
    wants = [Want(v.shape.as_standard()) for v in first.inputs]
    other = author.apply(first.op, [author.given(w) for w in wants])
    return _joined(author, axis, [first, other])


def products(author: Author, like: Shape) -> Instruction | None:
    """Products of one value with several constants, concatenated."""
    if like.rank < 2 or not like.dtype.is_float or not isinstance(like.dims[-1], int):
        return None
    *lead, rows, columns = like.dims
    if columns < 2:
        return None
    inner, cut = author.dice.count(1, 3), author.dice.some(1, int(columns) - 1)
    x = author.given(Want(like.with_dims((*lead, rows, inner))))
    parts = []
    for width in (cut, int(columns) - cut):
        w = Want(like.with_dims((*lead, inner, width)), constant=True)
        parts.append(author.apply(ops.Dot(), [x, author.leaf(w)]))
    return _joined(author, like.rank - 1, parts)


def packed(author: Author, like: Shape) -> Instruction | None:
    """A product with a four-bit constant, with a scale for each of its blocks."""
    if like.rank < 2 or like.dtype is not F32 or not isinstance(like.dims[-1], int):
        return None
    blocks, block = author.dice.some(1, 2), author.dice.count(2, 3)
    rows, columns = blocks * block, like.dims[-1]
    kind, unpacked = author.dice.one_of(((I4, I8), (U4, U8)))
    w = author.apply(ops.UnpackInt4(), [author.leaf(Want(Shape(kind, (rows, columns))))])
    dims = Shape(F32, (blocks, columns))
    scale = [author.leaf(Want(dims, positive=True, constant=True))]
    if author.dice.chance(0.5):
        scale.append(author.leaf(Want(dims.with_type(unpacked), below=4, constant=True)))
    if w is not None:
        w = author.apply(ops.DequantizeLinear(0, block), [w, *scale])
    if w is None:
        return None
    x = author.value(Want(like.with_dims((*like.dims[:-1], rows))), 1)
    spread = author.apply(ops.Multibroadcast((*like.dims[:-2], rows, columns)), [w])
    return None if spread is None else author.apply(ops.Dot(), [x, spread])


def _joined(author: Author, axis: int, parts: Sequence[Instruction | None]) -> Instruction | None:
    found = [p for p in parts if p is not None]
    return author.apply(ops.Concat(axis), found) if len(found) == len(parts) else None


MOTIFS: dict[str, Motif] = {
    "attention": attention,
    "counted": counted,
    "lookups": lookups,
    "packed": packed,
    "products": products,
    "tiles": tiles,
    "twins": twins,
}
"""The motifs by name; names are drawn like those of operations."""
