"""Moves computation that depends on weights alone out of the run."""

from __future__ import annotations

from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.ops.builtin import Literal, Slot
from migx.passes.propagate_constant.plan import Plan
from migx.program import Program
from migx.weights.evaluation import evaluated
from migx.weights.hoisting import drop_unread, fixed_slots, hoist, hoist_sources


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
        _settle(program, manager)
        return program.revision != before


def _settle(program: Program, manager: PassManager) -> None:
    """Replaces slots that contain no weight by literals, unless they are made of little, and drops
    slots that only dead code reads.
    """
    if program.weights is None:
        return
    slots = fixed_slots(program).items()
    fixed = {n: at for n, at in slots if not manager.constants.made(at).is_made_of_little}
    values = evaluated(list(dict.fromkeys(fixed.values())))
    readers = [at for at in program.instructions() if _reads(at, fixed)]
    for at in readers:
        literal = Literal(values[fixed[at.op_as(Slot).slot]])
        at.owner.replace_operation(at, literal)
    drop_unread(program)


def _reads(at: Instruction, slots: dict[str, Instruction]) -> bool:
    return type(at.op) is Slot and at.op.slot in slots
