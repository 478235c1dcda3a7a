"""Programs in narrower types, as MIGraphX's Python module makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import migx
from migx.compat.migraphx.programs import program, target
from migx.errors import CompatError
from migx.ir import Instruction
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.program import Program
from migx.shape import I8

PRODUCTS = ("dot", "convolution")
LEVELS = 127
"""The greatest of the levels that a value is rounded to; those below 0 go as far."""


def quantize_fp16(prog: program, ins_names: Sequence[str] = ("all",)) -> None:
    """Has instructions of these names compute in f16, between converts."""
    _truncate(prog, "f16", ins_names)


def quantize_bf16(prog: program, ins_names: Sequence[str] = ("all",)) -> None:
    """Has instructions of these names compute in bf16, between converts."""
    _truncate(prog, "bf16", ins_names)


def _truncate(prog: program, to: str, names: Sequence[str]) -> None:
    _expect_uncompiled(prog)
    chosen = "" if "all" in names else f",ops=({','.join(names)})"
    migx.run_passes(prog.program, f"truncate_float{{to={to}{chosen}}}")


def quantize_int8(
    prog: program,
    t: target,
    calibration: Sequence[Mapping[str, Any]] = (),
    ins_names: Sequence[str] = PRODUCTS,
) -> None:
    """Has products multiply bytes: each operand is rounded to 127 levels either way, up to the
    greatest number that runs of the program on ``t``, with the inputs in ``calibration``, saw.

    Those in modules of control flow stay as they are. ``CompatError`` without calibration, and
    where a name is of no product.
    """
    _expect_uncompiled(prog)
    if others := [name for name in ins_names if name not in PRODUCTS]:
        raise CompatError(f"quantize_int8 is for {' and '.join(PRODUCTS)}, not {others[0]}")
    if not calibration:
        raise CompatError("quantize_int8 needs calibration: inputs that show how large values get")
    main = prog.program.main
    products = [at for at in main if at.name in ins_names and at.shape.dtype.is_float]
    operands = list(dict.fromkeys(v for at in products for v in at.inputs))
    made = {
        value: _rounded(value, greatest)
        for value, greatest in zip(operands, _greatest(prog, operands, t, calibration), strict=True)
    }
    for at in products:
        for place, value in enumerate(at.inputs):
            main.replace_input(at, place, made[value])


def _greatest(
    prog: program, values: Sequence[Instruction], t: target, inputs: Sequence[Mapping[str, Any]]
) -> list[float]:
    """The greatest magnitude of each value in runs of the program with these inputs."""
    observed = _returning(prog.program, values)
    observed.compile(t)
    seen = np.zeros(len(values))
    for each in inputs:
        found = [np.abs(np.array(result)).max(initial=0) for result in observed.run(each)]
        seen = np.maximum(seen, np.array(found, np.float64))
    return [float(most) for most in seen]


def _returning(of: Program, values: Sequence[Instruction]) -> program:
    """A copy of a program that returns some values of its main module."""
    copied = of.copy()
    twins = dict(zip(of.main, copied.main, strict=True))
    copied.main.add_return(*(twins[value] for value in values))
    return program(copied)


def _rounded(value: Instruction, greatest: float) -> Instruction:
    """A value behind ``quantizelinear`` and ``dequantizelinear``, of a scale for all of it."""
    module = value.module
    assert module is not None
    after = module.following(value)
    while after is not None and after.name == "@param":  # those stand together
        after = module.following(after)
    scale = module.add_literal(greatest / LEVELS or 1.0, value.shape.dtype, before=after)
    levels = module.insert_instruction(after, QuantizeLinear(to=I8), value, scale)
    return module.insert_instruction(after, DequantizeLinear(), levels, scale)


def quantize_fp8(prog: program, t: target, calibration: Sequence[Mapping[str, Any]] = ()) -> None:
    """Raises ``CompatError``: products of f8 are not there."""
    raise CompatError("quantize_fp8 is not there: use quantize_int8 or quantize_fp16")


def autocast_fp8(prog: program) -> None:
    """Raises ``CompatError``: parameters stay in the type that they have."""
    raise CompatError("autocast_fp8 is not there: parameters are given in the type they have")


def _expect_uncompiled(prog: program) -> None:
    if prog.is_compiled():
        raise CompatError("quantise a program before it is compiled")


__all__ = ["autocast_fp8", "quantize_bf16", "quantize_fp8", "quantize_fp16", "quantize_int8"]
