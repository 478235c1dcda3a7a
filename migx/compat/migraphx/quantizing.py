"""Programs in narrower types, as MIGraphX's Python module makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import migx
from migx.calibration import behind_levels, observed, widest
from migx.compat.migraphx.programs import program, target
from migx.errors import CompatError
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
    seen = program(observed(prog.program, operands))
    seen.compile(t)
    results = ([np.array(v) for v in seen.run(each)] for each in calibration)
    made = {
        value: behind_levels(value, I8, max(abs(low), abs(high)) / LEVELS or 1.0)
        for value, (low, high) in zip(operands, widest(operands, results), strict=True)
    }
    for at in products:
        for place, value in enumerate(at.inputs):
            main.replace_input(at, place, made[value])


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
