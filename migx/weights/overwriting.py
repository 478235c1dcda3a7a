"""Updates in place: where new values are written, so that two copies of all never coexist."""

from __future__ import annotations

import numpy as np

from migx.argument import Argument
from migx.base.memory import THREADS, copy
from migx.weights.fitting import own

AT_ONCE = THREADS << 24
"""The bytes of slots computed before those they replace are freed, in proportion to the threads."""


class Overwriting:
    """The destinations of one update's values, some of which may be the same object."""

    def __init__(self) -> None:
        # Old and new values are kept alive here, because ids are valid only for live objects.
        self._kept: dict[tuple[int, int], tuple[Argument, Argument | None, Argument]] = {}

    def kept(self, was: Argument | None, value: Argument) -> Argument:
        """A value in memory of our own: that of the value it replaces if we may write to it,
        otherwise a copy. A value in a target's memory simply replaces the old one, which is freed.
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
    """Whether a value has memory of its own, shared with none of those it is computed from."""
    return value.elsewhere or not any(np.may_share_memory(value.array, v.array) for v in of)
