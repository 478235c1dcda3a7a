"""A model of 500 instructions, and passes with mistakes that show in one place of it."""

from __future__ import annotations

from typing import Any

import numpy as np

import migx
from migx import ops
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.match import attr, on, var
from migx.program import Program
from migx.rewrite import Cursor, RuleSet, rule
from migx.shape import Shape

INSTRUCTIONS = 500
PLACE = 259
"""Where the model has what the mistakes are about."""


@rule(on(ops.Relu, on(ops.Neg, var("x"))))
def relu_of_neg(at: Cursor, x: Instruction) -> Instruction:
    """Takes relu(-x) for tanh(x), which it is not."""
    return at(ops.Tanh(), x)


@rule(on(ops.Transpose, on(ops.Relu, var("x")), permutation=attr("order")))
def drop_inner(at: Cursor, x: Instruction, order: tuple[int, ...]) -> Instruction:
    """Right as long as the relu behind the transpose stays."""
    return at(ops.Transpose(order), x)


@rule(on(ops.Relu, on(ops.Transpose, name="view")))
def drop_outer(view: Instruction) -> Instruction:
    """Right as long as the relu before the transpose stays."""
    return view


class Wrong(Pass):
    """Has one rule that is wrong."""

    rules = RuleSet(relu_of_neg)


class Pair(Pass):
    """Has two rules that are wrong only together."""

    rules = drop_inner + drop_outer


class Whole(Pass):
    """Is not made of rules, and negates what comes from one node."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        found = [at for at in module if at.origins == (f"node{PLACE}",)]
        for at in found:
            reader = next(iter(at.users))
            minus = module.insert_instruction(reader, ops.Neg(), at)
            module.replace_input(reader, 0, minus)
        return bool(found)


class Crash(Pass):
    """Fails where there are fewer transposes than it likes."""

    least: int

    def apply(self, module: Module, manager: PassManager) -> bool:
        if transposes(module) < self.least:
            raise LookupError("there should be more")
        return False


def transposes(module: Module) -> int:
    """How many there are."""
    return sum(at.name == "transpose" for at in module)


def model(*planted: Any) -> Program:
    """A chain of products, sums, functions and views, with some operations planted on the way."""
    program = migx.Program()
    main = program.main
    x = main.add_parameter("x", Shape("f32", (4, 4)))
    # What happens in the middle must not be forgotten by the end, so the products change little.
    w, b = main.add_literal(np.eye(4, dtype=np.float32)), main.add_literal(np.eye(4, dtype="f4"))
    transpose = ops.Transpose((1, 0))
    cycle = [ops.Add(), transpose, transpose, ops.Tanh(), ops.Dot()]
    for i in range(INSTRUCTIONS - len(planted)):
        if i == PLACE:
            for op in planted:
                x = main.add_instruction(op, x, origins=(f"planted_{op.name}",))
        op = cycle[i % len(cycle)]
        others = {"add": (b,), "dot": (w,)}.get(op.name, ())
        x = main.add_instruction(op, x, *others, origins=(f"node{i}",))
    main.add_return(x, names=("y",))
    return program


def inputs(program: Program) -> dict[str, Any]:
    """Normal numbers for each parameter."""
    rng = np.random.default_rng(0)
    given = program.main.parameters.items()
    return {
        name: rng.standard_normal(list(map(int, p.shape.dims)), np.float32) for name, p in given
    }
