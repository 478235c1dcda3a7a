"""What shape rules accept can be computed: on operations drawn at random and then changed."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

import migx
from migx import plugins
from migx.argument import Argument
from migx.errors import EvaluationError, MigxError
from migx.op import Operation, evaluator
from migx.shape import Shape
from migx.testing.draws import Dice, any_shape, draft, drawable

BY_VALUES = ("compress", "concat_from_sequence", "dim_literal", "multibroadcast", "onehot")
"""Operations whose dims depend on values, besides those named ``dynamic``."""
OURS = [n for n in drawable() if plugins.operation(n).__module__.startswith("migx.ops.")]
DTYPES = ("f32", "i64", "bool", "f16", "u8", "i32")


def changed_shapes(dice: Dice, shapes: list[Shape]) -> list[Shape]:
    """The shapes, one of them removed, repeated, or with other dims or another type."""
    if not shapes or any(s.parts or s.dtype.is_packed for s in shapes):
        return [*shapes, *shapes[:1]]
    at = dice.randrange(len(shapes))
    dtype, dims = shapes[at].dtype, shapes[at].dims
    axis = dice.randrange(max(len(dims), 1))
    others: tuple[list[Shape], ...] = (
        [],
        [shapes[at]] * 2,
        [Shape(dtype, (*dims, dice.some(1, 2)))],
        [Shape(dtype, dims[:-1])],
        [Shape(dtype, (*dims[:axis], dice.some(0, 5), *dims[axis + 1 :]))],
        [Shape(dice.one_of(DTYPES), dims)],
    )
    return [*shapes[:at], *dice.one_of(others), *shapes[at + 1 :]]


def changed_attribute(dice: Dice, op: Operation) -> Operation:
    """The operation with one of its attributes changed in a number or in length."""
    assert dataclasses.is_dataclass(op)
    held = {f.name: getattr(op, f.name) for f in dataclasses.fields(op)}
    numbers = [n for n, v in held.items() if type(v) is int or (v and type(v) is tuple)]
    if not numbers:
        return op
    value = held[name := dice.one_of(numbers)]
    if isinstance(value, int):
        other = dice.one_of((-1, 0, value + 1, 7))
    else:
        other = dice.one_of((value[:-1], value + value[:1], value[::-1], (*value[:-1], 7)))
    changed: Operation = dataclasses.replace(op, **{name: other})
    return changed


def zeros(shape: Shape) -> Argument:
    if shape.dtype.is_packed:
        return Argument.packed(shape, bytes(-(-int(shape.elements) * shape.dtype.bits // 8)))
    return Argument(shape, np.zeros(shape.dims, shape.dtype.numpy))


def problem(op: Operation, shapes: list[Shape]) -> str:
    """The error of an operation that is neither refused nor computed; empty if there is none."""
    program = migx.Program()
    given = [program.main.add_parameter(f"x{i}", s) for i, s in enumerate(shapes)]
    try:
        program.main.add_return(program.main.add_instruction(op, *given))
    except MigxError as error:
        return str(error) if "the shape rule of" in str(error) else ""
    if any(s.parts for s in shapes) or evaluator(type(op)) is None:
        return ""
    try:
        program.compile("ref").eval({f"x{i}": zeros(s) for i, s in enumerate(shapes)})
    except EvaluationError as error:
        said = str(error)
        by_values = "its shape rule says" in said and (op.name in BY_VALUES or "dynamic" in op.name)
        return said if re.match(r"\w+Error: ", said) and not by_values else ""
    return ""


@pytest.mark.parametrize("name", OURS)
def test_what_a_shape_rule_takes_is_computed(name: str) -> None:
    for seed in range(60):
        dice = Dice(seed)
        if (made := draft(name, dice, any_shape(dice))) is None:
            continue
        op, shapes = made[0], [want.shape for want in made[1]]
        if dice.chance(0.5):
            shapes = changed_shapes(dice, shapes)
        else:
            try:
                op = changed_attribute(dice, op)
            except MigxError:
                continue
        assert not problem(op, shapes), (op, shapes)
