"""Who is reading an epoch of weights, so that one may wait until nobody is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Running:
    """Counts the runs that read an epoch, so that one may wait until there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._count, self._closed = 0, False

    def __enter__(self) -> None:
        with self._lock:
            while self._closed:
                self._changed.wait()
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if self._closed:
                self._changed.notify_all()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Lets nothing new start, and waits until nothing runs."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._count)
            try:
                yield
            finally:
                self._closed = False
                self._changed.notify_all()
