"""Evaluates at compile time what depends on literals alone."""

from __future__ import annotations

from functools import partial

from migx.argument import Argument
from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.passes.propagate_constant.plan import Plan
from migx.program import Program
from migx.weights.evaluation import evaluated


class PropagateConstant(Pass):
    """Folds the largest trees that are computed from literals alone into literals (MIGraphX
    propagate_constant).

    Left as they are: what is unpacked, or dequantised from bytes that are no vector, however it is
    scaled and moved; broadcasts, which a literal would make larger; what comes of the operations
    ``skip_ops`` names, of replaceable literals, of deferred weights and of sizes not known yet;
    what fails; and what constants may not take, see ``migx.weights.constants``.
    """

    skip_ops: tuple[str, ...] = ()

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Folds in all modules at once, for several may read one literal."""
        plan = Plan(manager, self.skip_ops, self.constant_allowance)
        values: dict[Instruction, Argument] = {}
        roots = plan.roots()
        while new := [at for at in roots if at not in values]:
            values |= evaluated(new, lenient=True)
            plan.keep(at for at in new if at not in values)
            roots = plan.roots()

        def fold(at: Instruction) -> list[Instruction]:
            return [manager.constants.fold(at, values[at])]

        for at in roots:
            manager.change(self, "fold", at, partial(fold, at))
        return bool(roots)
