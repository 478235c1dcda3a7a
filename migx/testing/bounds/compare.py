"""Compares a value with the expected one, under the bounds of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from migx.argument import Argument
from migx.shape import TUPLE, DType
from migx.testing.bounds.steps import Error
from migx.testing.bounds.tensors import Budget

Bound: TypeAlias = "Budget | Error"
"""The bound of a value: of a tensor as a whole, of each element, or, None, exact."""


@dataclass(frozen=True)
class Comparison:
    """A value compared with the expected one: the largest error, its root mean square, and the
    largest allowed; ``problem`` says what is wrong, if anything is. ``doubt`` does so if a choice
    on the way depends on rounding.
    """

    name: str
    dtype: str
    largest: float
    rms: float
    tolerance: float
    magnitude: float
    derivation: str
    problem: str = ""
    doubt: str = ""

    def __str__(self) -> str:
        unsure = f"undecided {self.doubt}".strip() if self.undecided else "passed"
        errors = f"largest error {self.largest:.3g}, rms {self.rms:.3g}"
        return f"{self.name}: {errors}, {self.tolerance:.3g} allowed: {self.problem or unsure}"

    @property
    def passed(self) -> bool:
        return not self.problem

    @property
    def undecided(self) -> bool:
        """Whether passing says next to nothing: there is a doubt, or the tolerance is at least half
        of the largest magnitude, so that both the expected values and 0 could pass.
        """
        return self.passed and (bool(self.doubt) or self.tolerance >= self.magnitude / 2 > 0)


def compare(name: str, got: Any, expected: Any, *bounds: Bound) -> Comparison:
    """How far a value is from the expected one, and whether the sum of the bounds covers it: that
    of the expected value first, then those of the value.

    Elements for which the first bound is infinite are skipped. If only another bound is infinite,
    any finite number passes, but no infinity or NaN: a computation that leaves a safe range has no
    excuse. NaN must meet NaN, an infinity the same infinity, and under an element bound of 0 a zero
    must have the same sign. The errors and the largest magnitude are those of finite elements. For
    a tuple, the result is that of the first failing member, or of the last; lists and maps, as
    callers get them, are compared as a whole. If a bound says that a choice depends on rounding, a
    difference is a doubt, not a problem.
    """
    found = _compared(name, got, expected, *bounds)
    hangs = next((b.hangs for b in bounds if isinstance(b, Budget) and b.hangs), "")
    if found.passed or not hangs:
        return found
    return replace(found, problem="", doubt=f"{found.problem}, but {hangs}")


def _compared(name: str, got: Any, expected: Any, *bounds: Bound) -> Comparison:
    mine, theirs = _parts(got), _parts(expected)
    if mine is not None or theirs is not None:
        return _members(name, mine or (), theirs or (), bounds)
    if isinstance(expected, Argument) and isinstance(got, Argument):
        if not expected.shape.dtype.is_tensor or expected.shape.dtype.is_packed:
            unknown = any(isinstance(b, np.ndarray) and np.isinf(b).any() for b in bounds)
            problem = "" if unknown or got == expected else "is not the same"
            return _without_numbers(name, expected.shape.dtype, problem)
        got, expected = got.array, expected.array
    if isinstance(expected, dict | list):
        return _held(name, got, expected, bounds)
    x, y = np.asarray(got), np.asarray(expected)
    if x.dtype != y.dtype or x.shape != y.shape:
        problem = f"got {_kind(x)}, expected {_kind(y)}"
        return _without_numbers(name, y.dtype, problem)
    return _arrays(name, x, y, bounds)


def _parts(value: Any) -> Sequence[Any] | None:
    """The members of a tuple; None for other values."""
    if isinstance(value, Argument):
        return value.parts if value.shape.parts else None
    return value if isinstance(value, tuple) else None


def _members(
    name: str, got: Sequence[Any], expected: Sequence[Any], bounds: tuple[Bound, ...]
) -> Comparison:
    if len(got) != len(expected):
        problem = f"got a tuple of {len(got)}, expected a tuple of {len(expected)}"
        return _without_numbers(name, TUPLE, problem)
    found = _without_numbers(name, TUPLE, "")
    for i, (x, y) in enumerate(zip(got, expected, strict=True)):
        inner = [b[i] if isinstance(b, tuple) else b for b in bounds]
        found = compare(f"{name}[{i}]", x, y, *inner)
        if not found.passed:
            return found
    return found


def _held(name: str, got: Any, expected: Any, bounds: tuple[Bound, ...]) -> Comparison:
    """Compares lists and maps as a whole: a bound is relative to the largest magnitude in them."""
    (form, mine), (wanted, theirs) = _opened(got), _opened(expected)
    found = _without_numbers(name, type(expected).__name__, "")
    if form != wanted:
        problem = "it has other members or keys than the one expected"
        return _without_numbers(name, type(expected).__name__, problem)
    for dtype in dict.fromkeys(leaf.dtype for leaf in theirs):
        x, y = (
            np.concatenate([leaf.ravel() for leaf in leaves if leaf.dtype == dtype])
            for leaves in (mine, theirs)
        )
        found = compare(name, x, y, *bounds)
        if not found.passed:
            return found
    return found


def _opened(value: Any) -> tuple[Any, list[NDArray[Any]]]:
    """The structure of nested lists and maps, and the arrays in it."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        parts = [_opened(each) for each in inner]
        keys = list(value) if isinstance(value, dict) else None
        return (keys, [form for form, _ in parts]), [leaf for _, leaves in parts for leaf in leaves]
    leaf = np.asarray(value, object if isinstance(value, str) else None)
    return (str(leaf.dtype), leaf.shape), [leaf]


def _without_numbers(name: str, dtype: Any, problem: str) -> Comparison:
    wrong = math.inf if problem else 0.0
    return Comparison(name, str(dtype), wrong, wrong, 0.0, 0.0, "", problem)


def _arrays(
    name: str, got: NDArray[Any], expected: NDArray[Any], bounds: tuple[Bound, ...]
) -> Comparison:
    dtype = DType.of(expected.dtype)
    numeric = dtype.is_float or dtype.is_integer or dtype.kind == "bool"
    x, y = (a.astype(np.float64) if numeric else np.zeros(a.shape) for a in (got, expected))
    finite = np.isfinite(y)
    magnitude = float(np.max(np.abs(y), where=finite, initial=0.0))
    each = [np.broadcast_to(_allowed(b, dtype, magnitude), y.shape) for b in bounds]
    allowed = sum(each, np.zeros_like(y))
    unsettled = ~np.isfinite(each[0]) if each else False
    excused = unsettled | (~np.isfinite(allowed) & np.isfinite(x))
    same = got == expected
    if not any(isinstance(b, Budget) for b in bounds):
        same = same & ((y != 0) | (allowed > 0) | (np.signbit(x) == np.signbit(y)))
    alike = same | (np.isnan(x) & np.isnan(y)) | excused
    paired = finite & np.isfinite(x)
    errors = np.abs(np.subtract(x, y, where=paired, out=np.zeros_like(y)))
    # Large integers may differ although they round to the same double.
    beyond = ~alike & ~(paired & (errors <= allowed) & (allowed > 0))
    lone = ~alike & ~paired
    with np.errstate(over="ignore"):
        rms = math.sqrt(float(np.mean(np.square(errors)))) if errors.size else 0.0
    problem = ""
    if beyond.any():
        problem = _told(got, expected, errors, allowed, beyond, lone)
    return Comparison(
        name,
        str(dtype),
        float(np.max(errors, initial=0.0)) if numeric else float(beyond.any()),
        rms,
        float(np.max(allowed, where=np.isfinite(allowed), initial=0.0)),
        magnitude if numeric else 1.0,
        _derivation(bounds, dtype),
        problem,
    )


def _allowed(bound: Bound, dtype: DType, magnitude: float) -> Any:
    if isinstance(bound, Budget):
        return bound.tolerance(dtype, magnitude)
    return 0.0 if bound is None else bound


def _derivation(bounds: tuple[Bound, ...], dtype: DType) -> str:
    told = [b.explain(dtype) for b in bounds if isinstance(b, Budget)]
    return ", ".join(told) or f"{dtype}, " + (
        "each element on its own" if any(b is not None for b in bounds) else "exact"
    )


def _told(
    got: NDArray[Any],
    expected: NDArray[Any],
    errors: NDArray[Any],
    allowed: NDArray[Any],
    beyond: NDArray[Any],
    lone: NDArray[Any],
) -> str:
    """What is wrong, at the worst element."""
    if lone.any():
        at = tuple(int(i) for i in np.argwhere(lone)[0])
        text = f"{int(lone.sum())} elements are NaN or infinite on one side: "
        return text + f"{float(got[at]):g} instead of {float(expected[at]):g} at {list(at)}"
    over = np.where(beyond, errors - allowed, -np.inf)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(over)), over.shape))
    text = f"{int(beyond.sum())} of {beyond.size} elements beyond it: "
    text += f"{_number(got[at])} instead of {_number(expected[at])} at {list(at)}"
    return f"{text}, off by {errors[at]:.3g} where {allowed[at]:.3g} is allowed"


def _number(value: Any) -> str:
    return f"{float(value):.9g}" if isinstance(value, np.floating) else str(value)


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype}{list(array.shape)}"
