"""Makes pointwise operations next to values of a wider float type compute in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from migx import op as operations
from migx import plugins
from migx.argument import Argument
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import having, on
from migx.op import Array
from migx.ops.pointwise import Convert
from migx.passes.eliminate_convert import holds
from migx.pipeline import Approximation
from migx.rewrite import Cursor, rule
from migx.shape import F64


@rule(on(Convert, having("pointwise", name="work").once(), name="up"))
def convert_first(at: Cursor, work: Instruction, up: Instruction) -> Instruction | None:
    """convert(op(x)) to a wider type is op(convert(x))."""
    if not is_wider(up, work) or not is_uniform(work):
        return None
    converted = {v: at(up.op, v) for v in dict.fromkeys(work.inputs)}
    return at(work.op, *(converted[v] for v in work.inputs))


@rule(having("pointwise", name="work"))
def convert_last(at: Cursor, work: Instruction) -> Instruction | None:
    """op(convert(x)) of a narrower type than x is convert(op(x))."""
    downs = [v for v in work.inputs if isinstance(v.op, Convert) and v.use_count == 1]
    if len(downs) != 1 or not is_uniform(work) or downs[0].constant:
        return None
    ((wide,), down) = downs[0].inputs, downs[0].op
    if not is_wider(wide, work):
        return None
    up = Convert(wide.shape.dtype)
    return at(down, at(work.op, *(wide if v is downs[0] else at(up, v) for v in work.inputs)))


def is_wider(wide: Instruction, narrow: Instruction) -> bool:
    """Whether the type of one value strictly contains the float type of another."""
    types = wide.shape.dtype, narrow.shape.dtype
    return types[0] is not types[1] and types[1].is_float and holds(*types)


def is_uniform(work: Instruction) -> bool:
    """Whether an instruction computes in one element type, on constants and one other value: then
    no more is converted than before.
    """
    if isinstance(work.op, Convert) or work.modules:
        return False
    varying = {v for v in work.inputs if not v.constant}
    same = all(v.shape.dtype is work.shape.dtype for v in work.inputs)
    return len(varying) == 1 and same and operations.traits(work.op).pointwise


class Overflow(Approximation):
    """No bound on results that are infinite or NaN in a type that may be widened."""

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """Infinite for such results."""
        if not result.shape.dtype.is_float or result.shape.dtype is F64:
            return None
        lost = ~np.isfinite(result.array)
        return np.where(lost, np.inf, 0.0) if lost.any() else None


class PropagatePrecision(Pass):
    """Moves converts so that pointwise operations next to values of a wider float type compute in
    it (MIGraphX pass of this name).

    Results are as precise or more: intermediate values that would have been rounded, or would have
    overflowed, no longer are.
    """

    rules = convert_first + convert_last

    @property
    def approximations(self) -> Mapping[str, Approximation]:
        """Results that overflow in a narrow type may be finite."""
        known = plugins.operations().items()
        widened = [name for name, cls in known if operations.traits(cls).pointwise]
        return dict.fromkeys(widened, Overflow())
