"""Symbolic dims: named sizes with bounds, and exact arithmetic over them in a canonical form.

An *extent* is an ``int`` or a ``Dim``. A ``Dim`` is a polynomial with integer coefficients over
atoms; an atom is a ``Symbol`` or a ``Call`` (floor division, ``min``, ``max``, ``broadcast``).
Every operation returns an ``int`` as soon as the result is one, so code that knows nothing of
symbols works on both. Equal polynomials are equal objects by ``==``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TypeAlias, Union

from migx.dims.intervals import Bounds, divided, multiplied, one_of, plus_quotient, whole_number
from migx.dims.symbol import Symbol
from migx.errors import DimError

Extent: TypeAlias = Union[int, "Dim"]
MOST_CALLS, MOST_WITHIN = 4, 12
"""The most calls among a sum's terms, and the most with those in their arguments counted, for which
the terms are bounded together; the time is exponential in both.
"""


@dataclass(frozen=True)
class Call:
    """A non-polynomial function of extents: ``floordiv``, ``min``, ``max`` or ``broadcast``."""

    function: str
    args: tuple[Extent, ...]

    @cached_property
    def within(self) -> int:
        """The number of calls in it: itself and those in its arguments."""
        return 1 + sum(map(_calls_in, self.args))

    @property
    def bounds(self) -> Bounds:
        spans = [bounds(a) for a in self.args]
        return divided(*spans) if self.function == "floordiv" else one_of(self.function, spans)

    def evaluate(self, values: list[int]) -> int:
        match self.function:
            case "min":
                return min(values)
            case "max":
                return max(values)
            case "broadcast":
                return _broadcast_of(values)
            case _:
                if values[1] == 0:
                    raise DimError(f"{self} divides by zero")
                return values[0] // values[1]

    @cached_property
    def _text(self) -> str:
        if self.function != "floordiv":
            return f"{self.function}({', '.join(map(str, self.args))})"
        left, right = self.args
        bare = left.atomic if isinstance(left, Dim) else left >= 0
        # Quotients associate to the left, so one on the right needs parentheses.
        alone = right.symbol is not None if isinstance(right, Dim) else right >= 0
        return f"{left if bare else f'({left})'}//{right if alone else f'({right})'}"

    def __str__(self) -> str:
        return self._text


Atom: TypeAlias = Symbol | Call
Monomial: TypeAlias = tuple[Atom, ...]


class Dim:
    """A size known only as an expression over symbols. ``Dim("batch")`` is the symbol of that name.

    Comparisons (``<``, ``<=``, ...) answer if the bounds decide, and raise ``DimError`` otherwise,
    as does ``bool``, which asks if it is not 0. ``==`` is equality of canonical forms and always
    answers.
    """

    __slots__ = ("_bounds", "_hash", "_symbols", "_text", "terms")
    terms: tuple[tuple[Monomial, int], ...]

    def __init__(
        self, name: str, low: int = 0, high: int | None = None, optimals: Iterable[int] = ()
    ) -> None:
        if low < 0 or (high is not None and high < low):
            raise DimError(f"dim {name!r} needs 0 <= low <= high, got {low}..{high}")
        symbol = Symbol(name, low, high, tuple(sorted(optimals)))
        if outside := [n for n in symbol.optimals if not low <= n <= symbol.bounds[1]]:
            span = f"{low}..{'' if high is None else high}"
            raise DimError(f"dim {name!r}: the optimal size {outside[0]} is outside {span}")
        self._set((((symbol,), 1),))

    def _set(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._bounds: Bounds | None = None
        self._hash: int | None = None
        self._symbols: tuple[Symbol, ...] | None = None
        self._text: str | None = None

    @classmethod
    def of(cls, terms: Mapping[Monomial, int]) -> Extent:
        """The extent for a sum of terms: an int if nothing but a constant is left."""
        kept = {m: c for m, c in terms.items() if c}
        if not kept:
            return 0
        if len(kept) == 1 and () in kept:
            return kept[()]
        made = cls.__new__(cls)
        found = kept.items()
        made._set(tuple(sorted(found, key=lambda t: order(t[0])) if len(kept) > 1 else found))
        return made

    @property
    def symbol(self) -> Symbol | None:
        """The symbol, if this dim is nothing else."""
        monomial, coefficient = self.terms[0]
        alone = len(self.terms) == len(monomial) == coefficient == 1
        return monomial[0] if alone and isinstance(monomial[0], Symbol) else None

    @property
    def atomic(self) -> bool:
        """Whether the text needs no parentheses inside a product."""
        return len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1

    def __add__(self, other: Extent) -> Extent:
        total = dict(self.terms)
        for monomial, coefficient in terms(other):
            total[monomial] = total.get(monomial, 0) + coefficient
        return Dim.of(total)

    def __mul__(self, other: Extent) -> Extent:
        if not isinstance(other, Dim):
            if not (factor := _whole(other)):
                return 0
            made = Dim.__new__(Dim)
            made._set(tuple((m, c * factor) for m, c in self.terms))  # the order is unchanged
            return made
        total: dict[Monomial, int] = {}
        for m, c in self.terms:
            for n, d in terms(other):
                product = tuple(sorted(m + n, key=str))
                total[product] = total.get(product, 0) + c * d
        return Dim.of(total)

    def __neg__(self) -> Extent:
        return self * -1

    def __sub__(self, other: Extent) -> Extent:
        return self + -other

    def __rsub__(self, other: int) -> Extent:
        return -self + other

    def __floordiv__(self, other: Extent) -> Extent:
        from migx.dims.quotients import floordiv

        return floordiv(self, other if isinstance(other, Dim) else _whole(other))

    def __rfloordiv__(self, other: int) -> Extent:
        from migx.dims.quotients import floordiv

        return floordiv(_whole(other), self)

    def __mod__(self, other: Extent) -> Extent:
        return self - self // other * other

    def __rmod__(self, other: int) -> Extent:
        return other - other // self * self

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Dim) and self.terms == other.terms)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.terms)
        return self._hash

    def __lt__(self, other: Extent) -> bool:
        low, high = bounds(self - other)
        if high < 0 or low >= 0:
            return high < 0
        raise DimError(_undecided(f"{self} < {other}"))

    def __le__(self, other: Extent) -> bool:
        return not self > other

    def __gt__(self, other: Extent) -> bool:
        low, high = bounds(self - other)
        if low > 0 or high <= 0:
            return low > 0
        raise DimError(_undecided(f"{self} > {other}"))

    def __ge__(self, other: Extent) -> bool:
        return not self < other

    def __bool__(self) -> bool:
        if may_equal(self, 0):
            raise DimError(_undecided(f"{self} is 0"))
        return True

    def __int__(self) -> int:
        raise DimError(f"{self} has no value yet: bind its symbols first")

    __index__ = __int__

    def __str__(self) -> str:
        if self._text is None:
            pieces = [_term_text(m, c) for m, c in sorted(self.terms, key=lambda t: t[1] < 0)]
            self._text = pieces[0] + "".join(
                f" - {p[1:]}" if p.startswith("-") else f" + {p}" for p in pieces[1:]
            )
        return self._text

    __repr__ = __str__


def bounds(extent: Extent) -> Bounds:
    """The least and greatest value of an extent, both inclusive; infinite where unknown."""
    if not isinstance(extent, Dim):
        return extent, extent
    if extent._bounds is None:
        extent._bounds = _found_bounds(extent)
    return extent._bounds


def _found_bounds(extent: Dim) -> Bounds:
    low: float = 0
    high: float = 0
    calls = 0
    for monomial, coefficient in extent.terms:
        span: Bounds = (coefficient, coefficient)
        for atom in monomial:
            span = multiplied(span, atom.bounds)
            calls += isinstance(atom, Call)
        low, high = low + span[0], high + span[1]
    related = len(extent.terms) - (not extent.terms[-1][0]) > 1
    if related and 0 < calls <= MOST_CALLS and _calls_in(extent) <= MOST_WITHIN:
        return _together(extent, low, high)
    return low, high


def _calls_in(extent: Extent) -> int:
    """The number of calls in an extent, those in their arguments included."""
    if not isinstance(extent, Dim):
        return 0
    atoms = (atom for monomial, _ in extent.terms for atom in monomial)
    return sum(atom.within for atom in atoms if isinstance(atom, Call))


@lru_cache(maxsize=4096)
def _together(extent: Dim, low: float, high: float) -> Bounds:
    """Tighter bounds of a sum than ``low`` and ``high``, the bounds taken term by term. With
    ``a//n`` near ``a/n``, and ``min`` and ``max`` equal to one of their arguments, symbols may
    cancel: ``n - 3*n//4`` is at least 0.
    """
    for monomial, coefficient in extent.terms:
        call = monomial[0] if len(monomial) == 1 else None
        if not isinstance(call, Call):
            continue
        rest = extent - Dim.of({monomial: coefficient})
        if call.function == "floordiv":
            dividend, divisor = call.args
            if not isinstance(divisor, int) or divisor < 0:
                continue
            whole = bounds(rest * divisor + dividend * coefficient)
            least, most = plus_quotient(whole, coefficient, divisor)
        else:
            spans = [bounds(rest + a * coefficient) for a in call.args]
            least, most = one_of(call.function, spans, negated=coefficient < 0)
        low, high = max(low, least), min(high, most)
    return low, high


def evaluate(extent: Extent, sizes: Mapping[str, int]) -> int:
    """The value of an extent for given sizes; ``DimError`` names a symbol without one."""
    if not isinstance(extent, Dim):
        return extent
    total = 0
    for monomial, coefficient in extent.terms:
        for atom in monomial:
            coefficient *= _atom_value(atom, sizes)
        total += coefficient
    return total


def substitute(extent: Extent, values: Mapping[str, Extent]) -> Extent:
    """The extent with the symbols in ``values`` replaced, the others kept."""
    if not isinstance(extent, Dim):
        return extent
    total: Extent = 0
    for monomial, coefficient in extent.terms:
        product: Extent = coefficient
        for atom in monomial:
            if isinstance(atom, Symbol):
                product = product * values.get(atom.name, of_atom(atom))
            else:
                product = product * call(atom.function, *(substitute(a, values) for a in atom.args))
        total = total + product
    return total


def symbols(extent: Extent) -> tuple[Symbol, ...]:
    """The symbols in an extent, with repetition."""
    if not isinstance(extent, Dim):
        return ()
    if extent._symbols is None:
        extent._symbols = tuple(_found_symbols(extent))
    return extent._symbols


def _found_symbols(extent: Dim) -> Iterator[Symbol]:
    for monomial, _ in extent.terms:
        for atom in monomial:
            if isinstance(atom, Symbol):
                yield atom
            else:
                for argument in atom.args:
                    yield from symbols(argument)


def may_equal(a: Extent, b: Extent) -> bool:
    """Whether some sizes make the two extents equal; False is a proof that none do."""
    if a is b:
        return True
    difference = a - b
    if not isinstance(difference, Dim):
        return difference == 0
    *_, (last, constant) = difference.terms
    if not last and constant % math.gcd(*(c for m, c in difference.terms if m)):
        return False  # the other terms share a divisor that the constant does not have
    low, high = bounds(difference)
    return low <= 0 <= high


def _undecided(what: str) -> str:
    """The message for a comparison that depends on sizes."""
    return (
        f"whether {what} is not known before the dims are bound: give symbols bounds that decide, "
        "as Dim('n', 1, 64), or ask migx.dim.bounds what they are"
    )


def at_most(a: Extent, b: Extent) -> bool:
    """Whether a <= b for all sizes."""
    return bounds(a - b)[1] <= 0


@lru_cache(maxsize=4096)
def minimum(*extents: Extent) -> Extent:
    """The least of several extents."""
    return _extreme("min", extents, at_most)


@lru_cache(maxsize=4096)
def maximum(*extents: Extent) -> Extent:
    """The greatest of several extents."""
    return _extreme("max", extents, lambda a, b: at_most(b, a))


@lru_cache(maxsize=4096)
def broadcast(*extents: Extent) -> Extent:
    """The extent that several broadcast to: the one that is not 1.

    An extent known to be at least 2 decides (the others are 1 or equal to it, checked when they are
    bound). Extents that are provably different and not 1 raise ``DimError``. As extents are not
    negative, ``max(n - 1, 0)`` beside ``n - 1`` is dropped, and so is ``min(n, 9)`` beside ``n``:
    it is ``n`` or 1.
    """
    flat = [e for e in _flattened("broadcast", extents) if e != 1]
    flat = [e for e in flat if not any(e != other and e == maximum(other, 0) for other in flat)]
    flat = [e for e in flat if not _is_capped(e, flat)]
    decided = [e for e in flat if bounds(e)[0] >= 2 or e == 0]
    for e in decided[1:]:
        if not may_equal(e, decided[0]):
            raise DimError(f"{decided[0]} and {e} do not broadcast: equal, or one of them 1")
    if decided:
        return next((e for e in decided if isinstance(e, int)), decided[0])
    return _called("broadcast", flat) if flat else 1


def _is_capped(extent: Extent, others: list[Extent]) -> bool:
    """Whether an extent is the minimum of some of the others and of values that are at least 1."""
    args = _flattened("min", [extent])
    there = [a for a in args if a != extent and a in others]
    return bool(there) and all(a in there or bounds(a)[0] >= 1 for a in args)


def product(extents: Iterable[Extent]) -> Extent:
    """The product of extents; 1 if there are none."""
    return math.prod(extents)


def offsets(extents: Iterable[Extent]) -> list[Extent]:
    """The offsets of consecutive pieces, and where the last one ends."""
    return [*accumulate(extents, initial=0)]


def call(function: str, *args: Extent) -> Extent:
    """A call by name (``floordiv``, ``min``, ``max``, ``broadcast``) with some arguments."""
    from migx.dims.quotients import floordiv

    known = {"floordiv": floordiv, "min": minimum, "max": maximum, "broadcast": broadcast}
    if function not in known:
        raise DimError(f"dims know {', '.join(known)}, not {function!r}")
    return known[function](*args)


def of_atom(atom: Atom) -> Extent:
    """The extent that consists of one atom."""
    return Dim.of({(atom,): 1})


def terms(extent: Extent) -> Iterable[tuple[Monomial, int]]:
    """The terms of an extent; a number is one constant term."""
    return extent.terms if isinstance(extent, Dim) else (((), _whole(extent)),)


def _whole(number: int) -> int:
    """The number as an ``int``; ``DimError`` if it is not an integer."""
    if (found := whole_number(number)) is None:
        raise DimError(f"dims compute with whole numbers and dims, not {number!r}")
    return found


def order(monomial: Monomial) -> tuple[int, tuple[str, ...]]:
    """The sort key of terms: products of many atoms first, the constant last."""
    return -len(monomial), tuple(map(str, monomial))


def _term_text(monomial: Monomial, coefficient: int) -> str:
    # A quotient binds as tightly as a product, so it is parenthesised unless it stands alone.
    alone = len(monomial) == 1 and coefficient == 1
    factors = [
        f"({a})" if isinstance(a, Call) and a.function == "floordiv" and not alone else str(a)
        for a in monomial
    ]
    if coefficient == -1 and factors:
        return "-" + "*".join(factors)
    return "*".join(factors if coefficient == 1 and factors else [str(coefficient), *factors])


def _atom_value(atom: Atom, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, Call):
        return atom.evaluate([evaluate(a, sizes) for a in atom.args])
    if atom.name not in sizes:
        raise DimError(f"dim {atom} has no size; sizes are given for {', '.join(sizes) or 'none'}")
    return sizes[atom.name]


def _extreme(
    function: str, extents: tuple[Extent, ...], wins: Callable[[Extent, Extent], bool]
) -> Extent:
    kept: list[Extent] = []
    for e in _flattened(function, extents):
        if not any(wins(k, e) for k in kept):
            kept = [k for k in kept if not wins(e, k)] + [e]
    return _called(function, kept)


def _called(function: str, args: list[Extent]) -> Extent:
    if len(args) == 1:
        return args[0]
    return of_atom(Call(function, tuple(sorted(args, key=lambda e: (isinstance(e, int), str(e))))))


def _flattened(function: str, extents: Iterable[Extent]) -> list[Extent]:
    """The distinct extents, nested calls of the same function flattened, numbers first."""
    found: dict[Extent, None] = {}
    for extent in extents:
        inner = extent.terms[0][0][0] if isinstance(extent, Dim) and extent.atomic else None
        if isinstance(inner, Call) and inner.function == function:
            found.update(dict.fromkeys(inner.args))
        else:
            found[extent] = None
    return sorted(found, key=lambda e: (isinstance(e, Dim), str(e)))


def _broadcast_of(values: list[int]) -> int:
    wide = {v for v in values if v != 1}
    if len(wide) > 1:
        raise DimError(f"sizes {sorted(wide)} do not broadcast: equal, or one of them 1")
    return wide.pop() if wide else 1
