"""Pausing Python's garbage collector while a great many objects are made.

Instructions refer to each other in both directions, so they are what the collector walks. While a
large program is read, copied or rewritten, nothing of it is garbage that could not wait, and
walking it again and again makes the time of one instruction grow with their number.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
