"""Shared by the families of rules: patterns, broadcasts, and what may be done with constants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import ml_dtypes
import numpy as np

from migx import dim
from migx import op as operations
from migx.fusion.narrow_floats import FORMATS
from migx.ir import Instruction
from migx.match import Pattern, value
from migx.op import Array, Operation
from migx.ops.builtin import Literal, Slot
from migx.ops.layout import (
    Broadcast,
    Concat,
    Multibroadcast,
    Reshape,
    Slice,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from migx.ops.pointwise import Add, Binary, Mul, Unary
from migx.passes._common import broadcast_of
from migx.rewrite import Cursor
from migx.shape import Dims
from migx.weights import is_readable
from migx.weights.constants import is_unpacked, tree

BROADCASTS = (Broadcast, Multibroadcast)
VIEWED = Transpose | Reshape | Squeeze | Unsqueeze | Slice | Concat
"""Operations that only move elements; the values of constants are read through them."""

LARGE = 1 << 20
"""The most elements of weights that are copied for a small gain: with more, a product takes so
long, and a copy so much memory, that a rewrite around it does not pay.
"""

LITTLE = 1024
"""The most elements of a constant that may be kept beside one derived from it."""

MILD = 16.0
"""The largest factor, or divisor, that does not count as keeping numbers in range."""

STEPS = 8
"""How many operations back the values of constants are followed."""


def throughout(number: float) -> Pattern:
    """Matches a literal, or a broadcast of one, with this number in every element; not a
    replaceable weight, for which that is not likely to stay true.
    """
    return broadcast_of(value(number))


@dataclass(frozen=True)
class Repeated:
    """A value as a broadcast: axis i of the source is its axis ``first + i``."""

    source: Instruction
    first: int
    rank: int

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the value along which it varies, if it does at all."""
        dims = enumerate(self.source.shape.dims, self.first)
        return tuple(axis for axis, extent in dims if extent != 1)

    @property
    def end(self) -> int:
        """One past the last axis of the value that the source has."""
        return self.first + self.source.shape.rank

    def placed(self, array: Array) -> Array:
        """Elements of the source as ones of the value, with extent 1 along its other axes."""
        return array.reshape((1,) * self.first + array.shape + (1,) * (self.rank - self.end))


def repeated(at: Instruction) -> Repeated:
    """A value as a broadcast of the source of its broadcasts; of itself if there are none."""
    rank, first = at.shape.rank, 0
    while type(at.op) in BROADCASTS and len(at.inputs) == 1:
        (source,) = at.inputs
        op = at.op
        first += op.axis if isinstance(op, Broadcast) else at.shape.rank - source.shape.rank
        at = source
    return Repeated(at, first, rank)


def varies_along(at: Instruction, *axes: int) -> bool:
    """Whether a value varies along these axes alone, as its broadcasts show."""
    return set(repeated(at).axes) <= set(axes)


def laid_along(at: Cursor, vector: Instruction, axis: int, dims: Dims) -> Instruction:
    """A value that varies along one axis at most, broadcast to dims to vary along ``axis``."""
    source = repeated(vector).source
    own = [i for i, extent in enumerate(source.shape.dims) if extent != 1]
    if source.shape.dims == dims and own in ([], [axis]):
        return source
    ones = tuple(i for i in range(source.shape.rank) if i not in own)
    flat = at(Squeeze(ones), source) if ones else source
    scalar_or_last = not own or axis == len(dims) - 1
    return at(Multibroadcast(dims) if scalar_or_last else Broadcast(axis, dims), flat)


def rounds_well(at: Instruction) -> bool:
    """Whether constants combined with a value may be merged, which moves a rounding: f8 has too
    little range and precision for it.
    """
    dtype = at.shape.dtype
    return dtype.is_integer or (dtype.is_float and dtype.bits >= 16)


def may_merge(op: Operation, a: Instruction, b: Instruction, *, added: bool = False) -> bool:
    """Whether merging two constants by a pointwise operation takes no more memory than it frees,
    and keeps their range; an ``added`` result, a term of a sum, may be subnormal.
    """
    every = {*repeated(a).axes, *repeated(b).axes}
    whole = [v for v in (a, b) if every == {*repeated(v).axes}]
    fits = any(map(is_kept_small, whole)) and not any(map(is_unpacked, (a, b)))
    return fits and keeps_range(op, a, b, added or isinstance(op, Add))


def keeps_range(op: Operation, a: Instruction, b: Instruction, small: bool) -> bool:
    """Whether an operation on two constants is finite where both are and, unless it may be
    ``small``, normal where both are. Only few and fixed elements are checked, and fixed factors;
    others are assumed to fit. A subnormal sum is exact, and a subnormal term as exact as its sum.
    """
    known = few_factors if isinstance(op, Mul) else few_elements
    x, y = known(a), known(b)
    if x is None or y is None or not (isinstance(op, Binary) and a.shape.dtype.is_float):
        return True
    least = float(ml_dtypes.finfo(x.dtype).smallest_normal)  # type: ignore[no-untyped-call]
    made, x, y = (np.abs(v.astype(np.float64)) for v in (op.compute(x, y), x, y))
    lost = np.isfinite(x) & np.isfinite(y) & ~np.isfinite(made)
    if not small:
        lost |= (x >= least) & (y >= least) & (made < least)
    return not np.any(lost)


def few_factors(constant: Instruction, steps: int = STEPS) -> Array | None:
    """A constant as by ``few_elements``; of a product, that of the factors that are known."""
    if (known := few_elements(constant)) is not None:
        return known
    whole = repeated(constant)
    source = whole.source
    if type(source.op) is Slot:
        source = source.owner.program.slots[source.op.slot]
    if not isinstance(source.op, Mul) or not steps:
        return None
    found = [v for v in (few_factors(v, steps - 1) for v in source.inputs) if v is not None]
    return whole.placed(reduce(np.multiply, found)) if found else None


def is_mild(factor: Instruction) -> bool:
    """Whether a constant changes the magnitude of its multiplicand little, and so is not there to
    keep it in range; any integer does. Only few and fixed elements are checked; others are assumed
    to, so that weights are treated alike whether or not they are known yet.
    """
    known = few_elements(factor) if factor.shape.dtype.is_float else None
    if known is None:
        return True
    size = np.abs(known.astype(np.float64))
    return bool(np.all((size >= 1 / MILD) & (size <= MILD)))


def seems_finite(factor: Instruction) -> bool:
    """Whether no element of a constant is infinite or NaN; only few and fixed ones are checked."""
    known = few_elements(factor)
    return known is None or bool(np.all(np.isfinite(known.astype(np.float64))))


def seems_nonzero(factor: Instruction) -> bool:
    """Whether no element of a constant is 0; only few and fixed ones are checked."""
    known = few_elements(factor)
    return known is None or bool(np.all(known))


def few_elements(constant: Instruction, steps: int = STEPS) -> Array | None:
    """The value of a fixed literal of few elements, or of one computed from such by a few pointwise
    operations and views, with extent 1 along broadcast axes; None for other constants.
    """
    whole = repeated(constant)
    source, op = whole.source, whole.source.op
    if isinstance(op, Literal):
        known = is_readable(source) and is_little(source) and not source.shape.dtype.is_packed
        array = op.value.array if known else None
    elif isinstance(op, VIEWED | Unary | Binary) and steps and not any(operations.symbols(op)):
        read = few_elements if isinstance(op, Unary | Binary) else _every_element
        given = [v for v in (read(v, steps - 1) for v in source.inputs) if v is not None]
        array = op.compute(*given) if len(given) == len(source.inputs) else None
    else:
        array = None
    return None if array is None else whole.placed(array)


def _every_element(constant: Instruction, steps: int) -> Array | None:
    """``few_elements``, broadcast to the constant's dims."""
    shape = constant.shape
    if not shape.static or int(shape.elements) > LITTLE:
        return None
    known = few_elements(constant, steps)
    return None if known is None else np.broadcast_to(known, [int(d) for d in shape.dims])


def is_kept_small(constant: Instruction) -> bool:
    """Whether another constant of this size takes no memory that matters: it frees this one, or is
    little.
    """
    return is_movable(constant) or (is_little(constant) and not is_unpacked(constant))


def is_movable(weight: Instruction) -> bool:
    """Whether a constant may be replaced by another of its size: it is not packed, quantised or a
    float of eight bits, and all large constants it is computed from are freed with its only user.
    """
    if is_unpacked(weight):
        return False
    return all(
        (is_little(i) or is_read_once(i))
        and i.op.name != "dequantizelinear"
        and i.shape.dtype not in FORMATS
        for i in tree(weight)
    )


def is_read_once(constant: Instruction) -> bool:
    """Whether no run reads a constant more than once; constant users do not count, as they are
    folded or computed with the weights.
    """
    if constant.use_count == 1:
        return True
    runs = [user for user in constant.users if not user.constant]
    return sum(user.inputs.count(constant) for user in runs) <= 1


def is_light(weight: Instruction) -> bool:
    """Whether weights are few enough to be copied for a small gain."""
    return dim.bounds(repeated(weight).source.shape.elements)[1] <= LARGE


def is_little(at: Instruction) -> bool:
    """Whether a value has few elements, repeated ones not counted."""
    return dim.bounds(repeated(at).source.shape.elements)[1] <= LITTLE
