"""Fuses arithmetic and reductions to a fixpoint."""

from __future__ import annotations

from migx.manager import Pass, PassManager
from migx.passes.fuse_pointwise import FusePointwise
from migx.passes.fuse_reduce import FuseReduce
from migx.passes.rewrite_reshapes import RewriteReshapes
from migx.program import Program


class FusePointwiseReduce(Pass):
    """Runs ``fuse_pointwise``, ``fuse_reduce`` and ``rewrite_reshapes`` in turn until none of them
    changes anything (MIGraphX pass of this name).
    """

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        changed = fused(manager)
        while manager.run_pass(RewriteReshapes()):
            fused(manager)
            changed = True
        return changed


def fused(manager: PassManager) -> bool:
    """Fuses arithmetic and reductions; says whether there were any to fuse."""
    changed = manager.run_pass(FusePointwise())
    while manager.run_pass(FuseReduce()):
        changed = True
        if not manager.run_pass(FusePointwise()):
            break
    return changed
