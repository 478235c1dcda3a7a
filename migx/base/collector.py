"""When Python's garbage collector is to run: not while a great many objects are made, and where
few objects hold a great many bytes.

Instructions refer to each other in both directions, so they are what the collector walks. While a
large program is read, copied or rewritten, nothing of it is garbage that could not wait, and
walking it again and again makes the time of one instruction grow with their number. And a program
that nobody has any more goes only when the collector runs, which counts objects and not the bytes
of weights.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ENOUGH = 1 << 27
"""Bytes of weights in memory after which programs that nobody has any more are looked for."""
_held = 0


def hold(nbytes: int) -> None:
    """Takes note that a program holds so many bytes more. The collector runs where programs made
    since it did have ``ENOUGH`` of them; not where somebody keeps it from running.
    """
    global _held  # noqa: PLW0603  one for the process
    _held += nbytes
    if _held >= ENOUGH and gc.isenabled():
        _held = 0
        gc.collect()


@contextmanager
def paused() -> Iterator[None]:
    """Keeps the collector from running in the block; it may be paused already, and then stays so
    after it.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
