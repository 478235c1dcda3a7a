"""Evaluates at compile time what depends on literals alone."""

from __future__ import annotations

from migx.argument import Argument
from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.passes.propagate_constant.plan import Plan
from migx.program import Program
from migx.rewrite import Event
from migx.weights.evaluation import evaluated


class PropagateConstant(Pass):
    """Puts literals in the place of the largest trees that are computed from literals alone
    (MIGraphX propagate_constant).

    Left as they are: unpacked storage, however it is scaled and moved; broadcasts, which a literal
    would make larger; what comes of the operations ``skip_ops`` names, of replaceable literals, of
    deferred weights and of sizes not known yet; what fails; and what constants may not take, see
    ``migx.weights.constants``.
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
        for at in roots:
            _fold(self, at, values[at], manager)
        return bool(roots)


def _fold(of: Pass, at: Instruction, value: Argument, manager: PassManager) -> None:
    log = manager.log
    key, before = ("", "") if log is None else (log.key("fold", [at]), log.draw("fold", at))
    made = manager.constants.fold(at, value)
    if log is not None:
        after = log.draw(made.name, made)
        log.add(Event(key, of.name, "fold", __file__, made.origins, before, after), [made])
