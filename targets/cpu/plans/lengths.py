"""Lengths that inputs determine: trip counts of loops that are computed from values of parameters.

Like the dims of inputs they are known before anything runs, so the steps before and after such a
loop are planned together with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from migx import dim
from migx.argument import Argument
from migx.binding import Sizes
from migx.dim import Dim, Extent
from migx.ir import Instruction, Module
from migx.iterations import Iterations, is_undefined
from migx.ops.builtin import Param
from migx.ops.control import Loop
from migx.passes.simplify_counting.counters import Counters, is_told
from migx.sizes import symbols_of


class Lengths:
    """The lengths of what a module's loops stack, by their symbols, as extents over the module's
    sizes and over numbers in its parameters.
    """

    def __init__(self, main: Module) -> None:
        self._places = {at: i for i, at in enumerate(main.parameters.values())}
        self._numbers: dict[str, tuple[int, int, int]] = {}
        self._extents: dict[str, Extent] = {}
        sized: set[str] = set()
        for at in main:
            late = symbols_of(at) - sized
            sized |= late
            if type(at.op) is not Param and isinstance(at.op, Loop) and len(late) == 1:
                (name,) = late
                if (trips := self._trips(at, name)) is not None:
                    self._extents[name] = trips

    @property
    def names(self) -> set[str]:
        """The symbols."""
        return {*self._extents}

    def told(self, given: Sequence[Argument], sizes: Sizes) -> Sizes:
        """The sizes, with those determined by the values of parameters."""
        if not self._extents:
            return sizes
        found = dict(sizes)
        for name, (place, number, sign) in self._numbers.items():
            found[name] = max(sign * int(given[place].array.flat[number]), 0)
        lengths = {name: dim.evaluate(each, found) for name, each in self._extents.items()}
        return {**sizes, **lengths}

    def _trips(self, loop: Instruction, length: str) -> Extent | None:
        """The trip count of a loop that makes rows, as many as ``length``."""
        of, counters = Iterations.of(loop), Counters()
        if of.length != Dim(length) or not of.begins or not of.is_counted:
            return None
        found = None if of.trips is None or is_undefined(of.trips) else counters.one(of.trips)
        numbers = {} if found is None else self._given(found, counters)
        if found is None or numbers is None:
            return None
        self._numbers |= numbers
        return dim.maximum(found, 0)

    def _given(self, extent: Extent, counters: Counters) -> dict[str, tuple[int, int, int]] | None:
        """The symbols in an extent that are numbers in a parameter: the index of the parameter,
        that of the number in it, and its sign; None if there are other symbols.
        """
        found = {}
        for symbol in dim.symbols(extent):
            if is_told(dim.of_atom(symbol)):
                continue
            at, number, sign = counters.source(symbol)
            if at not in self._places:
                return None
            found[symbol.name] = self._places[at], number, sign
        return found
