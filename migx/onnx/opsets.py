"""The operator version a node is read as: that of its domain's opset, or another that it fits.

Exporters write attributes where later versions have operands, and vice versa. A node that does not
fit the version of its opset is read as the nearest one that it fits, earlier ones first.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache

import onnx
from onnx.defs import OpSchema, SchemaError

from migx.errors import OnnxError, OnnxWarning, warn
from migx.onnx import importers
from migx.onnx.graphs import all_nodes, named


def opset_versions(model: onnx.ModelProto) -> dict[str, int]:
    """The opset version of each domain that the model imports; the default domain is required."""
    versions = imported(model.opset_import)
    if "" not in versions and any(not domain_of(node.domain) for node in model.graph.node):
        raise OnnxError(
            "the model imports no opset of the default domain, so its operators have no version"
        )
    if (asked := versions.get("", 1)) > (known := onnx.defs.onnx_opset_version()):
        message = f"the model is of opset {asked}; its operators are read as opset {known} has them"
        warn(message, OnnxWarning)
    newest = importers.newest()
    used = {domain_of(n.domain) for g in (model.graph, *model.functions) for n in all_nodes(g)}
    for domain in sorted(used & newest.keys() - versions.keys() - {""}):
        message = (
            f"the model imports no opset of {domain}; its operators are read as version "
            f"{newest[domain]} has them"
        )
        warn(message, OnnxWarning)
        versions[domain] = newest[domain]
    return versions


def imported(entries: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """The version in each entry, by domain."""
    for entry in entries:
        if not 0 < entry.version < 1 << 31:
            raise OnnxError(
                f"the opset of the domain {entry.domain or 'ai.onnx'!r} has the version "
                f"{entry.version}; versions are counted from 1"
            )
    return {domain_of(entry.domain): entry.version for entry in entries}


def domain_of(domain: str) -> str:
    """The canonical name of a domain: ``ai.onnx`` is the default domain."""
    return "" if domain == "ai.onnx" else domain


def version_meant(node: onnx.NodeProto, domain: str, version: int) -> int:
    """The version a node is read as, given that of its domain's opset. ``OnnxWarning`` for
    attributes that no version has, ``OnnxError`` for too many operands.
    """
    names = frozenset(a.name for a in node.attribute)
    count = max((i + 1 for i, name in enumerate(node.input) if name), default=0)
    meant, unknown, most = _meant(domain, node.op_type, version, names, count)
    if count > most:
        raise OnnxError(f"{named(node)}: it has {count} inputs; it takes {most}")
    if unknown:
        message = f"{named(node)} has no attribute {', '.join(unknown)}: it is not read"
        warn(message, OnnxWarning)
    return meant


@lru_cache(maxsize=1024)
def _meant(
    domain: str, operator: str, version: int, names: frozenset[str], count: int
) -> tuple[int, tuple[str, ...], int]:
    """The version, the attributes that no version has, and the maximum number of operands."""
    try:
        own = onnx.defs.get_schema(operator, version, domain)
    except SchemaError:
        return version, (), count
    if names <= own.attributes.keys() and count <= own.max_input:
        return version, (), count
    others = _history()[own.domain, operator]
    earlier = [s for s in others if s.since_version < own.since_version]
    later = [s for s in others if s.since_version > own.since_version]
    for schema in (*reversed(earlier), *later):
        if _fits(schema, names, count):
            return schema.since_version, (), count
    known = {name for schema in others for name in schema.attributes}
    return version, tuple(sorted(names - known)), own.max_input


def _fits(schema: OpSchema, names: frozenset[str], count: int) -> bool:
    """Whether a node with these attributes and number of operands fits a version."""
    needed = {name for name, a in schema.attributes.items() if a.required}
    return (
        needed <= names <= schema.attributes.keys()
        and schema.min_input <= count <= schema.max_input
    )


@cache
def _history() -> dict[tuple[str, str], list[OpSchema]]:
    """All versions of each operator, oldest first."""
    found: dict[tuple[str, str], list[OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return {key: sorted(v, key=lambda s: s.since_version) for key, v in found.items()}
