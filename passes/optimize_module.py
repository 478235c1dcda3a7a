"""Runs the simplifiers to a fixpoint."""

from __future__ import annotations

from migx.manager import Pass, Pipeline


class OptimizeModule(Pass):
    """Runs the simplifying passes until nothing changes, at most ``rounds`` times: identities,
    copies to standard layout, reshapes, converts and algebra, then common subexpressions and
    constants (MIGraphX optimize_module).

    A value computed from weights becomes a slot where it would be folded if they were known, so
    that both cases simplify alike. ``skip_ops`` are the operations that are not folded: see
    propagate_constant.
    """

    rounds: int = 10
    skip_ops: tuple[str, ...] = ()

    def pipeline(self) -> Pipeline:
        copies = "eliminate_identity,eliminate_contiguous"
        simplifiers = f"{copies},simplify_reshapes,eliminate_convert,simplify_algebra"
        skip = f"skip_ops=({','.join(self.skip_ops)})"
        return Pipeline.parse(
            f"fixpoint{{max={self.rounds}}}("
            f"fixpoint{{max=4}}({simplifiers}),"
            f"eliminate_common_subexpression,propagate_constant{{{skip}}},"
            f"hoist_weights{{sources=false,{skip}}})"
        )
