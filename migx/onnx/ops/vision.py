"""ONNX image operators: interpolation, regions, and inverses of windows."""

from __future__ import annotations

from migx import dim, ops
from migx.builders import stacked
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops import runtime
from migx.onnx.ops.linear import matrix_product, window, with_bias
from migx.onnx.ops.shapes import spread
from migx.shape import I64, DType


@importer("GridSample", since=16)
def grid_sample(node: Node) -> Instruction:
    mode = node.string("mode", "linear").removeprefix("bi")
    corners = bool(node.integer("align_corners", 0))
    op = ops.GridSample(mode, node.string("padding_mode", "zeros"), corners)
    return node.add(op, node.input(0), node.input(1))


@importer("AffineGrid", since=20)
def affine_grid(node: Node) -> Instruction:
    """Affine transforms of the pixel coordinates of an image size, x first, for GridSample.

    An axis goes from -1 to 1: from edge to edge, or with ``align_corners`` from the centre of the
    first pixel to that of the last; a single pixel is then at -1.
    """
    maps = node.input(0)
    size = runtime.of_length(node, node.input(1), maps.shape.dims[1] + 2)
    axes = runtime.length(node, size, "dims of the image") - 2
    if axes not in (2, 3):
        raise node.fail(f"an image has 2 or 3 axes besides items and channels, not {axes}")
    known = node.extents(size)
    lengths = runtime.fresh_dims(node, axes) if known is None else known[2:]
    counts = [node.add(ops.Slice((0,), (i + 2,), (i + 3,)), size) for i in range(axes)]
    places = [
        centres(node, length, node.reshape(count, ()), maps.shape.dtype)
        for length, count in zip(lengths, counts, strict=True)
    ]
    columns = []
    for axis in reversed(range(axes)):
        apart = [lengths[i] if i == axis else 1 for i in range(axes)]
        columns.append(node.broadcast_to(node.reshape(places[axis], apart), lengths))
    columns.append(node.scalar(1, columns[0]))
    points = node.reshape(stacked(node, axes, columns), (dim.product(lengths), axes + 1))
    made = matrix_product(node, ops.Dot(), points, node.add(ops.Transpose((0, 2, 1)), maps))
    return node.reshape(made, (maps.shape.dims[0], *lengths, axes))


def centres(node: Node, length: Extent, count: Instruction, dtype: DType) -> Instruction:
    """The coordinates of the elements of an axis, between -1 and 1."""
    span, one, half = node.convert(count, dtype), node.literal(1, dtype), node.literal(0.5, dtype)
    ramp = node.add(ops.DynamicRange(length), node.literal(0, I64), count, node.literal(1, I64))
    ramp = node.convert(ramp, dtype)
    if node.integer("align_corners", 0):
        span = node.add(ops.Max(), node.add(ops.Sub(), span, one), one)
    else:
        ramp = node.add(ops.Add(), ramp, half)
    step = node.add(ops.Div(), 2, span)
    return node.add(ops.Sub(), node.add(ops.Mul(), ramp, step), one)


@importer("DeformConv", since=19)
def deformable_convolution(node: Node) -> Instruction:
    x, w, mask = node.input(0), node.input(1), node.optional(4)
    geometry = window(node, x, w.shape.dims[2:])
    groups = node.integer("group", 1), node.integer("offset_group", 1)
    op = ops.DeformableConvolution(**geometry, group=groups[0], offset_group=groups[1])
    operands = [v for v in (x, w, node.input(2), mask) if v is not None]
    return with_bias(node, node.add(op, *operands), node.optional(3))


@importer("RoiAlign", since=10)
def roi_align(node: Node) -> Instruction:
    """Before version 16 coordinates were not shifted by half a pixel."""
    places = ("half_pixel", "output_half_pixel")
    default = places[0] if node.version >= 16 else places[1]
    op = ops.RoiAlign(
        dims=(node.integer("output_height", 1), node.integer("output_width", 1)),
        mode=node.string("mode", "avg"),
        sampling_ratio=node.integer("sampling_ratio", 0),
        spatial_scale=node.number("spatial_scale", 1.0),
        half_pixel=node.choice("coordinate_transformation_mode", places, default) == places[0],
    )
    return node.add(op, node.input(0), node.input(1), node.input(2))


@importer("MaxRoiPool")
def max_roi_pool(node: Node) -> Instruction:
    height, width = node.integers("pooled_shape")
    op = ops.MaxRoiPool((height, width), node.number("spatial_scale", 1.0))
    return node.add(op, node.input(0), node.input(1))


@importer("Col2Im", since=18)
def columns_to_image(node: Node) -> Instruction:
    x, image, block = node.input(0), node.input(1), node.input(2)
    axes = runtime.length(node, image, "axes of the image", lambda rank: rank - 2)
    sizes, taps = node.extents(image), node.extents(block)
    channels: Extent = (
        node.fresh("channels") if taps is None else x.shape.dims[1] // dim.product(taps)
    )
    known = sizes or tuple(node.fresh(str(i)) for i in range(axes))
    op = ops.Col2im(
        dims=(channels, *known),
        padding=node.integers("pads", (0,) * (2 * axes)),
        stride=node.integers("strides", (1,) * axes),
        dilation=node.integers("dilations", (1,) * axes),
    )
    return node.add(op, x, image, block)


@importer("MaxUnpool", since=9)
def max_unpool(node: Node) -> Instruction:
    """Zeros, with each value at its index: a row-major position in the original image.

    A larger output shape extends that image at its ends.
    """
    x, indices, target = node.input(0), node.input(1), node.optional(2)
    lengths = node.integers("kernel_shape")
    strides = node.integers("strides", (1,) * len(lengths))
    pads = node.integers("pads", (0,) * (2 * len(lengths)))
    image: list[Extent] = list(x.shape.dims[:2])
    for i, (length, stride) in enumerate(zip(lengths, strides, strict=True)):
        image.append((x.shape.dims[2 + i] - 1) * stride - pads[i] - pads[len(lengths) + i] + length)
    total = x.shape.elements
    index = runtime.listed(node, indices)
    least, most = (node.add(fold, index) for fold in (ops.ReduceMin((0,)), ops.ReduceMax((0,))))
    x = runtime.expected(
        node,
        x,
        "an index is outside the image",
        node.add(ops.GreaterOrEqual(), least, runtime.numbers(node, [0])),
        node.add(ops.Less(), most, node.dims([dim.product(image)])),
    )
    if target is None:
        flat = node.full(0, x.shape.dtype, (dim.product(image),))
        made = node.add(ops.ScatterNone(0), flat, index, node.reshape(x, (total,)))
        return node.reshape(made, image)
    target = runtime.of_length(node, target, x.shape.rank)
    canvas = spread(node, node.literal(0, x.shape.dtype), target)
    rest = index
    places: list[Instruction] = []
    for extent in reversed(image):
        size = node.dims([extent])
        places.insert(0, node.add(ops.Mod(), rest, size))
        rest = node.add(ops.Div(), rest, size)
    tuples = stacked(node, 1, places)
    return node.add(ops.ScatterndNone(), canvas, tuples, node.reshape(x, (total,)))
