"""Takes apart the fused instructions that a target has no kernel for."""

from __future__ import annotations

from migx.fusion.outlining import DISSOLVED
from migx.ir import Instruction, Module, merged
from migx.manager import Pass, PassManager
from migx.ops.builtin import GetTupleElem
from migx.ops.fused import Group
from migx.ops.layout import Contiguous
from migx.target import get_target


class Dissolve(Pass):
    """Puts what a ``pointwise``, ``fused_reduce`` or ``group`` holds in its place, where ``target``
    does not support it: it may have a kernel for each part.
    """

    target: str = "ref"

    def apply(self, module: Module, manager: PassManager) -> bool:
        fused = [at for at in module if at.op.name in (*DISSOLVED, Group.name)]
        if not fused:
            return False
        supports = get_target(self.target).supports
        apart = [at for at in fused if not supports(at)]
        for at in apart:
            _take_apart(at)
        return bool(apart)


def _take_apart(at: Instruction) -> None:
    module, (body,) = at.module, at.modules
    assert module is not None
    given = dict(zip(body.parameters.values(), at.inputs, strict=True))
    for each in body:
        if each.op.name not in ("@param", "@return"):
            inputs = [given[v] for v in each.inputs]
            origins = merged(each.origins, at.origins)
            given[each] = module.insert_instruction(
                at, each.op, *inputs, modules=each.modules, origins=origins
            )
    results = [given[v] for v in body.outputs]
    for k, result in enumerate(results):
        if result.shape.strides is not None:
            results[k] = module.insert_instruction(at, Contiguous(), result, origins=at.origins)
    if not at.shape.parts:
        module.replace_instruction(at, results[0])
        return
    for user in list(at.users):
        assert isinstance(user.op, GetTupleElem)
        assert user.module is not None
        user.module.replace_instruction(user, results[user.op.index])
