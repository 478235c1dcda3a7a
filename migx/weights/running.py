"""Counts the runs that read an epoch of weights, so that an update can wait for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Running:
    """Counts the runs that read an epoch, so that one can wait until there are none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: list[None] = []  # its length is the count: append and pop need no lock
        self._stops = 0  # how many callers want it stopped

    def __enter__(self) -> None:
        self._runs.append(None)
        while self._stops:
            self.__exit__()
            with self._changed:
                self._changed.wait_for(lambda: not self._stops)
            self._runs.append(None)

    def __exit__(self, *_: object) -> None:
        self._runs.pop()
        if self._stops:
            with self._changed:
                self._changed.notify_all()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """In the block, no run starts; waits until those in progress have ended."""
        with self._changed:
            self._stops += 1  # later runs see it, earlier ones are waited for
            try:
                self._changed.wait_for(lambda: not self._runs)
                yield
            finally:
                self._stops -= 1
                self._changed.notify_all()
