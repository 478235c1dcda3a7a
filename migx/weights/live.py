"""What updates have given the weights of a compiled program, put into programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migx.argument import Argument
from migx.ops.builtin import AssumeEqual, Literal
from migx.program import Program
from migx.weights.hoisting import hoist, is_replaceable, is_weight, weights_of
from migx.weights.recipe import Arguments


def live_weights(program: Program) -> Arguments:
    """The values that updates have given weights which the program still has, by name; none where
    it is not compiled.
    """
    made = program._compiled
    live = {} if made is None else made.weights.given
    held = weights_of(program) if live else {}
    return {n: v for n, v in live.items() if n in held and held[n].shape.same_type(v.shape)}


def holding(program: Program, values: Arguments) -> Program:
    """A copy of a program in which replaceable weights have some values, which are not copied."""
    made = program.copy()
    if values:
        put_literals(made, values, replaceable=True)
    return made


def put_literals(program: Program, values: Mapping[str, Argument], replaceable: bool) -> None:
    """Puts literals in the places of weights, wherever they are; what was assumed of one that is
    fixed now is true for good.
    """
    for module in program.modules.values():
        for at in module:
            op: Any = at.op
            if type(op) is AssumeEqual and not is_weight(at.inputs[0]):
                module.remove_instruction(at)
            elif is_replaceable(at) and op.label in values:
                place = {"file": op.file, "offset": op.offset} if replaceable else {}
                literal = Literal(values[op.label], op.label, replaceable, **place)
                module.replace_operation(at, literal)
    hoist(program, ())
