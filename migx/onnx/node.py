"""What an importer is given: an ONNX node, with its attributes, its inputs, and the place for its
instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
from numpy.typing import ArrayLike

from migx import dim, ops
from migx.argument import Argument
from migx.builders import Arithmetic, astype, broadcast_to, full, full_like
from migx.dim import Dim, Extent
from migx.errors import DataError, OnnxError
from migx.ir import Instruction, Module
from migx.onnx import symbolic, tensors
from migx.onnx.graphs import label_of, named
from migx.op import Array, Operation
from migx.ops.builtin import Literal, OnnxExternalWeights
from migx.ops.control import Assume
from migx.shape import DType, Shape

if TYPE_CHECKING:
    from migx.onnx.graph_reader import GraphReader

T = TypeVar("T")
_TYPES = {
    "f": onnx.AttributeProto.FLOAT,
    "i": onnx.AttributeProto.INT,
    "s": onnx.AttributeProto.STRING,
    "t": onnx.AttributeProto.TENSOR,
    "g": onnx.AttributeProto.GRAPH,
    "sparse_tensor": onnx.AttributeProto.SPARSE_TENSOR,
    "tp": onnx.AttributeProto.TYPE_PROTO,
    "floats": onnx.AttributeProto.FLOATS,
    "ints": onnx.AttributeProto.INTS,
    "strings": onnx.AttributeProto.STRINGS,
}
"""The attribute type for each field that holds a value."""


class Node(Arithmetic):
    """A node being lowered to instructions.

    ``inputs`` are its operands, None for an omitted optional one. ``version`` is that of its
    domain's opset.
    """

    def __init__(
        self,
        proto: onnx.NodeProto,
        graph: GraphReader,
        inputs: Sequence[Instruction | None],
        version: int,
    ) -> None:
        super().__init__(graph.module)
        self.proto, self.graph, self.inputs, self.version = proto, graph, tuple(inputs), version
        self._attributes = {a.name: a for a in proto.attribute}

    @property
    def label(self) -> str:
        """The node's name; without one, that of its first output."""
        return label_of(self.proto)

    @property
    def outputs(self) -> int:
        """The number of outputs, without trailing empty ones."""
        return max((i + 1 for i, name in enumerate(self.proto.output) if name), default=0)

    def fail(self, message: str) -> OnnxError:
        """The error to raise: what is wrong, at which node."""
        return OnnxError(f"{named(self.proto)}: {message}")

    # Operands

    def input(self, index: int) -> Instruction:
        """A required operand."""
        value = self.optional(index)
        if value is None:
            raise self.fail(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Instruction | None:
        """An operand, or None if it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def operands(self, start: int = 0) -> list[Instruction]:
        """All operands from ``start`` on, which are required."""
        return [self.input(i) for i in range(start, len(self.inputs))]

    def dims_of(self, index: int, count: int) -> tuple[Extent, ...]:
        """The dims of a required operand; ``OnnxError`` if there are not ``count``."""
        value = self.input(index)
        if value.shape.rank != count:
            raise self.fail(f"{self.proto.input[index]!r} {value.shape}: {count} axes are wanted")
        return value.shape.dims

    def expect_dims(self, index: int, dims: Sequence[Extent]) -> None:
        """``OnnxError`` if an operand, unless omitted, cannot have these dims."""
        value = self.optional(index)
        if value is None:
            return
        given = value.shape.dims
        if len(given) != len(dims) or not all(map(dim.may_equal, given, dims)):
            name, wanted = self.proto.input[index], ", ".join(map(str, dims))
            raise self.fail(f"{name!r} {value.shape}: ({wanted}) is wanted")

    def declared(self) -> onnx.ValueInfoProto | None:
        """The model's declaration of the node's first result, if there is one."""
        name, graph = next(iter(self.proto.output), ""), self.graph.graph
        values = (*graph.value_info, *graph.output) if name else ()
        return next((value for value in values if value.name == name), None)

    def contents(self, value: Instruction) -> Array | None:
        """The integers a value is known to hold, numbers or dims; None if unknown so far."""
        self._settle_integers(value)
        return symbolic.contents(value)

    def _settle_integers(self, value: Instruction) -> None:
        """Reads a deferred tensor of integers whose contents an importer needs; notes that those of
        a literal are looked at.
        """
        held = isinstance(value.op, OnnxExternalWeights | Literal)
        if held and symbolic.may_be_contents(value.shape):
            self.graph.settle(value, named(self.proto))

    def extents(self, value: Instruction, *, whole: bool = False) -> tuple[Extent, ...] | None:
        """The known contents of a value as a flat tuple; None if known only at run time. ``whole``
        also accepts floats that are integers.
        """
        self._settle_integers(value)
        held = symbolic.whole_numbers(value) if whole else symbolic.contents(value)
        return (
            None
            if held is None
            else tuple(x if isinstance(x, Dim) else int(x) for x in held.reshape(-1))
        )

    def constant(self, value: Instruction) -> Array | None:
        """The value of an operand that depends only on literals; otherwise None."""
        if value.constant:
            self.graph.settle(value, named(self.proto))
        return symbolic.constant_value(value)

    def needed(self, value: Instruction, what: str) -> Array:
        """``constant``, or an error that says what must be known."""
        found = self.constant(value)
        if found is None:
            raise self.fail(f"{what} must be a constant, not {value!r}")
        return found

    # Attributes

    def has(self, name: str) -> bool:
        return name in self._attributes

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._attribute(name, default, "i"))

    def expect_integers(self, **supported: int) -> None:
        """``OnnxError`` if an attribute does not have its only supported value."""
        for name, value in supported.items():
            if (given := self.integer(name, value)) != value:
                raise self.fail(f"{name} {given} is not supported; {value} is")

    def number(self, name: str, default: float | None = None) -> float:
        """A float attribute, or its default rounded to f32 like given values; an int given instead
        is accepted.
        """
        given = self._attributes.get(name)
        if given is not None and given.type == onnx.AttributeProto.INT:
            return float(given.i)
        return float(np.float32(self._attribute(name, default, "f")))

    def string(self, name: str, default: str | None = None) -> str:
        value = self._attribute(name, default, "s")
        return value.decode() if isinstance(value, bytes) else str(value)

    def choice(self, name: str, options: Iterable[str], default: str | None = None) -> str:
        """A string attribute that must be one of some options."""
        given = self.string(name, default)
        if given not in options:
            raise self.fail(f"no {name} {given!r}; there are {', '.join(options)}")
        return given

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        return tuple(map(int, self._attribute(name, default, "ints")))

    def numbers(self, name: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        return tuple(map(float, self._attribute(name, default, "floats")))

    def strings(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        value = self._attribute(name, default, "strings")
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)

    def tensor(self, name: str) -> Argument:
        """A tensor attribute."""
        return self._of_tensor(name, self.graph.model.argument)

    def weight(self, name: str) -> Instruction:
        """The value of a tensor attribute, named after the node; deferred if external."""
        weight = partial(self.graph.weight, label=self.label, origins=self.origins)
        return self._of_tensor(name, weight)

    def _of_tensor(self, name: str, read: Callable[[onnx.TensorProto], T]) -> T:
        """What is read from a tensor attribute; errors name the node, as few such tensors have a
        name.
        """
        tensor: onnx.TensorProto = self._attribute(name, None, "t")
        try:
            return read(tensor)
        except (DataError, OnnxError) as error:
            raise type(error)(f"{named(self.proto)}: {error}") from error

    def sparse_tensor(self, name: str) -> onnx.SparseTensorProto:
        """A sparse tensor attribute."""
        found: onnx.SparseTensorProto = self._attribute(name, None, "sparse_tensor")
        return found

    def held_type(self, name: str) -> tuple[Shape, ...]:
        """The element shape in a type attribute for a sequence or an optional."""
        found: onnx.TypeProto = self._attribute(name, None, "tp")
        return tensors.held(found, named(self.proto))

    def subgraph(self, name: str) -> onnx.GraphProto:
        found: onnx.GraphProto = self._attribute(name, None, "g")
        return found

    def dtype(self, name: str, default: int | None = None) -> DType:
        """An attribute that is an ONNX type code."""
        return tensors.dtype_of(self.integer(name, default), named(self.proto))

    def _attribute(self, name: str, default: Any, field: str) -> Any:
        given = self._attributes.get(name)
        if given is not None:
            # Early files omit attribute types.
            if given.type not in (onnx.AttributeProto.UNDEFINED, _TYPES[field]):
                found, wanted = map(
                    onnx.AttributeProto.AttributeType.Name, (given.type, _TYPES[field])
                )
                raise self.fail(f"attribute {name!r} is {found}, where {wanted} belongs")
            return getattr(given, field)
        if default is None:
            raise self.fail(f"attribute {name!r} is missing")
        return default

    # Instructions

    add = Arithmetic.__call__

    def added(
        self, op: Operation, inputs: Sequence[Instruction], modules: Sequence[Module] = ()
    ) -> Instruction:
        """Adds an instruction of this node, or the value of known shape arithmetic."""
        known = symbolic.evaluated(op, inputs) if not modules else None
        if known is not None:
            for value in inputs:
                self.graph.settle(value, named(self.proto))
            shape = op.compute_shape([v.shape for v in inputs], ())
            op, inputs = symbolic.literal_or_dims(known, shape.dtype), ()
        return super().added(op, inputs, modules)

    @property
    def origins(self) -> tuple[str, ...]:
        """The node's label, or that of the node whose function body it belongs to."""
        return (self.graph.origin or self.label,)

    def literal(self, value: ArrayLike | Argument, dtype: DType | str | None = None) -> Instruction:
        """Adds a literal of this node; ``dtype`` is the type of a value it must agree with."""
        held = value if isinstance(value, Argument) else np.asarray(value)
        return super().added(ops.Literal(Argument.of(held, dtype)), ())

    def dims(self, extents: Sequence[Extent]) -> Instruction:
        """An i64 vector of dims."""
        held = np.empty(len(extents), object)
        held[:] = list(extents)
        return super().added(symbolic.literal_or_dims(held, DType.of("i64")), ())

    def fresh(self, hint: str = "") -> Dim:
        """A symbol for a data-dependent size, named after this node."""
        return self.graph.fresh(f"{self.label}{hint and '.'}{hint}")

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front; an error if it is out of range."""
        if not -rank <= axis < rank:
            raise self.fail(f"axis {axis} is out of range for rank {rank}")
        return axis % rank if rank else 0

    def axes(self, axes: Sequence[Any], rank: int) -> tuple[int, ...]:
        """Axes counted from the front, sorted; a repetition is an error."""
        found = tuple(sorted(self.axis(int(a), rank) for a in axes))
        if len(set(found)) < len(found):
            raise self.fail(f"axes {tuple(axes)} name one twice")
        return found

    def assumed(self, value: Instruction, condition: Instruction, way: bool) -> Instruction:
        """The value, whose rank is valid only in runs in which the condition equals ``way``."""
        said = (
            f"the program was made for inputs at which this condition is {way}: read the model "
            "with the dims it is to run at, by input_dims, or --input-dim or --dim-param"
        )
        return self.add(Assume(way, said), value, condition)

    def inside(self, name: str) -> Node:
        """This node, adding to a new module, which sees the values around it."""
        inner = self.graph.inside(onnx.GraphProto(), name)
        return Node(self.proto, inner, self.inputs, self.version)

    # Small compositions that many operators share

    def broadcast_to(self, value: Instruction, dims: Sequence[Extent]) -> Instruction:
        """The value broadcast to dims; itself if it has them."""
        return broadcast_to(self, value, tuple(dims))

    def convert(self, value: Instruction, dtype: DType) -> Instruction:
        """The value converted to an element type; itself if it has that type."""
        return astype(self, value, dtype)

    def full(self, value: float, dtype: DType, dims: Sequence[Extent]) -> Instruction:
        """A number of a type, broadcast to dims."""
        return full(self, value, dtype, tuple(dims))

    def scalar(self, value: float, like: Instruction) -> Instruction:
        """A number broadcast to the type and dims of a value."""
        return full_like(self, like, value)

    def reshape(self, value: Instruction, dims: Sequence[Extent]) -> Instruction:
        """The value reshaped to other dims; itself if it has them."""
        return (
            value if value.shape.dims == tuple(dims) else self.add(ops.Reshape(tuple(dims)), value)
        )

    def unpacked(self, value: Instruction) -> Instruction:
        """A packed value unpacked to a type that can be computed with; others unchanged."""
        return self.graph.unpacked(value, self.origins)

    def elements(self, whole: Instruction, count: int) -> tuple[Instruction, ...]:
        """The first ``count`` members of a tuple."""
        return tuple(self.add(ops.GetTupleElem(i), whole) for i in range(count))
