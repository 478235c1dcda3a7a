"""Trip counts for loops that end when a counter reaches a bound."""

from __future__ import annotations

from functools import reduce

import numpy as np

from migx import dim, ops
from migx.builders import Builder, number
from migx.dim import Call, Dim, Extent, Monomial
from migx.dims.symbol import Symbol
from migx.ir import Instruction
from migx.iterations import ENDLESS, Iterations, is_undefined
from migx.op import Operation
from migx.ops.builtin import Return
from migx.passes.simplify_counting.counters import SIGNS, Counters, is_told
from migx.shape import I64

CALLS: dict[str, type[Operation]] = {"min": ops.Min, "max": ops.Max, "floordiv": ops.Div}


def count_trips(at: Instruction) -> bool:
    """Replaces the condition of a loop that ends when a counter reaches a bound by a trip count;
    returns whether it did.
    """
    counters, (body,) = Counters(), at.modules
    if (ends := body.returned) is None or Iterations.of(at).is_counted:
        return False
    if (count := counters.trips(at)) is None:
        return False
    maker, (limit, begins) = _Maker(counters, at), at.inputs[:2]
    most = ENDLESS if is_undefined(limit) else counters.one(limit)
    if not isinstance(most, int) or most < ENDLESS:
        count = None if most is None else dim.minimum(count, dim.maximum(most, 0))
    if count is None or any(abs(c) >= ENDLESS for _, c in dim.terms(count)):
        return False  # sums of such terms may overflow i64
    if (trips := maker.made(count)) is None:
        return False
    at.owner.replace_input(at, 0, trips)
    holds = maker.add.literal(np.array(True))
    if not is_undefined(begins):
        at.owner.replace_input(at, 1, holds)
    _, condition, *_ = body.parameters.values()
    body.add_return(condition, *body.outputs[1:], names=ends.op_as(Return).names)
    return True


class _Maker:
    """Makes instructions before a loop that compute extents."""

    def __init__(self, counters: Counters, loop: Instruction) -> None:
        self.counters, self.add = counters, Builder.before(loop)

    def made(self, extent: Extent) -> Instruction | None:
        """An extent as i64[]; None if it needs symbols that have no value before the loop."""
        if not self._is_there(extent):
            return None
        return self._sum(extent)

    def _is_there(self, extent: Extent) -> bool:
        if is_told(extent):
            return True
        found = dict(dim.terms(extent))
        for monomial, coefficient in found.items():
            if is_told(Dim.of({monomial: 1})):
                continue
            if len(monomial) > 1:
                return False
            (atom,) = monomial
            if isinstance(atom, Call):
                if atom.function not in CALLS or not all(map(self._is_there, atom.args)):
                    return False
                if atom.function == "floordiv" and dim.bounds(atom.args[0])[0] < 0:
                    return False  # div rounds up there
            elif self.counters.source(atom)[0] is None or (
                found.get((self._other(atom),)) != -coefficient
            ):
                return False
        return True

    def _other(self, symbol: Symbol) -> Symbol:
        """The other symbol of the difference that a symbol is part of."""
        return Symbol(symbol.name[:-1] + SIGNS[symbol.name.endswith(SIGNS[0])])

    def _sum(self, extent: Extent) -> Instruction:
        """The value of an extent, as i64[]."""
        if is_told(extent):
            return number(self.add, extent)
        told: dict[Monomial, int] = {}
        values = list[Instruction]()
        for monomial, coefficient in dim.terms(extent):
            if is_told(Dim.of({monomial: 1})):
                told[monomial] = coefficient
                continue
            (atom,) = monomial
            if isinstance(atom, Call):
                value = self._all(CALLS[atom.function](), [*map(self._sum, atom.args)])
            else:
                at, place, sign = self.counters.source(atom)
                if at is None or sign < 0:
                    continue  # the positive part stands for the difference
                value = self._element(at, place)
            if coefficient != 1:
                value = self.add(ops.Mul(), value, number(self.add, coefficient))
            values.append(value)
        if rest := Dim.of(told):
            values.append(number(self.add, rest))
        return self._all(ops.Add(), values)

    def _all(self, op: Operation, values: list[Instruction]) -> Instruction:
        """The left fold of values by an operation."""
        return reduce(lambda a, b: self.add(op, a, b), values)

    def _element(self, value: Instruction, place: int) -> Instruction:
        """An element of an integer tensor."""
        flat = self.add(ops.Reshape((value.shape.elements,)), value)
        one = self.add(ops.Slice((0,), (place,), (place + 1,)), flat)
        return self.add(ops.Convert(I64), self.add(ops.Reshape(()), one))
