"""Writes recurrent layers."""

from __future__ import annotations

import math
from typing import Any

from migx.onnx.exporters import exporter
from migx.onnx.site import Site


@exporter("rnn", "gru", "lstm")
def recurrent(site: Site) -> tuple[str, ...]:
    op = site.op
    found: dict[str, Any] = {"hidden_size": op.hidden_size, "direction": op.direction}
    found["clip"] = None if op.clip == math.inf else op.clip
    for name in ("activations", "activation_alpha", "activation_beta"):
        found[name] = getattr(op, name) or None
    for name in ("linear_before_reset", "input_forget"):
        found[name] = int(getattr(op, name, False)) or None
    return site.nodes(op.name.upper(), site.inputs(), len(site.shape.parts), **found)
