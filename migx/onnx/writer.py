"""From a program to an ONNX file and its weights. Graphs are written by ``migx.onnx.graph_writer``,
operations by ``migx.onnx.writing``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

import migx
from migx.argument import Argument, Source
from migx.base.files import written
from migx.dead_code import remove_dead_code
from migx.errors import OnnxError, first_few
from migx.ir import Instruction
from migx.onnx import tensors
from migx.onnx.exporters import Exporter, table_with
from migx.onnx.graph_writer import GraphWriter
from migx.onnx.site import Made, Value
from migx.onnx.widening import VERSION
from migx.op import Array
from migx.ops.builtin import Literal, Slot
from migx.program import Program
from migx.shape import TUPLE, DType
from migx.weights.constants import is_unpacked, tree
from migx.weights.evaluation import evaluated
from migx.weights.live import holding, live_weights

Exporters: TypeAlias = Mapping[str, Exporter]
NEEDS = {"f4": 23, "f8e8m0": 24, "i2": 25, "u2": 25}
"""The element types that need a later version."""

EXTERNAL = 64 << 20
"""Large weights of more bytes than this in total are written to a file beside the model."""
LARGE, ALIGNMENT = 4096, 4096
"""The bytes from which on a weight is large, and the alignment of its place in that file."""


def write(program: Program, path: str | Path, *, exporters: Iterable[Exporter] = ()) -> None:
    """Writes a program as an ONNX file that any runtime reads, atomically.

    Inputs, outputs and symbolic dims keep their names; nodes are named after those they come from.
    Large weights are in ``NAME.data`` beside it. Weights have their current values; values computed
    from them by operations without an ONNX form are written as constants. ``exporters`` are
    functions marked by ``migx.onnx.exporters.exporter``, which serve before those of packages.
    ``OnnxError`` lists every other operation without a form, and why.
    """
    path = Path(path).absolute()
    live = live_weights(program)
    known = table_with(exporters)
    model = ModelWriter(with_forms(holding(program, live) if live else program, known), path, known)
    proto = model.proto()
    with ExitStack() as files:
        files.enter_context(written(path)).write(proto.SerializeToString())
        if model.external:  # in place before the model that refers to it
            data = files.enter_context(written(model.data))
            for offset, value in model.external.values():
                _put(data, offset, value)


def with_forms(program: Program, exporters: Exporters) -> Program:
    """The program, or a copy in which literals replace values that depend only on literals and have
    no ONNX form, or a costly one, and what follows from these alone; packed values stay packed.
    """
    if all(_has_form(at, exporters) for at in program.instructions()):
        return program
    made = program.copy()
    late: dict[Instruction, None] = {}
    for at in chain(*made.modules.values()):
        follows = any(v in late for v in at.inputs)
        if (follows or not _has_form(at, exporters)) and at.inputs and at.constant:
            late[at] = None
    roots = [at for at in late if at.shape.dtype.is_tensor and not is_unpacked(at)]
    for at, value in evaluated(roots, _slots_of(roots, made), lenient=True).items():
        module = at.owner
        literal = module.insert_instruction(at, Literal(value), origins=at.origins)
        module.replace_instruction(at, literal)
    for module in made.modules.values():
        remove_dead_code(module)
    return made


def _slots_of(roots: Sequence[Instruction], program: Program) -> dict[Instruction, Argument]:
    """The values of the slots that some instructions depend on, as far as the weights have any."""
    read = dict.fromkeys(v for at in roots for v in tree(at) if type(v.op) is Slot)
    made = {at: program.slots[at.op_as(Slot).slot] for at in read}
    values = evaluated([*dict.fromkeys(made.values())], lenient=True)
    return {at: values[source] for at, source in made.items() if source in values}


COSTLY = frozenset({"choose_scales"})
"""Operations whose arithmetic is written only for weights that were left out."""


def _has_form(at: Instruction, exporters: Exporters) -> bool:
    if at.op.name in COSTLY:
        return False
    return at.op.name in ("@param", "@return") or at.op.name in exporters


def _put(out: BinaryIO, offset: int, value: Argument) -> None:
    out.write(bytes(offset - out.tell()))
    array = np.ascontiguousarray(value.array)
    out.write(array.reshape(-1).view(np.uint8).data)


class ModelWriter:
    """The state shared by all graphs of a file: its weights and constants, names, and problems.

    ``exporters`` write operations, by name; ``types`` are the element types of values, ``makers``
    what they were made for, ``slots`` the results of the weights module.
    """

    def __init__(self, program: Program, path: Path, exporters: Exporters) -> None:
        self.program, self.data = program, path.with_name(f"{path.name}.data")
        self.exporters = exporters
        self.version = VERSION
        self.external: dict[Source | int, tuple[int, Argument]] = {}
        self.types: dict[str, DType] = {}
        self.slots: dict[str, Value] = {}
        self.makers: dict[str, Made] = {}
        self.problems: dict[str, list[str]] = {}
        self._domains: dict[str, int] = {}
        self._initializers: dict[str, Argument | TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._counts: dict[str, int] = {}
        self._end = 0

    def proto(self) -> onnx.ModelProto:
        """The complete model. ``OnnxError`` lists what cannot be written."""
        main, weights = self.program.main, self.program.weights
        inputs, outputs = list(main.parameters), list(main.output_names)
        if twice := {name for name in outputs if outputs.count(name) > 1 or name in inputs}:
            names = ", ".join(map(repr, sorted(twice)))
            raise OnnxError(f"inputs and outputs of an ONNX file have one name each, not {names}")
        values = zip((*inputs, *outputs), (*main.parameters.values(), *main.outputs), strict=True)
        if tuples := [name for name, at in values if at.shape.dtype is TUPLE]:
            names = ", ".join(map(repr, tuples))
            raise OnnxError(f"ONNX has no tuples, which {names} are: give and return their members")
        self._counts.update(dict.fromkeys([*inputs, *outputs], 1))
        graph = GraphWriter(self)
        if weights is not None:
            made = graph.inlined(weights, [])
            self.slots = dict(zip(weights.output_names, made, strict=True))
        whole = graph.graph("main", main, inputs, outputs)
        if self.problems:
            rows = [f"  {what}, at {first_few(where)}" for what, where in self.problems.items()]
            raise OnnxError("operations that have no ONNX form:\n" + "\n".join(rows))
        read = prune(whole)
        whole.initializer.extend(self._tensors(read))
        opsets = [helper.make_opsetid("", self.version)]
        opsets += [helper.make_opsetid(*pair) for pair in self._domains.items()]
        ir_version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        proto: onnx.ModelProto = helper.make_model(
            whole,
            opset_imports=opsets,
            ir_version=ir_version,
            producer_name="migx",
            producer_version=migx.__version__,
        )
        return proto

    def fresh(self, wanted: str) -> str:
        """An unused name for a value or node."""
        name = wanted
        while name in self._counts:
            name = f"{wanted}_{self._counts[wanted]}"
            self._counts[wanted] += 1
        self._counts[name] = 1
        return name

    def require(self, version: int, domain: str = "") -> None:
        """Makes the file import at least this version of a domain."""
        if domain:
            self._domains[domain] = max(version, self._domains.get(domain, 0))
        else:
            self.version = max(version, self.version)

    def require_type(self, dtype: DType) -> None:
        """Makes the file import a version that has this element type."""
        self.require(NEEDS.get(dtype.name, VERSION))

    def constant(self, value: Array) -> str:
        """The name of a small constant; equal ones are shared."""
        key = value.dtype.name, value.shape, value.tobytes()
        if key not in self._constants:
            self._constants[key] = self.initializer(Argument.of(value), "constant")
        return self._constants[key]

    def initializer(self, value: Argument | TensorProto, label: str) -> str:
        """The name of an initializer for a value, which is written only if it is read."""
        name = self.fresh(label or "literal")
        self._initializers[name] = value
        if isinstance(value, Argument):
            self.require_type(value.shape.dtype)
        else:
            value.name = name
        return name

    def _tensors(self, read: Collection[str]) -> Iterator[TensorProto]:
        """The initializers that are read."""
        kept = {name: value for name, value in self._initializers.items() if name in read}
        sizes = [_bytes(v) for v in kept.values() if isinstance(v, Argument)]
        apart = sum(size for size in sizes if size >= LARGE) > EXTERNAL
        for name, value in kept.items():
            if isinstance(value, TensorProto):
                yield value
                continue
            tensor = tensors.without_data(value.shape, name)
            if value.shape.dtype.kind == "string":
                tensor.string_data.extend(text.encode() for text in value.array.reshape(-1))
            elif not apart or _bytes(value) < LARGE:
                tensor.raw_data = value.tobytes()
            else:
                tensors.place_outside(tensor, self.data.name, self._placed(value), _bytes(value))
            yield tensor

    def _placed(self, value: Argument) -> int:
        """The place of a value in the file beside the model. The same bytes are written once."""
        key = value.source if value.source is not None else id(value)
        if key not in self.external:
            at = -(-self._end // ALIGNMENT) * ALIGNMENT
            self.external[key], self._end = (at, value), at + _bytes(value)
        return self.external[key][0]


def prune(graph: onnx.GraphProto) -> set[str]:
    """Removes unused nodes; returns the names that the others read."""
    read = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    read |= prune(attribute.g)
    infos = [info for info in graph.value_info if info.name in read]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.value_info.extend(infos)
    return read


def _bytes(value: Argument) -> int:
    return int(value.shape.as_standard().nbytes)
