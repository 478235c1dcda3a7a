"""The symbols of a program, with bounds of several kinds, and the sizes that it is run at."""

from __future__ import annotations

from migx.dim import Dim, Extent, bounds
from migx.testing.draws.basics import Dice

Sizes = dict[str, int]

NAMES = ("n", "m", "k")

BOUNDS = ((0, None), (0, None), (0, None), (0, 4), (1, None), (1, 8), (2, 5))
"""What symbols are declared with: nothing, most often, which is from 0 up."""

SMALL = (0, 1, 1, 2, 2, 3, 3, 3, 4, 5)
"""The sizes that a program is drawn with: mostly those at which arithmetic says something."""

EDGES = (0, 0, 0, 1, 1, 2, 4, 5)
"""Those that it is run at once more: mostly those at which something is empty, or alone."""


def draw_symbols(dice: Dice) -> tuple[Dim, ...]:
    """One symbol, or two or three."""
    return tuple(Dim(name, *dice.one_of(BOUNDS)) for name in NAMES[: dice.one_of((1, 1, 2, 3))])


def draw_sizes(dice: Dice, symbols: tuple[Dim, ...], of: tuple[int, ...] = SMALL) -> Sizes:
    """A size within its bounds for each symbol."""
    found = dict[str, int]()
    for symbol in symbols:
        low, high = bounds(symbol)
        found[str(symbol)] = dice.one_of([n for n in of if low <= n <= high])
    return found


def extents_of(dice: Dice, symbols: tuple[Dim, ...]) -> tuple[Extent, ...]:
    """What dims are made of symbols: these, mostly; multiples and sums."""
    if not symbols or dice.chance(0.6):
        return symbols
    first, last = symbols[0], symbols[-1]
    return (*symbols, dice.one_of((2 * first, first + 1, first + last)))
