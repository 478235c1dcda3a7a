"""Writes one graph of an ONNX file: a module's instructions, values and sizes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from migx.dim import Dim, Extent
from migx.errors import OnnxError
from migx.ir import Instruction, Module
from migx.onnx import extents, held, tensors, widening
from migx.onnx.extents import Placed
from migx.onnx.site import Made, Site, Value
from migx.shape import F64, TUPLE, DType

if TYPE_CHECKING:
    from migx.onnx.writer import ModelWriter


class GraphWriter:
    """Writes one graph. Nested graphs have writers of their own, which see its values. ``sizes``
    maps an extent to a value and an axis, or to the value that holds it.
    """

    def __init__(self, model: ModelWriter, outer: GraphWriter | None = None) -> None:
        self.model, self.outer = model, outer
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.nodes: list[onnx.NodeProto] = []
        self.infos: list[onnx.ValueInfoProto] = []
        self.values: dict[Instruction, Value | tuple[Value, ...]] = {}
        self.sizes: dict[Extent, Placed | tuple[str, int]] = {}
        self._copies: dict[Hashable, str] = {}
        self._lists: dict[tuple[Extent, ...], str] = {}
        self._made: set[str] = set()

    def around(self) -> Iterator[GraphWriter]:
        """This graph and those that enclose it, innermost first."""
        at: GraphWriter | None = self
        while at is not None:
            yield at
            at = at.outer

    def at_depth(self, depth: int) -> GraphWriter:
        """The graph at a depth: this one or an enclosing one."""
        return next(graph for graph in self.around() if graph.depth == depth)

    # Modules and instructions

    def graph(
        self, name: str, module: Module, inputs: Sequence[str], outputs: Sequence[str] = ()
    ) -> onnx.GraphProto:
        """A graph for a module; its inputs, with the given names, are the module's parameters."""
        pairs = zip(inputs, module.parameters.values(), strict=True)
        taken = [Value(name, parameter.shape.as_standard()) for name, parameter in pairs]
        self.module(module, taken)
        ends = self.ends(module, outputs)
        parameters = list(module.parameters.values())
        made = [self.declared(*pair) for pair in zip(ends, module.outputs, strict=True)]
        given = [self.declared(*pair) for pair in zip(inputs, parameters, strict=True)]
        return helper.make_graph(self.nodes, name, given, made, value_info=self.infos)

    def declared(self, name: str, at: Instruction) -> onnx.ValueInfoProto:
        """The declaration of a value; a missing element type is recorded as a problem."""
        try:
            return held.declared(name, at)
        except OnnxError as error:
            self.model.problems.setdefault(str(error), []).append(name)
            return onnx.ValueInfoProto(name=name)

    def module(self, module: Module, arguments: Sequence[Value]) -> None:
        """Writes a module's instructions into this graph, with values for its parameters."""
        for parameter, value in zip(module.parameters.values(), arguments, strict=True):
            self.define(parameter, value)
        for at in module:
            if at.op.name not in ("@param", "@return"):
                self.instruction(at)

    def inlined(self, module: Module, arguments: Sequence[Value]) -> list[Value]:
        """Writes a module without captures into this graph; returns its results."""
        self.module(module, arguments)
        return [self.value(at) for at in module.outputs]

    def body(self, module: Module) -> onnx.GraphProto:
        """A nested graph for a submodule, which sees the values of this graph."""
        inner = GraphWriter(self.model, self)
        names = [self.model.fresh(f"{module.name}.{name}") for name in module.parameters]
        return inner.graph(module.name, module, names)

    def branch(self, at: Instruction, build: Callable[[Site], str]) -> onnx.GraphProto:
        """A graph without inputs; ``build`` adds its result, which has an instruction's type."""
        inner = GraphWriter(self.model, self)
        name = build(Site(at, inner))
        declared = helper.make_value_info(name, tensors.type_of(at.shape))
        return helper.make_graph(inner.nodes, name, [], [declared])

    def instruction(self, at: Instruction) -> None:
        """Writes one instruction by its exporter; records a problem if that fails."""
        write_one = self.model.exporters.get(at.op.name)
        try:
            if write_one is None:
                raise OnnxError(f"there is no exporter for it{_way_out(at)}")
            made = write_one(Site(at, self))
        except OnnxError as error:
            named = at.origins or [getattr(at.op, "label", "") or f"module {at.owner.name}"]
            where = ", ".join(named)
            self.model.problems.setdefault(f"{at.op.name}: {error}", []).append(where)
            made = tuple("?" for _ in at.shape.parts) if at.shape.dtype is TUPLE else "?"
        if not isinstance(made, tuple):
            self.define(at, made if isinstance(made, Value) else Value(made, at.shape))
            return
        parts = zip(made, at.shape.parts, strict=True)
        values = tuple(v if isinstance(v, Value) else Value(v, part) for v, part in parts)
        self.values[at] = values
        for value in values:
            self.note(value)

    def define(self, at: Instruction, value: Value) -> None:
        """Sets what represents an instruction."""
        self.values[at] = value
        if value.name not in self.model.makers:
            read = (self.found(v) for v in at.inputs)
            taken = tuple(v if isinstance(v, Value) else None for v in read)
            self.model.makers[value.name] = Made(at, taken)
        self.note(value, any(map(_hides_rank, at.inputs)))

    def note(self, value: Value, declare: bool = False) -> None:
        """Records the type of a value, and the sizes that are its dims. If one is new, the value is
        declared, because its rank may not follow from anything else in the file.
        """
        if not value.shape.dtype.is_tensor or not value.name:
            return
        self.model.types[value.name] = value.shape.dtype
        for axis, extent in enumerate(value.shape.dims):
            if isinstance(extent, Dim) and all(extent not in g.sizes for g in self.around()):
                self.sizes[extent] = value.name, axis
                declare = declare or extent.symbol is not None
        if declare and value.name in self._made:
            self.infos.append(helper.make_value_info(value.name, tensors.type_of(value.shape)))

    # Values

    def value(self, at: Instruction) -> Value:
        """What represents an instruction of this module or an enclosing one."""
        found = self.found(at)
        if not isinstance(found, Value):
            raise OnnxError(f"{at!r} has no value in an ONNX file")
        return found

    def parts(self, at: Instruction) -> tuple[Value, ...]:
        """What represents the members of a tuple."""
        found = self.found(at)
        assert isinstance(found, tuple)
        return found

    def found(self, at: Instruction) -> Value | tuple[Value, ...] | None:
        """What represents an instruction in this graph or an enclosing one; None if nothing."""
        return next((g.values[at] for g in self.around() if at in g.values), None)

    def whole(self, at: Instruction) -> str:
        """The name of a value with the type and dims of an instruction."""
        value = self.value(at)
        if not value.name or not at.shape.dtype.is_tensor:
            return value.name
        name = self.typed(value, at.shape.dtype)
        if value.shape.dims == at.shape.dims:
            return name
        key = name, at.shape.dims
        if (found := self._remembered(key)) is None:
            (found,) = self.node("Expand", [name, self.dims(at.shape.dims)], 1, at, {})
            self._copies[key] = found
            self.model.types[found] = at.shape.dtype
        return found

    def typed(self, value: Value, dtype: DType) -> str:
        """The name of a value in an element type; packed values are unpacked."""
        return value.name if value.shape.dtype is dtype else self.cast(value.name, dtype, None)

    def cast(self, name: str, dtype: DType, at: Instruction | None, **attributes: Any) -> str:
        """A value cast to another type, once; the node is named after the instruction, if any."""
        key = name, dtype, tuple(attributes.items())
        if (found := self._remembered(key)) is None:
            to = {"to": tensors.code_of(dtype)}
            (found,) = self.node("Cast", [name], 1, at, to | attributes)
            self._copies[key] = found
            self.model.types[found] = dtype
        return found

    def _remembered(self, key: Hashable) -> str | None:
        return next((g._copies[key] for g in self.around() if key in g._copies), None)

    def dims(self, wanted: Sequence[Extent]) -> str:
        """A list of dims, as i64."""
        key = tuple(wanted)
        for graph in self.around():
            if key in graph._lists:
                return graph._lists[key]
        self._lists[key] = extents.vector(self, key)
        return self._lists[key]

    # Nodes

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        count: int,
        at: Instruction | None,
        attributes: Mapping[str, Any],
    ) -> tuple[str, ...]:
        """Adds a node, named after the instruction's origin; returns the names of its outputs."""
        domain, _, kind = kind.rpartition("::")
        if domain:
            self.model.require(1, domain)
        else:
            self._check(kind, inputs)
        origins = at.origins if at is not None else ()
        label = origins[0] if origins else at.op.name.strip("@") if at is not None else kind
        outputs = [self.model.fresh(label) for _ in range(count)]
        given = {name: value for name, value in attributes.items() if value is not None}
        if at is not None and at.shape.dtype is F64:
            _check_exact(kind, given)
        ends = list(itertools.dropwhile(lambda name: not name, reversed(inputs)))
        made = helper.make_node(kind, ends[::-1], outputs, name=outputs[0], domain=domain, **given)
        if len(origins) > 1:
            made.metadata_props.add(key="migx.origins", value=json.dumps(origins))
        self.nodes.append(made)
        self._made.update(outputs)
        return tuple(outputs)

    def _check(self, kind: str, inputs: Sequence[str]) -> None:
        """Refuses a node that ONNX does not define for the types of its inputs; if a later version
        does, the file imports that.
        """
        for i, name in enumerate(inputs):
            if (dtype := self.model.types.get(name)) is not None:
                self.model.require(widening.since(kind, i, dtype))

    def ends(self, module: Module, wanted: Sequence[str]) -> list[str]:
        """The names of a module's results, each the output of a distinct node of this graph,
        renamed to ``wanted`` if given.
        """
        renamed: dict[str, str] = {}
        names: list[str] = []
        for i, at in enumerate(module.outputs):
            try:
                name = self.whole(at)
            except OnnxError as error:
                self.model.problems.setdefault(f"@return: {error}", []).append(module.name)
                name = "?"
            if name not in self._made or name in renamed or name in names:
                (name,) = self.node("Identity", [name], 1, at, {})
            if wanted:
                renamed[name] = wanted[i]
            names.append(wanted[i] if wanted else name)
        if renamed:
            _rename(self.nodes, renamed)
            for info in self.infos:
                info.name = renamed.get(info.name, info.name)
        return names


def _way_out(at: Instruction) -> str:
    """What to do if an operation without an ONNX form reads weights that were left out."""
    if not at.constant:
        return ""
    return (
        ", and the weights it reads have no value yet, which would be written: give them by "
        "migx.onnx.replace_onnx_external_weights"
    )


def _hides_rank(operand: Instruction) -> bool:
    """Whether the rank of a result may not follow from this operand's type: it is a host value, or
    a list of integers of unknown length. A length of 0 in a file often means unknown.
    """
    shape = operand.shape
    counts = shape.dtype.is_integer and shape.rank == 1
    return shape.dtype.kind == "opaque" or (counts and not (shape.static and shape.dims[0]))


def _check_exact(kind: str, attributes: Mapping[str, Any]) -> None:
    """Refuses numbers that are not representable in f32, the type of ONNX's attributes."""
    for name, value in attributes.items():
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for number in numbers:
            if isinstance(number, float) and float(np.float32(number)) != number:
                raise OnnxError(f"ONNX {kind} has {name} as f32, which does not hold {number}")


def _rename(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Renames values wherever they are read or computed, also in nested graphs."""
    for node in nodes:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                if name in names:
                    field[i] = names[name]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g.node, names)
