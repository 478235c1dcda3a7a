"""Runs of these tests have memory that lies between bytes which nobody may write to."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from migx.targets.cpu.plans import memory, plan

BESIDE, MARK = 4096, 0xA5
MOST, MANY = 1 << 28, 256
"""Bytes and arrays that are kept: what came before is looked at and let go."""


class Guards:
    """Gives memory with marked bytes on both sides."""

    def __init__(self) -> None:
        self.made: deque[tuple[NDArray[np.uint8], int]] = deque()
        self.kept = 0

    def empty(self, dims: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], int]:
        """What ``memory.empty`` gives."""
        size = math.prod(dims) * dtype.itemsize
        if not 0 < size < MOST or dtype.hasobject:
            return EMPTY(dims, dtype)
        whole, at = EMPTY((size + 2 * BESIDE,), np.dtype(np.uint8))
        whole[:BESIDE] = whole[BESIDE + size :] = MARK
        self.made.append((whole, size))
        self.kept += size
        while self.kept > MOST or len(self.made) > MANY:
            self.kept -= self.made[0][1]
            self.expect_untouched(*self.made.popleft())
        return np.ndarray(dims, dtype, whole, BESIDE), at + BESIDE

    def expect_untouched(self, whole: NDArray[np.uint8], size: int) -> None:
        """Fails where something has been written beside."""
        before, after = whole[:BESIDE], whole[BESIDE + size :]
        assert (before == MARK).all(), "a run has written before its memory"
        assert (after == MARK).all(), "a run has written behind its memory"


EMPTY = memory.empty


@pytest.fixture(autouse=True)
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has nothing written beside the memory of runs, nor that of large results, which is new."""
    found = Guards()
    monkeypatch.setattr(plan, "LARGE", math.inf)
    monkeypatch.setattr(memory, "empty", found.empty)
    monkeypatch.setattr(plan, "empty", found.empty)
    yield
    for each in found.made:
        found.expect_untouched(*each)
