"""Operations that hold a piece of a program: one module, which reads only its parameters.

A target runs such a piece as one kernel, and ``ref`` as what it stands for. The module takes the
inputs as its parameters, in their order; the result is what it returns, a tuple where that is
several values, in standard layout whatever the layout inside. Passes make these with
``migx.fusion.outlining``, and leave the modules alone from then on: they are marked ``bypass``.
"""

from __future__ import annotations

from migx.argument import Argument
from migx.errors import ShapeError
from migx.op import Arguments, Modules, Op, Runnables, Shapes, Traits
from migx.ops._row_major import row_major
from migx.ops.control import expect_body, expect_modules
from migx.shape import Shape


class Composite(Op, abstract=True):
    """An operation made of those in its module, which reads only its parameters: their shape rules
    are its own.
    """


class Fused(Composite, abstract=True):
    """One module, given what its parameters want."""

    traits = Traits(foldable=False)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect_modules(self, modules, 1)
        results = [shape.as_standard() for shape in expect_body(self, modules[0], shapes)]
        if not results:
            raise ShapeError(f"{self.name}: {modules[0].name} returns nothing")
        return results[0] if len(results) == 1 else Shape.tuple(*results)

    def compute(self, arguments: Arguments, modules: Runnables) -> Argument:
        results = [_as_standard(result) for result in modules[0](arguments)]
        return results[0] if len(results) == 1 else Argument.tuple(results)


class Pointwise(Fused):
    """Elementwise arithmetic; all values inside have the dims of the results.

    Scales and zero points of ``quantizelinear`` and ``dequantizelinear`` alone have their own.
    """


class FusedReduce(Fused):
    """Arithmetic around reductions that all fold the same ``axes`` of the same dims.

    Every value inside has those dims, or 1 on each of the axes. ``softmax`` and ``logsoftmax``
    count as reductions whose result has all the dims.
    """

    axes: tuple[int, ...]


class Group(Fused):
    """The operations of one kernel, as ``tag`` says: ``attention``, ``gemm_epilogue``,
    ``conv_epilogue``, ``gemm_quantized``, ``conv_quantized``, ``concat``, ``int4_gemm``,
    ``int4_gather``, ``winograd``.

    For packed weights inside, ``axis`` is the one along which neighbours share a byte, and
    ``block`` the number of elements that share a scale, 0 if scales are not by block.
    """

    tag: str
    axis: int = -1
    block: int = 0


def _as_standard(value: Argument) -> Argument:
    """The value in standard layout."""
    if value.shape.strides is None or not value.shape.dtype.is_tensor:
        return value
    return Argument(value.shape.as_standard(), row_major(value.array))
