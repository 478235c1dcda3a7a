"""What an exporter is given: one instruction, and the place in a graph for its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from migx import dim
from migx.argument import Argument
from migx.dim import Extent
from migx.errors import DimError, OnnxError
from migx.ir import Instruction
from migx.onnx import widening
from migx.ops.builtin import Literal
from migx.ops.layout import Multibroadcast
from migx.shape import DType, Shape

if TYPE_CHECKING:
    from migx.onnx.graph_writer import GraphWriter


@dataclass(frozen=True)
class Value:
    """A value of the file: its name, type and dims there.

    These may differ from those of the instruction: a broadcast may have fewer elements, because
    most operators broadcast by themselves, and an unpacked value may still be packed. A value
    without a name is an omitted operand.
    """

    name: str
    shape: Shape


@dataclass(frozen=True)
class Made:
    """The instruction a value was made for, and the values that this read; None for no value."""

    at: Instruction
    inputs: tuple[Value | None, ...]


class Site:
    """One instruction being written as nodes. ``op`` and ``shape`` are its own."""

    def __init__(self, at: Instruction, graph: GraphWriter) -> None:
        self.at, self.graph = at, graph
        self.op: Any = at.op
        self.shape = at.shape

    def fail(self, message: str) -> OnnxError:
        """The error to raise: why this instruction has no ONNX form."""
        return OnnxError(message)

    # Operands

    def raw(self, index: int) -> Value:
        """An operand as it is in the file, perhaps not yet broadcast or unpacked."""
        return self.graph.value(self.at.inputs[index])

    def input(self, index: int, dtype: DType | None = None) -> str:
        """The name of an operand with the dims it has in the program, in its type or another; empty
        if it is undefined.
        """
        operand = self.at.inputs[index]
        given = operand.shape.dtype
        return self.cast(self.graph.whole(operand), given, dtype or given)

    def inputs(self, start: int = 0) -> list[str]:
        """The names of all operands from ``start`` on."""
        return [self.input(i) for i in range(start, len(self.at.inputs))]

    def given(self, index: int) -> bool:
        """Whether an optional operand is given."""
        operands = self.at.inputs
        return index < len(operands) and operands[index].op.name != "undefined"

    def known(self, index: int) -> Argument | None:
        """The value of an operand that is a fixed literal, perhaps broadcast; otherwise None."""
        operand = self.at.inputs[index]
        source = operand.inputs[0] if type(operand.op) is Multibroadcast else operand
        if type(source.op) is not Literal or source.op.replaceable or not operand.shape.static:
            return None
        held = source.op.value
        if source is operand:
            return held
        return Argument.of(np.broadcast_to(held.array, [int(d) for d in operand.shape.dims]))

    def scalar(self, index: int, dtype: DType | None = None) -> str:
        """A one-element operand as a scalar of rank 0, in its type or another."""
        return self._single(index, (), dtype)

    def vector(self, index: int, dtype: DType | None = None) -> str:
        """A one-element operand as a list, in its type or another."""
        return self._single(index, (1,), dtype)

    def _single(self, index: int, dims: tuple[int, ...], dtype: DType | None) -> str:
        shape = self.at.inputs[index].shape
        name = self.reshaped(self.input(index), shape, dims)
        return self.cast(name, shape.dtype, dtype or shape.dtype)

    def aligned(self) -> tuple[list[str], Shape]:
        """All operands, for a node that broadcasts them; and the shape of its result, which may be
        smaller than the instruction's.
        """
        read = self.at.inputs
        names = [self.graph.typed(self.raw(i), v.shape.dtype) for i, v in enumerate(read)]
        dims = [self.raw(i).shape.dims for i in range(len(read))]
        rank = max(map(len, dims))
        padded = [(1,) * (rank - len(d)) + d for d in dims]
        try:
            made = [
                self._joined(axis - rank, column)
                for axis, column in enumerate(zip(*padded, strict=True))
            ]
        except DimError:
            return self.inputs(), self.shape
        return names, Shape(self.shape.dtype, made)

    def _joined(self, axis: int, column: Sequence[Extent]) -> Extent:
        """The dim of the result for the dims of the operands on an axis."""
        wholes = [v.shape.dims[axis] for v in self.at.inputs]
        if any(d == whole for d, whole in zip(column, wholes, strict=True)):
            return self.shape.dims[axis]
        return dim.broadcast(*column)

    # Nodes

    def node(self, kind: str, /, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output; its kind is ``domain::Name`` for other domains. Attributes
        that are None are omitted.
        """
        return self.nodes(kind, inputs, 1, **attributes)[0]

    def nodes(
        self, kind: str, inputs: Sequence[str], count: int, /, **attributes: Any
    ) -> tuple[str, ...]:
        """Adds a node; returns the names of its outputs. If ONNX does not define it for types so
        narrow, it uses wider ones, with the same results.
        """
        graph = self.graph
        found = widening.wider(kind, [graph.model.types.get(name) for name in inputs])
        if found is None:
            return graph.node(kind, inputs, count, self.at, attributes)
        taken = [
            name if wide is None else self.cast(name, graph.model.types[name], wide)
            for name, wide in zip(inputs, found.inputs, strict=True)
        ]
        made = graph.node(kind, taken, count, self.at, attributes)
        return tuple(
            graph.cast(name, narrow, self.at, saturate=found.saturate)
            if (narrow := found.result(i)) is not None
            else name
            for i, name in enumerate(made)
        )

    def elementwise(self, kind: str, **attributes: Any) -> Value:
        """Adds a node that broadcasts all operands by itself."""
        names, shape = self.aligned()
        return Value(self.node(kind, *names, **attributes), shape)

    def constant(self, value: ArrayLike, dtype: DType | str = "i64") -> str:
        """A constant of the model; equal ones are shared."""
        array = np.asarray(value)
        return self.graph.model.constant(array.astype(DType.of(dtype).numpy))

    def dims(self, extents: Sequence[Extent]) -> str:
        """A list of dims, as i64."""
        return self.graph.dims(extents)

    def cast(self, name: str, given: DType, wanted: DType, **attributes: Any) -> str:
        """A value cast to another type."""
        if given is wanted:
            return name
        self.graph.model.require_type(wanted)
        return self.graph.cast(name, wanted, self.at, **attributes)

    def reshaped(self, name: str, shape: Shape, dims: Sequence[Extent]) -> str:
        """A value with the given shape, reshaped to other dims."""
        if shape.dims == tuple(dims):
            return name
        said = _short(shape.dims, dims)
        if said is None:
            return self.node("Reshape", name, self.dims(dims), allowzero=1)
        return self.node("Reshape", name, self.dims(said))


def _short(have: Sequence[Extent], dims: Sequence[Extent]) -> list[int] | None:
    """The dims of a Reshape as constants: 0 copies a dim, -1 is inferred. None if these do not
    suffice, or are ambiguous for a size of 0.
    """
    copied = [
        0 if not isinstance(d, int) and i < len(have) and have[i] == d else d
        for i, d in enumerate(dims)
    ]
    if 0 in dims:
        return None
    numbers = [d for d in copied if isinstance(d, int)]
    if len(numbers) == len(dims):
        return numbers
    said = [d if isinstance(d, int) else -1 for d in dims]
    return said if said.count(-1) == 1 else None
