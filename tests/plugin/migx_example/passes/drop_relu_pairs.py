"""A pass that runs wherever ours do: ``migx.run_passes(program, "drop_relu_pairs")``."""

from __future__ import annotations

from migx.ir import Module
from migx.manager import Pass, PassManager


class DropReluPairs(Pass):
    """Replaces ``relu(relu(x))`` by ``relu(x)``; the manager removes what is then unused."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        outer = [i for i in module if i.name == "relu" and i.inputs[0].name == "relu"]
        for relu in outer:
            module.replace_instruction(relu, relu.inputs[0])
        return bool(outer)
