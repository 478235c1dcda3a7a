"""What is known of symbols, where an extent over them is not negative."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from migx import dim
from migx.dim import Call, Dim, Extent
from migx.dims.symbol import Symbol

Replaced: TypeAlias = list[tuple[str, Extent]]
"""Symbols by name with their extents, to be substituted one after another."""


def replaced(extent: Extent, by: Iterable[tuple[str, Extent]]) -> Extent:
    """An extent with its symbols substituted."""
    for name, known in by:
        extent = dim.substitute(extent, {name: known})
    return extent


def told_by(least: Extent, counter: str) -> Replaced:
    """The substitutions that follow where an extent is not negative: the ``counter`` gets an upper
    bound, or another symbol becomes its lower bound plus a non-negative symbol.
    """
    if not isinstance(least, Dim):
        return []
    if (most := _highest(least, counter)) is not None:
        return [(counter, Dim(counter, 0, most))]
    for monomial, coefficient in least.terms:
        if len(monomial) != 1 or coefficient != 1:
            continue
        (atom,) = monomial
        alone = dim.of_atom(atom)
        if isinstance(atom, Call):
            if found := [pair for each in _within(least, atom) for pair in told_by(each, counter)]:
                return found
        elif atom.name != counter and atom not in {*dim.symbols(least - alone)}:
            return [(atom.name, alone - least + Dim(f"{counter}.{atom.name}"))]
    return []


def _highest(least: Dim, counter: str) -> int | None:
    """The upper bound of a counter, where an extent over it alone is not negative."""
    numbered = [(m, c) for m, c in least.terms if m]
    match numbered:
        case [((Symbol(name=name) as symbol,), coefficient)] if name == counter and coefficient < 0:
            rest = least - dim.of_atom(symbol) * coefficient
            assert isinstance(rest, int)
            return int(min(max(rest // -coefficient, 0), symbol.bounds[1]))
    return None


def _within(least: Dim, call: Call) -> Iterator[Extent]:
    """Extents over a call's arguments that are not negative because ``least``, of which the call is
    a term, is not.
    """
    rest = least - dim.of_atom(call)
    match call.function, call.args:
        case "floordiv", (above, int(below)) if below > 0:
            yield above + rest * below
        case "min", args:
            yield from (rest + each for each in args)
        case "max", args:
            left = [each for each in args if dim.bounds(rest + each)[1] >= 0]
            yield from (rest + each for each in left if len(left) == 1)
