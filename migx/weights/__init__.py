"""What passes may know of weights: what is constant, and when a value may be read.

*Constant* means a literal (a target's own included), a deferred weight, a slot, or a value computed
from these alone. The shape and type of a constant may be used freely. Its value must be asked for:
it is granted for fixed literals, and for replaceable ones only with an assumption that is recorded
in the weights module and checked when new weights arrive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.ir import Instruction, Module
from migx.ops.builtin import SOURCES, AssumeEqual, Literal, OnnxExternalWeights
from migx.program import Program

WEIGHTS = "weights"
DEBUG = bool(os.environ.get("MIGX_DEBUG"))
"""Whether passes are checked for illegal reads of weights; the tests run with this on."""


def is_source(at: Instruction) -> bool:
    """Whether it is a literal (a target's own included), a deferred weight or a slot."""
    return isinstance(at.op, SOURCES)


def is_weight(at: Instruction) -> bool:
    """Whether it is a replaceable weight: a deferred one, or a literal marked as such."""
    op = at.op
    return type(op) is OnnxExternalWeights or (type(op) is Literal and op.replaceable)


def is_replaceable(at: Instruction) -> bool:
    """Whether an instruction is a replaceable weight, or a target's own literal made from one."""
    return is_weight(at) or (isinstance(at.op, Literal) and at.op.replaceable)


def label_of(at: Instruction) -> str:
    """The name of a weight."""
    label: str = operations.attributes(at.op)["label"]
    return label


def is_readable(at: Instruction, relied_on_by: str = "") -> bool:
    """Whether ``value_of`` would grant the value; records nothing."""
    if type(at.op) is not Literal or not at.op.value.available:
        return False
    if at.op.replaceable and (not relied_on_by or at.module is None):
        return False
    Argument.sealed.get(get_ident(), set()).discard(id(at.op.value))
    return True


def value_of(at: Instruction, *, relied_on_by: str = "") -> Argument | None:
    """The value of a literal, for a rewrite that depends on it; None if it may not be known.

    Fixed literals are granted. A replaceable one is granted only to a caller that names itself, and
    the assumption is recorded in the weights module. Deferred weights and slots have no value yet.
    """
    value = looked_at(at, relied_on_by=relied_on_by)
    if value is not None and at.module is not None and (op := at.op_as(Literal)).replaceable:
        assume(at.module.program, op, value, relied_on_by)
    return value


def looked_at(at: Instruction, *, relied_on_by: str) -> Argument | None:
    """What ``value_of`` would grant, for a rewrite that may still decline: nothing is recorded. A
    rewrite that then relies on the value must call ``value_of``.
    """
    return at.op_as(Literal).value if is_readable(at, relied_on_by) else None


def may_be_finite(at: Instruction) -> bool:
    """Whether no element of a value is known to be infinite or NaN; one that is must not be
    factored out of a sum, which it would make NaN.
    """
    held = value_of(at)
    return held is None or bool(np.isfinite(held.array).all())


def assume(
    program: Program, weight: Literal | OnnxExternalWeights, value: Argument, relied_on_by: str
) -> None:
    """Records that a pass, or the reader, relied on the value of a weight; replacing it by another
    value is then refused.
    """
    made = AssumeEqual(value, weight.label, relied_on_by)
    if made not in program.assumptions:
        module = weights_module(program)
        module.add_instruction(made, module.add_instruction(weight))


def weights_module(program: Program) -> Module:
    """The module named ``weights``, created if necessary. Passes leave it alone: its instructions
    have already been through them.
    """
    if program.weights is not None:
        return program.weights
    module = program.create_module(WEIGHTS)
    module.bypass = True
    module.add_return()
    return module


@contextmanager
def sealed(program: Program) -> Iterator[None]:
    """In the block, reading a replaceable weight of the program without ``value_of`` or a pattern's
    ``value`` raises ``SealedWeight``, in this thread only. Used around each pass in debug mode.
    """
    held = {id(op.value) for op in _replaceable(program)}
    with _sealing(held | Argument.sealed.get(get_ident(), set())):
        yield


@contextmanager
def unsealed() -> Iterator[None]:
    """In the block, all weights may be read: for printing."""
    with _sealing(set()):
        yield


@contextmanager
def _sealing(held: set[int]) -> Iterator[None]:
    """In the block, this thread may read all arguments but some, given by id."""
    me = get_ident()
    before = Argument.sealed.pop(me, None)
    try:
        if held:
            Argument.sealed[me] = held
        yield
    finally:
        Argument.sealed.pop(me, None)
        if before:
            Argument.sealed[me] = before


def _replaceable(program: Program) -> Iterator[Literal]:
    return (at.op for at in program.literals if isinstance(at.op, Literal) and at.op.replaceable)
