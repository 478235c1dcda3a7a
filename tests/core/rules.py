"""Rules for tests of the driver and of its log, and programs on which they fire."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from migx import ops
from migx.ir import Instruction
from migx.match import attr, constant, on, skip, var
from migx.program import Program
from migx.rewrite import Cursor, Declined, rule
from migx.shape import F32, Shape

x, y = var("x"), var("y")


@rule(on(ops.Neg, on(ops.Neg, x)))
def cancel(x: Instruction) -> Instruction:
    """-(-x) is x."""
    return x


@rule(on(ops.Add, on(ops.Neg, x).once(), y))
def subtract(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
    """-x + y is y - x."""
    return at(ops.Sub(), y, x)


@rule(on(ops.Sub, x, x, name="zero"))
def vanish(at: Cursor, zero: Instruction) -> Instruction:
    """Becomes zeros, which depend on nothing; the values here are finite."""
    return at.literal(np.zeros(tuple(map(int, zero.shape.dims)), np.float32))


@rule(on(ops.Neg, constant("c"), name="outer"))
def defer(at: Cursor, c: Instruction, outer: Instruction) -> Instruction:
    """-c is c * -1 for a constant."""
    minus = at.literal(np.float32(-1))
    return at(ops.Mul(), c, at(ops.Multibroadcast(outer.shape.dims), minus))


@rule(on(ops.Relu, skip(ops.Transpose)(on(ops.Relu)), name="outer"))
def twice(outer: Instruction) -> Instruction:
    """A relu after another changes nothing, whatever moves axes between them."""
    return outer.inputs[0]


@rule(on(ops.Transpose, on(ops.Transpose, x, permutation=attr("p")), permutation=attr("q")))
def merge(
    at: Cursor, x: Instruction, p: tuple[int, ...], q: tuple[int, ...]
) -> Instruction | Declined:
    """Two transposes are one, or none."""
    both = tuple(p[i] for i in q)
    if len(both) > 5:
        return Declined("has more axes than anybody needs")
    return x if both == tuple(range(len(both))) else at(ops.Transpose(both), x)


ALL = cancel + subtract + vanish + defer + twice + merge


@st.composite
def small(draw: st.DrawFn) -> Program:
    """A few operations that the rules above are about, on squares."""
    program = Program()
    main = program.main
    values = [main.add_parameter(name, Shape(F32, (2, 2))) for name in "ab"]
    values.append(main.add_literal(np.array([[1, 2], [-3, 4]], np.float32)))
    for _ in range(draw(st.integers(1, 14))):
        op = draw(
            st.sampled_from([ops.Neg(), ops.Relu(), ops.Add(), ops.Sub(), ops.Transpose((1, 0))])
        )
        count = 2 if op.name in ("add", "sub") else 1
        values.append(
            main.add_instruction(op, *(draw(st.sampled_from(values[-6:])) for _ in range(count)))
        )
    main.add_return(*draw(st.lists(st.sampled_from(values[-4:]), min_size=1, max_size=3)))
    return program


def chain(length: int, *period: str) -> Program:
    """A chain of unary operations, again and again."""
    program = Program()
    at = program.main.add_parameter("x", Shape(F32, (2,)))
    for i in range(length):
        made = {"neg": ops.Neg, "relu": ops.Relu, "exp": ops.Exp}[period[i % len(period)]]()
        at = program.main.add_instruction(made, at)
    program.main.add_return(at)
    return program
