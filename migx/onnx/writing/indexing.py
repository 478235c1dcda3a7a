"""Writes operations that gather, scatter, search or sort elements."""

from __future__ import annotations

from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.shape import F32, I32, I64

COMBINED = {"none": None, "add": "add", "mul": "mul", "max": "max", "min": "min"}


def indices(site: Site, index: int) -> str:
    """An operand of indices, as i32 or i64."""
    return site.input(index, I32 if site.at.inputs[index].shape.dtype is I32 else I64)


@exporter("gather", "gather_elements")
def gather(site: Site) -> str:
    kind = "Gather" if site.op.name == "gather" else "GatherElements"
    return site.node(kind, site.input(0), indices(site, 1), axis=site.op.axis)


@exporter("gathernd")
def gathernd(site: Site) -> str:
    places = site.input(1, I64)
    return site.node("GatherND", site.input(0), places, batch_dims=site.op.batch_dims)


@exporter(*(f"scatter_{way}" for way in COMBINED))
def scatter(site: Site) -> str:
    way = COMBINED[site.op.name.removeprefix("scatter_")]
    operands = site.input(0), indices(site, 1), site.input(2)
    return site.node("ScatterElements", *operands, axis=site.op.axis, reduction=way)


@exporter(*(f"scatternd_{way}" for way in COMBINED))
def scatternd(site: Site) -> str:
    way = COMBINED[site.op.name.removeprefix("scatternd_")]
    places = site.input(1, I64)
    return site.node("ScatterND", site.input(0), places, site.input(2), reduction=way)


@exporter("onehot")
def onehot(site: Site) -> str:
    """ONNX also requires a single index to be a list."""
    depth = site.vector(2) if len(site.at.inputs) == 3 else site.dims([site.op.depth])
    indices, values = site.input(0), site.input(1)
    if site.shape.rank > 1:
        return site.node("OneHot", indices, depth, values, axis=site.op.axis)
    listed = site.node("Unsqueeze", indices, site.constant([0]))
    rows = site.node("OneHot", listed, depth, values, axis=1)
    return site.node("Squeeze", rows, site.constant([0]))


@exporter("nonzero")
def nonzero(site: Site) -> str:
    return site.node("NonZero", site.input(0))


@exporter("compress")
def compress(site: Site) -> str:
    return site.node("Compress", *site.inputs(), axis=site.op.axis)


@exporter("reverse_sequence")
def reverse_sequence(site: Site) -> str:
    """ONNX reverses only on the first two axes; others are transposed there and back."""
    op, rank = site.op, site.shape.rank
    axes = op.time_axis, op.batch_axis
    lens = site.input(1, I64)
    if max(axes) < 2:
        return site.node(
            "ReverseSequence", site.input(0), lens, time_axis=axes[0], batch_axis=axes[1]
        )
    order = [*axes, *(i for i in range(rank) if i not in axes)]
    moved = site.node("Transpose", site.input(0), perm=order)
    turned = site.node("ReverseSequence", moved, lens, time_axis=0, batch_axis=1)
    return site.node("Transpose", turned, perm=[order.index(i) for i in range(rank)])


@exporter("unique")
def unique(site: Site) -> tuple[str, ...]:
    op = site.op
    return site.nodes("Unique", [site.input(0)], 4, axis=op.axis, sorted=int(op.sorted))


@exporter("nonmaxsuppression")
def nonmaxsuppression(site: Site) -> str:
    limits = [
        site.scalar(i, dtype) if site.given(i) else ""
        for i, dtype in ((2, I64), (3, F32), (4, F32))
    ]
    centre = int(site.op.center_point_box)
    return site.node("NonMaxSuppression", *site.inputs()[:2], *limits, center_point_box=centre)
