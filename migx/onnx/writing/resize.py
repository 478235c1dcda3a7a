"""Writes resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.shape import BOOL, F32, F64, I32, I64


def options(site: Site) -> dict[str, Any]:
    """The attributes of a resize, without those of other modes."""
    op = site.op
    found = {
        "mode": op.mode,
        "coordinate_transformation_mode": op.coordinate_transformation_mode,
        "antialias": int(op.antialias),
    }
    if op.mode == "nearest":
        found["nearest_mode"] = op.nearest_mode
    if op.mode == "cubic":
        found["cubic_coeff_a"] = op.cubic_coeff_a
    if op.mode != "nearest":
        found["exclude_outside"] = int(op.exclude_outside)
    if op.coordinate_transformation_mode == "tf_crop_and_resize":
        found["extrapolation_value"] = op.extrapolation_value
    return found


@exporter("resize")
def resize(site: Site) -> str:
    """Writes the sizes, or the scales that they follow from."""
    op, x = site.op, site.input(0)
    region = site.constant(op.roi, F32) if op.roi else ""
    scales = np.asarray(op.scales, np.float32)
    have = site.at.inputs[0].shape.dims
    if not op.scales:
        return site.node("Resize", x, region, "", site.dims(op.sizes), **options(site))
    pairs = zip(have, op.sizes, scales, strict=True)
    known = [(d, n, s) for d, n, s in pairs if isinstance(d, int) and isinstance(n, int)]
    if all(int(np.floor(d * s)) == n for d, n, s in known):
        return site.node("Resize", x, region, site.constant(scales, F32), **options(site))
    axes = [axis for axis, scale in enumerate(op.scales) if scale != 1.0]
    kept = [int(np.floor(d * s + 0.5)) == n for d, n, s in known]
    if len(known) < len(have) or not all(kept) or len({op.scales[axis] for axis in axes}) != 1:
        raise site.fail(f"its scales {op.scales} make other sizes than {op.sizes}")
    exact = site.node("Mul", site.cast(site.dims(have), I64, F64), site.constant(op.scales, F64))
    return kept_aspect(site, [x, region, ""], exact, axes)


def kept_aspect(site: Site, operands: list[str], exact: str, axes: Sequence[int]) -> str:
    """One scale for some axes, given by sizes: none of these is smaller than it implies, and one is
    exact, so the least scale of all is the wanted one.
    """
    near = site.node("Round", exact)
    far = site.node("Abs", site.node("Sub", exact, near))
    whole = site.node("Less", far, site.node("Mul", near, site.constant(NEAR, F64)))
    sizes = site.cast(site.node("Where", whole, near, site.node("Ceil", exact)), F64, I64)
    wanted = site.node("Gather", sizes, site.constant(axes))
    policy = {"keep_aspect_ratio_policy": "not_larger", "axes": axes}
    x, region, none = operands
    if region:
        both = site.constant([*axes, *(site.shape.rank + axis for axis in axes)])
        region = site.node("Gather", region, both)
    return site.node("Resize", x, region, none, wanted, **options(site), **policy)


NEAR = 2.0**-40
"""The relative error at which a number that f64 has rounded several times counts as an integer."""


@exporter("dynamic_resize")
def dynamic_resize(site: Site) -> str:
    """ONNX takes sizes or scales, and computes the others. So the run decides which it is given:
    sizes if the scales follow from them, scales if the sizes follow from these, and otherwise one
    scale for all axes that change.
    """
    have = site.cast(site.dims(site.at.inputs[0].shape.dims), I64, F64)
    sizes = site.input(1, I64)
    operands = [site.input(0), site.input(3, F32) if site.given(3) else "", ""]
    scales, narrow = site.input(2), site.input(2, F32)
    ratio = site.node("Div", site.cast(sizes, I64, F64), have)
    off = site.node("Abs", site.node("Sub", scales, ratio))
    stretched = all_true(
        site, site.node("LessOrEqual", off, site.node("Mul", scales, site.constant(NEAR, F64)))
    )
    made = site.node("Floor", site.node("Mul", site.cast(have, F64, F32), narrow))
    scaled = all_true(site, site.node("Equal", site.cast(made, F32, I64), sizes))
    axes = [
        i
        for i, (d, n) in enumerate(zip(site.at.inputs[0].shape.dims, site.op.sizes, strict=True))
        if d != n
    ]

    def by_sizes(inner: Site) -> str:
        return inner.node("Resize", *operands, sizes, **options(inner))

    def by_scales(inner: Site) -> str:
        return inner.node("Resize", *operands[:2], narrow, **options(inner))

    def by_one_scale(inner: Site) -> str:
        return kept_aspect(inner, operands, inner.node("Mul", have, scales), axes)

    def otherwise(inner: Site) -> str:
        return chosen(inner, scaled, by_scales, by_one_scale if axes else by_scales)

    return chosen(site, stretched, by_sizes, otherwise)


def chosen(
    site: Site, condition: str, then: Callable[[Site], str], other: Callable[[Site], str]
) -> str:
    """One of two results, selected by a condition."""
    branches = [site.graph.branch(site.at, build) for build in (then, other)]
    return site.node("If", condition, then_branch=branches[0], else_branch=branches[1])


def all_true(site: Site, conditions: str) -> str:
    """Whether all conditions in a list hold."""
    least = site.node("ReduceMin", site.cast(conditions, BOOL, I32), site.constant([0]), keepdims=0)
    return site.cast(least, I32, BOOL)
