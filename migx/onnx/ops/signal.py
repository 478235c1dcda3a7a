"""ONNX signal operators."""

from __future__ import annotations

from migx import ops
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops import runtime
from migx.shape import BOOL, I64


@importer("DFT", since=17)
def dft_by_attribute(node: Node) -> Instruction:
    x = node.input(0)
    axis = node.axis(node.integer("axis", 1), x.shape.rank)
    return transformed(node, x, axis, *options(node))


@importer("DFT", since=20)
def dft(node: Node) -> Instruction:
    x, given = node.input(0), node.optional(2)
    held = -2 if given is None else node.constant(given)
    if held is not None:
        axis = node.axis(held if isinstance(held, int) else int(held.item()), x.shape.rank)
        return transformed(node, x, axis, *options(node))
    if given is None:
        raise node.fail("it has no axis")
    rank = x.shape.rank
    axis_first = runtime.placed(node, runtime.one_each(node, rank), runtime.listed(node, given), 0)
    last = node.add(ops.Slice((0,), (rank - 1,), (rank,)), axis_first)
    x = runtime.expected(
        node, x, "its axis is the last, which holds the parts of numbers", node.convert(last, BOOL)
    )
    order = runtime.order_of(node, axis_first)
    result = transformed(node, runtime.transposed(node, x, order), 0, *options(node))
    same = node.optional(1) is None and not node.integer("onesided", 0)
    dims = (*x.shape.dims[:-1], result.shape.dims[-1]) if same else None
    return runtime.transposed(node, result, runtime.order_of(node, order), dims)


def options(node: Node) -> tuple[bool, bool]:
    return bool(node.integer("inverse", 0)), bool(node.integer("onesided", 0))


def transformed(
    node: Node, x: Instruction, axis: int, inverse: bool, onesided: bool
) -> Instruction:
    """The transform with the given length, or else that of the axis."""
    given = node.optional(1)
    length: Extent = x.shape.dims[axis]
    if given is None:
        length = 2 * (length - 1) if inverse and onesided else length
    elif (known := node.extents(given)) is not None:
        (length,), given = known, None
    else:
        length = node.fresh("length")
    operands = [x] if given is None else [x, node.convert(given, I64)]
    return node.add(ops.Dft(axis, length, inverse, onesided), *operands)


@importer("STFT", since=17)
def stft(node: Node) -> Instruction:
    """Transforms of the frames of [N, samples, 1 or 2]: all that fit, one step apart.

    A real signal may lack the last axis, as some exporters write it and onnxruntime accepts.
    """
    signal, step, window, given = (node.input(0), node.input(1), *map(node.optional, (2, 3)))
    if signal.shape.rank == 2:
        signal = node.add(ops.Unsqueeze((2,)), signal)
    samples = signal.shape.dims[1]
    if window is not None:
        (length,) = window.shape.dims
    elif given is None:
        raise node.fail("it has neither a window nor a frame length")
    else:
        known = node.extents(given)
        length = node.fresh("frame_length") if known is None else known[0]
    known_step = node.extents(step)
    if known_step is None:
        forward = node.add(ops.Greater(), node.convert(step, I64), 0)
        step = runtime.expected(node, step, "its frame_step is not above 0", forward)
    elif known_step[0] <= 0:
        raise node.fail(f"its frame_step is {known_step[0]}")
    size = node.dims([length]) if given is None else node.reshape(node.convert(given, I64), (1,))
    starts = ramp(node, node.add(ops.Sub(), node.dims([samples + 1]), size), step, "frames")
    places = ramp(node, size, node.literal(1, I64), "", length)
    index = node.add(ops.Add(), node.add(ops.Unsqueeze((1,)), starts), places)
    frames = node.add(ops.Gather(1), signal, index)
    if window is not None:
        shaped = node.reshape(window, (length, 1))
        frames = node.add(ops.Mul(), frames, node.convert(shaped, signal.shape.dtype))
    op = ops.Dft(2, length, onesided=bool(node.integer("onesided", 1)))
    return node.add(op, frames, *([] if isinstance(length, int) else [size]))


def ramp(
    node: Node, end: Instruction, step: Instruction, hint: str, count: Extent | None = None
) -> Instruction:
    """0, step, ... below an end, as i64."""
    by, known = node.extents(step), node.extents(end)
    if count is None and by is not None and known is not None and isinstance(by[0], int):
        count = (known[0] + (by[0] - 1)) // by[0]
    bounds = [node.reshape(node.convert(v, I64), ()) for v in (end, step)]
    count = node.fresh(hint) if count is None else count
    return node.add(ops.DynamicRange(count), node.literal(0, I64), *bounds)


@importer("MelWeightMatrix", since=17)
def mel_weight_matrix(node: Node) -> Instruction:
    operands = [node.input(i) for i in range(5)]
    bands, length = (node.extents(v) for v in operands[:2])
    dims = (
        node.fresh("bins") if length is None else length[0] // 2 + 1,
        node.fresh("bands") if bands is None else bands[0],
    )
    return node.add(ops.MelWeightMatrix(dims, node.dtype("output_datatype", 1)), *operands)
