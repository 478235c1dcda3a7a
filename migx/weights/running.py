"""Who is reading an epoch of weights, so that one may wait until nobody is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Running:
    """Counts the runs that read an epoch, so that one may wait until there are none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: list[None] = []  # as long as there are runs: to append and pop needs no lock
        self._stops = 0  # how many want it stopped

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
        """Lets nothing new start, and waits until nothing runs."""
        with self._changed:
            self._stops += 1  # who comes in from now on sees it, who came before is waited for
            try:
                self._changed.wait_for(lambda: not self._runs)
                yield
            finally:
                self._stops -= 1
                self._changed.notify_all()
