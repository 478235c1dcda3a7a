"""rewrite_gelu: how far the fast form is from the exact one, and that the sigmoid form is no
further from it than tanh was.
"""

from __future__ import annotations

import math

import numpy as np

from migx.ir import Instruction
from migx.manager import Pipeline
from migx.op import Array
from migx.ops.layout import Multibroadcast
from migx.ops.pointwise import Add, Div, Erf, Mul, Tanh
from migx.program import Program
from migx.shape import Shape

X = np.linspace(-8, 8, 4001, dtype=np.float32)


class Written:
    """A program written as arithmetic on a parameter x."""

    def __init__(self) -> None:
        self.program = Program()
        self.x = self.program.main.add_parameter("x", Shape("f32", (len(X),)))

    def number(self, value: float) -> Instruction:
        literal = self.program.main.add_literal(np.float32(value))
        return self.program.main.add_instruction(Multibroadcast((len(X),)), literal)

    def gelu_by(self, bell: Instruction) -> Program:
        add = self.program.main.add_instruction
        half = add(Mul(), self.x, self.number(0.5))
        self.program.main.add_return(add(Mul(), half, add(Add(), bell, self.number(1))))
        return self.program


def by_erf() -> Program:
    w = Written()
    add = w.program.main.add_instruction
    return w.gelu_by(add(Erf(), add(Div(), w.x, w.number(math.sqrt(2)))))


def by_tanh() -> Program:
    w = Written()
    add = w.program.main.add_instruction
    cube = add(Mul(), add(Mul(), w.x, w.x), w.x)
    inner = add(Add(), w.x, add(Mul(), cube, w.number(0.044715)))
    return w.gelu_by(add(Tanh(), add(Mul(), inner, w.number(math.sqrt(2 / math.pi)))))


def values(program: Program, passes: str) -> Array:
    (result,) = program.compile("ref", passes=passes).eval({"x": X})
    return np.asarray(result, np.float64)


def exact() -> Array:
    x = X.astype(np.float64)
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def test_the_fast_form_is_within_what_it_says() -> None:
    error = np.abs(values(by_erf(), "rewrite_gelu{fast=true}") - exact())
    assert 1e-6 < error.max() < 5e-4


def test_without_being_asked_nothing_is_approximated() -> None:
    before = np.abs(values(by_erf(), "") - exact()).max()
    after = np.abs(values(by_erf(), "rewrite_gelu") - exact()).max()
    assert after < max(2 * before, 1e-6)


def test_the_sigmoid_form_of_tanh_is_more_precise_far_out() -> None:
    x = X.astype(np.float64)
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    wanted = x / (1 + np.exp(-2 * u))
    errors = [np.abs(values(by_tanh(), p) - wanted) for p in ("", "rewrite_gelu")]
    assert errors[1].max() <= 2 * errors[0].max() + 1e-7
    far = (x < -5) & (wanted != 0)
    assert (
        (errors[1][far] / np.abs(wanted[far])).max()
        < 1e-3
        < 1
        <= (errors[0][far] / np.abs(wanted[far])).max()
    )


def test_options_are_text_that_parses_back() -> None:
    (step,) = Pipeline.parse("rewrite_gelu{fast=true}")
    assert str(step) == "rewrite_gelu{fast=true}"
