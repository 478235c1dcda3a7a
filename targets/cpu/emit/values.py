"""Typed values, whose Python operators append the corresponding instructions, and the values that
loops and branches carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from migx.targets.cpu.emit.types import Type

if TYPE_CHECKING:
    from migx.targets.cpu.emit.function import Function


@dataclass(frozen=True, eq=False)
class Value:
    """The result of an instruction, a parameter, or a constant, which has a ``number``."""

    text: str
    type: Type
    into: Function
    number: float | None = None

    def __add__(self, other: Operand) -> Value:
        return self.into.arithmetic("add", self, other)

    def __radd__(self, other: float) -> Value:
        return self.into.arithmetic("add", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.into.arithmetic("sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return self.into.arithmetic("sub", self.into.like(self, other), self)

    def __mul__(self, other: Operand) -> Value:
        return self.into.arithmetic("mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return self.into.arithmetic("mul", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.into.op("fdiv", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return self.into.op("fdiv", self.into.like(self, other), self)

    def __floordiv__(self, other: Operand) -> Value:
        return self.into.arithmetic("udiv", self, other)

    def __mod__(self, other: Operand) -> Value:
        return self.into.arithmetic("urem", self, other)

    def __neg__(self) -> Value:
        return self.into.negated(self)

    def __and__(self, other: Operand) -> Value:
        return self.into.op("and", self, other)

    def __or__(self, other: Operand) -> Value:
        return self.into.op("or", self, other)

    def __xor__(self, other: Operand) -> Value:
        return self.into.op("xor", self, other)

    def __invert__(self) -> Value:
        return self.into.op("xor", self, -1)

    def __lshift__(self, other: Operand) -> Value:
        return self.into.op("shl", self, other)

    def __rshift__(self, other: Operand) -> Value:
        return self.into.op("lshr", self, other)

    def __lt__(self, other: Operand) -> Value:
        return self.into.compare("lt", self, other)

    def __le__(self, other: Operand) -> Value:
        return self.into.compare("le", self, other)

    def __gt__(self, other: Operand) -> Value:
        return self.into.compare("gt", self, other)

    def __ge__(self, other: Operand) -> Value:
        return self.into.compare("ge", self, other)


Operand: TypeAlias = Value | float


class Carried:
    """Values that a branch may replace. Inside it ``carried`` is what it starts from, and ``carry``
    sets the replacements; after it ``carried`` is the phi of both.
    """

    def __init__(self, carried: list[Value]) -> None:
        self.carried = carried
        self.next: list[Value] = list(carried)

    def carry(self, *values: Value) -> None:
        """Sets what replaces the carried values."""
        self.next = list(values)


class Loop(Carried):
    """A counted loop: its ``index`` and the values ``carried`` from one iteration to the next.
    After it, ``carried`` is what the last iteration left, or the initial values if there was none.
    """

    def __init__(self, index: Value, carried: list[Value]) -> None:
        super().__init__(carried)
        self.index = index
        self.ended: Value | None = None

    def end(self, where: Value) -> None:
        """Ends the loop after this iteration if an i1 holds."""
        self.ended = where
