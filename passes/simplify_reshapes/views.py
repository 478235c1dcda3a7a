"""Rules that make chains of views shorter, and bring views together so that they can be."""

from __future__ import annotations

from migx import dim, ops
from migx import op as operations
from migx.ir import Instruction
from migx.match import on, var
from migx.ops.reduce import REDUCTIONS
from migx.passes.simplify_reshapes.paths import (
    VIEWS,
    Path,
    applied,
    chain_for,
    gains,
    goes_on,
    is_view,
    path_to,
    views_to,
)
from migx.rewrite import Cursor, Declined, rule


@rule(on(VIEWS, name="last"))
def nested_shape_transforms(at: Cursor, last: Instruction) -> Instruction | None:
    """Views of views are the canonical chain of views of the same source."""
    path = views_to(last)
    if len(path) > 1:
        path = path_to(last)  # for a single view, no chain means no map
    if not path or goes_on(path):
        return None
    made = None
    for i, first in enumerate(path):
        if made is not None and path[i - 1].use_count == 1:
            continue  # not better than beginning one view earlier
        made = chain_for(path[i:])
        if made is not None and gains(made, path[i:]):
            return applied(at, made, first.inputs[0])
    return None


@rule(on(VIEWS, name="last"))
def unary_shape_transforms(at: Cursor, last: Instruction) -> Instruction | Declined | None:
    """view(f(view(x))) is f(view(x)) or view(f(x)) for an elementwise f, where that leaves fewer
    views and no more elements to compute.
    """
    if not any(operations.traits(v.inputs[0].op).pointwise for v in views_to(last)):
        return None  # cheap, and the common case
    after = path_to(last)
    between = pointwise_above(after[0].inputs[0]) if after else []
    if not between:
        return None
    before = path_to(moving_input(between[0]))
    while before and any(v.use_count > 1 for v in before):
        before.pop(0)
    for i, first in enumerate(before):
        made, source = chain_for([*before[i:], *after]), first.inputs[0]
        if made is None or len(made) >= len(before) - i + len(after):
            continue
        if dim.at_most(source.shape.elements, last.shape.elements):
            return applied(at, made, computed(at, between, source))
        if dim.at_most(last.shape.elements, between[0].shape.elements):
            return computed(at, between, applied(at, made, source))
    return Declined("the views do not cancel, or more elements would be computed")


@rule(on((*REDUCTIONS, ops.Concat), name="root"))
def nop_reshapes(root: Instruction) -> Instruction | None:
    """A reduction over axes of one element, and a concat of one tensor, are their input."""
    x = root.inputs[0]
    return x if len(root.inputs) == 1 and x.shape.same_type(root.shape) else None


@rule(
    on(
        (ops.Dot, ops.QuantDot),
        on(ops.Reshape, var("x")).once(),
        on(ops.Reshape, var("y")).once(),
        name="dot",
    )
)
def reshape_dot(at: Cursor, x: Instruction, y: Instruction, dot: Instruction) -> Instruction | None:
    """dot(reshape(x), reshape(y)) is reshape(dot(x, y)) where only leading dims are reshaped."""
    left, right = (v.shape.dims[-2:] for v in dot.inputs)
    same = x.shape.dims[-2:] == left and y.shape.dims[-2:] == right
    if not same or x.shape.dims[:-2] != y.shape.dims[:-2]:
        return None
    return at(ops.Reshape(dot.shape.dims), at(dot.op, x, y))


rules = nested_shape_transforms + unary_shape_transforms + nop_reshapes + reshape_dot


def pointwise_above(at: Instruction) -> Path:
    """The pointwise instructions that end here, with one user and one input besides scalars."""
    path: Path = []
    while (
        operations.traits(at.op).pointwise
        and not at.modules
        and at.use_count == 1
        and sum(not is_scalar(v) for v in at.inputs) == 1
    ):
        path.append(at)
        at = moving_input(at)
    return path[::-1]


def is_scalar(at: Instruction) -> bool:
    """Whether a value is one number, repeated or with more axes."""
    return is_view(at) and at.inputs[0].shape.elements == 1


def moving_input(at: Instruction) -> Instruction:
    """The one input of an elementwise instruction that is no scalar."""
    return next(v for v in at.inputs if not is_scalar(v))


def computed(at: Cursor, path: Path, x: Instruction) -> Instruction:
    """The result of elementwise instructions on another input."""
    for each in path:
        inputs = [spread(at, v.inputs[0], x) if is_scalar(v) else x for v in each.inputs]
        x = at(each.op, *inputs)
    return x


def spread(at: Cursor, number: Instruction, like: Instruction) -> Instruction:
    """One number repeated to the dims of another value."""
    if number.shape.rank > like.shape.rank:
        number = at(ops.Reshape(()), number)
    return at(ops.Multibroadcast(like.shape.dims), number)
