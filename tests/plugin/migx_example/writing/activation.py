"""An activation as nodes that any runtime knows."""

from __future__ import annotations

from migx.onnx.exporters import exporter
from migx.onnx.site import Site


@exporter("squared_relu")
def squared_relu(site: Site) -> str:
    """max(x, 0) times itself."""
    positive = site.node("Relu", site.input(0))
    return site.node("Mul", positive, positive)
