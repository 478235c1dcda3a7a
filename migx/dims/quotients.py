"""Floor division of extents, in canonical form as far as possible."""

from __future__ import annotations

from functools import lru_cache

from migx.dim import Call, Dim, Extent, Monomial, bounds, of_atom, order, terms
from migx.errors import DimError


@lru_cache(maxsize=4096)
def floordiv(a: Extent, b: Extent) -> Extent:
    """Floor division: terms that divide exactly are taken out of the ``floordiv``."""
    if b == 0:
        raise DimError(f"{a} // 0 divides by zero")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if (whole := _exact(a, b)) is not None:
        return whole
    outside: Extent = 0
    inside: Extent = 0
    for monomial, coefficient in terms(a):
        term = Dim.of({monomial: coefficient})
        if isinstance(b, int):
            outside = outside + Dim.of({monomial: coefficient // b})
            inside = inside + Dim.of({monomial: coefficient % b})
        elif (quotient := _exact(term, b)) is not None:
            outside = outside + quotient
        else:
            inside = inside + term
    low, high = bounds(inside)
    if low >= 0 and high < bounds(b)[0]:
        return outside
    if isinstance(b, int) and b > 0 and (nested := _nested(inside)) is not None:
        x, d, rest = nested
        return outside + floordiv(x + rest * d, d * b)
    return outside + of_atom(Call("floordiv", (inside, b)))


def _nested(a: Extent) -> tuple[Extent, int, int] | None:
    """x, d and c if an extent is x // d + c with numbers d > 0 and c; otherwise None."""
    (monomial, coefficient), *rest = terms(a)
    if coefficient != 1 or len(monomial) != 1 or any(m for m, _ in rest):
        return None
    call = monomial[0]
    if not isinstance(call, Call) or call.function != "floordiv":
        return None
    x, d = call.args
    return (x, d, sum(c for _, c in rest)) if isinstance(d, int) and d > 0 else None


def _exact(a: Extent, b: Extent) -> Extent | None:
    """The quotient of two polynomials by long division; None if it leaves a remainder."""
    quotient: Extent = 0
    divisor = next(iter(terms(b)))
    while a != 0:
        leading = next(iter(terms(a)))
        term = _term_quotient(leading, divisor)
        if term is None:
            return None
        part = Dim.of(dict([term]))
        quotient, a = quotient + part, a - part * b
        if a != 0 and order(next(iter(terms(a)))[0]) <= order(leading[0]):
            return None  # two symbols with one name have no order
    return quotient


def _term_quotient(a: tuple[Monomial, int], b: tuple[Monomial, int]) -> tuple[Monomial, int] | None:
    left = list(a[0])
    for atom in b[0]:
        if atom not in left:
            return None
        left.remove(atom)
    return None if a[1] % b[1] else (tuple(left), a[1] // b[1])
