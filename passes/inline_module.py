"""Takes the branch of an ``if`` that is known to be taken."""

from __future__ import annotations

from migx.ir import Instruction, Module, merged
from migx.manager import Pass
from migx.match import on, value
from migx.ops.builtin import GetTupleElem, Literal
from migx.ops.control import If
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import Shape


@rule(on(If, value(name="condition"), name="choice"))
def inline(
    at: Cursor, condition: Instruction, choice: Instruction
) -> tuple[Instruction, ...] | Declined:
    """if(true) is the result of its first branch, if(false) that of its second."""
    branch = choice.modules[0 if condition.op_as(Literal).value.array.item() else 1]
    if branch.bypass or branch.parent is not choice or choice.modules.count(branch) != 1:
        return Declined("the branch is shared, or passes are to leave it alone")
    if not all(isinstance(u.op, GetTupleElem) for u in choice.users):
        return Declined("the results are read as one tuple")
    if not any(u.users for u in choice.users):
        return Declined("its results are unused")
    if not all(map(Shape.same_type, choice.shape.parts, (v.shape for v in branch.outputs))):
        return Declined("the results have other symbols in their dims outside")
    move(branch, at)
    return branch.outputs


def move(branch: Module, at: Cursor) -> None:
    """Moves the instructions of a branch to before the choice, with their submodules; its return
    then reads them there.
    """
    for old in branch:
        if old is not branch.returned:
            new = at.module.insert_instruction(
                at.root,
                old.op,
                *old.inputs,
                modules=old.modules,
                origins=merged(old.origins, at.root.origins),
            )
            at.made.append(new)
            branch.replace_instruction(old, new)
            branch.remove_instruction(old)


class InlineModule(Pass):
    """Replaces an ``if`` whose condition is a literal by the branch it takes (MIGraphX
    inline_module).
    """

    rules = RuleSet(inline)
