"""Shared by kernels that resample images: the input coordinates of elements of the result, and the
weights of their neighbours.
"""

from __future__ import annotations

from migx.dim import Extent, bounds
from migx.ops.resize import Resize
from migx.targets.cpu.emit import F64, Value
from migx.targets.cpu.kernel import Frame

COORDINATES = frozenset(
    {
        "align_corners",
        "asymmetric",
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
    }
)
"""The coordinate transformation modes that ``coordinate`` knows."""


def coordinate(frame: Frame, axis: int, index: Value) -> Value:
    """The coordinates on an input axis of the elements at some indices, as f64: computed step by
    step as in the operation's own meaning, so that rounding is the same.
    """
    f, op = frame.function, frame.at.op_as(Resize)
    length, size = (
        f.splat(f.cast(frame.extent(extent), F64), index.type.lanes)
        for extent in (frame.at.inputs[0].shape.dims[axis], op.sizes[axis])
    )
    scale = f.const(length.type, op.scales[axis]) if op.scales else size / length
    at, centre = f.cast(index, F64), 0.5
    match op.coordinate_transformation_mode:
        case "asymmetric":
            return at / scale
        case "tf_half_pixel_for_nn":
            return (at + centre) / scale
        case "align_corners":
            width = scale * length
            return f.select(width > 1.0, at * (length - 1.0) / (width - 1.0), at)
        case "half_pixel_symmetric":
            width = scale * length
            return length / 2.0 * (1.0 - size / width) + (at + centre) / scale - centre
    found = (at + centre) / scale - centre
    if op.coordinate_transformation_mode == "pytorch_half_pixel":
        found = f.select(f.compare("eq", size, 1.0), at, found)
    return found


def cubic(distance: Value, a: float = -0.75) -> Value:
    """The weight of an element at a distance, by Keys' cubic convolution."""
    f, d = distance.into, distance
    near = (d * (a + 2) - (a + 3)) * d * d + 1.0
    far = ((d * a - 5 * a) * d + 8 * a) * d - 4 * a
    return f.select(d <= 1.0, near, f.select(d < 2.0, far, 0.0))


def end_of(frame: Frame, elements: Extent) -> Value:
    """The end of the tiles: the first, if the first input has no elements to make others from."""
    f, at = frame.function, frame.at
    if bounds(elements)[0] > 0:
        return frame.end
    nothing = f.compare("eq", frame.extent(elements), 0)
    some = frame.extent(at.shape.elements) > 0
    frame.fails(nothing & some, f"{at.name}: {at.inputs[0].shape.text} has no elements")
    return f.select(nothing, frame.begin, frame.end)
