"""Writes branches and loops, whose modules become graphs, and fused instructions, whose modules are
inlined.
"""

from __future__ import annotations

from migx.onnx.exporters import Written, exporter
from migx.onnx.site import Site


@exporter("if")
def choice(site: Site) -> tuple[str, ...]:
    branches = [site.graph.body(module) for module in site.at.modules]
    count = len(site.shape.parts)
    given = [site.scalar(0)]
    return site.nodes("If", given, count, then_branch=branches[0], else_branch=branches[1])


@exporter("loop")
def loop(site: Site) -> tuple[str, ...]:
    (module,) = site.at.modules
    limits = [site.scalar(i) if site.given(i) else "" for i in (0, 1)]
    carried = site.inputs(2)
    if not limits[1] and not carried:  # trailing optional operands are omitted
        limits[1] = site.constant(True, "bool")
    operands = [*limits, *carried]
    return site.nodes("Loop", operands, len(site.shape.parts), body=site.graph.body(module))


@exporter("scan")
def scan(site: Site) -> tuple[str, ...]:
    op, (module,) = site.op, site.at.modules
    names = (
        "scan_input_axes",
        "scan_input_directions",
        "scan_output_axes",
        "scan_output_directions",
    )
    places = {name: getattr(op, name) or None for name in names}
    body = site.graph.body(module)
    count, scans = len(site.shape.parts), op.num_scan_inputs
    return site.nodes("Scan", site.inputs(), count, body=body, num_scan_inputs=scans, **places)


@exporter("pointwise", "fused_reduce", "group")
def fused(site: Site) -> Written:
    (module,) = site.at.modules
    given = [site.raw(i) for i in range(len(site.at.inputs))]
    results = site.graph.inlined(module, given)
    return results[0] if len(results) == 1 else tuple(results)
