"""Kernels that read images at computed positions: ``grid_sample``, and ``lrn``, which reads the
channels around each. A program has a line of elements of the result.
"""

from __future__ import annotations

from migx.ir import Instruction
from migx.ops.pointwise import Pow
from migx.ops.pooling import Lrn
from migx.ops.vision import GridSample
from migx.shape import F32, F64, DType
from migx.targets.gpu.emit.expressions import Expr, expr
from migx.targets.gpu.emit.text import Kernel
from migx.targets.gpu.emit.types import COMPUTING, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.line import WHOLE, Line, Tap

KEYS = -0.75
"""The coefficient of Keys' convolution."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of one of these; padding by reflection is not supported."""
    if not all(storable(v.shape.dtype) for v in at.inputs):
        return None
    match at.op:
        case GridSample(padding_mode="zeros" | "border"):
            return Line(at).kernel(_sampled)
        case Lrn():
            return Line(at).kernel(_normalised)
    return None


def _sampled(line: Line, op: GridSample) -> Expr:
    """The images sampled at a grid."""
    w, dtype = line.writer, line.at.shape.dtype
    wide, rank = (F64 if dtype is F64 else F32), line.at.shape.rank
    taps: list[list[Tap]] = [[(place, None)] for place in line.places[:2]]
    taps += [_taps(line, op, axis, wide) for axis in range(rank - 2)]
    text = line.mixed(taps, COMPUTING[wide.name])
    return w.let(elements.converted(text, wide, dtype), WHOLE)


def _taps(line: Line, op: GridSample, axis: int, wide: DType) -> list[Tap]:
    """The taps on an axis of the image."""
    w, grid = line.writer, line.at.inputs[1].shape
    size = w.extent(line.at.inputs[0].shape.dims[2 + axis]).text
    component = expr(line.at.shape.rank - 3 - axis)
    given = line.read(1, [line.places[0], *line.places[2:], component]).text
    at = w.let(f"{given}.to({COMPUTING[grid.dtype.name]})", WHOLE).text
    shift, back = (f"({size} - 1)", "0.0") if op.align_corners else (f"{size}", "0.5")
    text = f"(({at} + 1.0) / 2.0 * {shift} - {back}).to({COMPUTING[wide.name]})"
    place = w.let(text, WHOLE).text
    if op.mode == "nearest":
        place = w.let(elements.nearest(place, wide), WHOLE).text
    finite = f"(tl.abs({place}) < 1e9)"
    place = w.let(f"tl.where({finite}, {place}, -10.0)", WHOLE).text
    first = w.let(f"tl.floor({place})", WHOLE).text
    found: list[Tap] = []
    for step, weight in _weights(op.mode, w.let(f"({place} - {first})", WHOLE).text):
        index = w.let(f"({first}.to(tl.int32) + {step})", WHOLE).text
        if op.padding_mode == "zeros":
            weight = f"tl.where(({index} >= 0) & ({index} < {size}), {weight}, 0.0)"
        clipped = f"tl.minimum(tl.maximum({index}, 0), {size} - 1)"
        by = w.let(f"({weight})", WHOLE).text if weight != "1.0" else None
        found.append((w.let(clipped, WHOLE), by))
    return found


def _weights(mode: str, part: str) -> list[tuple[int, str]]:
    """The elements around a point, relative to the one below it, and their weights, given the
    fractional part of the coordinate.
    """
    if mode == "nearest":
        return [(0, "1.0")]
    if mode == "linear":
        return [(0, f"1.0 - {part}"), (1, part)]
    return [(step, _cubic(f"tl.abs({part} - {step})", step)) for step in range(-1, 3)]


def _cubic(d: str, step: int) -> str:
    """The weight at a distance, which is at most 1 for the two elements next to a point."""
    a = KEYS
    if step in (0, 1):
        return f"({a + 2} * {d} - {a + 3}) * {d} * {d} + 1.0"
    return f"(({a} * {d} - {5 * a}) * {d} + {8 * a}) * {d} - {4 * a}"


def _normalised(line: Line, op: Lrn) -> Expr:
    """The elements, divided by a power of the sum of squares of the channels around each."""
    w, dtype = line.writer, line.at.shape.dtype
    wide = F64 if dtype is F64 else F32
    kind, channels = COMPUTING[wide.name], w.extent(line.at.shape.dims[1])
    total = w.variable(f"tl.zeros([{line.size}], {kind})", WHOLE)
    with w.loop(op.size, 1) as step:
        channel = w.let(w.let(line.places[1] + step) - (op.size - 1) // 2)
        there = channel.inside(channels)
        places = [line.places[0], channel, *line.places[2:]]
        x = line.read(0, places, w.spread(w.let(there), [line.size])).text
        w.line(f"{total.text} += {x}.to({kind}) * {x}.to({kind})")
    x = w.let(f"{line.read(0, line.places).text}.to({kind})", WHOLE).text
    scale, bias, beta = (
        elements.number_of(v, wide) for v in (op.alpha / op.size, op.bias, op.beta)
    )
    base = w.let(f"({bias} + {scale} * {total.text})", WHOLE).text
    power = elements.apply(Pow(), [base, beta], [wide, wide], wide)
    return w.let(elements.quotient(x, f"({power})", wide), WHOLE)
