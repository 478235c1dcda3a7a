"""Turns convolutions with a single window into products of matrices, and others into arithmetic."""

from __future__ import annotations

from migx.builders import broadcast_to
from migx.dim import product
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import attr, on, var
from migx.ops.layout import Broadcast, Reshape, Step, Transpose
from migx.ops.linear import Convolution, Dot
from migx.ops.pointwise import Mul
from migx.passes._common import without_gaps, without_padding
from migx.rewrite import Cursor, Declined, rule
from migx.weights.constants import is_unpacked


@rule(
    on(
        Convolution,
        var("x"),
        var("w"),
        name="root",
        group=1,
        padding=attr("padding", without_padding),
        dilation=attr("dilation", without_gaps),
    )
)
def one_window(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> Instruction | Declined:
    """conv(x, w) is dot(x, transpose(w)) where a kernel is as large as the image, with items and
    kernels as rows: each weight is then read once for all items.
    """
    (outputs, *window), (items, *image) = w.shape.dims, x.shape.dims
    if window != image:
        return Declined("a kernel is not as large as the image")
    if not w.constant or is_unpacked(w):
        return Declined("the weights are not constant, or are packed and would lose their layout")
    depth = product(window)
    rows = at(Reshape((items, depth)), x)
    columns = at(Transpose((1, 0)), at(Reshape((outputs, depth)), w))
    return at(Reshape(root.shape.dims), at(Dot(), rows, columns))


@rule(
    on(Convolution, var("x"), var("w"), name="root", padding=attr("padding", without_padding)),
)
def one_element(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> Instruction | Declined:
    """conv(x, w) is x * w where each kernel is one number, of a depthwise convolution or one of a
    single channel: elementwise arithmetic, which fuses.
    """
    (outputs, *kernel), channels = w.shape.dims, x.shape.dims[1]
    if any(extent != 1 for extent in kernel) or channels not in (outputs, 1):
        return Declined("a kernel has more than one element, or a channel has several")
    if is_unpacked(w):
        return Declined("the weights are packed and would lose their layout")
    stride = root.op_as(Convolution).stride
    far = [(axis, step) for axis, step in enumerate(stride, 2) if step != 1]
    image = at(Step(*zip(*far, strict=True)), x) if far else x
    factor = at(Broadcast(1, root.shape.dims), at(Reshape((outputs,)), w))
    return at(Mul(), broadcast_to(at, image, root.shape.dims), factor)


class RewriteConvolution(Pass):
    """Turns convolutions whose kernels are as large as the image into ``dot``, such as classifiers
    and 1 x 1 convolutions of pooled images (Squeeze-and-Excitation, Hu et al. 2018), and those
    whose kernels are one number into ``mul`` (MIGraphX rewrite_dot).
    """

    rules = one_window + one_element
