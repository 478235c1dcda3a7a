"""Chooses the layout of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from migx import op as operations
from migx import ops
from migx.errors import UnknownName
from migx.fusion.outlining import BROADCASTS
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.match import attr, having, on, var
from migx.op import Operation, attributes, reduced_axes, with_attributes
from migx.ops._windows import split
from migx.ops.channels_last import (
    ConvolutionChannelsLast,
    QuantConvolutionChannelsLast,
    to_first,
    to_last,
)
from migx.ops.layout import Transpose
from migx.rewrite import Cursor, Declined, rule
from migx.shape import Dims

T = TypeVar("T")

ALONG = (
    ops.Broadcast,
    ops.Concat,
    ops.DequantizeLinear,
    ops.Multibroadcast,
    ops.Pad,
    ops.Pooling,
    ops.QuantizeLinear,
    ops.Reshape,
    ops.Resize,
    ops.Slice,
    ops.Squeeze,
    ops.Transpose,
    ops.Unsqueeze,
)
"""Operations that transposes go along, or views that they become part of, beside arithmetic and
reductions.
"""
CONVOLUTIONS = {
    ops.Convolution: ConvolutionChannelsLast,
    ops.QuantConvolution: QuantConvolutionChannelsLast,
}
"""Convolutions, and the same with channels last."""
NEAR = 64
"""The values around a convolution among which another one is looked for."""


@rule(on(tuple(CONVOLUTIONS), var("x"), var("w"), name="root"))
def channels_last(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> Instruction | Declined:
    """convolution(x, w) is the channels-last convolution of the transposed x and w, transposed
    back.
    """
    if not _has_another_near(root):
        return Declined("no other convolution is near, and transposes would not cancel")
    rank = root.shape.rank
    given = [at(Transpose(to_last(rank)), value) for value in (x, w)]
    op = CONVOLUTIONS[type(root.op)](**attributes(root.op))
    return at(Transpose(to_first(rank)), at(op, *given))


@rule(
    on(
        ops.Transpose,
        on(ops.Transpose, var("x"), permutation=attr("inner")),
        permutation=attr("outer"),
    )
)
def cancel(x: Instruction, inner: tuple[int, ...], outer: tuple[int, ...]) -> Instruction | None:
    """A transpose that undoes another gives the input of the other."""
    back = all(inner[axis] == i for i, axis in enumerate(outer))
    return x if back else None


@rule(having("pointwise", name="root"))
def sink_below_arithmetic(at: Cursor, root: Instruction) -> Instruction | None:
    """Arithmetic on a transposed value is the transpose of the arithmetic; the other operands are
    transposed for it.
    """
    return _sunk(at, root, root.op) if _sinks(root) else None


def is_to_first(order: tuple[int, ...]) -> bool:
    """Whether a permutation makes the last of three axes or more the channels."""
    return len(order) > 2 and order == to_first(len(order))


BACK = on(ops.Transpose, permutation=attr("order", is_to_first), name="back")
"""A value transposed back from channels last, or a constant or broadcast so transposed."""


def is_to_last(order: tuple[int, ...]) -> bool:
    """Whether a permutation makes channels the last of four axes or more."""
    return len(order) > 3 and order == to_last(len(order))


@rule(
    on(Transpose, having("pointwise", name="above").once(), permutation=attr("order", is_to_last))
)
def rise_above_arithmetic(
    at: Cursor, above: Instruction, order: tuple[int, ...]
) -> Instruction | None:
    """Arithmetic that is then transposed to channels last is done on transposed operands."""
    if any(map(_is_back, above.inputs)):
        return None
    return at(above.op, *(at(Transpose(order), value) for value in above.inputs))


@rule(on(ops.Concat, axis=attr("axis"), name="root"))
def sink_below_concat(at: Cursor, root: Instruction, axis: int) -> Instruction | None:
    """A concat with a transposed value is the transpose of a concat along the permuted axis."""
    if not _sinks(root):
        return None
    return _sunk(at, root, with_attributes(root.op, axis=to_first(root.shape.rank)[axis]))


@rule(having("reduction", name="root"))
def sink_below_reduction(at: Cursor, root: Instruction) -> Instruction | None:
    """A reduction of a transposed value is the transpose of a reduction along the permuted axes."""
    if not _is_back(root.inputs[0]):
        return None
    moved = sorted(to_first(root.shape.rank)[axis] for axis in reduced_axes(root.op))
    return _sunk(at, root, with_attributes(root.op, axes=tuple(moved)))


@rule(on(ops.Slice, BACK, axes=attr("axes"), name="root"))
def sink_below_slice(
    at: Cursor, root: Instruction, back: Instruction, axes: tuple[int, ...]
) -> Instruction | None:
    """A slice of a transposed value is the transpose of a slice along the permuted axes."""
    if not _is_back(back):
        return None
    moved = tuple(to_first(back.shape.rank)[axis] for axis in axes)
    return _sunk(at, root, with_attributes(root.op, axes=moved))


@rule(on(ops.Pad, pads=attr("pads"), name="root").some(BACK))
def sink_below_pad(at: Cursor, root: Instruction, pads: Dims) -> Instruction | None:
    """A transposed value padded is the transpose of the padded value."""
    back, *by = root.inputs
    if not _is_back(back):
        return None
    padded = at(_padded_last(root, pads), back.inputs[0], *by)
    return at(Transpose(to_first(root.shape.rank)), padded)


@rule(
    on(
        Transpose,
        on(ops.Pad, pads=attr("pads"), name="above").once(),
        permutation=attr("order", is_to_last),
    )
)
def rise_above_pad(
    at: Cursor, above: Instruction, pads: Dims, order: tuple[int, ...]
) -> Instruction | None:
    """A padded value that is then transposed to channels last is padded once transposed."""
    value, *by = above.inputs
    if _is_back(value):
        return None
    return at(_padded_last(above, pads), at(Transpose(order), value), *by)


@rule(on((ops.QuantizeLinear, ops.DequantizeLinear), axis=attr("axis"), name="root").some(BACK))
def sink_below_quantisation(at: Cursor, root: Instruction, axis: int) -> Instruction | None:
    """A transposed value quantised, or dequantised, is the transpose of the quantised value."""
    value, *parameters = root.inputs
    if not _is_back(value):
        return None
    rank = root.shape.rank
    op = with_attributes(root.op, axis=to_first(rank)[axis])
    given = [at(Transpose(to_last(rank)), v) if v.shape.rank > 1 else v for v in parameters]
    return at(Transpose(to_first(rank)), at(op, value.inputs[0], *given))


@rule(on(ops.Resize, BACK, name="root"))
def sink_below_resize(at: Cursor, root: Instruction, back: Instruction) -> Instruction | None:
    """A transposed value resized is the transpose of the resized value."""
    op = root.op_as(ops.Resize)
    if not _is_back(back) or op.roi:
        return None
    sizes, scales = _permuted(op.sizes), _permuted(op.scales) if op.scales else ()
    return _sunk(at, root, with_attributes(op, sizes=sizes, scales=scales))


@rule(on(ops.Pooling, BACK, name="root"))
def sink_below_pooling(at: Cursor, root: Instruction, back: Instruction) -> Instruction | None:
    """The windows of a transposed value are windows of one channel: channels are then one more
    spatial axis.
    """
    if not _is_back(back):
        return None
    op, rank = root.op_as(ops.Pooling), root.shape.rank
    begins, ends = split(op.padding)
    alone = {name: (*getattr(op, name), 1) for name in ("lengths", "stride", "dilation")}
    pooling = with_attributes(op, padding=(*begins, 0, *ends, 0), **alone)
    windows = at(pooling, at(ops.Unsqueeze((1,)), back.inputs[0]))
    return at(Transpose(to_first(rank)), at(ops.Squeeze((1,)), windows))


def _has_another_near(at: Instruction) -> bool:
    """Whether transposes around a convolution would cancel with those of another."""
    image = at.inputs[0]
    before = _is_back(image) or _leads_to_another([image], lambda v: v.inputs)
    return before or _leads_to_another(at.users, _readers)


def _leads_to_another(
    values: Iterable[Instruction], beyond: Callable[[Instruction], Iterable[Instruction]]
) -> bool:
    """Whether there is a convolution among some values, or ``beyond`` them, with nothing between
    that transposes do not go along; only near ones are looked at.
    """
    seen = dict.fromkeys(values)
    for value in (queue := list(seen)):
        if type(value.op) in CONVOLUTIONS or isinstance(value.op, ConvolutionChannelsLast):
            return True
        if len(queue) < NEAR and _goes_along(value):
            new = [v for v in beyond(value) if v not in seen]
            seen |= dict.fromkeys(new)
            queue += new
    return False


def _readers(value: Instruction) -> list[Instruction]:
    return list(value.users)


def _goes_along(value: Instruction) -> bool:
    """Whether a transpose of an operand may become one of the result, or be made in one copy."""
    traits = operations.traits(value.op)
    return traits.pointwise or traits.reduction or isinstance(value.op, ALONG)


def _sinks(root: Instruction) -> bool:
    """Whether an instruction is better done with channels last, as an input is. With one spatial
    axis nothing tells from which side another is transposed: then all must be.
    """
    if root.shape.rank > 3:
        return any(map(_is_back, root.inputs))
    same = (_is_back(v) or v.op.name in BROADCASTS or v.constant for v in root.inputs)
    return any(map(_is_back, root.inputs)) and all(same)


def _padded_last(at: Instruction, pads: Dims) -> Operation:
    """A pad for the same value with channels last."""
    begins, ends = (_permuted(half) for half in split(pads))
    return with_attributes(at.op, pads=(*begins, *ends))


def _permuted(along: Sequence[T]) -> tuple[T, ...]:
    """What belongs to the axes of a value, in the order of one with channels last."""
    return tuple(along[axis] for axis in to_last(len(along)))


def _is_back(value: Instruction) -> bool:
    """Whether a value is a channels-last one, transposed back. With one spatial axis both
    transposes are equal; of constants and broadcasts they are those to channels-last.
    """
    rank = value.shape.rank
    if rank < 3 or value.op != Transpose(to_first(rank)):
        return False
    return not value.constant and value.inputs[0].op.name not in BROADCASTS


def _sunk(at: Cursor, root: Instruction, op: Operation) -> Instruction:
    """The operation on its inputs with channels last, transposed back."""
    rank = root.shape.rank
    given = [v.inputs[0] if _is_back(v) else at(Transpose(to_last(rank)), v) for v in root.inputs]
    return at(Transpose(to_first(rank)), at(op, *given))


class LayoutConvolution(Pass):
    """Gives convolutions the requested layout, by transposes that cancel along chains of
    convolutions and arithmetic (MIGraphX pass of this name).

    ``layout`` is ``nhwc`` for channels last; without it nothing changes. Convolutions with no other
    near are left as they are. ``auto_contiguous{channels=true}`` copies what transposes are left.
    """

    rules = (
        channels_last
        + cancel
        + sink_below_arithmetic
        + rise_above_arithmetic
        + sink_below_concat
        + sink_below_reduction
        + sink_below_slice
        + sink_below_pad
        + rise_above_pad
        + sink_below_quantisation
        + sink_below_resize
        + sink_below_pooling
    )
    layout: str = ""
    variants = ("layout=nhwc",)

    def __post_init__(self) -> None:
        if self.layout not in ("", "nhwc"):
            raise UnknownName(f"layout_convolution knows the layout nhwc, not {self.layout!r}")

    def apply(self, module: Module, manager: PassManager) -> bool:
        if self.layout != "nhwc" or not any(map(_has_channels_last, module)):
            return False
        return super().apply(module, manager)


def _has_channels_last(at: Instruction) -> bool:
    """Whether an instruction is a convolution of channels last, or to become one."""
    first = type(at.op) in CONVOLUTIONS
    return isinstance(at.op, ConvolutionChannelsLast) or (first and _has_another_near(at))
