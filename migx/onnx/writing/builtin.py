"""Writes literals, weights, and operations that only pass a value on."""

from __future__ import annotations

from migx.onnx import tensors
from migx.onnx.exporters import Written, exporter
from migx.onnx.site import Site, Value
from migx.shape import TUPLE


@exporter("@literal")
def literal(site: Site) -> Value:
    value = site.op.value
    return Value(site.graph.model.initializer(value, site.op.label), value.shape.as_standard())


@exporter("onnx_external_weights")
def external_weights(site: Site) -> str:
    """An initializer whose bytes stay in their file beside the model."""
    op, model = site.op, site.graph.model
    if not (model.data.parent / op.file).is_file():
        raise site.fail(
            f"its bytes are in {op.file}, which is not in the folder of the new file: write it "
            "there, or give the weights by migx.onnx.replace_onnx_external_weights first"
        )
    tensor = tensors.without_data(op.shape)
    tensors.place_outside(tensor, op.file, op.offset, op.length)
    return model.initializer(tensor, op.label)


@exporter("@slot")
def slot(site: Site) -> Value:
    """A result of the weights module, which is written before everything else."""
    made: Value = site.graph.model.slots[site.op.slot]
    return made


@exporter("get_tuple_elem")
def member(site: Site) -> Value:
    index: int = site.op.index
    return site.graph.parts(site.at.inputs[0])[index]


@exporter("undefined")
def undefined(site: Site) -> Value:
    return Value("", site.shape)


@exporter("identity", "contiguous", "assume_equal")
def same(site: Site) -> Written:
    given = site.at.inputs[0]
    return site.graph.parts(given) if given.shape.dtype is TUPLE else site.raw(0)


@exporter("host")
def host(site: Site) -> tuple[str, ...]:
    """The ONNX node in the operation, with operands and results of this file."""
    import onnx
    from google.protobuf import text_format

    node = text_format.Parse(site.op.node, onnx.NodeProto())
    given = iter(site.inputs())
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    site.graph.model.require(site.op.version, node.domain)
    inputs = [next(given) if name else "" for name in node.input]
    made = site.nodes(kind, inputs, len(node.output))
    site.graph.nodes[-1].attribute.extend(node.attribute)
    return tuple(new for new, old in zip(made, node.output, strict=True) if old)
