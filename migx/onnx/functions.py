"""Operators that ONNX or the model itself defines as functions: their bodies, to be read in place
of the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import onnx
from onnx.defs import SchemaError

from migx.errors import OnnxError
from migx.ir import Instruction
from migx.onnx.graphs import all_nodes, named
from migx.onnx.tensors import type_of

Called: TypeAlias = tuple[str, str, str]
"""The key of a function: its domain, name and overload."""
Functions = Mapping[Called, onnx.FunctionProto]
MOST_NODES = 1_000_000
"""The most nodes read in place of one that calls a function: about a minute's work."""


def local_functions(model: onnx.ModelProto) -> Functions:
    """The functions in a model; those with the same name differ in their overload (IR 10)."""
    return {(f.domain, f.name, f.overload): f for f in model.functions}


def refuse_endless(graph: onnx.GraphProto, functions: Functions) -> None:
    """Raises an error if a node stands for more than ``MOST_NODES``: functions that each call the
    next one twice double them at every step.
    """
    sizes: dict[Called, int] = {}

    def size(node: onnx.NodeProto) -> int:
        """The number of nodes read for a node; a function that calls itself is refused later."""
        called = called_by(node)
        if called in functions and called not in sizes:
            sizes[called] = 1
            sizes[called] = 1 + sum(map(size, all_nodes(functions[called])))
        return sizes.get(called, 1)

    for node in all_nodes(graph):
        if (count := size(node)) > MOST_NODES:
            raise OnnxError(
                f"{named(node)}: the functions that it calls, and those that they call, have "
                f"{count} nodes in all; at most {MOST_NODES} are read for one node"
            )


def called_by(node: onnx.NodeProto) -> Called:
    """The key of the function that a node calls, if it calls one."""
    return node.domain, node.op_type, node.overload


def shown(called: Called) -> str:
    """A function in the notation of onnx's text form: ``domain.name:overload``."""
    domain, name, overload = called
    return f"{domain or 'ai.onnx'}.{name}{overload and ':'}{overload}"


def is_function(domain: str, name: str, version: int) -> bool:
    """Whether ONNX defines an operator by a function body."""
    try:
        schema: Any = onnx.defs.get_schema(name, version, domain)
    except SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def body_of(
    node: onnx.NodeProto, version: int, inputs: Sequence[Instruction | None]
) -> onnx.FunctionProto:
    """ONNX's body for a node: that of the highest opset not above the model's. It may depend on the
    types of the inputs; ``OnnxError`` if ONNX defines none for these.
    """
    schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)
    if schema.has_function:
        known = schema.function_opset_versions
        text = schema.get_function_with_opset_version(_newest(known, version))
    else:
        _check_known(node, inputs)
        types = [b"" if v is None else type_of(v.shape).SerializeToString() for v in inputs]
        known = schema.context_dependent_function_opset_versions
        try:
            text = schema.get_context_dependent_function_with_opset_version(
                _newest(known, version), node.SerializeToString(), types
            )
        except RuntimeError as error:  # onnx cannot generate a body for its attributes
            raise OnnxError(f"{named(node)}: ONNX cannot expand it: {error}") from error
    body: onnx.FunctionProto = onnx.FunctionProto.FromString(text)
    if not body.node:
        given = ", ".join("none" if v is None else v.shape.text for v in inputs)
        raise OnnxError(
            f"{named(node)}: ONNX does not define it for the types or dims of its operands "
            f"({given}); a symbol among the dims may have to be a number"
        )
    return body


def _check_known(node: onnx.NodeProto, inputs: Sequence[Instruction | None]) -> None:
    """Raises an error if the content of a sequence or optional is unknown: ONNX needs it."""
    for name, value in zip(node.input, inputs, strict=False):
        if value is not None and not value.shape.dtype.is_tensor and not value.shape.parts:
            raise OnnxError(
                f"{named(node)}: the rank of the elements of {name!r} is not known; its type in "
                "the model must declare it"
            )


def _newest(versions: Sequence[int], version: int) -> int:
    return max([v for v in versions if v <= version] or versions)


def _schema_defaults(node: onnx.NodeProto, version: int) -> dict[str, onnx.AttributeProto]:
    """The default of each attribute of an ONNX operator; empty for other operators."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except SchemaError:
        return {}
    defaults = ((name, a.default_value) for name, a in schema.attributes.items())
    return {name: value for name, value in defaults if value.name}


def instantiated(
    function: onnx.FunctionProto, node: onnx.NodeProto, version: int
) -> list[onnx.NodeProto]:
    """The nodes of a body, with the calling node's attributes, or defaults, filled in."""
    given = {a.name: a for a in function.attribute_proto}
    given.update(_schema_defaults(node, version))
    given.update({a.name: a for a in node.attribute})
    return [_filled(inner, given) for inner in function.node]


def _filled(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    del made.attribute[:]
    for attribute in node.attribute:
        filled = onnx.AttributeProto()
        filled.CopyFrom(attribute)
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in given:
                continue
            filled.CopyFrom(given[attribute.ref_attr_name])
            filled.name = attribute.name
        elif attribute.type == onnx.AttributeProto.GRAPH:
            del filled.g.node[:]
            filled.g.node.extend(_filled(inner, given) for inner in attribute.g.node)
        made.attribute.append(filled)
    return made
