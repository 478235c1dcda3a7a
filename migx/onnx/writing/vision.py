"""Writes image sampling, and the inverse of sliding windows."""

from __future__ import annotations

from typing import Any

from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.shape import I64


def window(op: Any) -> dict[str, Any]:
    """The attributes of a sliding window."""
    return {"pads": op.padding, "strides": op.stride, "dilations": op.dilation}


@exporter("grid_sample")
def grid_sample(site: Site) -> str:
    op = site.op
    options = {"mode": op.mode, "padding_mode": op.padding_mode}
    return site.node("GridSample", *site.inputs(), align_corners=int(op.align_corners), **options)


@exporter("deformable_convolution")
def deformable_convolution(site: Site) -> str:
    op, names = site.op, site.inputs()
    groups = {"group": op.group, "offset_group": op.offset_group}
    return site.node("DeformConv", *names[:3], "", *names[3:], **window(op), **groups)


@exporter("roi_align")
def roi_align(site: Site) -> str:
    op = site.op
    images = site.input(2, I64)
    return site.node(
        "RoiAlign",
        *site.inputs()[:2],
        images,
        output_height=op.dims[0],
        output_width=op.dims[1],
        mode=op.mode,
        sampling_ratio=op.sampling_ratio,
        spatial_scale=op.spatial_scale,
        coordinate_transformation_mode="half_pixel" if op.half_pixel else "output_half_pixel",
    )


@exporter("max_roi_pool")
def max_roi_pool(site: Site) -> str:
    op = site.op
    return site.node(
        "MaxRoiPool", *site.inputs(), pooled_shape=op.dims, spatial_scale=op.spatial_scale
    )


@exporter("col2im")
def columns_to_image(site: Site) -> str:
    return site.node("Col2Im", *site.inputs(), **window(site.op))
