"""Gives every spelling of GELU the form with the fewest operations.

GELU is x * P(X <= x) for a normal X: ``x * 0.5 * (1 + erf(x / sqrt(2)))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from migx.builders import full_like
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import On, OneOf, Pattern, on, value, var
from migx.ops.pointwise import Add, Div, Erf, Mul, Sigmoid, Tanh
from migx.passes._common import broadcast_of
from migx.rewrite import Cursor, Declined, rule

x = var("x")


def about(number: float) -> Pattern:
    """A literal, or a broadcast of one, equal to a number rounded to its element type."""
    return broadcast_of(value(number))


def half_apart(left: Pattern, right: Pattern) -> OneOf:
    """0.5 * left * right with the half not beside the right factor."""
    half = about(0.5)
    inner = on(Mul, left, half).once(), on(Mul, left, right).once()
    return OneOf((on(Mul, inner[0], right), on(Mul, inner[1], half)))


def plus_one(term: On) -> On:
    """1 + term, caught as ``twice``."""
    return on(Add, term.once(), about(1), name="twice").once()


scaled = on(Div, x, about(math.sqrt(2))) | on(Mul, x, about(math.sqrt(0.5)))
by_erf = plus_one(on(Erf, scaled))
by_tanh = plus_one(on(Tanh, var("u")))


@rule(on(Erf, on(Div, x, about(math.sqrt(2))).once()))
def erf_of_product(at: Cursor, x: Instruction, fast: bool = False) -> Instruction | None:
    """erf(x / sqrt(2)) is erf(x * sqrt(1/2))."""
    return None if fast else at(Erf(), times(at, x, math.sqrt(0.5)))


@rule(half_apart(x, by_erf))
def half_last(
    at: Cursor, x: Instruction, twice: Instruction, fast: bool = False
) -> Instruction | None:
    """Halved last: x * 0.5 * (1 + erf(...)), in any order, is x * (0.5 * (1 + erf(...)))."""
    return None if fast else at(Mul(), x, times(at, twice, 0.5))


@rule(half_apart(x, by_tanh) | on(Mul, x, on(Mul, by_tanh, about(0.5)).once()))
def tanh_as_sigmoid(at: Cursor, x: Instruction, u: Instruction) -> Instruction:
    """Exactly, x * 0.5 * (1 + tanh(u)) is x * sigmoid(2 * u), which cancels nothing."""
    return at(Mul(), x, at(Sigmoid(), times(at, u, 2)))


@rule(half_apart(x, by_erf) | on(Mul, x, on(Mul, by_erf, about(0.5)).once()))
def erf_as_sigmoid(at: Cursor, x: Instruction, fast: bool = False) -> Instruction | Declined:
    """About, x * 0.5 * (1 + erf(x / sqrt(2))) is x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 *
    x^3)), within 0.0005.
    """
    if not fast:
        return Declined("it is not exact, which only fast=true allows")
    outer = 2 * math.sqrt(2 / math.pi)
    inner = at(Add(), times(at, at(Mul(), x, x), 0.044715 * outer), full_like(at, x, outer))
    return at(Mul(), x, at(Sigmoid(), at(Mul(), x, inner)))


def times(at: Cursor, value: Instruction, number: float) -> Instruction:
    """A value times a number."""
    return at(Mul(), value, full_like(at, value, number))


class RewriteGelu(Pass):
    """Writes GELU by erf as x * (0.5 * (1 + erf(x * sqrt(1/2)))) and GELU by tanh as x times a
    sigmoid; with ``fast`` that by erf too, whose results then differ by up to 0.0005 (MIGraphX pass
    of this name).
    """

    rules = erf_of_product + half_last + erf_as_sigmoid + tanh_as_sigmoid
    fast: bool = False
    variants = ("fast=true",)

    @property
    def approximations(self) -> Mapping[str, float]:
        """The approximation of erf is off by up to 0.00036."""
        return {"erf": 0.00036} if self.fast else {}
