"""Removes instructions nobody reads."""

from __future__ import annotations

from migx.dead_code import remove_dead_code
from migx.ir import Module
from migx.manager import Pass, PassManager


class DeadCodeElimination(Pass):
    """Removes instructions that have neither users nor effects; parameters stay (MIGraphX pass of
    this name).
    """

    def apply(self, module: Module, manager: PassManager) -> bool:
        return remove_dead_code(module) > 0
