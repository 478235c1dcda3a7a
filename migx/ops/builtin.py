"""The operations every program is made with: parameters, literals, deferred weights, slots,
results.
"""

from __future__ import annotations

from migx.argument import Argument
from migx.errors import AssumptionError, ShapeError
from migx.op import Arguments, Modules, Op, Shapes, Traits
from migx.ops._rules import expect
from migx.shape import Shape


class Param(Op):
    """A value the caller gives at each run."""

    name = "@param"
    traits = Traits(pure=False, foldable=False)
    parameter: str
    shape: Shape

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return self.shape


class Literal(Op):
    """A value known before the run. ``label`` is the tensor's own name, where it has one.

    A ``replaceable`` literal is a weight that may be swapped: passes may use its shape and type,
    but its value only under a recorded assumption, and two of them are never merged because their
    values happen to be equal. ``file`` and ``offset`` say where the weight stands in folders that
    hold another set of its model's weights. ``relied_on_by`` is the ONNX node for which the reader
    looked at the value of a fixed literal: made replaceable, it is assumed to stay.
    """

    name = "@literal"
    value: Argument
    label: str = ""
    replaceable: bool = False
    file: str = ""
    offset: int = 0
    relied_on_by: str = ""

    def __post_init__(self) -> None:
        self.value.freeze()

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return self.value.shape

    def compute(self, arguments: Arguments) -> Argument:
        return self.value


class OnnxExternalWeights(Op):
    """A weight left out of the program: an ONNX initializer or ``Constant`` with external data,
    known by name, place and shape.

    It has no value until bytes are given, is never evaluated, and is never equal to another,
    whatever their shapes.
    """

    traits = Traits(foldable=False)
    label: str
    file: str
    offset: int
    length: int
    shape: Shape

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        if self.shape.nbytes != self.length:
            raise ShapeError(
                f"{self.shape} takes {self.shape.nbytes} bytes, {self.label!r} has {self.length}"
            )
        return self.shape


class Slot(Op):
    """A named result of the weights module, read by the main one."""

    name = "@slot"
    traits = Traits(foldable=False)
    slot: str
    shape: Shape

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return self.shape


SOURCES = (Literal, OnnxExternalWeights, Slot)
"""The operations whose results are constants: literals (a target's own included), deferred weights
and slots.
"""

READER = "the reader"
"""Relies on tensors of one element being fixed numbers, unless told otherwise."""


class AssumeEqual(Op):
    """Asserts that a value in the weights module is the one on which the pass ``relied_on_by``
    relied.

    Evaluating it on another value is an ``AssumptionError``: weights that break an assumption of
    the compiled program are refused.
    """

    traits = Traits(pure=False, foldable=False)
    value: Argument
    label: str = ""
    relied_on_by: str = ""

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        (shape,) = shapes
        if not shape.same_type(self.value.shape):
            raise ShapeError(f"a value of {self.value.shape} is assumed of one of {shape}")
        return shape

    def compute(self, arguments: Arguments) -> Argument:
        if arguments[0] != self.value:
            raise AssumptionError(
                f"weight {self.label!r} cannot have another value: {self.relied_on_by} relied on "
                f"the one it had; {self._remedy()}"
            )
        return arguments[0]

    def _remedy(self) -> str:
        """The advice on how to use another value."""
        if self.relied_on_by == READER and self.value.shape.dtype.is_float:
            return (
                f"program.make_replaceable([{self.label!r}]) before program.compile() makes a "
                "weight of it"
            )
        return (
            "compile a copy with the new weights, as "
            "migx.onnx.replace_onnx_external_weights(program.copy(), values).compile(target), "
            "or read the model with them where its reader relied on it"
        )


class Return(Op):
    """The results of a module, in order, with their names where they have some. Always its last
    instruction.
    """

    name = "@return"
    traits = Traits(pure=False, foldable=False)
    names: tuple[str, ...] = ()

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        if self.names and len(self.names) != len(shapes):
            raise ShapeError(f"{len(self.names)} names for {len(shapes)} results")
        return Shape.tuple(*shapes)


class GetTupleElem(Op):
    """One member of a tuple."""

    traits = Traits(view=0, any_sizes=True)
    index: int = 0

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (whole,) = shapes
        if not 0 <= self.index < len(whole.parts):
            raise ShapeError(f"there is no member {self.index} in {whole}")
        return whole.parts[self.index]

    def compute(self, arguments: Arguments) -> Argument:
        return arguments[0].parts[self.index]


class Undefined(Op):
    """An optional input that is not given."""

    traits = Traits(foldable=False)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return Shape.opaque("optional")

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        return Argument(shape)
