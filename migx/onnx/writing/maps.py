"""Writes maps and keys as operators of ``ai.onnx.ml``, whose keys are attributes."""

from __future__ import annotations

from typing import Any

from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.shape import F32, I64, STR

CASTS = {F32: "TO_FLOAT", I64: "TO_INT64", STR: "TO_STRING"}


@exporter("zip_map")
def zip_map(site: Site) -> str:
    return site.node("ai.onnx.ml::ZipMap", site.input(1), **keys(site, 0, "classlabels_{}s"))


@exporter("map_lookup")
def map_lookup(site: Site) -> str:
    words = keys(site, 1, "{}_vocabulary")
    return first_row(site, site.node("ai.onnx.ml::DictVectorizer", site.input(0), **words))


@exporter("map_values")
def map_values(site: Site) -> str:
    if site.at.inputs[0].shape.parts[0].dtype is not I64 or site.shape.dtype not in CASTS:
        raise site.fail(f"ONNX CastMap does not take a {site.at.inputs[0].shape.text}")
    cast = CASTS[site.shape.dtype]
    return first_row(site, site.node("ai.onnx.ml::CastMap", site.input(0), cast_to=cast))


@exporter("key_places")
def key_places(site: Site) -> str:
    """ONNX LabelEncoder, whose keys differ: of equal ones, the first is kept."""
    words = keys(site, 1, "keys_{}s")["keys_strings"]
    places = dict(zip(words[::-1], range(len(words) - 1, -1, -1), strict=True))
    site.graph.model.require(2, "ai.onnx.ml")
    return site.node(
        "ai.onnx.ml::LabelEncoder",
        site.input(0),
        keys_strings=list(places),
        values_int64s=list(places.values()),
        default_int64=len(words),
    )


def keys(site: Site, index: int, name: str) -> dict[str, Any]:
    """The attribute for the keys, which must be a fixed literal."""
    held = site.known(index)
    if held is None:
        raise site.fail("its keys are no fixed literal")
    return {name.format("string" if held.shape.dtype is STR else "int64"): held.tolist()}


def first_row(site: Site, rows: str) -> str:
    """The only row that an operator on maps returns."""
    return site.node("Squeeze", rows, site.constant([0]))
