"""The error function, vectorised: numpy has none."""

from __future__ import annotations

import numpy as np

from migx.op import Array


def erf(x: Array) -> Array:
    """2 / sqrt(pi) times the integral of exp(-t²) from 0 to x: f32 rounded once, f64 within 4 ULP.

    Works in blocks that fit in the cache, as it passes over the elements some thirty times.
    """
    flat = np.ascontiguousarray(x).reshape(-1)
    result = np.empty_like(flat)
    function = _erf64 if x.dtype == np.float64 else _erf32
    for start in range(0, flat.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        result[block] = function(flat[block].astype(np.float64))
    return result.reshape(x.shape)


_BLOCK = 1 << 14

# erf(x) / x as P(x²) / Q(x²) on [0, 4], the relative error at most 2.6e-9; lowest power first.
_P = (
    *(1.12837916996, 1.92879235364e-1, 5.5749432037e-2, 4.22648597719e-3),
    *(4.1127018078e-4, 6.79104924388e-6),
)
_Q = (
    *(1.0, 5.04268205436e-1, 1.1749540156e-1, 1.62951069742e-2),
    *(1.42119627384e-3, 7.25616086316e-5, 2.60468643046e-7),
)


def _erf32(x: Array) -> Array:
    x = np.clip(x, -4.0, 4.0)
    square = x * x
    x *= _polynomial(_P, square)
    x /= _polynomial(_Q, square)
    return x


# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969):
# erf(x) / x as A(x²) / B(x²) up to 0.46875, beyond it erfc(x) exp(x²) as
# C(x) / D(x); lowest power first.
_A = (
    *(3.20937758913846947e3, 3.77485237685302021e2, 1.13864154151050156e2),
    *(3.16112374387056560, 1.85777706184603153e-1),
)
_B = (
    *(2.84423683343917062e3, 1.28261652607737228e3, 2.44024637934444173e2),
    *(2.36012909523441209e1, 1.0),
)
_C = (
    *(1.23033935479799725e3, 2.05107837782607147e3, 1.71204761263407058e3, 8.81952221241769090e2),
    *(2.98635138197400131e2, 6.61191906371416295e1, 8.88314979438837594, 5.64188496988670089e-1),
    2.15311535474403846e-8,
)
_D = (
    *(1.23033935480374942e3, 3.43936767414372164e3, 4.36261909014324716e3, 3.29079923573345963e3),
    *(1.62138957456669019e3, 5.37181101862009858e2, 1.17693950891312499e2, 1.57449261107098347e1),
    1.0,
)


def _erf64(x: Array) -> Array:
    size = np.minimum(np.abs(x), 6.0)
    square = size * size
    inner = x * _polynomial(_A, square) / _polynomial(_B, square)
    outer = 1 - np.exp(-square) * _polynomial(_C, size) / _polynomial(_D, size)
    result: Array = np.where(size <= 0.46875, inner, np.copysign(outer, x))
    return result


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    value = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value *= x
        value += coefficient
    return value
