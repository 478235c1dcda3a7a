"""Writes reductions, and operations along one axis."""

from __future__ import annotations

from migx.onnx.alike import REDUCTIONS, names
from migx.onnx.exporters import exporter
from migx.onnx.site import Site, Value
from migx.shape import BOOL, I64, U8

FOLDS = names(*REDUCTIONS)


@exporter(*FOLDS)
def reduce(site: Site) -> str:
    if not site.op.axes:
        return site.input(0)
    return site.node(FOLDS[site.op.name], site.input(0), site.constant(site.op.axes), keepdims=1)


@exporter("reduce_all", "reduce_any")
def logical(site: Site) -> str:
    """The minimum or maximum of bytes, which is also right if nothing is reduced."""
    if not site.op.axes:
        return site.input(0)
    kind = "ReduceMin" if site.op.name == "reduce_all" else "ReduceMax"
    as_bytes = site.input(0, U8)
    return site.cast(site.node(kind, as_bytes, site.constant(site.op.axes), keepdims=1), U8, BOOL)


@exporter("argmax", "argmin")
def place(site: Site) -> str:
    kind = "ArgMax" if site.op.name == "argmax" else "ArgMin"
    last = int(site.op.select_last_index)
    return site.node(kind, site.input(0), axis=site.op.axis, keepdims=1, select_last_index=last)


@exporter("softmax", "logsoftmax")
def softmax(site: Site) -> str:
    kind = "Softmax" if site.op.name == "softmax" else "LogSoftmax"
    return site.node(kind, site.input(0), axis=site.op.axis)


@exporter("prefix_scan_sum", "prefix_scan_prod")
def running(site: Site) -> str:
    op, kind = site.op, "CumSum"
    if op.name == "prefix_scan_prod":
        kind = "CumProd"
        site.graph.model.require(26)
    turns = {"exclusive": int(op.exclusive), "reverse": int(op.reverse)}
    return site.node(kind, site.input(0), site.constant(op.axis), **turns)


@exporter("topk")
def topk(site: Site) -> tuple[str, ...]:
    op = site.op
    count = site.vector(1, I64) if len(site.at.inputs) == 2 else site.dims([op.k])
    options = {"axis": op.axis, "largest": int(op.largest), "sorted": int(op.sorted)}
    return site.nodes("TopK", [site.input(0), count], 2, **options)


@exporter("trilu")
def trilu(site: Site) -> str:
    diagonal = [site.scalar(1, I64)] if len(site.at.inputs) == 2 else []
    return site.node("Trilu", site.input(0), *diagonal, upper=int(site.op.upper))


@exporter("determinant")
def determinant(site: Site) -> Value | str:
    return site.node("Det", site.input(0))
