"""MIGraphX's functions that convert programs to narrower types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import migx
from migx.calibration import behind_levels, observed, widest
from migx.compat.migraphx.programs import program, target
from migx.errors import CompatError
from migx.ir import Instruction
from migx.ops.builtin import Param, Return
from migx.ops.pointwise import Convert
from migx.shape import F8E4M3FN, F32, I8, DType

PRODUCTS = ("dot", "convolution")
LEVELS = {I8: 127.0, F8E4M3FN: 448.0}
"""The largest magnitude that values are scaled to before rounding."""


def quantize_fp16(prog: program, ins_names: Sequence[str] = ("all",)) -> None:
    """Makes instructions with these names compute in f16, between converts."""
    _truncate(prog, "f16", ins_names)


def quantize_bf16(prog: program, ins_names: Sequence[str] = ("all",)) -> None:
    """Makes instructions with these names compute in bf16, between converts."""
    _truncate(prog, "bf16", ins_names)


def _truncate(prog: program, to: str, names: Sequence[str]) -> None:
    _expect_uncompiled(prog)
    prog.ensure_return()
    chosen = "" if "all" in names else f",ops=({','.join(names)})"
    migx.run_passes(prog.program, f"truncate_float{{to={to}{chosen}}}")


def quantize_int8(
    prog: program,
    t: target,
    calibration: Sequence[Mapping[str, Any]] = (),
    ins_names: Sequence[str] = PRODUCTS,
) -> None:
    """Makes products multiply bytes: each operand is quantised to 127 levels either way, up to the
    largest magnitude in runs of the program on ``t`` with the inputs in ``calibration``.

    Products in modules of control flow are left as they are. ``CompatError`` without calibration,
    or if a name is not a product's.
    """
    if others := [name for name in ins_names if name not in PRODUCTS]:
        raise CompatError(f"quantize_int8 is for {' and '.join(PRODUCTS)}, not {others[0]}")
    _quantize(prog, t, calibration, ins_names, I8)


def quantize_fp8(prog: program, t: target, calibration: Sequence[Mapping[str, Any]] = ()) -> None:
    """Makes products multiply f8e4m3fn values: each operand is scaled to 448, the type's maximum,
    as ``quantize_int8`` scales to 127. Products are computed in their own type.
    """
    _quantize(prog, t, calibration, PRODUCTS, F8E4M3FN)


def _quantize(
    prog: program,
    t: target,
    calibration: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    to: DType,
) -> None:
    _expect_uncompiled(prog)
    if not calibration:
        raise CompatError("calibration is needed: a list of inputs that show how large values get")
    prog.ensure_return()
    main = prog.program.main
    products = [at for at in main if at.name in names and at.shape.dtype.is_float]
    operands = list(dict.fromkeys(v for at in products for v in at.inputs))
    seen = program(observed(prog.program, operands))
    seen.compile(t)
    results = ([np.array(v) for v in seen.run(each)] for each in calibration)
    made = {
        value: behind_levels(value, to, max(abs(low), abs(high)) / LEVELS[to] or 1.0)
        for value, (low, high) in zip(operands, widest(operands, results), strict=True)
    }
    for at in products:
        for place, value in enumerate(at.inputs):
            main.replace_input(at, place, made[value])


def autocast_fp8(prog: program) -> None:
    """Makes parameters and results of f8 types f32, with converts after and before them."""
    _expect_uncompiled(prog)
    prog.ensure_return()
    main = prog.program.main
    behind = next((at for at in main if not isinstance(at.op, Param)), None)
    for name, narrow in list(main.parameters.items()):
        if _is_f8(narrow):
            main.rename_parameter(narrow, f"{name}.f8")
            given = main.add_parameter(name, narrow.shape.with_type(F32), before=narrow)
            cast = main.insert_instruction(behind, Convert(narrow.shape.dtype), given)
            main.replace_instruction(narrow, cast)
            main.remove_instruction(narrow)
    if main.returned is not None and any(map(_is_f8, main.outputs)):
        names = main.returned.op_as(Return).names
        wide = [main.add_instruction(Convert(F32), v) if _is_f8(v) else v for v in main.outputs]
        main.add_return(*wide, names=names)


def _is_f8(value: Instruction) -> bool:
    return value.shape.dtype.is_float and value.shape.dtype.bits == 8


def _expect_uncompiled(prog: program) -> None:
    if prog.is_compiled():
        raise CompatError("quantise a program before it is compiled")


__all__ = ["autocast_fp8", "quantize_bf16", "quantize_fp8", "quantize_fp16", "quantize_int8"]
