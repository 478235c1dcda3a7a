"""Computes convolutions of 3 x 3 with fewer products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from migx.argument import Argument
from migx.fusion import winograd
from migx.fusion.winograd import INPUT, KERNEL, LENGTH, MADE, OUTPUT, PLACES, SEEN, in_planes, tiles
from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.match import attr, constant, on, var
from migx.op import Array
from migx.ops._windows import padded
from migx.ops.builtin import Literal, Slot
from migx.ops.fused import Group
from migx.ops.layout import Reshape, Transpose
from migx.ops.linear import Convolution, Dot
from migx.ops.pointwise import Convert
from migx.passes._common import without_gaps
from migx.pipeline import Approximation
from migx.program import Program
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import F32, F64
from migx.weights.constants import is_unpacked
from migx.weights.hoisting import drop_unread, hoist

CHANNELS, TILES, WORTH = 16, 16, 640
"""The fewest channels on either side, and tiles, for which the savings outweigh the transforms; and
the least product of the two: of the harmonic mean of the channels, which goes with the products per
transformed element, and of the tiles by their area within the result.
"""
FEWER = 2.5
"""How many times fewer products there must be: tiles that hang over the edge save less."""
MOST = 1 << 25
"""Bytes that the weights of a convolution may grow by: beyond that, reading them takes too long."""


@rule(
    on(
        Convolution,
        var("x"),
        constant("w", lambda w: w.shape.dims[2:] == (LENGTH, LENGTH) and w.shape.dtype is F32),
        name="root",
        group=1,
        stride=(1, 1),
        dilation=attr("dilation", without_gaps),
    )
)
def fewer_products(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction, always: bool = False
) -> Instruction | Declined:
    """conv(x, w) with kernels of 3 x 3 is a group tagged winograd of x and G w Gt, where that takes
    far fewer multiplications.
    """
    if is_unpacked(w):
        return Declined("the weights are packed")
    given = *x.shape.dims[2:], *root.op_as(Convolution).padding
    sizes = [d for d in (*w.shape.dims[:2], *root.shape.dims[2:], *given) if isinstance(d, int)]
    if len(sizes) < 4 + len(given) or 0 in sizes[:4]:
        return Declined("its sizes are not known, or 0")
    outputs, channels, *_ = sizes
    if not always and (why := _too_little(*sizes[:4])):
        return Declined(why)
    exact = at(Reshape((outputs * channels, LENGTH**2)), at(Convert(F64), w))
    places = at(Dot(), exact, at.literal(in_planes(KERNEL).T.copy()))
    places = at(Reshape((outputs, channels, PLACES)), at(Convert(F32), places))
    weights = at(Transpose((2, 0, 1)), places)
    inner = at.module.program.add_module(winograd.TAG, bypass=True)
    image, kernels = (
        inner.add_parameter(f"x{i}", v.shape.as_standard()) for i, v in enumerate((x, weights))
    )
    inner.add_return(winograd.write(inner, image, kernels, root))
    return at(Group(winograd.TAG), x, weights, modules=[inner])


def _too_little(outputs: int, channels: int, height: int, width: int) -> str:
    """Why a convolution of these sizes would gain too little; nothing where it would not."""
    count = tiles(height) * tiles(width)
    if min(outputs, channels) < CHANNELS or count < TILES:
        return f"fewer than {CHANNELS} channels or {TILES} tiles"
    if 2 * outputs * channels * height * width < WORTH * (outputs + channels) * MADE**2:
        return "few channels and tiles"
    if height * width * LENGTH**2 < FEWER * PLACES * count:
        return "its tiles hang over the edge"
    more = outputs * channels * (PLACES - LENGTH**2) * F32.numpy.itemsize
    return "the weights would grow too large" if more > MOST else ""


class FewerProducts(Approximation):
    """The rounding errors of convolution by minimal filtering, besides those of any convolution."""

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """The sums of the magnitudes of all terms, times the roundings of each.

        B. Barabasz, A. Anderson, K. M. Soodhalter, D. Gregg, "Error Analysis and Improving the
        Accuracy of Winograd Convolution for Deep Neural Networks", ACM TOMS 46 (2020).
        """
        if not _may_fit(at):
            return None
        op = at.op_as(Convolution)
        image, kernels = (np.abs(v.array.astype(np.float64)) for v in inputs)
        padding = [int(p) for p in op.padding]
        with np.errstate(invalid="ignore"):
            sums = _filtered(padded(image, padding, 0), kernels + TINY, result.array.shape)
        return np.where(sums < LARGEST, sums * (roundings(at) * F32.roundoff) + TINY, np.inf)

    def of_tensor(self, at: Instruction) -> float:
        """The error of random images and kernels, relative to the size of the result."""
        return GROWTH * float(np.sqrt(2 * roundings(at))) * F32.roundoff if _may_fit(at) else 0.0


def roundings(at: Instruction) -> int:
    """How many roundings a term has: of its weight, of its factor, and in three sums."""
    given, made = (int(np.count_nonzero(m, axis=1).max()) ** 2 for m in (INPUT, OUTPUT))
    return int(at.inputs[1].shape.dims[1]) + given + made + 2


TINY = 2.0**16 * float(np.finfo(np.float32).smallest_subnormal)
"""Covers underflow: the smallest number, times all factors of the transforms."""
LARGEST = float(np.finfo(np.float32).max)
"""From here on sums may overflow; an infinity makes its whole tile NaN."""


def _growth() -> float:
    """By how much sums of products exceed results of random numbers: the root mean square over that
    of the results, along both axes, which is the ratio of mean squares along one.
    """
    given, kernel, made = (np.square(np.array(m)) for m in (INPUT, KERNEL, OUTPUT))
    return float((made @ (given.sum(1) * kernel.sum(1))).max() / LENGTH)


GROWTH = _growth()
"""The most that roundings of products count in a result, if those of the result count 1."""


def _filtered(image: Array, kernels: Array, dims: Sequence[int]) -> Array:
    """The sums of minimal filtering over padded images, with the magnitude of every number."""
    given, kernel, made = (np.abs(np.array(m, np.float64)) for m in (INPUT, KERNEL, OUTPUT))
    whole = [MADE * tiles(extent) for extent in dims[2:]]
    seen = zip(whole, image.shape[2:], strict=True)
    image = np.pad(image, [(0, 0), (0, 0), *((0, e + LENGTH - 1 - d) for e, d in seen)])
    windows = sliding_window_view(image, (SEEN, SEEN), axis=(2, 3))[:, :, ::MADE, ::MADE]
    x = np.einsum("ai,nchwij,bj->abcnhw", given, windows, given, optimize=True)
    w = np.einsum("ai,ocij,bj->aboc", kernel, kernels, kernel, optimize=True)
    sums = np.einsum("aboc,abcnhw->abonhw", w, x, optimize=True)
    sums[sums >= LARGEST] = np.inf
    made += TINY  # 0 * inf is NaN: so all of a tile is, if a product overflows
    result: Array = np.einsum("ia,jb,abonhw->nohiwj", made, made, sums, optimize=True)
    return result.reshape(*dims[:2], *whole)[:, :, : dims[2], : dims[3]]


def _may_fit(at: Instruction) -> bool:
    """Whether a convolution may be rewritten, here or after other passes."""
    op, lengths = at.op_as(Convolution), at.inputs[1].shape.dims[2:]
    plain = op.group == 1 and set(op.stride + op.dilation) == {1}
    return plain and lengths == (LENGTH, LENGTH) and at.shape.dtype is F32


class RewriteWinograd(Pass):
    """Writes convolutions of 3 x 3 at a stride of 1 by minimal filtering, in a ``group`` tagged
    ``winograd``, where that takes far fewer multiplications: in f32 with constant weights and many
    channels, for images of known size (Lavin and Gray 2016; see ``migx.fusion.winograd``).

    Errors are about six times those of plain rounding, so it runs only on request. Weights are
    transformed in the module ``weights``, when a program is made ready and when they are replaced,
    and then take four times the memory. With ``always``, all convolutions that can be written so
    are, whatever that saves.
    """

    always: bool = False
    rules = RuleSet(fewer_products)
    variants = ("always=true",)

    @property
    def approximations(self) -> Mapping[str, Approximation]:
        """Sums of products that are larger than results round more."""
        return {"convolution": FewerProducts()}

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Transforms the weights."""
        made = (at.inputs[1] for at in program.instructions() if winograd.found(at))
        left = [at for at in dict.fromkeys(made) if not isinstance(at.op, Literal | Slot)]
        if left:
            hoist(program, left)
            drop_unread(program)
        return bool(left)
