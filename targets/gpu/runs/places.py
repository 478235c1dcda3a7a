"""Where values on the device lie: in the memory of their *root*, an allocation or a copy in the
arena, a literal, a slot, or a result of another piece or module.
"""

from __future__ import annotations

from collections.abc import Iterable

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.builtin import GetTupleElem, Literal, Param, Return, Slot
from migx.ops.control import Assume
from migx.planning import is_alias, shift
from migx.targets.gpu.operations import Allocate, CodeObject, CopyTo, Counted, DeviceLiteral, Sync


def may_be_there(at: Instruction) -> bool:
    """Whether the operand of a ``gpu::copy_to`` may be on the device already: it is an argument of
    a submodule, or the result of an instruction that runs modules or tells a count.
    """
    (source,) = at.inputs
    if isinstance(source.op, Counted):
        return True
    if isinstance(source.op, GetTupleElem):
        made = source.inputs[0]
        return bool(made.modules) and not isinstance(made.op, CodeObject)
    module = source.module
    return type(source.op) is Param and module is not None and module.parent is not None


def lies_in(at: Instruction) -> Instruction | None:
    """The value that this one aliases, and is on the device whenever that is; None if there is
    none.
    """
    if isinstance(at.op, CodeObject):
        return at.op.result(at.inputs, 0) if at.op.outputs == 1 else None
    if isinstance(at.op, GetTupleElem):
        source = at.inputs[0]
        if isinstance(source.op, CodeObject):
            return source.op.result(source.inputs, at.op.index)
        return None
    return at.inputs[0] if isinstance(at.op, (Assume, Sync)) or is_alias(at) else None


class Places:
    """The ``roots`` of a module's values that are on the device; those ``given`` from outside are
    their own.
    """

    def __init__(self, instructions: Iterable[Instruction], given: Iterable[Instruction]) -> None:
        self.roots: dict[Instruction, Instruction] = {at: at for at in given}
        for at in instructions:
            source = lies_in(at)
            if isinstance(at.op, (Allocate, CopyTo, DeviceLiteral, Slot)):
                self.roots[at] = at
            elif source is not None and source in self.roots:
                self.roots[at] = self.roots[source]

    def host_takes_part(self, at: Instruction) -> bool:
        """Whether the host takes part in an instruction: not in a kernel, nor in memory, a view of
        some, a value on the device already, or a parameter or result.
        """
        if isinstance(at.op, (Assume, CopyTo, Sync)):
            return True
        known = isinstance(at.op, (CodeObject, GetTupleElem, Literal, Param, Return))
        return not known and at not in self.roots

    def start(self, at: Instruction) -> tuple[Instruction, Extent]:
        """The root of a value on the device, and its offset there in bytes."""
        root = self.roots[at]
        offset: Extent = 0
        while at is not root:
            source = lies_in(at)
            assert source is not None
            if (step := shift(at)) != 0:
                offset = offset + step * at.shape.dtype.bits // 8
            at = source
        return root, offset
