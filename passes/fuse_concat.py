"""Fuses a concatenation with the arithmetic before and after it."""

from __future__ import annotations

from migx.fusion.outlining import Bundle, Outlining, only_reader
from migx.ir import Instruction, Module
from migx.ops.fused import Group
from migx.passes.fuse_pointwise import dims_of, is_by_element


class FuseConcat(Outlining):
    """Makes a ``group`` of a concat, the arithmetic that only it uses, and the arithmetic that is
    its only user, so that no intermediate is written and read again (MIGraphX pass of this name).
    """

    def bundles(self, module: Module) -> list[Bundle]:
        taken: set[Instruction] = set()
        found = list[Bundle]()
        for concat in [at for at in module if at.op.name == "concat"]:
            pieces = dict.fromkeys(concat.inputs)
            before = [v for v in pieces if only_reader(v) is concat and is_by_element(v)]
            after = only_reader(concat)
            follows = after is not None and is_by_element(after)
            tail = [after] if after and follows and dims_of(after) == concat.shape.dims else []
            members = [v for v in (*before, concat, *tail) if v not in taken]
            if len(members) > 1:
                taken.update(members)
                found.append(Bundle(members, Group("concat")))
        return found
