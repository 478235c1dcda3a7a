"""Moves literals out of submodules, so that equal ones merge."""

from __future__ import annotations

from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.ops.builtin import Literal
from migx.ops.fused import Fused


class PromoteLiterals(Pass):
    """Moves the literals of branches and loop bodies to the outermost module around them, so that
    ``eliminate_common_subexpression`` merges equal ones (MIGraphX pass of this name).

    Left as they are: those of modules that several instructions share, which may read nothing from
    around them, and of fused modules, which are kernels.
    """

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Moves the literals of one module."""
        around = outermost(module)
        if around is None:
            return False
        found = [at for at in module if type(at.op) is Literal]
        for at in found:
            made = around.owner.insert_instruction(around, at.op, origins=at.origins)
            module.replace_instruction(at, made)
            module.remove_instruction(at)
        return bool(found)


def outermost(module: Module) -> Instruction | None:
    """The instruction around a module, in the outermost module that it may read from; None if there
    is no such module.
    """
    place = None
    for each in module.enclosing():
        if each.parent is None:
            return place
        if isinstance(each.parent.op, Fused):
            return None
        place = each.parent
    return place
