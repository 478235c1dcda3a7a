"""When Python's garbage collector runs: not while many objects are made, and where few hold many
bytes.

Instructions refer to each other in both directions, so the collector has to walk them. While a
large program is read, copied or rewritten, none of its garbage is urgent, and repeated walks make
the cost of one instruction grow with the size of the program. On the other hand, unreachable
programs are freed only by the collector, which counts objects and not the bytes of weights.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ENOUGH = 1 << 27
"""The bytes of weights in memory after which unreachable programs are collected."""
_held = 0


def hold(nbytes: int) -> None:
    """Records that a program holds this many bytes more. The collector runs when programs made
    since its last run hold ``ENOUGH``; not if it is disabled.
    """
    global _held  # noqa: PLW0603  one for the process
    _held += nbytes
    if _held >= ENOUGH and gc.isenabled():
        _held = 0
        gc.collect()


@contextmanager
def paused() -> Iterator[None]:
    """Disables the collector in the block; if it is disabled already, it stays so afterwards."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
