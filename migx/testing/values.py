"""Inputs and literals with values for which arithmetic has special rules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from migx.argument import Argument
from migx.ops.builtin import Literal
from migx.ops.quantization import limits
from migx.program import Program
from migx.shape import F16, DType
from migx.testing.draws import Dice

FEW = 64
"""The most elements of a constant that may get special values."""


def special(inputs: Mapping[str, Argument], dice: Dice) -> dict[str, Argument]:
    """Inputs with some floats replaced: by infinities, NaN or signed zeros, by numbers so large
    that their squares, or only their exponentials, overflow, or so small that these underflow; and
    some multiplied as a whole by a large or small factor.
    """
    return {n: value.by_member(lambda v: _replaced(v, dice)) for n, value in inputs.items()}


def with_special(program: Program, dice: Dice) -> Program:
    """A copy of a program with some of its constants changed in the same way: small literals only,
    because passes that merge constants assume weights in range. Sometimes every other constant is
    scaled up and those between down, so that their quotients are out of range.
    """
    made = program.copy()
    apart = dice.one_of((1, -1)) if dice.chance(0.2) else 0
    for at in list(made.literals):
        op = at.op_as(Literal)
        few = not op.replaceable and int(at.shape.elements) <= FEW
        if few and at.module is not None and (apart or dice.chance(0.7)):
            value = _scaled(op.value, apart) if apart else _replaced(op.value, dice)
            at.module.replace_operation(at, dataclasses.replace(op, value=value))
            apart = -apart
    return made


def poisoned(inputs: Mapping[str, Argument]) -> dict[str, Argument]:
    """Inputs with all floats NaN: a result that reads no element must not be NaN."""
    return {name: value.by_member(_filled) for name, value in inputs.items()}


def _filled(value: Argument) -> Argument:
    if not _is_special(value.shape.dtype):
        return value
    return Argument(value.shape, np.full_like(value.array, np.nan))


def _is_special(dtype: DType) -> bool:
    """Whether values of a type can be replaced: floats of at least f16."""
    return dtype.is_tensor and dtype.is_float and not dtype.is_packed and dtype.bits >= F16.bits


def _replaced(value: Argument, dice: Dice) -> Argument:
    dtype = value.shape.dtype
    if not _is_special(dtype):
        return value
    if dice.chance(0.4):
        return _scaled(value, dice.one_of((1, -1)))
    kinds = dice.sample(_kinds(dtype), dice.some(1, 3))
    array = value.array.copy()
    for place in np.ndindex(array.shape):
        if dice.chance(0.3):
            array[place] = dice.one_of(dice.one_of(kinds))
    return Argument(value.shape, array)


def _scaled(value: Argument, way: int) -> Argument:
    """A value scaled up, or down if ``way`` is -1; integers are unchanged."""
    dtype = value.shape.dtype
    if not _is_special(dtype):
        return value
    with np.errstate(over="ignore"):
        return Argument(value.shape, value.array * dtype.numpy.type(_large(dtype) ** way))


def _kinds(dtype: DType) -> tuple[tuple[float, ...], ...]:
    large, steep = _large(dtype), 1.2 * math.log(limits(dtype)[1])
    numbers = (np.inf, -np.inf), (0.0, -0.0), (large, -large), (1 / large, -1 / large)
    return *numbers, (steep, -steep), (np.nan,)


def _large(dtype: DType) -> float:
    """A large number: 0.8 of the exponents leave room for sums and moderate factors."""
    return math.pow(limits(dtype)[1], 0.8)
