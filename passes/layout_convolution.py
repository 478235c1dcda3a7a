"""Chooses the layout of convolutions."""

from __future__ import annotations

from migx import ops
from migx.errors import UnknownName
from migx.fusion.outlining import BROADCASTS
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.match import attr, having, on, var
from migx.op import Operation, attributes, reduced_axes, with_attributes
from migx.ops.channels_last import ConvolutionChannelsLast, to_first, to_last
from migx.ops.layout import Transpose
from migx.rewrite import Cursor, rule


@rule(on(ops.Convolution, var("x"), var("w"), name="root"))
def channels_last(at: Cursor, x: Instruction, w: Instruction, root: Instruction) -> Instruction:
    """convolution(x, w) is the channels-last convolution of the transposed x and w, transposed
    back.
    """
    rank = root.shape.rank
    given = [at(Transpose(to_last(rank)), value) for value in (x, w)]
    op = ConvolutionChannelsLast(**attributes(root.op))
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
    """Arithmetic on transposed values is the transpose of the arithmetic; constants and broadcasts
    are transposed for it.
    """
    if not any(_is_back(v) for v in root.inputs):
        return None
    if not all(_is_back(v) or v.op.name in BROADCASTS or v.constant for v in root.inputs):
        return None
    return _sunk(at, root, root.op)


@rule(on(ops.Concat, axis=attr("axis"), name="root"))
def sink_below_concat(at: Cursor, root: Instruction, axis: int) -> Instruction | None:
    """A concat of transposed values is the transpose of a concat along the permuted axis."""
    if not all(map(_is_back, root.inputs)):
        return None
    return _sunk(at, root, with_attributes(root.op, axis=to_first(root.shape.rank)[axis]))


@rule(having("reduction", name="root"))
def sink_below_reduction(at: Cursor, root: Instruction) -> Instruction | None:
    """A reduction of a transposed value is the transpose of a reduction along the permuted axes."""
    if not _is_back(root.inputs[0]):
        return None
    moved = sorted(to_first(root.shape.rank)[axis] for axis in reduced_axes(root.op))
    return _sunk(at, root, with_attributes(root.op, axes=tuple(moved)))


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

    ``layout`` is ``nhwc`` for channels last; without it nothing changes.
    """

    rules = (
        channels_last + cancel + sink_below_arithmetic + sink_below_concat + sink_below_reduction
    )
    layout: str = ""
    variants = ("layout=nhwc",)

    def __post_init__(self) -> None:
        if self.layout not in ("", "nhwc"):
            raise UnknownName(f"layout_convolution knows the layout nhwc, not {self.layout!r}")

    def apply(self, module: Module, manager: PassManager) -> bool:
        return self.layout == "nhwc" and super().apply(module, manager)
