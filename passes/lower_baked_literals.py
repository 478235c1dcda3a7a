"""Lowers literals that were put into a program after its lowering."""

from __future__ import annotations

from typing import Any

from migx import op as operations
from migx import plugins
from migx.ir import Module
from migx.manager import Pass, PassManager
from migx.ops.builtin import Literal


class LowerBakedLiterals(Pass):
    """Turns each ``@literal``, in any module, into the target's own literal operation ``to``, which
    has the same attributes (MIGraphX write_literals).

    ``Target.get_lower_literals_passes`` lists it for a target with such an operation. The weights
    module is left alone, because it is computed on the host.
    """

    to: str

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Lowers the literals of one module."""
        lowered: Any = plugins.operation(self.to)
        literals = [at for at in module if type(at.op) is Literal]
        for at in literals:
            module.replace_operation(at, lowered(**operations.attributes(at.op)))
        return bool(literals)
