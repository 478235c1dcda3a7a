"""Gathers arithmetic and reductions, as far as it goes."""

from __future__ import annotations

from migx.manager import Pass, PassManager
from migx.passes.fuse_pointwise import FusePointwise
from migx.passes.fuse_reduce import FuseReduce
from migx.program import Program


class FusePointwiseReduce(Pass):
    """Runs ``fuse_pointwise`` and ``fuse_reduce`` in turn until neither changes anything (MIGraphX
    pass of this name).
    """

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        changed = manager.run_pass(FusePointwise())
        while manager.run_pass(FuseReduce()):
            changed = True
            if not manager.run_pass(FusePointwise()):
                break
        return changed
