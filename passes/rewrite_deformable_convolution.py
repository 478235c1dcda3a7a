"""Turns deformable convolutions into the sampling of an image and a product."""

from __future__ import annotations

from math import prod

from migx.builders import arange, astype, at_least_f32, broadcast_to, concatenate, full_like, number
from migx.dim import Extent, product
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on
from migx.ops._windows import split
from migx.ops.layout import Reshape, Slice, Unsqueeze
from migx.ops.linear import Dot
from migx.ops.pointwise import Add, Convert, Div, Mul, Sub
from migx.ops.vision import DeformableConvolution, GridSample
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import F64, Dims


@rule(on(DeformableConvolution, name="root"))
def sampled(at: Cursor, root: Instruction) -> Instruction | Declined:
    """A deformable convolution is the product of the weights and columns, which are samples of the
    image at a grid, times the mask.
    """
    op, dtype = root.op_as(DeformableConvolution), root.shape.dtype
    x, w, offset, *masks = (astype(at, v, at_least_f32(dtype)) for v in root.inputs)
    lengths = [n for n in w.shape.dims[2:] if isinstance(n, int)]
    if len(lengths) != w.shape.rank - 2:
        return Declined("the sizes of the kernels are not known")
    images, channels = x.shape.dims[0] * op.offset_group, x.shape.dims[1]
    counts, taps = root.shape.dims[2:], prod(lengths)
    grid = _grid(at, op, offset, x.shape.dims, lengths, counts)
    data = at(Reshape((images, channels // op.offset_group, *x.shape.dims[2:])), x)
    columns = at(GridSample(), data, grid)
    columns = at(Reshape((images, channels // op.offset_group, taps, *counts)), columns)
    for given in masks:
        mask = at(Reshape((images, 1, taps, *counts)), given)
        columns = at(Mul(), columns, broadcast_to(at, mask, columns.shape.dims))
    depth, windows = product(w.shape.dims[1:]), product(counts)
    columns = at(Reshape((x.shape.dims[0], op.group, depth, windows)), columns)
    outputs = w.shape.dims[0] // op.group
    kernels = at(Reshape((op.group, outputs, depth)), w)
    kernels = broadcast_to(at, kernels, (x.shape.dims[0], op.group, outputs, depth))
    return astype(at, at(Reshape(root.shape.dims), at(Dot(), kernels, columns)), dtype)


def _grid(
    at: Cursor,
    op: DeformableConvolution,
    offset: Instruction,
    image: Dims,
    lengths: list[int],
    counts: Dims,
) -> Instruction:
    """The positions of the taps of all windows: [images, taps * windows..., axes], the last axis
    first; in f64, so that scaling to -1..1 and back costs no accuracy.
    """
    rank = len(lengths)
    dims = (image[0] * op.offset_group, *lengths, *counts)
    apart = at(Convert(F64), at(Reshape((*dims[: 1 + rank], rank, *counts)), offset))
    parts = []
    for axis in reversed(range(rank)):
        moved = at(Slice((1 + rank,), (axis,), (axis + 1,)), apart)
        place = at(Add(), at(Reshape(dims), moved), _regular(at, op, axis, moved, dims))
        two, one, extent = (
            broadcast_to(at, at(Convert(moved.shape.dtype), number(at, n)), dims)
            for n in (2, 1, image[2 + axis])
        )
        share = at(Div(), at(Add(), at(Mul(), place, two), one), extent)
        parts.append(at(Unsqueeze((len(dims),)), at(Sub(), share, one)))
    grid = concatenate(at, len(dims), parts)
    return at(Reshape((dims[0], prod(lengths) * counts[0], *counts[1:], rank)), grid)


def _regular(
    at: Cursor, op: DeformableConvolution, axis: int, like: Instruction, dims: Dims
) -> Instruction:
    """The positions of the taps of all windows along an axis, without offsets."""
    rank = len(op.stride)
    begins, _ = split(op.padding)

    def along(extent: Extent, first: int, by: int, behind: int) -> Instruction:
        values = at(Convert(like.shape.dtype), arange(at, extent))
        by_, first_ = (full_like(at, values, n) for n in (by, first))
        line = at(Add(), at(Mul(), values, by_), first_)
        line = at(Unsqueeze(tuple(range(1, 1 + behind))), line) if behind else line
        return broadcast_to(at, line, dims)

    tap = along(dims[1 + axis], -int(begins[axis]), op.dilation[axis], 2 * rank - axis - 1)
    window = along(dims[1 + rank + axis], 0, op.stride[axis], rank - axis - 1)
    return at(Add(), tap, window)


class RewriteDeformableConvolution(Pass):
    """Turns deformable convolutions into a sampling of the image at a grid of points, and a product
    (Dai et al. 2017).
    """

    rules = RuleSet(sampled)
