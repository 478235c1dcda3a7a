"""How MIGraphX writes operations that migx writes differently, in one table.

``ALIKE`` are the operations with the same name and attributes in migx, except for ``DEFAULTS`` and
``RENAMED``. For the others, a function marked ``form`` says by its parameters what an operation
takes (attributes are keyword-only), and returns its result. ``ABSENT`` are those not supported. For
all of them, a negative axis counts from the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from migx import dim, ops, plugins
from migx.builders import Builder, astype, broadcast_to, common_dims
from migx.compat.migraphx.shapes import DTYPES, dynamic_dimension, type_t
from migx.dim import Extent
from migx.errors import CompatError, ShapeError
from migx.ir import Instruction, Module
from migx.ops.linear import ConvolutionBackwards
from migx.ops.rnn import Recurrent
from migx.shape import BOOL

Lowering: TypeAlias = Callable[..., Instruction]
Ints: TypeAlias = tuple[int, ...]

NAMES = """
abs acos acosh add argmax argmin asin asinh atan atanh bit_cast bitwise_and ceil clip
concat contiguous convert cos cosh dimensions_of div dot elu erf exp floor fmod gather gathernd
get_tuple_elem group identity if leaky_relu log logsoftmax lrn max min mod mul nearbyint neg
pack_int4 pointwise pow prefix_scan_sum prelu quant_dot recip reduce_all reduce_any reduce_max
reduce_mean reduce_min reduce_prod reduce_sum relu reverse rsqrt scatternd_add scatternd_max
scatternd_min scatternd_mul scatternd_none sigmoid sign sin sinh softmax sqdiff sqrt step sub tan
tanh topk transpose undefined unpack_int4
"""
ALIKE = frozenset(NAMES.split())
"""Operations with the same name in migx."""
RENAMED = {"convert": {"target_type": "to"}, "bit_cast": {"target_type": "to"}}
"""Attributes with another name in migx."""

HOLDERS = ("group", "if", "pointwise")
"""Operations that take modules."""
OURS = {
    "convert": ("saturate", "round_mode"),
    "group": ("axis", "block"),
    "if": ("outputs",),
    "topk": ("sorted",),
    "unpack_int4": ("length",),
}
"""Attributes that MIGraphX does not have; they keep their defaults."""

REDUCTIONS = [name for name in ALIKE if name.startswith("reduce_")]
DEFAULTS: dict[str, dict[str, Any]] = {
    "argmax": {"axis": 0},
    "argmin": {"axis": 0},
    "concat": {"axis": 0},
    "dimensions_of": {"start": 0},
    "logsoftmax": {"axis": 1},
    "lrn": {"size": 1},
    "softmax": {"axis": 1},
    "topk": {"k": 1, "axis": 0},
    **{name: {"axes": ()} for name in REDUCTIONS},
}
"""MIGraphX's defaults for attributes that migx requires."""

ABSENT = {
    "allocate": "results have memory of their own here",
    "as_shape": "use reshape, transpose or multibroadcast",
    "capture": "migx run --save keeps the results of a run",
    "concat_past_present": "parse_onnx reads com.microsoft.GroupQueryAttention",
    "gqa_rotary_embedding": "parse_onnx reads com.microsoft.GroupQueryAttention",
    "im2col": "use convolution",
    "load": "memory is planned by the target",
    "loop": "parse_onnx reads ONNX Loop; migx.ops.Loop is the same",
    "outline": "shapes have no values here; add_parameter declares one",
    "pack_fp4": "MIGraphX's API has no type for the result; migx.ops.PackFp4 is the same",
    "random_seed": "parse_onnx reads ONNX RandomUniform, which has a seed",
    "random_uniform": "parse_onnx reads ONNX RandomUniform",
    "rnn_var_sl_last_output": "parse_onnx reads lengths of sequences",
    "rnn_var_sl_shift_output": "parse_onnx reads lengths of sequences",
    "rnn_var_sl_shift_sequence": "parse_onnx reads lengths of sequences",
    "run_on_target": "a program runs on one target",
    "select_module": "a program is compiled once for all sizes",
    "unknown": "every operation is known where it is made",
    "unpack_fp4": "MIGraphX's API has no type for the input; migx.ops.UnpackFp4 is the same",
}
"""MIGraphX's operations that cannot be added by hand, and what to use instead."""


class Site(Builder):
    """Where an operation is added: the end of a module; with its name, and its own modules."""

    def __init__(self, module: Module, name: str, modules: Sequence[Module] = ()) -> None:
        super().__init__(module)
        self.name, self.modules = name, modules


@dataclass(frozen=True)
class Form:
    """The function that lowers an operation, and the flags it has besides the function's keywords,
    with their defaults.
    """

    lower: Lowering
    flags: Mapping[str, bool]


FORMS: dict[str, Form] = {}


def form(*names: str, **flags: bool) -> Callable[[Lowering], Lowering]:
    """Marks the function that lowers the operations with these names, which have these flags."""

    def marked(function: Lowering) -> Lowering:
        FORMS.update(dict.fromkeys(names, Form(function, flags)))
        return function

    return marked


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front; a negative one counts from the end."""
    return axis + rank if axis < 0 else axis


def axes_of(axes: Sequence[int], rank: int) -> Ints:
    """Axes counted from the front; negative ones count from the end."""
    return tuple(axis_of(axis, rank) for axis in axes)


def _named(given: int | str, known: Sequence[str]) -> str:
    """The name of an enum's member, given by name or integer."""
    return given if isinstance(given, str) else dict(enumerate(known))[given]


def _both_ends(padding: Ints, x: Instruction) -> Ints:
    """Padding as begins, then ends; one number for an axis is for both."""
    return padding * 2 if len(padding) == x.shape.rank - 2 else padding


def _refuse(at: Site, what: str, instead: str) -> None:
    raise CompatError(f"{at.name}: {what} is not supported: {instead}")


# Windows


@form("convolution", "quant_convolution", "convolution_backwards")
def convolution(
    at: Site,
    x: Instruction,
    w: Instruction,
    *,
    padding: Ints = (0, 0),
    stride: Ints = (1, 1),
    dilation: Ints = (1, 1),
    group: int = 1,
    padding_mode: int = 0,
) -> Instruction:
    if padding_mode:
        _refuse(at, "padding_mode", "give the padding")
    op = plugins.operation(at.name)(_both_ends(padding, x), stride, dilation, group)
    if isinstance(op, ConvolutionBackwards):
        op = replace(op, output_padding=(0,) * (x.shape.rank - 2))
    return at(op, x, w)


POOLING = ("average", "max", "lpnorm")


@form("pooling")
def pooling(
    at: Site,
    x: Instruction,
    *,
    mode: int | str = "average",
    padding: Ints = (0, 0),
    padding_mode: int = 0,
    stride: Ints = (1, 1),
    lengths: Ints = (1, 1),
    dilations: Ints = (1, 1),
    ceil_mode: bool = False,
    lp_order: int = 2,
    dyn_global: bool = False,
    count_include_pad: bool = False,
) -> Instruction:
    if padding_mode:
        _refuse(at, "padding_mode", "give the padding")
    spatial = x.shape.rank - 2
    windows: tuple[Extent, ...] = lengths
    if dyn_global:
        windows, stride, dilations = x.shape.dims[2:], (1,) * spatial, (1,) * spatial
        padding = (0,) * spatial
    of = _named(mode, POOLING)
    counted, ceil = bool(count_include_pad), bool(ceil_mode)
    padding = _both_ends(padding, x)
    return at(ops.Pooling(of, windows, padding, stride, dilations, ceil, counted, lp_order), x)


@form("roialign")
def roialign(
    at: Site,
    x: Instruction,
    regions: Instruction,
    images: Instruction,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: int | str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Instruction:
    of = _named(mode, POOLING)
    dims = output_height, output_width
    half = coordinate_transformation_mode == "half_pixel"
    made = ops.RoiAlign(dims, {"average": "avg"}.get(of, of), sampling_ratio, spatial_scale, half)
    return at(made, x, regions, images)


# Views


@form("reshape", "reshape_lazy")
def reshape(
    at: Site, x: Instruction, buffer: Instruction | None = None, *, dims: Ints = ()
) -> Instruction:
    """0 keeps the dim at its place, -1 is inferred; or reshapes to the dims of a buffer."""
    if buffer is not None:
        return at(ops.Reshape(buffer.shape.dims), x)
    known = [x.shape.dims[i] if d == 0 else d for i, d in enumerate(dims)]
    rest = dim.product(d for d in known if d != -1)
    left = x.shape.elements // rest if -1 in known and rest != 0 else 0
    return at(ops.Reshape(tuple(left if d == -1 else d for d in known)), x)


@form("flatten")
def flatten(at: Site, x: Instruction, *, axis: int = 1) -> Instruction:
    dims, split = x.shape.dims, axis_of(axis, x.shape.rank)
    return at(ops.Reshape((dim.product(dims[:split]), dim.product(dims[split:]))), x)


@form("squeeze")
def squeeze(at: Site, x: Instruction, *, axes: Ints = ()) -> Instruction:
    """Without axes, drops all of size 1."""
    single = tuple(i for i, d in enumerate(x.shape.dims) if d == 1)
    return at(ops.Squeeze(axes_of(axes, x.shape.rank) or single), x)


@form("unsqueeze")
def unsqueeze(at: Site, x: Instruction, *, axes: Ints, steps: Ints = ()) -> Instruction:
    if steps:
        _refuse(at, "steps", "use reshape")
    return at(ops.Unsqueeze(axes_of(axes, x.shape.rank + len(axes))), x)


@form("multibroadcast")
def multibroadcast(
    at: Site,
    x: Instruction,
    *others: Instruction,
    out_lens: Ints = (),
    out_dyn_dims: tuple[Any, ...] = (),
) -> Instruction:
    """Broadcasts to the given dims, or to those that all inputs have in common."""
    if not others:
        return at(ops.Multibroadcast(out_lens or _extents(out_dyn_dims)), x)
    return broadcast_to(at, x, common_dims(*(v.shape.dims for v in (x, *others))))


def _extents(dims: Sequence[dynamic_dimension]) -> tuple[Extent, ...]:
    """The extents of dims; ``ShapeError`` for one of which only bounds are known."""
    if unknown := [d for d in dims if not (d.is_fixed() or d.is_symbolic())]:
        raise ShapeError(f"the dim {unknown[0]} is not computed from another: give an input of it")
    return tuple(d.extent("") for d in dims)


@form("broadcast")
def broadcast(
    at: Site,
    x: Instruction,
    other: Instruction | None = None,
    *,
    axis: int = 0,
    out_lens: Ints = (),
    out_dyn_dims: tuple[Any, ...] = (),
) -> Instruction:
    """Broadcasts to the given dims, or to those of another input, aligned from ``axis`` on."""
    dims = other.shape.dims if other is not None else out_lens or _extents(out_dyn_dims)
    return at(ops.Broadcast(axis_of(axis, len(dims)), dims), x)


@form("broadcast_for_dot")
def broadcast_for_dot(at: Site, x: Instruction, other: Instruction) -> Instruction:
    """The leading dims that two matrices broadcast to, before the last two of the first."""
    lead = common_dims(x.shape.dims[:-2], other.shape.dims[:-2])
    return broadcast_to(at, x, (*lead, *x.shape.dims[-2:]))


@form("scalar")
def scalar(at: Site, x: Instruction, *, scalar_bcst_dims: Ints) -> Instruction:
    return broadcast_to(at, x, scalar_bcst_dims)


@form("fill")
def fill(at: Site, value: Instruction, buffer: Instruction) -> Instruction:
    """The value broadcast to the dims of a buffer."""
    return at(ops.Contiguous(), broadcast_to(at, value, buffer.shape.dims))


@form("layout")
def layout(at: Site, x: Instruction, *, permutation: Ints) -> Instruction:
    """The same value with its axes in memory in the order of the permutation."""
    back = tuple(sorted(range(len(permutation)), key=permutation.__getitem__))
    moved = at(ops.Contiguous(), at(ops.Transpose(permutation), x))
    return at(ops.Transpose(back), moved)


@form("pad")
def pad(
    at: Site, x: Instruction, *, pads: Ints, value: float = 0.0, mode: int | str = 0
) -> Instruction:
    by = _named(mode, ("constant", "reflect", "edge"))
    filled = [at.literal(value, x.shape.dtype)] if value else []
    return at(ops.Pad(pads, by), x, *filled)


# Arithmetic


SCATTERS = ("scatter_add", "scatter_max", "scatter_min", "scatter_mul", "scatter_none")


@form(*SCATTERS)
def scatter(
    at: Site,
    x: Instruction,
    indices: Instruction,
    updates: Instruction,
    *,
    axis: int = 0,
    skip_out_of_bounds: bool = False,
) -> Instruction:
    if skip_out_of_bounds:
        _refuse(at, "skip_out_of_bounds", "indices outside are errors here: clip them")
    made = plugins.operation(at.name)(axis_of(axis, x.shape.rank))
    return at(made, x, indices, updates)


@form("equal", "greater", "less", "isnan")
def predicate(at: Site, *inputs: Instruction) -> Instruction:
    """1 or 0 in the type of the inputs."""
    return astype(at, at(plugins.operation(at.name)(), *inputs), inputs[0].shape.dtype)


@form("isinf")
def isinf(
    at: Site, x: Instruction, *, detect_negative: bool = True, detect_positive: bool = True
) -> Instruction:
    found = at(ops.Isinf(detect_negative, detect_positive), x)
    return astype(at, found, x.shape.dtype)


@form("not", "logical_and", "logical_or", "logical_xor")
def logical(at: Site, *inputs: Instruction) -> Instruction:
    """Logic on values that are not 0, in the type of the inputs."""
    bools = [astype(at, value, BOOL) for value in inputs]
    return astype(at, at(plugins.operation(at.name)(), *bools), inputs[0].shape.dtype)


@form("where")
def where(at: Site, condition: Instruction, x: Instruction, y: Instruction) -> Instruction:
    return at(ops.Where(), astype(at, condition, BOOL), x, y)


@form("log2")
def log2(at: Site, x: Instruction) -> Instruction:
    ln2 = at(ops.Log(), at.literal(2.0, x.shape.dtype))
    return at(ops.Div(), at(ops.Log(), x), broadcast_to(at, ln2, x.shape.dims))


@form("quantizelinear", "dequantizelinear")
def linear(
    at: Site,
    x: Instruction,
    scale: Instruction,
    zero: Instruction | None = None,
    *,
    out_type: int = -1,
) -> Instruction:
    """Scale and zero point have the dims of x: one for each element."""
    parameters = [scale] if zero is None else [scale, zero]
    shared = {"axis": 0, "block": 1 if x.shape.rank and scale.shape.rank else 0}
    if at.name == "dequantizelinear":
        return at(ops.DequantizeLinear(**shared), x, *parameters)
    told = ops.QuantizeLinear(**shared).to if out_type < 0 else DTYPES[type_t(out_type)]
    to = told if zero is None else zero.shape.dtype
    return at(ops.QuantizeLinear(**shared, to=to), x, *parameters)


# Recurrent layers, whose last states are operations of their own


@form("rnn")
@form("gru", linear_before_reset=False)
@form("lstm", input_forget=False)
def recurrent(
    at: Site,
    *inputs: Instruction,
    hidden_size: int = 1,
    actv_func: tuple[Any, ...] = (),
    direction: int = 0,
    clip: float = 0.0,
    **flags: bool,
) -> Instruction:
    """The hidden states of all steps; a clip of 0 means none."""
    if actv_func:
        _refuse(at, "actv_func", "parse_onnx reads activations; here they are the defaults")
    way = _named(direction, ("forward", "reverse", "bidirectional"))
    layer = plugins.operation(at.name)(hidden_size, way, clip=clip or math.inf, **flags)
    return at(ops.GetTupleElem(0), at(layer, *inputs))


@form("rnn_last_hs_output", "rnn_last_cell_output")
def last_state(at: Site, states: Instruction) -> Instruction:
    layer = states.inputs[0] if isinstance(states.op, ops.GetTupleElem) else states
    if not isinstance(layer.op, Recurrent):
        raise ShapeError(f"{at.name} takes the result of rnn, gru or lstm, not {states!r}")
    return at(ops.GetTupleElem(1 if at.name == "rnn_last_hs_output" else 2), layer)
