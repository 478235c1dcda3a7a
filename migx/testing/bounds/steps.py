"""The error bound of one operation on values that have errors.

Operations that move elements move their errors. Sums of products are computed again on magnitudes,
in double precision, with and without the errors; elementwise operations at both ends of each input.
If a comparison, a rounding to integers or an index could come out otherwise, the bound is the
resulting difference, or infinite.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx import ops
from migx.argument import Argument
from migx.errors import MigxError
from migx.op import Operation
from migx.ops.channels_last import ConvolutionChannelsLast, QuantConvolutionChannelsLast
from migx.ops.quantization import DequantizeLinear, smallest
from migx.shape import F32, F64, DType, Shape
from migx.target import Context, get_target
from migx.testing.bounds.choices import unsure
from migx.testing.bounds.kinds import (
    MOVED,
    RECURRENT,
    REMAINDERS,
    RESIZES,
    SCATTERS,
    SUMS,
    TIMES_ZERO,
    UP_TO_ONE,
    WAVES,
    WHOLE,
    WHOLE_OF_WHOLE,
    moves,
)  # fmt: skip
from migx.testing.bounds.ranges import (
    Doubles,
    across_multiples,
    apart,
    ends,
    largest,
    within_a_turn,
)
from migx.testing.bounds.recurrent import outgrown, response
from migx.testing.bounds.roundings import FUNCTION, LAMBDA, roundings

Error: TypeAlias = "Doubles | tuple[Error, ...] | None"
"""A bound for each element, or for each part of a tuple; None if the value is exact."""

SAMPLES = 4
"""How often an operation of unknown kind is computed on randomly perturbed inputs; its bound is the
largest difference times this number.
"""


@dataclass
class Step:
    """One operation on values that have errors. With ``sure``, numbers at the end of their range
    count as any other; with ``counts``, arithmetic on exact integers is exact, but for the sign of
    zero.
    """

    op: Operation
    values: list[Argument]
    errors: list[Error]
    result: Argument
    sure: bool = False
    counts: bool = False

    def error(self) -> Error:
        """The bound of the result."""
        if self.result.shape.parts or any(isinstance(e, tuple) for e in self.errors):
            passed = self._passed_parts() if any(e is not None for e in self.errors) else None
            return _sum(passed, self._own_parts() if self.result.shape.parts else None)
        if not self.result.shape.dtype.is_tensor:
            return None
        if self.op.name.startswith(("pack_", "unpack_")):
            return self._packed()
        factors = [doubles(self.values[i]) for i in TIMES_ZERO.get(self.op.name, ())]
        if not all(np.isfinite(f).all() for f in factors):
            return unknown(self.result)
        found = self._found()
        if isinstance(found, tuple):
            return found
        found = self._settled(found)
        return self._rescaled(self.op, found) if isinstance(self.op, DequantizeLinear) else found

    def _found(self) -> Error:
        """The bound of a result in the range of its type."""
        own = self._own()
        if all(e is None for e in self.errors) and self.op.name != "quantizelinear":
            return own
        passed = self._passed()
        if passed is None or own is None or isinstance(passed, tuple):
            return own if passed is None else passed
        return passed + own

    def _settled(self, found: Doubles | None) -> Doubles | None:
        """The bound, infinite at the end of the range; a float beyond the range of integers
        converts to any of them.
        """
        dtype, given = self.result.shape.dtype, self.values[0] if self.values else self.result
        if self.op.name == "convert" and given.shape.dtype.is_float and dtype.is_integer:
            most = np.abs(doubles(given)) + filled(self.errors[0], given)
            within = most < 2.0 ** (dtype.bits - (dtype.kind == "int"))
            return found if within.all() else np.where(within, filled(found, self.result), np.inf)
        if found is None or not dtype.is_float:
            return found
        y = doubles(self.result)
        wild = ~(np.abs(y) + found <= ends(dtype)[self.sure])
        if moves(self.op) or not wild.any():
            return found
        return np.where(wild, np.where(np.isfinite(y), np.inf, self._lost(y)), found)

    def _rescaled(self, op: DequantizeLinear, found: Doubles | None) -> Doubles | None:
        """The bound, infinite where a product of two scales overflows, as of codes that are
        multiplied first.
        """
        codes = self.values[0].array
        scales = op.aligned(self.values[1].array, codes).astype(np.float32)
        wild = ~np.isfinite(np.square(scales))
        if not wild.any():
            return found
        bound = np.where(wild, np.inf, op.folded(filled(found, self.result)))
        return bound.reshape(self.result.array.shape)

    def _lost(self, y: Doubles) -> Doubles:
        """The bound of infinities and NaN: 0 if the same for all inputs within their bounds."""
        errors = [filled(e, a) for e, a in zip(self.errors, self.values, strict=True)]
        if operations.traits(self.op).pointwise:
            unsure = np.logical_or.reduce([~np.isfinite(e) for e in errors])
            return np.where(unsure, np.inf, self._at_corners(errors))
        pairs = zip(errors, self.values, strict=True)
        if not all(np.all((e == 0) | (e < np.abs(doubles(v)))) for e, v in pairs):
            return np.full_like(y, np.inf)
        try:
            made = _run(self.op, [_widened(v) for v in self.values], self.result.shape)
        except (MigxError, ArithmeticError, LookupError, ValueError):
            return np.full_like(y, np.inf)
        found = apart(made, y, self.result.shape.dtype)
        return np.where(self._may_overflow(), np.inf, found) if self.op.name in SUMS else found

    def _may_overflow(self) -> NDArray[np.bool_]:
        """Where the finite terms of a sum may overflow, alone or when accumulated."""
        sizes = [np.where(np.isfinite(s), s, 0) for s in self._magnitudes()]
        made = _run(self.op, sizes, self.result.shape)
        return np.asarray(made > ends(self.result.shape.dtype)[0])

    def _own_parts(self) -> Error:
        """The operation's own roundings for several results, including that to the type of each."""
        count = roundings(self.op, [a.shape for a in self.values], self.result.shape)
        grown: Sequence[Doubles | float] = [0.0] * len(self.result.parts)
        if self.op.name in RECURRENT:
            grown = response(self.op, self.values, self.result, SAMPLES)
        return tuple(
            _ulps(count, part.shape.dtype) * np.maximum(1.0, np.abs(doubles(part)))
            + part.shape.dtype.roundoff * np.abs(doubles(part))
            + smallest(part.shape.dtype)
            + 2 * more
            if count and part.shape.dtype.is_float
            else None
            for part, more in zip(self.result.parts, grown, strict=True)
        )

    def _own(self) -> Doubles | None:
        """The bound of the operation's own roundings."""
        dtype = self.result.shape.dtype
        if not dtype.is_float or self.op.name in WHOLE:
            return None
        if self.op.name in SUMS and not all(a.shape.elements for a in self.values):
            # A sum of nothing is 0 with the sign that it starts with, however it is scaled.
            return np.full(self.result.shape.dims, smallest(dtype))
        count = roundings(self.op, [a.shape for a in self.values], self.result.shape)
        if not count:
            return None
        size = np.abs(doubles(self.result))
        # Sums and differences are exact below the normal numbers.
        least = 0.0 if self.op.name in ("add", "sub") else smallest(dtype) * ~self._is_zero(size)
        own = _ulps(count, dtype) * self._summed_sizes(count, size) + dtype.roundoff * size + least
        counts = self.counts and self.op.name in WHOLE_OF_WHOLE
        return np.where(self._is_whole(size), 0.0, own) if counts else own

    def _summed_sizes(self, count: int, size: Doubles) -> Doubles:
        """The magnitudes that this many roundings are relative to, given those of the result."""
        if self.op.name in SUMS and count > 1:
            return self.terms()
        if self.op.name in UP_TO_ONE:
            return np.ones_like(size)
        if self.op.name == "determinant":  # Hadamard: at most the product of the rows' lengths
            return np.asarray(np.prod(np.linalg.norm(doubles(self.values[0]), axis=-1), -1))
        if count > FUNCTION or self.op.name in RESIZES:
            greatest = max(largest(a.array) for a in (*self.values[:1], self.result))
            return np.full_like(size, greatest)
        if count > 1 and self.op.name == "pooling":
            return np.full_like(size, largest(self.values[0].array))
        return size

    def _is_zero(self, size: Doubles) -> NDArray[np.bool_]:
        """Where a product or quotient is 0 because a factor or the dividend is exactly that."""
        found = np.zeros(size.shape, bool)
        for i in {"mul": (0, 1), "div": (0,)}.get(self.op.name, ()):
            value = self.values[i]
            found |= (value.array == 0) & (filled(self.errors[i], value) == 0)
        return np.asarray(found & (size == 0))

    def _is_whole(self, size: Doubles) -> NDArray[np.bool_]:
        """Where the inputs are exact integers, and the type of the result holds it exactly."""
        found = size <= 2.0**self.result.shape.dtype.digits
        for value, error in zip(self.values, self.errors, strict=True):
            x = doubles(value)
            found &= (np.rint(x) == x) & (filled(error, value) == 0)
        return found

    def _packed(self) -> Error:
        """A packed value may be anything for inexact inputs; an unpacked one keeps its error. The
        sign of an exact zero is left open, also where it is a bit of a packed byte.
        """
        given, dtype = self.errors[0], self.result.shape.dtype
        if given is None and self.op.name == "pack_fp4" and not dtype.is_packed:
            x = self.values[0].array
            signs = np.where(x == 0, -np.zeros_like(x), np.zeros_like(x))
            return _run(self.op, [signs], self.result.shape).astype(np.float64)
        if given is None or isinstance(given, tuple):
            return None
        kept = self.op.name.startswith("un") and given.shape == self.result.array.shape
        return given if kept else unknown(self.result)

    def _passed(self) -> Error:
        """The propagated errors of the inputs."""
        name = self.op.name
        if name in SUMS:
            return self._summed()
        if moves(self.op):
            return self._picked()
        if name == "where":
            return self._chosen()
        errors = [filled(e, a) for e, a in zip(self.errors, self.values, strict=True)]
        if name in ("softmax", "logsoftmax"):
            axis = operations.attributes(self.op)["axis"]
            most = 2 * np.max(errors[0], axis, keepdims=True, initial=0.0)
            y = doubles(self.result)
            return np.broadcast_to(most, y.shape) if name == "logsoftmax" else y * np.expm1(most)
        if name in ("reduce_max", "reduce_min"):
            axes = operations.attributes(self.op)["axes"]
            return np.asarray(np.max(errors[0], axes, keepdims=True, initial=0.0))
        if name == "pooling" or (
            name in RESIZES
            and operations.attributes(self.op)["mode"] == "linear"
            and not any(e.any() for e in errors[1:])
        ):
            # The errors of means, maxima and norms are bounded by those of the errors.
            given = [errors[0], *(a.array for a in self.values[1:])]
            return np.maximum(_run(self.op, given, self.result.shape), 0.0)
        pointwise = operations.traits(self.op).pointwise
        if pointwise or name in ("quantizelinear", "dequantizelinear"):
            return self._at_corners(errors)
        return self._sampled()

    def terms(self, power: int = 1) -> Doubles:
        """The sum of the magnitudes of the terms of each element of a sum, or of their powers."""
        sizes = [s if s.dtype.kind == "i" else s**power for s in self._magnitudes()]
        summed = _run(self.op, sizes, self.result.shape)
        if self.op.name != "reduce_mean":
            return summed
        shared = max(1, self.values[0].shape.elements) // max(1, summed.size)
        return summed / float(shared) ** (power - 1)

    def _magnitudes(self) -> list[Doubles]:
        """The magnitudes of the inputs; indices unchanged."""
        return [
            a.array if i == 1 and self.op.name in SCATTERS else np.abs(doubles(a))
            for i, a in enumerate(self.values)
        ]

    def _summed(self) -> Doubles:
        sizes = self._magnitudes()
        spread = [
            s if e is None or s.dtype.kind == "i" else s + e
            for s, e in zip(sizes, self.errors, strict=True)
        ]
        op = ops.Add() if self.op.name == "sub" else self.op
        most, least = (_run(op, of, self.result.shape) for of in (spread, sizes))
        found: Doubles = np.abs(most - least)
        moved = any(isinstance(e, np.ndarray) and e.any() for e in self.errors)
        if self.result.shape.dtype is F64 and moved:  # the difference is as inexact as the result
            found += np.finfo(np.float64).eps * most
        return found

    def _picked(self) -> Error:
        places = MOVED.get(self.op.name, (0,)) or range(len(self.values))
        if any(e is not None for i, e in enumerate(self.errors) if i not in places):
            return unknown(self.result)
        if self.op.name == "identity":
            return self.errors[0]
        moved = [
            filled(self.errors[i], a) if i in places else a.array for i, a in enumerate(self.values)
        ]
        return _run(self.op, moved, self.result.shape)

    def _chosen(self) -> Doubles:
        unsure, *sides = (filled(e, a) for e, a in zip(self.errors, self.values, strict=True))
        condition, x, y = (a.array for a in self.values)
        made = np.where(condition, *sides)
        gap = np.abs(x.astype(np.float64) - y.astype(np.float64)) + sides[0] + sides[1]
        return np.where(unsure > 0, gap, made)

    def _at_corners(self, errors: list[Doubles]) -> Doubles:
        """The largest difference over all combinations of the ends of the inputs."""
        if self.op.name == "bit_cast":
            return self._recast(errors[0])
        ends = []
        for i, (value, error) in enumerate(zip(self.values, errors, strict=True)):
            if self.op.name == "quantizelinear" and i == 0:
                error = error + 4 * F32.roundoff * np.abs(doubles(value))
            ends.append(_moved(value, error) if error.any() else [_widened(value)])
        centre = doubles(self.result)
        found = np.zeros_like(centre)
        for corner in itertools.product(*ends):
            made = _run(self.op, list(corner), self.result.shape).astype(np.float64)
            found = np.maximum(found, apart(made, centre, self.result.shape.dtype))
        if self.op.name == "equal":
            x, y = self.values
            near = np.abs(doubles(x) - doubles(y)) <= errors[0] + errors[1]
            return np.where(near & (errors[0] + errors[1] > 0), 1.0, found)
        if self.op.name in WAVES:
            return np.maximum(found, within_a_turn(self.op.name, ends[0], errors[0]))
        if self.op.name in REMAINDERS and self.result.shape.dtype.is_float:
            return np.maximum(found, across_multiples(*ends))
        for value, error in zip(self.values, errors, strict=True):
            if value.shape.dtype.is_integer and error.shape == found.shape:
                found = np.where(np.isinf(error), np.inf, found)  # it may wrap in between
        return found

    def _recast(self, error: Doubles) -> Doubles:
        """The largest difference at both ends: bits are in the order of the values of one sign."""
        (value,), centre = self.values, doubles(self.result)
        low, high = (end.astype(value.array.dtype) for end in _moved(value, error))
        found = [
            apart(made.astype(np.float64), centre, self.result.shape.dtype)
            for made in (_run(self.op, [end], self.result.shape) for end in (low, high))
        ]
        unordered = np.signbit(low.astype(np.float64)) != np.signbit(high.astype(np.float64))
        return np.where(unordered & (error > 0), np.inf, np.maximum(*found))

    def _passed_parts(self) -> Error:
        """The propagated errors of the inputs, for several results or from several."""
        error, *others = self.errors or [None]
        if not isinstance(self.op, ops.Topk) or any(e is not None for e in others):
            return self._sampled()
        finite = isinstance(error, np.ndarray) and bool(np.isfinite(error).all())
        if not finite or not self.values[0].shape.dtype.is_float:
            return self._sampled()
        return self._ranked(self.op, np.asarray(error))

    def _ranked(self, op: ops.Topk, error: Doubles) -> Error:
        """The bound of what is best, second best and so on: no less than if all were least."""
        x, dtype = doubles(self.values[0]), self.values[0].shape.dtype
        best, places = (doubles(part) for part in self.result.parts)
        values = np.zeros_like(best)
        for end in (x - error, x + error):
            made = _evaluated(op, [Argument.of(end), *self.values[1:]], self.result.shape)
            values = np.maximum(values, apart(doubles(made.parts[0]), best, dtype))
        swapped = unsure(x, error, op.axis, not op.largest)[tuple(map(slice, places.shape))]
        return values, np.where(swapped, np.inf, 0.0)

    def _sampled(self) -> Error:
        """The bound from several runs on randomly perturbed inputs; indices and counts must not
        change. If an input's error is infinite, so is the result's: no sample reaches that far.
        """
        if any(np.isinf(e).any() for e in self.errors if isinstance(e, np.ndarray)):
            return unknown(self.result)
        rng, results = np.random.default_rng(0), []
        for _ in range(SAMPLES):
            moved = []
            for value, error in zip(self.values, self.errors, strict=True):
                if error is None or isinstance(error, tuple) or not value.shape.dtype.is_tensor:
                    moved.append(value)
                    continue
                shift = error * rng.choice((-1.0, 1.0), error.shape)
                array = (doubles(value) + shift).astype(value.array.dtype)
                moved.append(Argument(value.shape, array))
            try:
                results.append(_evaluated(self.op, moved, self.result.shape))
            except (MigxError, ArithmeticError, LookupError, ValueError):
                return unknown(self.result)
        found = _between(results, self.result)
        if self.op.name in RECURRENT and isinstance(found, tuple):
            return tuple(outgrown(self.op, [*map(filled, found, self.result.parts)]))
        return found


def _between(results: Sequence[Argument], centre: Argument) -> Error:
    if centre.shape.parts:
        columns = zip(*(r.parts for r in results), strict=True)
        return tuple(_between(c, part) for c, part in zip(columns, centre.parts, strict=True))
    if not centre.shape.dtype.is_tensor or centre.shape.dtype.is_packed:
        return None
    y = doubles(centre)
    if any(r.array.shape != y.shape for r in results):
        return unknown(centre)
    most = np.maximum.reduce([np.abs(doubles(r) - y) for r in results])
    if not centre.shape.dtype.is_float:
        return unknown(centre) if most.any() else np.zeros_like(y)
    return np.asarray(SAMPLES * most + LAMBDA * centre.shape.dtype.roundoff * np.abs(y))


def _sum(a: Error, b: Error) -> Error:
    """The sum of two bounds."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, tuple) and isinstance(b, tuple):
        return tuple(map(_sum, a, b))
    total: Doubles = np.add(np.asarray(a), np.asarray(b))
    return total


def _run(op: Operation, arrays: Sequence[Any], like: Shape) -> Doubles:
    """The operation on other arrays than its own, in double precision if they are."""
    arguments = [Argument(Shape(DType.of(a.dtype), a.shape), a) for a in arrays]
    dtype = next((a.shape.dtype for a in arguments if a.shape.dtype is F64), like.dtype)
    op = _unquantised(op)
    result = _evaluated(op, arguments, like.with_type(dtype))
    return np.asarray(result.array)


PLAIN: dict[type, Callable[..., Operation]] = {
    ops.QuantDot: ops.Dot,
    ops.QuantConvolution: ops.Convolution,
    QuantConvolutionChannelsLast: ConvolutionChannelsLast,
}
"""Products of bytes, and the same for any type."""


def _unquantised(op: Operation) -> Operation:
    """The same product for any type, of one of bytes; others as they are."""
    plain = PLAIN.get(type(op))
    return op if plain is None else plain(**operations.attributes(op))


def _evaluated(op: Operation, arguments: Sequence[Argument], shape: Shape) -> Argument:
    return operations.result_of(op, shape, arguments, _context())


@cache
def _context() -> Context:
    return get_target("ref").get_context()


def _ulps(count: int, dtype: DType) -> float:
    """A bound on this many roundings: their sum, or one exceeded with probability 3e-14."""
    return min(count, LAMBDA * math.sqrt(count)) * min(dtype.roundoff, F32.roundoff)


def doubles(value: Argument) -> Doubles:
    """A value's numbers in double precision."""
    return value.array.astype(np.float64)


def _widened(value: Argument) -> NDArray[Any]:
    return doubles(value) if value.shape.dtype.is_float else value.array


def _moved(value: Argument, error: Doubles) -> list[NDArray[Any]]:
    """A value at both ends of its error interval."""
    dtype = value.shape.dtype
    if dtype.kind == "bool":
        return [value.array, value.array ^ (error > 0)]
    ends = [doubles(value) - error, doubles(value) + error]
    if dtype.is_float:
        return ends
    limits = np.iinfo(dtype.numpy)
    most = np.nextafter(float(limits.max) + 1, 0)  # 2**63 is a double, but not an i64
    return [np.clip(e, limits.min, most).astype(dtype.numpy) for e in ends]


def filled(error: Error, value: Argument) -> Doubles:
    """A bound as an array, 0 if it is None."""
    if error is None or isinstance(error, tuple):
        return np.zeros(value.array.shape)
    return error


def unknown(value: Argument) -> Error:
    """An infinite bound."""
    if value.shape.parts:
        return tuple(map(unknown, value.parts))
    if not value.shape.dtype.is_tensor:
        return None
    return np.full([int(d) for d in value.shape.dims], np.inf)
