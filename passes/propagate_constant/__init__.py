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

    Not folded: values unpacked, or dequantised from bytes (vectors excepted), and then scaled or
    moved in any way; broadcasts, which a literal would make larger; what depends on the operations
    ``skip_ops`` names, on replaceable literals, deferred weights or unknown sizes; what fails; and
    what would break the law of constants, see ``migx.weights.constants``.
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
