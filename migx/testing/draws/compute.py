"""Draws of computations: products, windows, normalisation, quantisation, recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from migx import op as operations
from migx import ops
from migx.dim import Dim
from migx.op import Operation
from migx.ops.channels_last import (
    ConvolutionChannelsLast,
    QuantConvolutionChannelsLast,
    to_first,
    to_last,
)
from migx.ops.packing import Pack, Unpack, container
from migx.ops.rnn import Recurrent
from migx.shape import BOOL, F8E4M3FN, F8E5M2, F32, F64, I8, I32, U8, DType, Shape
from migx.testing.draws.basics import Dice, Dims, Draft, Draw, Want, least, numbers, put, vector


def _axis_of(make: Callable[[int], Operation], floats: bool = True) -> Draw:
    """A draw of an operation along one axis that keeps the shape."""

    def draw(dice: Dice, like: Shape) -> Draft:
        if not like.rank or like.dtype is BOOL or (floats and not like.dtype.is_float):
            return None
        return make(dice.one_of((like.rank - 1, dice.some(0, like.rank - 1)))), [Want(like)]

    return draw


def _with_slope(make: Callable[[float], Operation]) -> Draw:
    def draw(dice: Dice, like: Shape) -> Draft:
        return (make(dice.one_of((0.01, 0.5, 1.5))), [Want(like)]) if like.dtype.is_float else None

    return draw


def _dot(dice: Dice, like: Shape) -> Draft:
    if like.rank < 2 or like.dtype is BOOL:
        return None
    inner, (*lead, m, n) = dice.size(1, 5), like.dims
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
    """A draw of a convolution; the extents of its input follow from window, stride and padding. One
    in three has the most common window, 3 x 3 with a stride of 1.
    """

    def draw(dice: Dice, like: Shape) -> Draft:
        spatial = like.rank - 2
        if spatial not in (1, 2) or not isinstance(like.dims[1], int):
            return None
        if like.dtype is not I32 and (given or not like.dtype.is_float):
            return None
        group = dice.one_of((1, 1, 1, int(like.dims[1]) or 1))
        window = [dice.some(1, 3) for _ in range(spatial)]
        stride = tuple(dice.some(1, 2) for _ in range(spatial))
        dilation = tuple(dice.one_of((1, 1, 1, 2, 4)) for _ in range(spatial))
        if dice.chance(0.3):
            window, stride, dilation, group = [3] * spatial, (1,) * spatial, (1,) * spatial, 1
        seen = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        begins, ends = ([dice.some(0, k - 1) for k in seen] for _ in "ab")
        extents = [
            (d - 1) * s + k - b - e
            for d, s, k, b, e in zip(like.dims[2:], stride, seen, begins, ends, strict=True)
        ]
        if min(map(least, (*extents, *like.dims[2:]))) < 1 or 0 in like.dims:
            return None
        each = dice.count(1, 3)
        op = make((*begins, *ends), stride, dilation, group)
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
    if any(op.padding) and max(op.dilation) > 1:
        return None  # a window may be all padding
    made = ops.Pooling(mode, w.dims[2:], op.padding, op.stride, op.dilation)
    return made, [Want(like.with_dims((*like.dims[:2], *x.dims[2:])))]


def _pack(make: type[Pack]) -> Draw:
    """A draw of packing, whole or along an axis."""

    def draw(dice: Dice, like: Shape) -> Draft:
        known = numbers(like.dims, 1)
        whole = [wide for wide, packed in make.packed.items() if packed is like.dtype]
        if like.static and like.rank and whole:
            return make(), [Want(like.with_type(dice.one_of(whole)))]
        along = [each for each in make.packed.items() if container(each[1]) is like.dtype]
        if not known or not along:
            return None
        axis, per = dice.one_of(known), 8 // along[0][1].bits
        length = int(like.dims[axis]) * per - dice.some(0, per - 1)
        given = like.with_type(dice.one_of(along)[0])
        return make(axis=axis), [Want(given.with_dims(put(like.dims, axis, length)))]

    return draw


def _unpack(make: type[Unpack]) -> Draw:
    """A draw of unpacking; as ``_pack``."""

    def draw(dice: Dice, like: Shape) -> Draft:
        stored = [packed for packed in make.packed if make().unpacked(packed) is like.dtype]
        if not stored or not like.rank:
            return None
        known = numbers(like.dims, 1)
        if like.static and (not known or dice.chance(0.7)):
            return make(), [Want(like.with_type(dice.one_of(stored)))]
        if not known:
            return None
        axis, packed = dice.one_of(known), dice.one_of(stored)
        length, per = int(like.dims[axis]), 8 // packed.bits
        held = like.with_type(container(packed)).with_dims(put(like.dims, axis, -(-length // per)))
        return make(axis=axis, length=length), [Want(held, constant=dice.chance(0.5))]

    return draw


def _quantize(dice: Dice, like: Shape) -> Draft:
    if like.dtype not in (I8, U8) or not like.rank:
        return None
    axis, block, scales = _scales(dice, like)
    return ops.QuantizeLinear(axis, block, to=like.dtype), [Want(like.with_type(F32)), *scales]


def _dequantize(dice: Dice, like: Shape) -> Draft:
    if like.dtype is not F32 or not like.rank:
        return None
    x = like.with_type(dice.one_of((I8, U8, I8, U8, F8E4M3FN, F8E5M2)))
    axis, block, scales = _scales(dice, x)
    return ops.DequantizeLinear(axis, block), [Want(x), *scales]


def _scales(dice: Dice, x: Shape) -> tuple[int, int, list[Want]]:
    """An axis, a block, and a scale and zero point: for all elements, for each index on the axis,
    or for each block.
    """
    axis, block = dice.some(0, x.rank - 1), 0
    dims: Dims = () if dice.chance(0.7) else (x.dims[axis],)
    if dice.chance(0.2) and isinstance(size := x.dims[axis], int) and size > 1:
        block = dice.some(2, 3)
        dims = put(x.dims, axis, (size + block - 1) // block)
    has_zero = x.dtype.is_integer and dice.chance(0.5)
    zero = [Want(Shape(x.dtype, dims), below=4, constant=True)] if has_zero else []
    return axis, block, [Want(Shape(F32, dims), positive=True, constant=True), *zero]


def _resize(dice: Dice, like: Shape) -> Draft:
    known = [i for i, d in enumerate(like.dims) if isinstance(d, int) or d % 2 == 0]
    if not known or not like.dtype.is_float or 0 in like.dims:
        return None
    axis, mode = dice.one_of(known), dice.one_of(("nearest", "linear"))
    places, size = dice.one_of(("half_pixel", "asymmetric")), like.dims[axis]
    half = size % 2 == 0 and (isinstance(size, Dim) or dice.chance(0.6))
    given = size // 2 if half else dice.some(1, 5)
    op = ops.Resize(like.dims, mode=mode, coordinate_transformation_mode=places)
    return op, [Want(like.with_dims(put(like.dims, axis, given)))]


def _recurrent(make: type[Recurrent]) -> Draw:
    """A draw of all results of a layer; its sequences may have lengths and states of their own."""

    def draw(dice: Dice, like: Shape) -> Draft:
        if len(like.parts) != 1 + len(make.states) or like.parts[0].rank != 4:
            return None
        (time, directions, batch, hidden), width = like.parts[0].dims, dice.count(1, 3)
        x = like.parts[0]
        if directions not in (1, 2) or not isinstance(hidden, int) or not x.dtype.is_float:
            return None
        rows, each = make.gates * hidden, int(directions)
        run = "bidirectional" if each == len(BOTH) else dice.one_of(BOTH)
        dims: list[Dims] = [(time, batch, width), (each, rows, width), (each, rows, hidden)]
        wants = [Want(x.with_dims(d)) for d in dims]
        more = dice.some(0, 3)
        if more > 0:
            wants.append(Want(x.with_dims((each, 2 * rows))))
        if more > 1:
            wants.append(Want(Shape(I32, (batch,)), below=time + 1))
        if more > 2:
            wants += [Want(x.with_dims((each, batch, hidden)))] * len(make.states)
        return make(hidden, run), wants

    return draw


def _dynamic_resize(dice: Dice, like: Shape) -> Draft:
    found = _resize(dice, like) if like.static else None
    if found is None:
        return None
    op, (x,) = found
    scales = [int(m) / int(n) for m, n in zip(like.dims, x.shape.dims, strict=True)]
    made = ops.DynamicResize(**operations.attributes(op))
    return made, [x, vector(like.dims), vector(scales, F64)]


def _convolution_backwards(dice: Dice, like: Shape) -> Draft:
    """The lengths of the window follow from the extents, stride and padding."""
    spatial = like.rank - 2
    if spatial not in (1, 2) or not like.dtype.is_float or 0 in like.dims:
        return None
    if numbers(like.dims)[-spatial - 1 :] != [*range(1, like.rank)]:
        return None
    stride = tuple(dice.some(1, 2) for _ in range(spatial))
    more = tuple(dice.some(0, s - 1) for s in stride)
    begins, ends = ([dice.some(0, 1) for _ in stride] for _ in "ab")
    extents = [dice.some(1, 3) for _ in stride]
    window = [
        int(d) + b + e - m - (n - 1) * s
        for d, b, e, m, n, s in zip(like.dims[2:], begins, ends, more, extents, stride, strict=True)
    ]
    if min(window) < 1:
        return None
    group, each = dice.one_of((1, 1, int(like.dims[1]))), dice.count(1, 2)
    x = like.with_dims((like.dims[0], group * each, *extents))
    w = like.with_dims((group * each, int(like.dims[1]) // group, *window))
    op = ops.ConvolutionBackwards((*begins, *ends), stride, (1,) * spatial, group, more)
    return op, [Want(x), Want(w, constant=dice.chance(0.8))]


def _channels_last(make: type[ConvolutionChannelsLast], given: tuple[DType, ...]) -> Draw:
    """A draw of a convolution with channels last, of bytes or floats."""
    first = _convolution(ops.QuantConvolution if given else ops.Convolution, given)

    def draw(dice: Dice, like: Shape) -> Draft:
        if like.rank < 3 or not (given or like.dtype.is_float):
            return None
        found = first(dice, like.permuted(to_first(like.rank)).as_standard())
        if found is None:
            return None
        op, order = make(**operations.attributes(found[0])), to_last(like.rank)
        wanted = [(w.shape.permuted(order).as_standard(), w.constant) for w in found[1]]
        return op, [Want(shape, constant=constant) for shape, constant in wanted]

    return draw


def _deformable_convolution(dice: Dice, like: Shape) -> Draft:
    found = _convolution(ops.Convolution, ())(dice, like)
    if found is None or like.rank != 4 or not like.dtype.is_float:
        return None
    plain, wants = found
    x, w = (want.shape for want in wants)
    taps = int(w.dims[2]) * int(w.dims[3])
    each = dice.one_of([n for n in (1, 1, 2) if int(x.dims[1]) % n == 0])
    op = ops.DeformableConvolution(**operations.attributes(plain), offset_group=each)
    parts = (2,) if dice.chance(0.5) else (2, 1)
    beside = [x.with_dims((x.dims[0], each * n * taps, *like.dims[2:])) for n in parts]
    return op, [*wants, *map(Want, beside)]


def _dft(dice: Dice, like: Shape) -> Draft:
    onesided = dice.chance(0.3)
    inverse = dice.chance(0.3)
    parts = 1 if onesided and inverse else 2
    if like.rank < 2 or like.dims[-1] != parts or not like.dtype.is_float:
        return None
    axes = numbers(like.dims[:-1], 1)
    if not axes:
        return None
    axis = dice.one_of(axes)
    made = int(like.dims[axis])
    length = 2 * (made - 1) + dice.some(0, 1) if onesided and not inverse else made
    given = put(like.dims[:-1], axis, dice.room(1, 4))
    if not length:
        return None
    wants = [Want(like.with_dims((*given, 2 if parts == 1 else dice.some(1, 2))))]
    return ops.Dft(axis, length, inverse, onesided), wants


def _lrn(dice: Dice, like: Shape) -> Draft:
    if like.rank < 2 or not like.dtype.is_float:
        return None
    return ops.Lrn(dice.some(1, 3), dice.one_of((1e-4, 0.5))), [Want(like.as_standard())]


BOTH = ("forward", "reverse")
"""The directions in which a single layer runs."""

DRAWS: dict[str, Draw] = {
    "convolution": _convolution(ops.Convolution, ()),
    "convolution_backwards": _convolution_backwards,
    "convolution_channels_last": _channels_last(ConvolutionChannelsLast, ()),
    "deformable_convolution": _deformable_convolution,
    "dequantizelinear": _dequantize,
    "dft": _dft,
    "dot": _dot,
    "dynamic_resize": _dynamic_resize,
    "elu": _with_slope(ops.Elu),
    "gru": _recurrent(ops.GRU),
    "leaky_relu": _with_slope(ops.LeakyRelu),
    "logsoftmax": _axis_of(ops.Logsoftmax),
    "lrn": _lrn,
    "lstm": _recurrent(ops.LSTM),
    "pack_fp4": _pack(ops.PackFp4),
    "pack_int2": _pack(ops.PackInt2),
    "pack_int4": _pack(ops.PackInt4),
    "pooling": _pooling,
    "prefix_scan_prod": _axis_of(ops.PrefixScanProd, floats=False),
    "prefix_scan_sum": _axis_of(ops.PrefixScanSum, floats=False),
    "quant_convolution": _convolution(ops.QuantConvolution, (U8, I8)),
    "quant_convolution_channels_last": _channels_last(QuantConvolutionChannelsLast, (U8, I8)),
    "quant_dot": _quant_dot,
    "quantizelinear": _quantize,
    "resize": _resize,
    "rnn": _recurrent(ops.RNN),
    "softmax": _axis_of(ops.Softmax),
    "unpack_fp4": _unpack(ops.UnpackFp4),
    "unpack_int2": _unpack(ops.UnpackInt2),
    "unpack_int4": _unpack(ops.UnpackInt4),
}
