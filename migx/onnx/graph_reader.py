"""One graph of an ONNX model as a module: the walk over its nodes, values and names. Operators are
lowered by ``migx.onnx.ops``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import onnx

from migx import dim, ops
from migx.argument import Source
from migx.dim import Dim, Extent
from migx.errors import DimError, MigxError, OnnxError, ShapeError
from migx.ir import Instruction, Module
from migx.onnx import tensors
from migx.onnx.functions import Called, body_of, called_by, instantiated, is_function, shown
from migx.onnx.given import InputDims, by_name, checked, declared_name, expect_alone
from migx.onnx.graphs import captured_by, in_order, named
from migx.onnx.model_file import ModelFile
from migx.onnx.node import Node
from migx.onnx.objections import unfit
from migx.onnx.opsets import domain_of, imported, version_meant
from migx.onnx.packed import packing, unpacking
from migx.onnx.sparse import dense
from migx.ops.builtin import READER, Literal, OnnxExternalWeights
from migx.program import Program
from migx.shape import Shape
from migx.weights import assume
from migx.weights.constants import tree
from migx.weights.marking import must_be_known
from migx.weights.sources import from_folder, is_there


class GraphReader:
    """Reads one graph into one module. Nested graphs have readers of their own, which see its
    values. For a function body, ``origin`` is the calling node, and ``calls`` are the functions
    being read.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        module: Module,
        model: ModelFile,
        *,
        outer: GraphReader | None = None,
        embedded: Mapping[int, Source] | None = None,
        origin: str = "",
        calls: tuple[Called, ...] = (),
    ) -> None:
        self.graph, self.module, self.model, self.outer = graph, module, model, outer
        self.origin: str = origin or (outer.origin if outer is not None else "")
        self.calls: tuple[Called, ...] = calls or (outer.calls if outer else ())
        self.values: dict[str, Instruction] = {}
        self.absent: set[str] = set()
        self._sources = embedded or {}

    def parameters(self, input_dims: InputDims | None) -> None:
        """Declares the graph's inputs, except initializers."""
        initialized = {tensor.name for tensor in self.graph.initializer}
        inputs = [value for value in self.graph.input if value.name not in initialized]
        given = checked(input_dims, {value.name for value in inputs})
        self.model.names.update(
            symbol.name for dims in given.values() for d in dims for symbol in dim.symbols(d)
        )
        for value in self.graph.input:
            self.model.names.update(map(declared_name, value.type.tensor_type.shape.dim))
        self.model.sizes.update(by_name(inputs, given))
        for value in inputs:
            self.parameter(value.name, self.input_shape(value, given.get(value.name)))
        expect_alone(given, self.module.parameters.values())

    def parameter(self, name: str, shape: Shape) -> None:
        """Declares one input; a packed one is unpacked for its users."""
        self.expect_new(name)
        self.define(name, self.unpacked(self.module.add_parameter(name, shape)))

    def input_shape(self, value: onnx.ValueInfoProto, dims: Sequence[Extent] | None) -> Shape:
        """The shape of an input, as declared or given."""
        kind = value.type.WhichOneof("value")
        if kind in ("sequence_type", "optional_type", "map_type") and dims is None:
            return tensors.host_shape(value.type, f"input {value.name!r}")
        if kind != "tensor_type":
            raise OnnxError(
                f"input {value.name!r} is not a tensor but {kind or 'untyped'}, which "
                + ("has no dims to give" if dims is not None else "is not supported")
            )
        tensor = value.type.tensor_type
        dtype = tensors.dtype_of(tensor.elem_type, f"input {value.name!r}")
        if dims is not None:
            if tensor.HasField("shape") and len(dims) != len(tensor.shape.dim):
                raise OnnxError(
                    f"input {value.name!r} has rank {len(tensor.shape.dim)}, not {len(dims)}"
                )
            return tensors.declared(dtype, dims, f"input {value.name!r}")
        if not tensor.HasField("shape"):
            raise OnnxError(f"input {value.name!r} declares no rank: give its dims by input_dims")
        found = [self.declared_dim(value.name, i, d) for i, d in enumerate(tensor.shape.dim)]
        return tensors.declared(dtype, found, f"input {value.name!r}")

    def declared_dim(
        self, name: str, axis: int, declared: onnx.TensorShapeProto.Dimension
    ) -> Extent:
        """A number, the symbol named in the file, or one named after the input."""
        if declared.HasField("dim_value") and declared.dim_value > 0:
            return declared.dim_value
        named = declared_name(declared)
        size = Dim(named) if named else self.fresh(f"{name}.{axis}")
        (symbol,) = dim.symbols(size)
        return self.model.sizes.get(symbol.name, size)

    def fresh(self, hint: str) -> Dim:
        """A symbol with an unused name."""
        name, count = hint, 0
        while name in self.model.names:
            count += 1
            name = f"{hint}.{count}"
        self.model.names.add(name)
        return Dim(name)

    def body(self) -> None:
        """Reads initializers and nodes, in topological order."""
        for index, tensor in enumerate(self.graph.initializer):
            label = self.label(tensor.name)
            self.define(tensor.name, self.weight(tensor, label, self._sources.get(index)))
        for sparse in self.graph.sparse_initializer:
            holder = onnx.NodeProto(name=sparse.values.name, op_type="SparseTensor")
            self.define(sparse.values.name, dense(Node(holder, self, (), 1), sparse))
        for proto in in_order(self.graph, self.values.keys() | self.visible()):
            self.node(proto)

    def weight(
        self,
        tensor: onnx.TensorProto,
        label: str,
        embedded: Source | None = None,
        origins: tuple[str, ...] = (),
    ) -> Instruction:
        """The value of a tensor, with a name. If it must be known, it is read if possible."""
        op = self.model.weight(tensor, label, embedded)
        value = self.module.add_instruction(op, origins=origins)
        if must_be_known(value.shape) and is_there(value, self.model.folder):
            self.settle(value)
        return self.unpacked(value, origins)

    def label(self, name: str) -> str:
        """An initializer's name, prefixed by the module if an enclosing one has the same name."""
        return f"{self.module.name}/{name}" if name in self.visible() else name

    def settle(self, value: Instruction, wanted_by: str = READER) -> None:
        """Reads the deferred weights that a value depends on, because the program's form depends on
        it; their values are assumed from then on.
        """
        for at in tree(value):
            if type(at.op) is OnnxExternalWeights and at.module is not None:
                weight = self.model.settled[at.op.label] = at.op
                found = from_folder(self.model.folder, weight.label, at)
                at.module.replace_operation(at, Literal(found, weight.label))
            elif type(at.op) is Literal and wanted_by != READER:
                if (settled := self.model.settled.get(at.op.label)) is None:
                    if at.op.label:
                        self.model.relied.setdefault(at.op.label, wanted_by)
                    continue
                weight, found = settled, at.op.value
            else:
                continue
            assume(self.module.program, weight, found, wanted_by)

    def unpacked(self, value: Instruction, origins: tuple[str, ...] = ()) -> Instruction:
        """A packed value through the operation that unpacks it; others unchanged. The packed bytes
        stay as they are.
        """
        if not value.shape.dtype.is_packed:
            return value
        return self.module.add_instruction(unpacking(value.shape.dtype), value, origins=origins)

    def visible(self) -> set[str]:
        """The names in the enclosing graphs."""
        return set() if self.outer is None else self.outer.values.keys() | self.outer.visible()

    def node(self, proto: onnx.NodeProto) -> None:
        """Lowers a node by its importer, or reads the body of the function it calls."""
        domain = domain_of(proto.domain)
        version = version_meant(proto, domain, self.model.version(proto))
        inputs = [self.operand(proto, name) for name in proto.input]
        node = Node(proto, self, inputs, version)
        importer = self.model.importer(domain, proto.op_type, version)
        try:
            made = importer(node) if importer is not None else self.called(node)
        except DimError as error:
            raise node.fail(str(error)) from error
        except ShapeError as error:
            raise ShapeError(f"{named(proto)}: {error}") from error
        except MigxError:
            raise
        except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
            raise node.fail(unfit(node, error)) from error
        results = made if isinstance(made, tuple) else (made,)
        for name, result in zip(proto.output, results, strict=False):
            if name:
                self.define(name, result)
        if extra := [name for name in proto.output[len(results) :] if name]:
            raise node.fail(f"outputs {', '.join(extra)} are not supported")

    def called(self, node: Node) -> tuple[Instruction, ...]:
        """The results of a node that calls a function, whose body is read in its place."""
        proto = node.proto
        function = self.model.function(proto)
        if function is None and not is_function(proto.domain, proto.op_type, node.version):
            raise node.fail(f"version {node.version} is not supported")
        function = function or body_of(proto, node.version, node.inputs)
        if len(node.inputs) > (most := len(function.input)):
            raise node.fail(f"it has {len(node.inputs)} inputs; {function.name} takes {most}")
        graph = onnx.GraphProto(
            name=function.name, node=instantiated(function, proto, node.version)
        )
        versions = imported(function.opset_import)
        model = dataclasses.replace(self.model, versions={**self.model.versions, **versions})
        called = called_by(proto)
        if called in self.calls:
            raise node.fail(f"{shown(called)} calls itself")
        inner = GraphReader(
            graph,
            self.module,
            model,
            origin=self.origin or node.label,
            calls=(*self.calls, called),
        )
        for name, value in itertools.zip_longest(function.input, node.inputs):
            if value is None:
                inner.absent.add(name)
            else:
                inner.define(name, value)
        self.captured(node, inner)
        inner.body()
        wanted = zip(function.output, proto.output, strict=False)
        return tuple(inner.lookup(n) if out else node.add(ops.Undefined()) for n, out in wanted)

    def captured(self, node: Node, function: GraphReader) -> None:
        """Defines in a function's body what the graphs given to it read around the calling node."""
        own = {name for inner in function.graph.node for name in inner.output}
        for name in sorted(set(captured_by(node.proto))):
            if name in own | function.values.keys() | function.absent:
                raise node.fail(
                    f"its graph reads {name!r}, but in the function that it is given to, this "
                    "names another value: rename one of them"
                )
            function.define(name, self.lookup(name))

    def define(self, name: str, value: Instruction) -> None:
        self.expect_new(name)
        self.values[name] = value

    def expect_new(self, name: str) -> None:
        """Raises an error if a value of this graph already has that name."""
        if name in self.values:
            raise OnnxError(f"two values are named {name!r}")

    def operand(self, proto: onnx.NodeProto, name: str) -> Instruction | None:
        """The value a node reads by name; None if omitted. Errors name the node."""
        try:
            return None if not name or name in self.absent else self.lookup(name)
        except OnnxError as error:
            raise OnnxError(f"{named(proto)}: {error}") from error

    def lookup(self, name: str) -> Instruction:
        """The value with a name, in this graph or an enclosing one."""
        if name in self.values:
            return self.values[name]
        if self.outer is None:
            raise OnnxError(f"nothing in the model produces the value {name!r}")
        return self.outer.lookup(name)

    def finish(self) -> None:
        """Returns the graph's outputs, with their names."""
        known = self.values.keys() | self.visible()
        for output in self.graph.output:
            if output.name not in known:
                raise OnnxError(f"nothing in the model produces the output {output.name!r}")
        values = [self.stored(output) for output in self.graph.output]
        self.module.add_return(*values, names=[output.name for output in self.graph.output])

    def stored(self, output: onnx.ValueInfoProto) -> Instruction:
        """The value of an output with its declared type; packed if that is."""
        value, where = self.lookup(output.name), f"output {output.name!r}"
        code = output.type.tensor_type.elem_type
        dtype = tensors.dtype_of(code, where) if code else value.shape.dtype
        if not dtype.is_packed:
            if dtype is not value.shape.dtype:
                raise OnnxError(f"{where} is declared as {dtype}, and computed as {value.shape}")
            return value
        if value.op.name.startswith("unpack_"):
            return value.inputs[0]
        _, pack = packing(dtype)
        return self.module.add_instruction(pack, value)

    def inlined(self, graph: onnx.GraphProto) -> tuple[Instruction, ...]:
        """Reads a graph without inputs into this module; returns its results."""
        inner = GraphReader(graph, self.module, self.model, outer=self)
        inner.body()
        return tuple(inner.lookup(output.name) for output in graph.output)

    def known_symbols(self) -> set[str]:
        """The names of the symbols of values in this graph and the enclosing ones."""
        own = {s.name for at in self.module for s in at.shape.symbols()}
        return own if self.outer is None else own | self.outer.known_symbols()

    def submodule(
        self,
        graph: onnx.GraphProto,
        name: str,
        parameters: Sequence[Shape] = (),
        counted: bool = False,
    ) -> Module:
        """A module for a graph in a node's attribute; ``parameters`` are the shapes of its inputs.
        If it is ``counted``, the first is a number, which is passed as a one-element list if the
        graph declares one, as in onnxruntime.
        """
        inner = self.inside(graph, name)
        if len(parameters) != len(graph.input):
            raise OnnxError(
                f"graph {graph.name!r} has {len(graph.input)} inputs, not {len(parameters)}"
            )
        for value, shape in zip(graph.input, parameters, strict=True):
            inner.parameter(value.name, shape)
        module = inner.module
        if counted and [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1]:
            first = graph.input[0].name
            inner.values[first] = module.add_instruction(ops.Reshape((1,)), inner.values[first])
        try:
            inner.body()
            inner.finish()
        except MigxError:
            remove_from(module.program, module)
            raise
        return module

    def inside(self, graph: onnx.GraphProto, name: str) -> GraphReader:
        """A reader for a nested graph, with a module of its own, which sees the values of this."""
        program = self.module.program
        module = program.add_module(f"{self.module.name}.{name}")
        return GraphReader(graph, module, self.model, outer=self)


def remove_from(program: Program, first: Module) -> None:
    """Removes an unfinished module, and those created after it for its contents."""
    names = list(program.modules)
    for name in reversed(names[names.index(first.name) :]):
        if (module := program.modules.get(name)) is not None and not module.parents:
            program.remove_module(module)
