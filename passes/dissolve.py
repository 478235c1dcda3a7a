"""Takes apart the fused instructions that a target has no kernel for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from migx.fusion.outlining import operands
from migx.ir import Instruction, Module, merged
from migx.manager import Pass, PassManager
from migx.ops.builtin import GetTupleElem
from migx.ops.fused import Fused
from migx.ops.layout import Contiguous
from migx.target import get_target, supported


class Dissolve(Pass):
    """Replaces a ``pointwise``, ``fused_reduce`` or ``group`` by its contents where ``target`` does
    not support it: it may have a kernel for each part. If the target would support it with inputs
    in standard layout, those that are not are copied instead.
    """

    target: str = "ref"

    def apply(self, module: Module, manager: PassManager) -> bool:
        fused = [at for at in module if isinstance(at.op, Fused)]
        if not fused:
            return False
        supports = partial(supported, get_target(self.target))
        apart = [at for at in fused if not supports(at)]
        for at in apart:
            if not _put_in_order(at, supports):
                take_apart(at)
        return bool(apart)


def _put_in_order(at: Instruction, supports: Callable[[Instruction], bool]) -> bool:
    """Copies the inputs that are neither standard nor broadcast, if that is all it takes."""
    module, given = at.owner, at.inputs
    copies = [
        (number, module.insert_instruction(at, Contiguous(), value, origins=at.origins))
        for number, value in enumerate(given)
        if not (value.shape.standard or value.shape.broadcasted)
    ]
    for number, copy in copies:
        module.replace_input(at, number, copy)
    if not copies or supports(at):
        return bool(copies)
    for number, copy in copies:
        module.replace_input(at, number, given[number])
        module.remove_instruction(copy)
    return False


def take_apart(at: Instruction) -> list[Instruction]:
    """Inlines a fused instruction, which is unused afterwards; returns the new instructions."""
    module, (body,) = at.owner, at.modules
    given, made = operands(at), list[Instruction]()
    for each in body:
        if each.op.name not in ("@param", "@return"):
            inputs = [given[v] for v in each.inputs]
            origins = merged(each.origins, at.origins)
            given[each] = module.insert_instruction(
                at, each.op, *inputs, modules=each.modules, origins=origins
            )
            made.append(given[each])
    results = [given[v] for v in body.outputs]
    for k, result in enumerate(results):
        if result.shape.strides is not None:
            results[k] = module.insert_instruction(at, Contiguous(), result, origins=at.origins)
            made.append(results[k])
    if not at.shape.parts:
        module.replace_instruction(at, results[0])
        return made
    for user in list(at.users):
        user.owner.replace_instruction(user, results[user.op_as(GetTupleElem).index])
    return made
