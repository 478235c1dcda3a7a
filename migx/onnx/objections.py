"""What is wrong with a node, in ONNX's own words where it has any: its schemas know which ranks,
sizes and numbers of attributes go together.
"""

from __future__ import annotations

import onnx
from onnx.checker import ValidationError
from onnx.defs import SchemaError
from onnx.shape_inference import InferenceError, infer_node_outputs

from migx.onnx.node import Node
from migx.onnx.tensors import type_of

OF_SHAPES = "[ShapeInferenceError] "
"""How ONNX's words about shapes begin; those about types are of no use, for packed ones are not as
they were.
"""


def unfit(node: Node, error: Exception) -> str:
    """The message for a node that its importer stumbles over, with an error of Python's."""
    given = ", ".join("none" if v is None else str(v.shape) for v in node.inputs) or "none"
    return f"its operands ({given}) or attributes do not fit it: {objection(node) or error}"


def objection(node: Node) -> str:
    """What ONNX has against a node; nothing where it knows it not, or has nothing to say."""
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
