"""Puts the updated weights of a compiled program into programs, or leaves them out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from migx.argument import Argument
from migx.errors import AssumptionError, WeightError
from migx.ops.builtin import AssumeEqual, Literal, OnnxExternalWeights
from migx.program import Program
from migx.weights import is_replaceable, is_weight
from migx.weights.hoisting import hoist, weights_of
from migx.weights.recipe import Arguments

if TYPE_CHECKING:
    from migx.compiler import Compiled


def live_weights(program: Program) -> Arguments:
    """The values that updates gave to weights that the program still has, by name; none if it is
    not compiled.
    """
    made = program._compiled
    live = {} if made is None else made.weights.given
    held = weights_of(program) if live else {}
    return {n: v for n, v in live.items() if n in held and held[n].shape.same_type(v.shape)}


def committing(program: Program) -> AbstractContextManager[object]:
    """In the block, no other thread commits an update of the program's weights."""
    made = program._compiled
    return nullcontext() if made is None else made.weights.committing


def caught_up(made: Compiled, program: Program) -> bool:
    """Whether a newly compiled form of a program has the current values of all updates, which are
    committed to it here. It does not if one was rolled back, or a pass relied on another value.
    """
    had, live = made.weights.current, live_weights(program)
    changes = {name: value for name, value in live.items() if had.weights.get(name) is not value}
    try:
        if changes:
            made.weights.commit(changes, copy=False)
    except AssumptionError:
        return False
    return had.given <= live.keys()


def holding(program: Program, values: Arguments) -> Program:
    """A copy of a program whose replaceable weights have given values, which are not copied."""
    made = program.copy()
    if values:
        put_literals(made, values, replaceable=True)
    return made


def put_literals(program: Program, values: Mapping[str, Argument], replaceable: bool) -> None:
    """Replaces weights by literals wherever they are; assumptions about weights that become fixed
    are dropped.
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


def leave_out(program: Program) -> None:
    """Leaves out the values of replaceable weights. ``WeightError`` if nothing tells in which file
    one is stored.
    """
    for module in program.modules.values():
        for at in module:
            op = at.op
            if type(op) is not Literal or not op.replaceable:
                continue
            if not op.file:
                raise WeightError(
                    f"weight {op.label!r} has no file of external data in which it would be looked "
                    "up, so it cannot be left out: save the program with its weights"
                )
            place = op.label, op.file, op.offset, int(at.shape.nbytes), at.shape
            module.replace_operation(at, OnnxExternalWeights(*place))
