"""Writes pooling over windows, and normalisation over neighbouring channels."""

from __future__ import annotations

from typing import Any

from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.ops._windows import same_padding

KINDS = {"max": "MaxPool", "average": "AveragePool", "lpnorm": "LpPool"}


@exporter("pooling")
def pooling(site: Site) -> str:
    op, kind = site.op, KINDS[site.op.mode]
    norm = {"p": op.lp_order} if op.mode == "lpnorm" else {}
    if _is_global(site):
        return site.node(f"Global{kind}", site.input(0), **norm)
    count = {"count_include_pad": int(op.count_include_pad)} if op.mode == "average" else {}
    return site.node(kind, site.input(0), **_window(site), **norm, **count)


@exporter("max_pool_indices")
def places(site: Site) -> str:
    order = int(site.op.column_major)
    _, found = site.nodes("MaxPool", [site.input(0)], 2, storage_order=order, **_window(site))
    return found


def _is_global(site: Site) -> bool:
    """Whether there is a single window over the whole image."""
    op, dims = site.op, site.at.inputs[0].shape.dims[2:]
    plain = site.shape.dtype.is_float and not any(op.padding) and set(op.dilation) <= {1}
    return (
        plain
        and not op.ceil_mode
        and op.lengths == dims
        and all(d == 1 for d in site.shape.dims[2:])
    )


def _window(site: Site) -> dict[str, Any]:
    op = site.op
    if not all(isinstance(n, int) for n in op.lengths):
        raise site.fail(f"its windows of {op.lengths} have sizes that are not known before the run")
    found = {"kernel_shape": op.lengths, "strides": op.stride, "dilations": op.dilation}
    if op.ceil_mode:
        found["ceil_mode"] = 1
    if all(isinstance(p, int) for p in op.padding):
        return found | {"pads": op.padding}
    for mode in ("SAME_UPPER", "SAME_LOWER"):
        dims, upper = site.at.inputs[0].shape.dims[2:], mode == "SAME_UPPER"
        if op.padding == same_padding(dims, op.lengths, op.stride, op.dilation, upper=upper):
            return found | {"auto_pad": mode}
    raise site.fail(f"its padding {op.padding} is not known before the run")


@exporter("lrn")
def lrn(site: Site) -> str:
    op = site.op
    return site.node("LRN", site.input(0), size=op.size, alpha=op.alpha, beta=op.beta, bias=op.bias)
