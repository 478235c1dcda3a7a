"""The symbols of a program, with various bounds, the sizes it is run at, and dims around the panel
sizes of kernels.
"""

from __future__ import annotations

from migx.dim import Dim, Extent, bounds
from migx.testing.draws.basics import Dice

Sizes = dict[str, int]

NAMES = ("n", "m", "k")

BOUNDS = ((0, None), (0, None), (0, None), (0, 4), (1, None), (1, 8), (2, 5))
"""The bounds that symbols are declared with; most often none, which means at least 0."""

SMALL = (0, 1, 1, 2, 2, 3, 3, 3, 4, 5)
"""The sizes a program is drawn with: mostly those at which arithmetic is informative."""

EDGES = (0, 0, 0, 1, 1, 2, 4, 5)
"""The sizes it is run at again: mostly those at which something is empty or single."""

BORDERS = (7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)
"""Numbers of rows or columns that kernels process at a time, and their neighbours."""

WIDE = 0.4
"""The share of programs that have such dims, or are run at them if they have symbols."""

FEW = 17
"""The largest size of a symbol, since a value may have several axes of it."""


def draw_symbols(dice: Dice) -> tuple[Dim, ...]:
    """One to three symbols."""
    return tuple(Dim(name, *dice.one_of(BOUNDS)) for name in NAMES[: dice.one_of((1, 1, 2, 3))])


def draw_sizes(dice: Dice, symbols: tuple[Dim, ...], of: tuple[int, ...] = SMALL) -> Sizes:
    """A size within its bounds for each symbol."""
    found = dict[str, int]()
    for symbol in symbols:
        low, high = bounds(symbol)
        found[str(symbol)] = dice.one_of([n for n in of if low <= n <= high])
    return found


def draw_others(dice: Dice, symbols: tuple[Dim, ...]) -> Sizes:
    """The sizes that a program is run at again; if it is wide, one symbol is."""
    found = draw_sizes(dice, symbols, EDGES)
    if not symbols:
        return found
    low, high = bounds(chosen := dice.one_of(symbols))
    fits = [n for n in BORDERS if low <= n <= min(high, FEW)]
    return found | {str(chosen): dice.one_of(fits)} if dice.wide and fits else found


def extents_of(dice: Dice, symbols: tuple[Dim, ...]) -> tuple[Extent, ...]:
    """The symbolic dims of a program: mostly the symbols, also multiples and sums. Without symbols,
    one or two wide dims if the program is wide.
    """
    if not symbols:
        return tuple(dice.sample(BORDERS, dice.some(1, 2))) if dice.wide else ()
    if dice.chance(0.6):
        return symbols
    first, last = symbols[0], symbols[-1]
    return (*symbols, dice.one_of((2 * first, first + 1, first + last)))
