"""How to draw each operation so that its result has a shape that is wanted.

A draw is given dice and the shape wanted, and answers with the operation and what each input must
be, or None where the operation cannot make that shape. An operation from elsewhere declares its own
as a static method ``draft(dice, like)``; pointwise operations and reductions without further
attributes need none.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from migx import op as operations
from migx import ops, plugins
from migx.dim import Extent
from migx.errors import ShapeError
from migx.op import Operation
from migx.shape import BOOL, F16, F32, F64, I4, I8, I32, I64, U4, U8, DType, Shape

Dims: TypeAlias = tuple[Extent, ...]


@dataclass(frozen=True)
class Want:
    """What an input must be: a shape; with ``below``, integers from 0 up to that, the limit not
    included; ``positive`` or ``constant`` where the operation needs it; or a literal of ``values``.
    """

    shape: Shape
    below: int = 0
    positive: bool = False
    constant: bool = False
    values: tuple[int, ...] = ()


class Dice(random.Random):
    """A source of choices, the same for the same seed."""

    def chance(self, share: float) -> bool:
        """True in that share of all cases."""
        return self.random() < share

    def some(self, low: int, high: int) -> int:
        """A number between two, both included; faster than ``randint``."""
        return low + int(self.random() * (high - low + 1))

    def one_of(self, values: Sequence[Any]) -> Any:
        """One of some values."""
        return values[int(self.random() * len(values))]


Draft: TypeAlias = tuple[Operation, list[Want]] | None
Draw: TypeAlias = Callable[[Dice, Shape], Draft]

TYPES = (F32, F32, F16, F64, I32, I64, BOOL, I8, U8)
"""Element types that inputs have where the result leaves the choice."""


def draft(name: str, dice: Dice, like: Shape) -> Draft:
    """An operation of this name whose result has the type and dims wanted, and its inputs."""
    cls = plugins.operation(name)
    draw = getattr(cls, "draft", None)
    if draw is None and (not like.parts or name in TUPLES):
        draw = DRAWS.get(name)
    if draw is not None:
        found: Draft = draw(dice, like)
        return found
    if like.parts:
        return None
    if operations.traits(cls).reduction:  # type: ignore[arg-type]
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
    return traits.reduction or (traits.pointwise and any(_signatures(cls, t) for t in set(TYPES)))


@cache
def _signatures(cls: Any, made: DType) -> tuple[tuple[DType, ...], ...]:
    """The types of inputs for which a pointwise operation without attributes makes a type."""
    try:
        op = cls()
    except TypeError:
        return ()
    found = []
    for of in dict.fromkeys((made, *TYPES)):
        for types in ((of,), (of, of), (BOOL, of, of), (of, of, of)):
            try:
                shape = op.compute_shape([Shape(t, (2, 3)) for t in types], ())
            except ShapeError:
                continue
            if shape.dtype is made and shape.dims == (2, 3):
                found.append(types)
    return tuple(found)


def _pointwise(cls: Any, dice: Dice, like: Shape) -> Draft:
    known = _signatures(cls, like.dtype)
    if not known or not operations.traits(cls).pointwise:
        return None
    return cls(), [Want(Shape(t, like.dims)) for t in dice.one_of(known)]


def _reduction(cls: Any, dice: Dice, like: Shape) -> Draft:
    ones = [i for i, d in enumerate(like.dims) if d == 1]
    if not ones or (like.dtype is BOOL) != (cls.name in ("reduce_all", "reduce_any")):
        return None
    axes = tuple(dice.sample(ones, dice.some(1, len(ones))))
    dims = tuple(dice.some(1, 4) if i in axes else d for i, d in enumerate(like.dims))
    return cls(axes), [Want(like.with_dims(dims))]


def _numbers(dims: Sequence[Extent]) -> list[int]:
    """The axes whose extent is a number."""
    return [i for i, d in enumerate(dims) if isinstance(d, int)]


def _put(dims: Dims, axis: int, *extents: Extent) -> Dims:
    return (*dims[:axis], *extents, *dims[axis + 1 :])


def _same(op: Callable[[], Operation]) -> Draw:
    return lambda dice, like: (op(), [Want(like.as_standard())])


def _transpose(dice: Dice, like: Shape) -> Draft:
    order = dice.sample(range(like.rank), like.rank)
    dims: list[Extent] = [0] * like.rank
    for i, axis in enumerate(order):
        dims[axis] = like.dims[i]
    return ops.Transpose(tuple(order)), [Want(like.with_dims(dims))]


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
        return ops.Reshape(like.dims), [*of, _sizes(like.dims)]
    return ops.Reshape(like.dims, allowzero=dice.chance(0.1)), of


def _sizes(dims: Dims) -> Want:
    """Dims as a constant input."""
    return Want(Shape(I64, (len(dims),)), values=tuple(map(int, dims)))


def _dimensions(dice: Dice, like: Shape) -> Draft:
    if like.dtype is not I64 or like.rank != 1 or not isinstance(like.dims[0], int):
        return None
    size = like.dims[0]
    of = Shape(F32, [dice.some(1, 4) for _ in range(size + dice.some(0, 1))])
    return ops.DimensionsOf(0, size), [Want(of)]


def _squeeze(dice: Dice, like: Shape) -> Draft:
    axis = dice.some(0, like.rank)
    dims = (*like.dims[:axis], 1, *like.dims[axis:])
    return ops.Squeeze((axis,)), [Want(like.with_dims(dims))]


def _unsqueeze(dice: Dice, like: Shape) -> Draft:
    ones = [i for i, d in enumerate(like.dims) if d == 1]
    if not ones:
        return None
    axis = dice.one_of(ones)
    return ops.Unsqueeze((axis,)), [Want(like.with_dims(_put(like.dims, axis)))]


def _broadcast(dice: Dice, like: Shape) -> Draft:
    first = dice.some(0, like.rank)
    last = dice.some(first, min(like.rank, first + 2))
    return ops.Broadcast(first, like.dims), [Want(like.with_dims(like.dims[first:last]))]


def _multibroadcast(dice: Dice, like: Shape) -> Draft:
    dims = [1 if dice.chance(0.5) else d for d in like.dims]
    return ops.Multibroadcast(like.dims), [Want(like.with_dims(dims[dice.some(0, like.rank) :]))]


def _slice(dice: Dice, like: Shape) -> Draft:
    if not (known := _numbers(like.dims)):
        return None
    axes = dice.sample(known, dice.one_of((1, 1, 1, min(2, len(known)))))
    whole, starts = list(like.dims), list[int]()
    for axis in axes:
        starts.append(dice.some(0, 2))
        whole[axis] = starts[-1] + int(like.dims[axis]) + dice.some(0, 2)
    ends = [start + int(like.dims[axis]) for axis, start in zip(axes, starts, strict=True)]
    return ops.Slice(tuple(axes), tuple(starts), tuple(ends)), [Want(like.with_dims(whole))]


def _step(dice: Dice, like: Shape) -> Draft:
    known = [i for i in _numbers(like.dims) if like.dims[i] != 0]
    if not known:
        return None
    axis, step = dice.one_of(known), dice.some(1, 3)
    whole = _put(like.dims, axis, (like.dims[axis] - 1) * step + dice.some(1, step))
    return ops.Step((axis,), (step,)), [Want(like.with_dims(whole))]


def _pad(dice: Dice, like: Shape) -> Draft:
    known = [i for i in _numbers(like.dims) if int(like.dims[i]) > 1]
    if not known or like.dtype is BOOL:
        return None
    axis = dice.one_of(known)
    size = int(like.dims[axis])
    kept = dice.some(1, size - 1)
    before = dice.some(0, size - kept)
    pads = [0] * (2 * like.rank)
    pads[axis], pads[axis + like.rank] = before, size - kept - before
    inputs = [Want(like.with_dims(_put(like.dims, axis, kept)))]
    if dice.chance(0.3):
        inputs.append(Want(like.with_dims(()), constant=True))
    mode = "constant" if len(inputs) == 2 else dice.one_of(("constant", "constant", "edge"))
    return ops.Pad(tuple(pads), mode), inputs


def _axis_of(make: Callable[[int], Operation], floats: bool = True) -> Draw:
    """One axis of an operation that keeps the shape."""

    def draw(dice: Dice, like: Shape) -> Draft:
        if not like.rank or like.dtype is BOOL or (floats and not like.dtype.is_float):
            return None
        return make(dice.one_of((like.rank - 1, dice.some(0, like.rank - 1)))), [Want(like)]

    return draw


def _reverse(dice: Dice, like: Shape) -> Draft:
    return (ops.Reverse((dice.some(0, like.rank - 1),)), [Want(like)]) if like.rank else None


def _trilu(dice: Dice, like: Shape) -> Draft:
    return (ops.Trilu(dice.chance(0.5)), [Want(like)]) if like.rank > 1 else None


def _concat(dice: Dice, like: Shape) -> Draft:
    known = [i for i in _numbers(like.dims) if int(like.dims[i]) > 1]
    if not known:
        return None
    axis, parts = dice.one_of(known), list[int]()
    left = int(like.dims[axis])
    while left:
        even = left // 2 if left % 2 == 0 and not parts else 0
        parts.append(even or dice.some(1, left))
        left -= parts[-1]
    return ops.Concat(axis), [Want(like.with_dims(_put(like.dims, axis, n))) for n in parts]


def _gather(dice: Dice, like: Shape) -> Draft:
    axis, size = dice.some(0, like.rank), dice.some(2, 5)
    last = dice.some(axis, min(like.rank, axis + 2))
    data = like.with_dims((*like.dims[:axis], size, *like.dims[last:]))
    at = Shape(I64, like.dims[axis:last])
    return ops.Gather(axis), [Want(data), Want(at, size, constant=dice.chance(0.5))]


def _gather_elements(dice: Dice, like: Shape) -> Draft:
    if not like.rank:
        return None
    axis, size = dice.some(0, like.rank - 1), dice.some(2, 5)
    data = like.with_dims(_put(like.dims, axis, size))
    return ops.GatherElements(axis), [Want(data), Want(like.with_type(I64), size)]


def _scatter(make: Callable[[int], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        known = [i for i in _numbers(like.dims) if like.dims[i] != 0]
        if not known or like.dtype is BOOL:
            return None
        axis = dice.one_of(known)
        rows = like.with_dims(_put(like.dims, axis, 1))
        return make(axis), [Want(like), Want(rows.with_type(I64), int(like.dims[axis])), Want(rows)]

    return draw


def _arg(make: Callable[[int], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        ones = [i for i, d in enumerate(like.dims) if d == 1]
        if like.dtype is not I64 or not ones:
            return None
        axis = dice.one_of(ones)
        return make(axis), [Want(Shape(F32, _put(like.dims, axis, dice.some(1, 4))))]

    return draw


def _element(dice: Dice, like: Shape) -> Draft:
    """One of two results: of ``topk``, whose second are places, or of a recurrent layer."""
    if like.rank in (3, 4) and like.dtype.is_float and like.dims[-3] == 1 and dice.chance(0.5):
        index = int(like.rank == 3)
        states = [like.with_dims(like.dims[-3:])] * dice.some(1, 2)
        whole = like.with_dims((2, *like.dims)) if index else like.as_standard()
        return ops.GetTupleElem(index), [Want(Shape.tuple(whole, *states))]
    numbers = like.dtype.is_float or like.dtype.is_integer
    if like.parts or not like.rank or not numbers or not like.dtype.is_tensor:
        return None
    places = like.dtype is I64 and dice.chance(0.5)
    values = like.with_type(dice.one_of((F32, I32))) if places else like.as_standard()
    return ops.GetTupleElem(int(places)), [Want(Shape.tuple(values, like.with_type(I64)))]


def _topk(dice: Dice, like: Shape) -> Draft:
    if len(like.parts) != 2 or like.parts[1].dtype is not I64:
        return None
    values = like.parts[0]
    if not (known := _numbers(values.dims)):
        return None
    axis = dice.one_of(known)
    size = int(values.dims[axis])
    whole = _put(values.dims, axis, size + dice.some(0, 2))
    return ops.Topk(size, axis, dice.chance(0.5)), [Want(values.with_dims(whole))]


def _convert(dice: Dice, like: Shape) -> Draft:
    return ops.Convert(like.dtype), [Want(like.with_type(dice.one_of(TYPES)))]


def _bit_cast(dice: Dice, like: Shape) -> Draft:
    alike = {32: ("i32", "u32"), 64: ("i64", "u64"), 8: ("i8", "u8")}.get(like.dtype.bits, ())
    other = [t for t in alike if t != like.dtype.name]
    if not like.dtype.is_integer or not other:
        return None
    return ops.BitCast(like.dtype), [Want(like.with_type(dice.one_of(other)))]


def _unpack(dice: Dice, like: Shape) -> Draft:
    packed = {I8: I4, U8: U4}.get(like.dtype)
    if packed is None or not like.static or not like.rank:
        return None
    return ops.UnpackInt4(), [Want(like.with_type(packed), constant=True)]


def _with_slope(make: Callable[[float], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        return (make(dice.one_of((0.01, 0.5, 1.5))), [Want(like)]) if like.dtype.is_float else None

    return draw


def _dot(dice: Dice, like: Shape) -> Draft:
    if like.rank < 2 or like.dtype is BOOL:
        return None
    inner, (*lead, m, n) = dice.some(1, 5), like.dims
    left, right = ((*lead, m, inner), (*lead, inner, n))
    constant = dice.chance(0.5)
    return ops.Dot(), [Want(like.with_dims(left)), Want(like.with_dims(right), constant=constant)]


def _quant_dot(dice: Dice, like: Shape) -> Draft:
    found = _dot(dice, like) if like.dtype is I32 else None
    if found is None:
        return None
    types = [dice.one_of((I8, U8)) for _ in found[1]]
    return ops.QuantDot(), [
        Want(w.shape.with_type(t)) for w, t in zip(found[1], types, strict=True)
    ]


def _convolution(make: Callable[..., Operation], given: tuple[DType, ...]) -> Draw:
    """A convolution: the extents of its input follow from window, stride and padding."""

    def draw(dice: Dice, like: Shape) -> Draft:
        spatial = like.rank - 2
        if spatial not in (1, 2) or _numbers(like.dims)[-spatial - 1 :] != [*range(1, like.rank)]:
            return None
        if (like.dtype is not I32) if given else not like.dtype.is_float:
            return None
        group = dice.one_of((1, 1, 1, int(like.dims[1]) or 1))
        window = [dice.some(1, 3) for _ in range(spatial)]
        stride = tuple(dice.some(1, 2) for _ in range(spatial))
        begins, ends = ([dice.some(0, k - 1) for k in window] for _ in "ab")
        extents = [
            (int(d) - 1) * s + k - b - e
            for d, s, k, b, e in zip(like.dims[2:], stride, window, begins, ends, strict=True)
        ]
        if min(extents) < 1 or 0 in like.dims:
            return None
        each = dice.some(1, 3)
        op = make((*begins, *ends), stride, (1,) * spatial, group)
        types = given or (like.dtype, like.dtype)
        x = Shape(types[0], (like.dims[0], group * each, *extents))
        w = Shape(types[1], (like.dims[1], each, *window))
        return op, [Want(x), Want(w, constant=dice.chance(0.8))]

    return draw


def _pooling(dice: Dice, like: Shape) -> Draft:
    found = _convolution(ops.Convolution, ())(dice, like.with_type(F32))
    if found is None or like.dtype is BOOL:
        return None
    op: Any = found[0]
    mode = dice.one_of(("max", "average", "lpnorm")) if like.dtype.is_float else "max"
    x, w = (want.shape for want in found[1])
    if any(p >= n for p, n in zip(op.padding[: x.rank - 2], w.dims[2:], strict=True)):
        return None
    made = ops.Pooling(mode, w.dims[2:], op.padding, op.stride, op.dilation)
    return made, [Want(like.with_dims((*like.dims[:2], *x.dims[2:])))]


def _quantize(dice: Dice, like: Shape) -> Draft:
    if like.dtype not in (I8, U8) or not like.rank:
        return None
    axis = dice.some(0, like.rank - 1)
    inputs = [Want(like.with_type(F32)), *_scale(dice, like, axis)]
    return ops.QuantizeLinear(axis, to=like.dtype), inputs


def _dequantize(dice: Dice, like: Shape) -> Draft:
    if like.dtype is not F32 or not like.rank:
        return None
    axis, x = dice.some(0, like.rank - 1), like.with_type(dice.one_of((I8, U8)))
    return ops.DequantizeLinear(axis), [Want(x), *_scale(dice, x, axis)]


def _scale(dice: Dice, x: Shape, axis: int) -> list[Want]:
    dims = () if dice.chance(0.7) else (x.dims[axis],)
    zero = [Want(Shape(x.dtype, dims), below=4, constant=True)] if dice.chance(0.5) else []
    return [Want(Shape(F32, dims), positive=True, constant=True), *zero]


def _resize(dice: Dice, like: Shape) -> Draft:
    known = [i for i in _numbers(like.dims) if like.dims[i] != 0]
    if not known or not like.dtype.is_float:
        return None
    axis, mode = dice.one_of(known), dice.one_of(("nearest", "linear"))
    places, size = dice.one_of(("half_pixel", "asymmetric")), int(like.dims[axis])
    given = size // 2 if size % 2 == 0 and dice.chance(0.6) else dice.some(1, 5)
    op = ops.Resize(like.dims, mode=mode, coordinate_transformation_mode=places)
    return op, [Want(like.with_dims(_put(like.dims, axis, given)))]


def _recurrent(make: Callable[[int], Operation], gates: int, states: int) -> Draw:
    """All results of a layer that reads a sequence forwards."""

    def draw(dice: Dice, like: Shape) -> Draft:
        if len(like.parts) != 1 + states or like.parts[0].rank != 4:
            return None
        (time, directions, batch, hidden), width = like.parts[0].dims, dice.some(1, 3)
        x = like.parts[0]
        if directions != 1 or not isinstance(hidden, int) or not x.dtype.is_float:
            return None
        rows = gates * hidden
        dims: list[Dims] = [(time, batch, width), (1, rows, width), (1, rows, hidden)]
        dims += [(1, 2 * rows)] if dice.chance(0.5) else []
        return make(hidden), [Want(x.with_dims(d)) for d in dims]

    return draw


DRAWS: dict[str, Draw] = {
    "argmax": _arg(ops.Argmax),
    "argmin": _arg(ops.Argmin),
    "bit_cast": _bit_cast,
    "broadcast": _broadcast,
    "concat": _concat,
    "contiguous": _same(ops.Contiguous),
    "convert": _convert,
    "convolution": _convolution(ops.Convolution, ()),
    "dequantizelinear": _dequantize,
    "dimensions_of": _dimensions,
    "dot": _dot,
    "elu": _with_slope(ops.Elu),
    "gather": _gather,
    "gather_elements": _gather_elements,
    "get_tuple_elem": _element,
    "gru": _recurrent(ops.GRU, 3, 1),
    "identity": _same(ops.Identity),
    "leaky_relu": _with_slope(ops.LeakyRelu),
    "logsoftmax": _axis_of(ops.Logsoftmax),
    "lstm": _recurrent(ops.LSTM, 4, 2),
    "multibroadcast": _multibroadcast,
    "pad": _pad,
    "pooling": _pooling,
    "prefix_scan_sum": _axis_of(ops.PrefixScanSum, floats=False),
    "quant_convolution": _convolution(ops.QuantConvolution, (U8, I8)),
    "quant_dot": _quant_dot,
    "quantizelinear": _quantize,
    "reshape": _reshape,
    "resize": _resize,
    "reverse": _reverse,
    "rnn": _recurrent(ops.RNN, 1, 1),
    "scatter_add": _scatter(ops.ScatterAdd),
    "scatter_none": _scatter(ops.ScatterNone),
    "slice": _slice,
    "softmax": _axis_of(ops.Softmax),
    "squeeze": _squeeze,
    "step": _step,
    "topk": _topk,
    "transpose": _transpose,
    "trilu": _trilu,
    "unpack_int4": _unpack,
    "unsqueeze": _unsqueeze,
}
"""The operations that a general rule does not cover."""


TUPLES = ("gru", "lstm", "rnn", "topk")
"""Those whose result is a tuple."""


def any_shape(dice: Dice, symbol: Extent | None = None) -> Shape:
    """A shape to draw a result of: of up to four axes, mostly f32."""
    dtype = dice.one_of((F32, F32, F32, F32, F16, F64, I32, I64, I8, U8, BOOL))
    sizes = (1, 2, 2, 3, 4) if symbol is None else (1, 2, 3, symbol, symbol)
    rank = dice.one_of((0, 1, 2, 2, 2, 3, 3, 4))
    dims = tuple(dice.one_of(sizes) for _ in range(rank))
    return Shape(dtype, dims)


def volume(shape: Shape) -> int:
    """How many elements a shape has, a symbol counting as four."""
    known = itertools.chain([shape.dims], (p.dims for p in shape.parts))
    return max(math.prod(d if isinstance(d, int) else 4 for d in dims) for dims in known)
