"""Calibration: products of bytes, with scales derived from the values that runs show.

Weights stored as bytes are multiplied by floats. If the other operand is quantised to bytes too,
products are computed on integers, in a fraction of the time. Weights tell their own range; that of
other values shows only when a program runs (MIGraphX capture_arguments and quantize_8bits).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx.builders import Builder
from migx.errors import InputError, WeightError
from migx.ir import Instruction
from migx.ops.linear import Convolution, Dot
from migx.ops.packing import UnpackInt4
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.ops.reduce import ReduceMax, ReduceMin
from migx.planning import source
from migx.program import Program
from migx.shape import I8, U8, DType, integers
from migx.target import Target
from migx.weights.live import holding, live_weights

Range = tuple[float, float]
EXTREMES = (ReduceMin, ReduceMax)


def calibrate(
    program: Program, inputs: Iterable[Mapping[str, Any]], *, target: str | Target = "cpu"
) -> int:
    """Makes dots and convolutions with weights of bytes multiply bytes; returns how many there are.

    The other operand is quantised to u8, with a scale and a zero point for each value, such that
    the levels span 0 and everything seen when ``target`` runs these ``inputs``. So it is off by at
    most half a level, 1/510 of its range, or clipped if it is outside: inputs should be as varied
    as those to come. The scales are for the current weights, updates included: if other weights
    change these values much, calibrate a program that has those.

    Left as they are: products in modules of control flow, and weights with scales along the summed
    axis. ``WeightError`` if there is no weight of bytes, as made by the pass ``quantize_int8``, or
    weights have no values yet; ``InputError`` if there are no inputs, or a value is not finite.
    """
    products = [(at, place) for at in program.main if (place := _multiplied(at)) is not None]
    if not products:
        raise WeightError(
            "no dot or convolution of the main module multiplies floats by weights of bytes that "
            f"have a scale for each column or channel; there are {_others(program)}"
        )
    values = list(dict.fromkeys(at.inputs[place] for at, place in products))
    found = ranges(program, values, inputs, target)
    made = {value: as_levels(value, *pair) for value, pair in zip(values, found, strict=True)}
    for at, place in products:
        program.main.replace_input(at, place, made[at.inputs[place]])
    return len(products)


def _multiplied(at: Instruction) -> int | None:
    """The index of the operand that a product multiplies by a weight of bytes; None if it has no
    such weight, or that operand is quantised already.
    """
    if type(at.op) not in (Dot, Convolution):
        return None
    narrow = [place for place, v in enumerate(at.inputs) if _is_read_from_bytes(v)]
    if len(narrow) != 1 or not at.inputs[narrow[0]].constant:
        return None
    return 1 - narrow[0]


def _others(program: Program) -> str:
    """The products with weights that cannot be calibrated: how many there are of each kind."""
    products = (at for at in program.instructions() if type(at.op) in (Dot, Convolution))
    kinds = Counter(_kind(at) for at in products if any(v.constant for v in at.inputs))
    return "; ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none with weights"


def _kind(product: Instruction) -> str:
    """Why a product with a weight cannot be calibrated."""
    if product.owner.name != "main":
        return "in modules of control flow"
    weight = source(next(v for v in product.inputs if v.constant))
    if not isinstance(weight.op, DequantizeLinear):
        return "by weights of floats, of which the pass quantize_int8 makes bytes if that pays"
    if isinstance(weight.inputs[0].op, UnpackInt4):
        return "by weights of four bits"
    if weight.op.block:
        return "by weights of bytes with a scale for each block"
    return "of bytes already"


def _is_read_from_bytes(value: Instruction) -> bool:
    """Whether a value is dequantised bytes, with one scale or one for each index of an axis."""
    value = source(value)
    whole = isinstance(value.op, DequantizeLinear) and not value.op.block
    return whole and value.inputs[0].shape.dtype in (I8, U8)


def observed(program: Program, values: Sequence[Instruction]) -> Program:
    """A copy of a program, with current weights, that returns the least and the greatest element of
    each of some values of its main module, in turn.
    """
    copied = holding(program, live_weights(program))
    twins = dict(zip(program.main, copied.main, strict=True))
    found = []
    for value in map(twins.__getitem__, values):
        axes = tuple(range(value.shape.rank))
        found += [copied.main.add_instruction(op(axes), value) for op in EXTREMES]
    copied.main.add_return(*found)
    return copied


def ranges(
    program: Program,
    values: Sequence[Instruction],
    inputs: Iterable[Mapping[str, Any]],
    target: str | Target = "cpu",
) -> list[Range]:
    """The least and the greatest element of each value in runs with these inputs.

    ``InputError`` if there are no inputs, or a value is not finite.
    """
    compiled = observed(program, values).compile(target)
    return widest(values, (compiled.eval(each) for each in inputs))


def widest(values: Sequence[Instruction], results: Iterable[Sequence[NDArray[Any]]]) -> list[Range]:
    """The ranges of values over several runs of an ``observed`` program."""
    low, high = np.full(len(values), np.inf), np.full(len(values), -np.inf)
    count = 0
    for count, result in enumerate(results, 1):
        found = np.array([np.asarray(v).astype(np.float64).item() for v in result]).reshape(-1, 2)
        for value, pair in zip(values, found, strict=True):
            if not np.isfinite(pair).all():
                raise InputError(
                    f"with the inputs number {count}, a value ranges from {pair[0]} to {pair[1]}; "
                    f"one that is quantised must be finite:\n  {value}"
                )
        low, high = np.minimum(low, found[:, 0]), np.maximum(high, found[:, 1])
    if not count:
        raise InputError("there are no inputs to calibrate with: give one set or more")
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def as_levels(value: Instruction, low: float, high: float) -> Instruction:
    """A value after ``quantizelinear`` to u8 and ``dequantizelinear``, whose levels span ``low`` to
    ``high`` and 0.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    least, most = integers(U8)
    scale = (high - low) / (most - least) or 1.0
    zero = np.clip(np.rint(least - low / scale), least, most)
    return behind_levels(value, U8, scale, int(zero))


def behind_levels(value: Instruction, to: DType, scale: float, zero: int = 0) -> Instruction:
    """A value after ``quantizelinear`` and ``dequantizelinear`` with one scale."""
    module = value.owner
    behind = (at for at in module.following(value) if at.name != "@param")
    after = next(behind, None)  # parameters stay together
    at = Builder(module, after, value.origins)
    by = [at.literal(scale, value.shape.dtype), *([at.literal(zero, to)] if zero else ())]
    return at(DequantizeLinear(), at(QuantizeLinear(to=to), value, *by), *by)
