"""Fuses attention: two products with a softmax between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from migx.fusion.attention import beside_a_sink, is_read_through
from migx.fusion.outlining import BROADCASTS, Bundle, Outlining, is_small, only_reader
from migx.ir import Instruction, Module
from migx.ops.fused import Group
from migx.ops.layout import Transpose
from migx.ops.reduce import Softmax
from migx.passes.fuse_pointwise import is_by_element
from migx.planning import viewed


class FuseAttention(Outlining):
    """Makes a ``group`` of ``dot(softmax(dot(q, k)), v)`` (MIGraphX pass of this name).

    Any arithmetic may stand between the two products and the softmax, such as a scale, a mask, or
    the guard against fully masked rows, and any view. A scale of q or k goes inside too. So do
    views of q, k and v that would otherwise be copied but can be read in place: the repetition of k
    and v for heads that share them, and the slices of heads from one product for all three. So do
    the transpose that joins the heads of the result, and a sink: an extra score in each row that
    takes its share of the softmax and is then cut off. Only the result may have other users.
    """

    def bundles(self, module: Module) -> list[Bundle]:
        taken: set[Instruction] = set()
        found = list[Bundle]()
        for at in list(module):
            members = _attention(at) if at.op.name == "dot" else []
            if members and taken.isdisjoint(members):  # a product may end one and begin the next
                taken.update(members)
                found.append(Bundle(members, Group("attention")))
        return found


def _attention(last: Instruction) -> list[Instruction]:
    """The instructions of the attention that ends with a dot; empty if there is none."""
    for weights in last.inputs:
        after = _leading_to([weights], {last}, "softmax")
        if (softmax := _sole(after, "softmax")) is None or not _is_by_row(softmax):
            continue
        before = _leading_to(softmax.inputs, {last, *after}, "dot")
        if (parts := beside_a_sink(softmax)) is not None:
            (joined,), (scores, _) = softmax.inputs, parts
            before = [joined, *_leading_to([scores], {last, *after, joined}, "dot")]
        if (first := _sole(before, "dot")) is None:
            continue
        given = [at for operand in first.inputs for at in _leading(operand, first)]
        given += [at for operand in last.inputs for at in _leading(operand, last)]
        between = _from(first, [*before, *after])
        if softmax in between and weights in between:
            return [*given, first, *between, last, *_brought_together(last)]
    return []


def _brought_together(last: Instruction) -> list[Instruction]:
    """The transpose of the result, if it is the only reader and leaves rows whole."""
    reader = only_reader(last)
    if reader is None or not isinstance(reader.op, Transpose):
        return []
    order = reader.op.permutation
    return [reader] if order[-1] == len(order) - 1 else []


def _leading_to(
    values: Sequence[Instruction], readers: set[Instruction], first: str
) -> list[Instruction]:
    """Values and their producers through arithmetic and views without other readers, up to and
    including the operations named ``first``.
    """
    inside, found, work = set(readers), list[Instruction](), list(values)
    while work:
        at = work.pop()
        mine = at not in inside and len(at.users) <= len(inside) and inside.issuperset(at.users)
        if not mine or at.module is not values[0].module:
            continue
        begins = at.op.name == first
        if begins or is_by_element(at) or viewed(at) is not None:
            inside.add(at)
            found.append(at)
            work += [] if begins else at.inputs
    return found


def _sole(members: list[Instruction], name: str) -> Instruction | None:
    """The one instruction of an operation; None where there are none or several."""
    found = [at for at in members if at.op.name == name]
    return found[0] if len(found) == 1 else None


def _is_by_row(softmax: Instruction) -> bool:
    return softmax.op_as(Softmax).axis == softmax.shape.rank - 1


def _from(first: Instruction, members: Iterable[Instruction]) -> set[Instruction]:
    """The first instruction, and those of ``members`` that depend on it."""
    found = {first}
    for at in sorted(members, key=lambda at: at._label):
        if not found.isdisjoint(at.inputs):
            found.add(at)
    return found


def _leading(operand: Instruction, reader: Instruction) -> list[Instruction]:
    """The scalings of an operand by a number, and the views that would be copied but can be read in
    place, with the views after them.
    """
    chain, views, kept = list[Instruction](), list[Instruction](), 0
    while only_reader(operand) is reader:
        places = {"mul": (0, 1), "div": (0,)}.get(operand.op.name, ())
        within = [i for i in places if _is_number(operand.inputs[1 - i])]
        if not within and viewed(operand) is None:
            break
        chain.append(operand)
        views = views if within else [operand, *views]
        copied = not within and _is_copied(operand)
        if within or (copied and is_read_through(operand.inputs[0].shape, views)):
            kept = len(chain)
        reader, operand = operand, operand.inputs[within[0] if within else 0]
    return chain[:kept]


def _is_copied(view: Instruction) -> bool:
    """Whether a view would be copied: it broadcasts more than a number, or reshapes a non-standard
    layout.
    """
    (value,) = view.inputs
    if view.op.name in BROADCASTS:
        return not is_small(value)
    return view.op.name == "reshape" and not value.shape.standard


def _is_number(value: Instruction) -> bool:
    """Whether a value is a fixed literal of one element, or a broadcast of one."""
    while value.op.name in BROADCASTS:
        value = value.inputs[0]
    return is_small(value)
