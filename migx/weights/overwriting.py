"""Updates in place: where new values go, so that never two of all are held."""

from __future__ import annotations

import numpy as np

from migx.argument import Argument
from migx.base.memory import THREADS, copy
from migx.weights.fitting import own

AT_ONCE = THREADS << 24
"""Bytes of slots that are computed before those they replace are let go: some for each thread."""


class Overwriting:
    """Where the values of one update go, of which several may be one."""

    def __init__(self) -> None:
        # What was and what is given are held along: an id is good for as long as its object lives.
        self._kept: dict[tuple[int, int], tuple[Argument, Argument | None, Argument]] = {}

    def kept(self, was: Argument | None, value: Argument) -> Argument:
        """A value that others may write to, in the memory of the one it replaces where that is ours
        to write to, else in a copy. One that is elsewhere takes the place of the old one, whose
        memory is given back.
        """
        if value.elsewhere or value is was:
            return value
        key = id(was), id(value)
        if key not in self._kept:
            if was is not None and was.array.flags.writeable:
                copy([(was.array, value.array)])
                self._kept[key] = was, was, value
            else:
                self._kept[key] = own(value), was, value
        return self._kept[key][0]


def is_made(value: Argument, of: list[Argument]) -> bool:
    """Whether a value has memory of its own, and none of those it is computed from."""
    return value.elsewhere or not any(np.may_share_memory(value.array, v.array) for v in of)
