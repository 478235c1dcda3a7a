"""What error bounds know of operations, by name: which move elements, which sum, which choose.

An operation that is nowhere here may come from outside. It rounds as often as its method
``roundings`` says, and passes errors on by its traits: a view moves elements, a pointwise operation
is computed at both ends of each input, any other on a few perturbed inputs.
"""

from __future__ import annotations

from migx.op import Operation, traits


def named(names: str) -> frozenset[str]:
    """The names in a text, separated by spaces."""
    return frozenset(names.split())


FUNCTIONS = named(
    "acos acosh asin asinh atan atanh cos cosh elu erf exp log pow sigmoid sin sinh tan tanh"
)
UP_TO_ONE = named("cos erf sigmoid sin tanh")
"""Functions with values between -1 and 1."""

WHOLE = named("ceil floor nearbyint")

DISCRETE = named(
    "argmax argmin dim_literal dimensions_of nonmaxsuppression nonzero undefined @literal"
)
"""Operations that return indices or counts, and constants: the same on both sides."""

MOVED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(named("compress gather gather_elements gathernd reverse_sequence"), (0,)),
    **dict.fromkeys(named("scatter_none scatternd_none"), (0, 2)),
    **dict.fromkeys(named("concat contiguous pad reverse trilu"), ()),
}
"""The operations besides views that move elements: of these inputs, or of all if there are none."""

EXACT = MOVED.keys() | named(
    "abs assume bit_cast clip dynamic_slice if loop max max_roi_pool min neg onehot reduce_max"
    " reduce_min relu scan sign topk unique where"
)
"""Operations that select, move or compare elements, and round none."""

SCATTERS = named("scatter_add scatter_mul scatternd_add scatternd_mul")
SUMS = SCATTERS | named(
    "add convolution convolution_backwards convolution_channels_last dot mul prefix_scan_prod"
    " prefix_scan_sum quant_convolution quant_convolution_channels_last quant_dot reduce_mean"
    " reduce_prod reduce_sum sub"
)
"""Polynomials of their inputs, with coefficients of magnitude at most 1."""

TIMES_ZERO: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("convolution", "convolution_backwards", "convolution_channels_last"), (1,)),
    "deformable_convolution": (0, 1),
    **dict.fromkeys(("dft", "dynamic_resize", "grid_sample", "resize", "roi_align"), (0,)),
}
"""The inputs that are multiplied by padding, or by the operation's own factors, which may be 0: an
infinity becomes NaN, or nothing if zeros are skipped.
"""

RESIZES = named("resize dynamic_resize")

WHOLE_OF_WHOLE = named("add convert mul sub")
"""What gives integers for integers."""
WAVES = named("cos sin tan")
"""Periodic functions: the ends of an input say little about values between them."""
REMAINDERS = named("fmod mod")
RECURRENT = named("rnn gru lstm")

CHOOSING = {"topk": 0, "argmax": 0, "argmin": 0, "nonmaxsuppression": 1}
"""Operations that choose by the order of elements along an axis, and the input they compare."""

CHOICES = named(
    "clip max min pooling reduce_max reduce_min relu scatter_max scatter_min scatternd_max"
    " scatternd_min topk"
)
"""Operations that may return either 0.0 or -0.0 if both are among the operands."""


def moves(op: Operation) -> bool:
    """Whether each element of the result is one of an input."""
    return op.name in MOVED or traits(op).view is not None
