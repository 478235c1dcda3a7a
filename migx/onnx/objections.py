"""ONNX's checks of a node, in its own words: its schemas know which ranks, sizes and numbers of
attributes go together.
"""

from __future__ import annotations

import onnx
from onnx.checker import ValidationError
from onnx.defs import SchemaError
from onnx.shape_inference import InferenceError, infer_node_outputs

from migx.onnx.node import Node
from migx.onnx.tensors import type_of

OF_SHAPES = "[ShapeInferenceError] "
"""The prefix of ONNX's messages about shapes; those about types are useless, because packed inputs
have been unpacked.
"""


def unfit(node: Node, error: Exception) -> str:
    """The message for a node whose importer failed with a Python error."""
    given = ", ".join("none" if v is None else str(v.shape) for v in node.inputs) or "none"
    return f"its operands ({given}) or attributes do not fit it: {objection(node) or error}"


def objection(node: Node) -> str:
    """ONNX's objection to a node; empty if it does not know the operator, or has none."""
    proto = node.proto
    if any(
        a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in proto.attribute
    ):
        return ""
    pairs = zip(proto.input, node.inputs, strict=False)
    types = {name: type_of(v.shape) for name, v in pairs if v is not None}
    opset = onnx.helper.make_opsetid(proto.domain, node.version)
    try:
        schema = onnx.defs.get_schema(proto.op_type, node.version, proto.domain)
        infer_node_outputs(schema, proto, types, opset_imports=[opset])
    except InferenceError as error:
        said = str(error)
        return said.removeprefix(OF_SHAPES) if said.startswith(OF_SHAPES) else ""
    except ValidationError as error:
        return str(error).strip().partition("\n")[0]
    except SchemaError:
        return ""
    return ""
