"""Quantisation to any number of bits, by QONNX: Brevitas writes it, FINN and hls4ml read it.

Quantised values stay floats: integers or floats of so many bits, scaled back. The semantics are
those of the reference execution in the package ``qonnx``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import Importer, importer
from migx.onnx.node import Node
from migx.onnx.ops.elementwise import clipped
from migx.op import Operation
from migx.shape import I16, I32, I64

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
"""The domain of these operators, and its former names."""

NEAREST = {"ROUND": ops.Nearbyint, "HALF_EVEN": ops.Nearbyint, "CEIL": ops.Ceil, "FLOOR": ops.Floor}
"""The rounding modes that are operations."""

BY_SIZE = {
    "UP": (ops.Ceil, 0.0),
    "DOWN": (ops.Floor, 0.0),
    "HALF_UP": (ops.Floor, 0.5),
    "HALF_DOWN": (ops.Ceil, -0.5),
}
"""The rounding modes of magnitudes: the operation, and what is added to the magnitude before."""

INTEGERS = {dtype.bits: dtype for dtype in (I16, I32, I64)}
"""The integers that the bits of floats are read as."""


def quantizer(*operators: str) -> Callable[[Importer], Importer]:
    """Marks a function as the importer of QONNX operators."""

    def marking(function: Importer) -> Importer:
        for domain in DOMAINS:
            importer(*operators, domain=domain)(function)
        return function

    return marking


@quantizer("Quant", "IntQuant")
def quant(node: Node) -> Instruction:
    """The operand rounded to the levels of a scale, a zero point and a number of bits; one signed
    bit is the sign.
    """
    x, scale, zero = operands(node)
    bits, signed = width(node, 3), node.integer("signed", 1)
    levels = node.add(ops.Add(), node.add(ops.Div(), x, scale), zero)
    if signed and (bits == 1).any():
        if not (bits == 1).all():
            raise node.fail(f"input 3, the number of bits, is 1 for some only: {bits.tolist()}")
        levels = sign(node, levels)
    else:
        levels = rounded(node, within(node, levels, bits), "ROUND")
    return node.add(ops.Mul(), node.add(ops.Sub(), levels, zero), scale)


@quantizer("FloatQuant")
def float_quant(node: Node) -> Instruction:
    """The operand rounded to floats of so many bits of exponent and mantissa, with subnormals.

    Greater magnitudes than the format has become the greatest; without ``saturation``, infinity
    with ``has_inf``, or else NaN. Infinity becomes NaN. ``has_subnormal`` means nothing.
    """
    x, scale = node.input(0), node.convert(node.input(1), node.input(0).shape.dtype)
    exponent, mantissa = width(node, 2), width(node, 3, least=0)
    bias = node.needed(node.input(4), "the exponent's bias").astype(np.float64)
    value = node.add(ops.Div(), x, scale)
    # With the leading bit as 1, a magnitude has the mantissa's bits behind the point.
    power, digits = leading(node, value, bias), node.literal(2.0**mantissa, x.shape.dtype)
    found = node.add(ops.Mul(), node.add(ops.Div(), value, power), digits)
    found = node.add(ops.Div(), rounded(node, found, "ROUND"), digits)
    found = within_floats(node, node.add(ops.Mul(), found, power), exponent, mantissa, bias)
    return node.add(ops.Mul(), found, scale)


def leading(node: Node, x: Instruction, bias: Any) -> Instruction:
    """The greatest power of two in each magnitude, not less than the format's least normal number;
    infinity for infinity.
    """
    dtype = x.shape.dtype
    if not dtype.is_float or dtype.bits not in INTEGERS:
        raise node.fail(f"input 0 is {dtype}: give floats of 16 bits or more")
    bits = INTEGERS[dtype.bits]
    normal = float(np.array(1 << (dtype.digits - 1), bits.numpy).view(dtype.numpy))
    least = np.maximum(2.0 ** (1 - bias), normal)
    size = node.add(ops.Max(), node.add(ops.Abs(), x), least)
    exponents = node.literal(np.array(np.inf, dtype.numpy).view(bits.numpy), bits)
    power = node.add(ops.BitwiseAnd(), node.add(ops.BitCast(bits), size), exponents)
    return node.add(ops.BitCast(dtype), power)


def within_floats(
    node: Node, x: Instruction, exponent: Any, mantissa: Any, bias: Any
) -> Instruction:
    """Values of a format's precision limited to its range: that of its bits, or less."""
    dtype = x.shape.dtype
    with np.errstate(over="ignore"):
        high = ((2 - 2.0**-mantissa) * 2.0 ** (2.0**exponent - 1 - bias)).astype(dtype.numpy)
    most = node.add(ops.Min(), node.literal(high), node.convert(node.input(5), dtype))
    kept = clipped(node, x, node.add(ops.Neg(), most), most)
    if node.integer("saturation", 1):
        return kept
    if not node.integer("has_inf", 0) and not node.integer("has_nan", 0):
        raise node.fail("saturation is 0: has_inf or has_nan must say what is out of range")
    beyond = np.inf if node.integer("has_inf", 0) else np.nan
    outside = node.add(ops.Greater(), node.add(ops.Abs(), x), most)
    signed = node.add(ops.Mul(), node.add(ops.Sign(), x), beyond)
    return node.add(ops.Where(), outside, signed, kept)


@quantizer("BipolarQuant")
def bipolar_quant(node: Node) -> Instruction:
    """The scale with the sign of the operand; 0 counts as positive."""
    x = node.input(0)
    return node.add(ops.Mul(), sign(node, x), node.convert(node.input(1), x.shape.dtype))


@quantizer("Trunc")
def trunc(node: Node) -> Instruction:
    """A quantised value in fewer bits, by either version: files do not always say which, but the
    second has one more operand.
    """
    return without_last_bits(node) if node.optional(5) is None else to_scale(node)


def without_last_bits(node: Node) -> Instruction:
    """Drops the last bits, by the rounding mode, and does not shift the rest back."""
    x, scale, zero = operands(node)
    step = 2.0 ** (width(node, 3) - width(node, 4))
    levels = rounded(node, steps_of(node, x, scale, zero, step), "FLOOR")
    return node.add(ops.Mul(), node.add(ops.Sub(), levels, zero), scale)


def to_scale(node: Node) -> Instruction:
    """Requantises to the output scale, which is a power of two times the input's."""
    x, scale, zero = operands(node)
    wanted = node.needed(node.input(4), "the output scale").astype(np.float64)
    known = node.needed(node.input(1), "the scale")
    if not (wanted > 0).all() or not (known > 0).all():
        raise node.fail(f"scales are above 0, not {known.tolist()} and {wanted.tolist()}")
    step = 2.0 ** np.round(np.log2(wanted / known))
    levels = within(node, steps_of(node, x, scale, zero, step), width(node, 5))
    levels = rounded(node, levels, "FLOOR")
    zero = node.add(ops.Div(), zero, step)
    moved = node.add(ops.Sub(), levels, zero)
    return node.add(ops.Mul(), moved, wanted)


def operands(node: Node) -> tuple[Instruction, Instruction, Instruction]:
    """The value, the scale and the zero point, in the type of the value."""
    x = node.input(0)
    scale, zero = (node.convert(node.input(i), x.shape.dtype) for i in (1, 2))
    return x, scale, zero


def width(node: Node, index: int, least: int = 1) -> Any:
    """A number of bits, or one for each channel."""
    found = node.needed(node.input(index), f"input {index}, the number of bits,")
    if not (found >= least).all() or not (found == np.round(found)).all():
        raise node.fail(f"input {index} is {found.tolist()}: a number of bits is {least} or more")
    return found.astype(np.float64)


def steps_of(
    node: Node, x: Instruction, scale: Instruction, zero: Instruction, step: Any
) -> Instruction:
    """The levels that a value was quantised to, in units of a larger step."""
    levels = node.add(ops.Add(), node.add(ops.Div(), x, scale), zero)
    levels = node.add(ops.Nearbyint(), levels)
    return node.add(ops.Div(), levels, step)


def within(node: Node, levels: Instruction, bits: Any) -> Instruction:
    """Levels clipped to the range of so many bits; with ``narrow``, one level less. Bounds beyond
    the range of the type are infinite.
    """
    signed, narrow = (bool(node.integer(n, d)) for n, d in (("signed", 1), ("narrow", 0)))
    dtype = levels.shape.dtype
    with np.errstate(over="ignore"):
        low = narrow - 2.0 ** (bits - 1) if signed else 0.0 * bits
        high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1 - narrow
        bounds = [np.asarray(bound).astype(dtype.numpy) for bound in (low, high)]
    return clipped(node, levels, *(node.literal(bound, dtype) for bound in bounds))


def sign(node: Node, x: Instruction) -> Instruction:
    """1 where x is 0 or more, else -1."""
    positive = node.add(ops.GreaterOrEqual(), x, 0)
    return node.add(ops.Where(), positive, node.scalar(1, x), node.scalar(-1, x))


def rounded(node: Node, x: Instruction, default: str) -> Instruction:
    """The value rounded to integers by the node's rounding mode."""
    mode = node.string("rounding_mode", default).upper()
    if mode in NEAREST:
        return node.add(NEAREST[mode](), x)
    if mode not in BY_SIZE:
        known = ", ".join([*NEAREST, *BY_SIZE])
        raise node.fail(f"no rounding_mode {mode!r}; there are {known}")
    whole, more = BY_SIZE[mode]
    size = node.add(ops.Abs(), x)
    size = node.add(ops.Add(), size, more) if more else size
    made: Operation = whole()
    return node.add(ops.Mul(), node.add(ops.Sign(), x), node.add(made, size))
