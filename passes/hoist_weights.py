"""Moves computation that depends on weights alone out of the run."""

from __future__ import annotations

from migx.manager import Pass, PassManager
from migx.passes.propagate_constant.plan import Plan
from migx.program import Program
from migx.weights.evaluation import evaluated
from migx.weights.hoisting import hoist, hoist_sources, settle


class HoistWeights(Pass):
    """Moves computation that depends only on weights to the module ``weights``, and replaces its
    results by slots.

    This does for replaceable weights what propagate_constant does for literals, by the same plan:
    unpacked storage and broadcasts stay where they are, and constants do not grow. Constants that
    this plan leaves only for their size move too if their sources are small, such as a mask or a
    table of numbers: they are then computed once, not in each run. In the end every weight is in
    that module, so this pass runs after the simplifying ones. Any other slot that contains nothing
    replaceable becomes a literal.

    Without ``sources`` it does only what propagate_constant does for literals, so that passes can
    continue to simplify: weights that are read directly stay. The operations ``skip_ops`` names,
    and what depends on them, stay too.
    """

    sources: bool = True
    skip_ops: tuple[str, ...] = ()

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Hoists from all modules at once, for several may read one weight."""
        before = program.revision
        weights = Plan(manager, self.skip_ops, self.constant_allowance, weights=True)
        roots = weights.roots()
        if not self.sources:
            hoist(program, roots)
            return program.revision != before
        others = Plan(manager, self.skip_ops, self.constant_allowance)
        others.roots()
        hoist(program, [*roots, *weights.beyond, *evaluated(others.beyond, lenient=True)])
        hoist_sources(program)
        settle(program, manager.constants)
        return program.revision != before
