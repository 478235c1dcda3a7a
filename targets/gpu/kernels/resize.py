"""Kernels of ``resize``: a program has a line of elements of the result, and interpolates each from
the elements around it, on every axis that changes.

Coordinates are computed in 64 bits, step by step as in the operation's own meaning, so that
rounding is the same: it decides which element is the nearest.
"""

from __future__ import annotations

from migx.ir import Instruction
from migx.ops.quantization import limits
from migx.ops.resize import Resize, is_rounded
from migx.shape import F64
from migx.targets.gpu.emit.expressions import Expr
from migx.targets.gpu.emit.text import Kernel
from migx.targets.gpu.emit.types import COMPUTING, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.line import WHOLE, Line, Tap

MOST = 256
"""The most taps of an element of the result."""
DOUBLE = "tl.float64"


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a ``resize`` with constant sizes whose reach antialiasing does not widen."""
    op = at.op
    if type(op) is not Resize or at.shape.rank == 0 or not storable(at.shape.dtype):
        return None
    line = Line(at)
    widens = op.antialias and op.mode != "nearest"
    changed = sum(op.changes(axis, given) for axis, given in enumerate(at.inputs[0].shape.dims))
    if widens or _reach(op) ** changed > MOST or at.inputs[0].shape.elements == 0:
        return None
    return line.kernel(_resized)


def _reach(op: Resize) -> int:
    """The taps of an element of the result along one axis."""
    return {"nearest": 1, "linear": 2, "cubic": 4}[op.mode]


def _resized(line: Line, op: Resize) -> Expr:
    """The elements of the result, each the weighted sum of its taps."""
    w, dtype = line.writer, line.at.shape.dtype
    outside: list[str] = []
    taps = [_taps(line, op, axis, outside) for axis in range(len(line.places))]
    if op.mode == "nearest":
        text = line.read(0, [place for ((place, _),) in taps]).text
    else:
        text = line.mixed(taps, COMPUTING[dtype.name] if dtype.is_float else DOUBLE)
        if dtype.is_integer:
            text = _truncated(text, line)
    if outside:
        fill = elements.number_of(
            op.extrapolation_value if dtype.is_float else int(op.extrapolation_value), dtype
        )
        there = " | ".join(outside)
        text = f"tl.where({there}, {fill}, {text}.to({COMPUTING[dtype.name]}))"
    return w.let(text, WHOLE)


def _truncated(text: str, line: Line) -> str:
    """A sum as an integer: rounding errors do not cost a whole unit."""
    million = _number(1e6)
    near = line.writer.let(f"({text} * {million})", WHOLE).text
    low, high = limits(line.at.shape.dtype)
    bounded = f"tl.minimum(tl.maximum({elements.nearest(near, F64)} / {million}, {_number(low)})"
    wide = "tl.int64" if line.at.shape.dtype.bits >= 32 else "tl.int32"
    return f"{bounded}, {_number(high)}).to({wide})"


def _taps(line: Line, op: Resize, axis: int, outside: list[str]) -> list[Tap]:
    """The taps on an axis; appends the condition of being ``outside`` of a crop."""
    w, place, given = line.writer, line.places[axis], line.at.inputs[0].shape.dims[axis]
    if not op.changes(axis, given):
        return [(place, None)]
    size = w.extent(given)
    at = w.let(_coordinate(line, op, axis), WHOLE).text
    if op.coordinate_transformation_mode == "tf_crop_and_resize":
        outside.append(f"(({at} < 0) | ({at} > {size.text} - 1))")
    if op.mode == "nearest":
        at = f"{at}.to(tl.float32).to({DOUBLE})" if is_rounded(op, axis) else at
        return [(_clipped(line, _rounded(op, at), size), None)]
    count = _reach(op)
    below = w.let(f"tl.floor({at})", WHOLE).text
    places = [f"({below} + {_number(i)})" for i in range(1 - count // 2, 1 + count // 2)]
    weights = [w.let(_weight(op, f"tl.abs({p} - {at})", line), WHOLE).text for p in places]
    if op.exclude_outside:
        inside = [f"({p} >= 0) & ({p} < {size.text})" for p in places]
        pairs = zip(inside, weights, strict=True)
        kept = [w.let(f"tl.where({i}, {by}, 0.0)", WHOLE).text for i, by in pairs]
        total = w.let(f"({' + '.join(kept)})", WHOLE).text
        weights = [w.let(f"({by} / {total})", WHOLE).text for by in kept]
    return [(_clipped(line, p, size), by) for p, by in zip(places, weights, strict=True)]


def _clipped(line: Line, at: str, size: Expr) -> Expr:
    """A whole coordinate as an index, clamped to the axis."""
    text = f"tl.minimum(tl.maximum({at}.to(tl.int32), 0), {size.text} - 1)"
    return line.writer.let(text, WHOLE)


def _rounded(op: Resize, at: str) -> str:
    half = _number(0.5)
    match op.nearest_mode:
        case "round_prefer_floor":
            return f"tl.ceil({at} - {half})"
        case "round_prefer_ceil":
            return f"tl.floor({at} + {half})"
    return f"tl.{op.nearest_mode}({at})"


def _weight(op: Resize, distance: str, line: Line) -> str:
    """The weight of an element at a distance."""
    if op.mode == "linear":
        return f"({_number(1)} - {distance})"
    d = line.writer.let(distance, WHOLE).text
    a = op.cubic_coeff_a
    near = f"(({_number(a + 2)} * {d} - {_number(a + 3)}) * {d} * {d} + {_number(1)})"
    far = (
        f"((({_number(a)} * {d} - {_number(5 * a)}) * {d} + {_number(8 * a)}) * {d}"
        f" - {_number(4 * a)})"
    )
    return f"tl.where({d} <= 1, {near}, tl.where({d} < 2, {far}, {_number(0)}))"


def _coordinate(line: Line, op: Resize, axis: int) -> str:
    """The coordinates of elements on an input axis, as f64."""
    w, number = line.writer, _number
    length, size = (
        w.let(number(e) if isinstance(e, int) else f"{w.extent(e).text}.to({DOUBLE})").text
        for e in (line.at.inputs[0].shape.dims[axis], op.sizes[axis])
    )
    scale = w.let(number(op.scales[axis]) if op.scales else f"({size} / {length})").text
    index = w.spread(line.places[axis], [line.size])
    at = w.let(f"{index.text}.to({DOUBLE})", index.over).text
    width, centre = w.let(f"({scale} * {length})").text, f"({at} + {number(0.5)})"
    half_pixel = f"({centre} / {scale} - {number(0.5)})"
    match op.coordinate_transformation_mode:
        case "asymmetric":
            return f"({at} / {scale})"
        case "tf_half_pixel_for_nn":
            return f"({centre} / {scale})"
        case "align_corners":
            scaled = f"{at} * ({length} - {number(1)}) / ({width} - {number(1)})"
            return f"tl.where({width} > 1, {scaled}, {at})"
        case "tf_crop_and_resize":
            return _cropped(op, axis, at, length, width)
        case "pytorch_half_pixel":
            return f"tl.where({size} == 1, {at}, {half_pixel})"
        case "half_pixel_symmetric":
            moved = f"{length} / {number(2)} * ({number(1)} - {size} / {width})"
            return f"({moved} + {centre} / {scale} - {number(0.5)})"
    return half_pixel


def _cropped(op: Resize, axis: int, at: str, length: str, width: str) -> str:
    """The same for a crop, whose ends are given as fractions of the axis."""
    begin, end = op.roi[axis], op.roi[axis + len(op.roi) // 2]
    last, one = f"({length} - {_number(1)})", _number(1)
    step = f"{at} * {_number(end - begin)} * {last} / ({width} - {one})"
    whole = f"{step} + {_number(begin)} * {last}"
    middle = f"{at} + {_number((begin + end) / 2)} * {last}"
    return f"tl.where({width} > 1, {whole}, {middle})"


def _number(value: float) -> str:
    return elements.number_of(float(value), F64)
