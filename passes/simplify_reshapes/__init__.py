"""Rewrites of operations that move, repeat, drop or join elements and compute none."""

from __future__ import annotations

from migx.manager import Pass
from migx.passes.simplify_reshapes import gathers, joins, scatters, views


class SimplifyReshapes(Pass):
    """Replaces each chain of views by the one shortest chain that reads the same elements, and
    simplifies concat, gather and scatter (MIGraphX pass of this name).
    """

    rules = views.rules + joins.rules + gathers.rules + scatters.rules
