"""Writes sequences and optionals."""

from __future__ import annotations

from migx.onnx import tensors
from migx.onnx.alike import names
from migx.onnx.exporters import exporter
from migx.onnx.held import declared, element
from migx.onnx.site import Site

PLAIN = names(
    "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength",
    "OptionalHasElement", "OptionalGetElement",
)  # fmt: skip


@exporter(*PLAIN)
def plain(site: Site) -> str:
    return site.node(PLAIN[site.op.name], *site.inputs())


@exporter("sequence_construct")
def construct(site: Site) -> str:
    if site.at.inputs:
        return site.node("SequenceConstruct", *site.inputs())
    held = element(site.at)
    if held is None:
        raise site.fail("the element type of the empty sequence is not known")
    return site.node("SequenceEmpty", dtype=tensors.code_of(held))


@exporter("concat_from_sequence")
def concat(site: Site) -> str:
    op = site.op
    return site.node("ConcatFromSequence", site.input(0), axis=op.axis, new_axis=int(op.new_axis))


@exporter("split_to_sequence")
def split(site: Site) -> str:
    return site.node(
        "SplitToSequence", *site.inputs(), axis=site.op.axis, keepdims=int(site.op.keepdims)
    )


@exporter("make_optional")
def optional(site: Site) -> str:
    if site.at.inputs:
        return site.node("Optional", site.input(0))
    held = declared("", site.at).type.optional_type.elem_type
    return site.node("Optional", type=held)
