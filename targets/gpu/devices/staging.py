"""Copies between the host and a device through pinned memory.

The runtime copies pageable memory by one thread through a small buffer of its own, much slower than
the link, and perhaps only after all enqueued work; it reads a caller's pinned memory when the
copy's turn comes, when the caller may have changed it. So uploads are copied to pinned memory
first. Large copies go in blocks: several threads copy them there, or from there, while others are
in flight. Pinned memory is reused once the event after its last copy has completed.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

LARGE = 1 << 22
"""Bytes from which a copy is worth several threads."""
SMALL = 1 << 16
"""The size of pinned memory for copies of up to so many bytes, so that any buffer serves the
next.
"""
BLOCK = 1 << 22
"""Bytes of pinned memory that are filled and sent at once."""
BLOCKS = 16
THREADS = max(1, min(8, (os.cpu_count() or 1) - 1))
"""The threads that copy: two saturate a link of 2020, some six one of 2024."""
TO_DEVICE, TO_HOST = 1, 2
"""What both vendors' runtimes call the directions of a copy."""


@dataclass
class Block:
    """Pinned memory, and the event after the last copy that read or wrote it."""

    memory: Any
    event: Any
    used: bool = False

    @property
    def address(self) -> int:
        return int(self.memory.ptr)

    def copy(self, cuda: Any, to: int, source: int, nbytes: int, kind: int, stream: Any) -> None:
        """Enqueues a copy to or from this block."""
        cuda.runtime.memcpyAsync(to, source, nbytes, kind, int(stream.ptr))
        self.event.record(stream)
        self.used = True

    def wait(self) -> None:
        """Waits for the last copy."""
        if self.used:
            self.event.synchronize()


class Staging:
    """Blocks of pinned memory, and the threads that fill and empty them; one large copy at a time
    uses them. ``around`` makes the device current for a thread, and reports failures.
    """

    def __init__(self, cuda: Any, around: Callable[..., AbstractContextManager[None]]) -> None:
        self._cuda, self._around = cuda, around
        self._one_copy = threading.Lock()
        self._free: SimpleQueue[Block] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._small: deque[Block] = deque()
        self._medium: deque[Block] = deque()

    def upload(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        """Enqueues a copy to the device; the source may be changed on return."""
        if nbytes >= LARGE:
            self._each(partial(self._sent, to, source, stream), nbytes)
        elif nbytes:
            with self._around("a copy of {:,} bytes failed", nbytes):
                block = self._done(nbytes) or self._made(max(nbytes, SMALL))
                ctypes.memmove(block.address, source, nbytes)
                block.copy(self._cuda, to, block.address, nbytes, TO_DEVICE, stream)
            self._sent_last(nbytes).append(block)

    def _sent_last(self, nbytes: int) -> deque[Block]:
        """The pinned memory of uploads of about so many bytes, oldest first."""
        return self._small if nbytes <= SMALL else self._medium

    def _done(self, nbytes: int) -> Block | None:
        """Pinned memory whose copy is done, if all of its class have one size; otherwise it is
        returned to CuPy's pool.
        """
        sent = self._sent_last(nbytes)
        with suppress(IndexError):  # other threads may take the last
            while (first := sent.popleft()).event.done:
                if nbytes <= SMALL:
                    return first
            sent.appendleft(first)
        return None

    def download(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        """Copies to the host, after all enqueued work, and waits for it."""
        self._each(partial(self._fetched, to, source, stream), nbytes)

    def _each(self, work: Callable[[range], None], nbytes: int) -> None:
        with self._one_copy:
            if self._threads is None:
                with self._around(f"there are no {BLOCK * BLOCKS:,} bytes of pinned memory"):
                    made = [self._made(BLOCK) for _ in range(BLOCKS)]
                for block in made:
                    self._free.put(block)
                self._threads = ThreadPoolExecutor(THREADS, "migx-copy")
            list(self._threads.map(work, _parts(nbytes)))

    def _made(self, nbytes: int) -> Block:
        event = self._cuda.Event(block=True, disable_timing=True)
        return Block(self._cuda.alloc_pinned_memory(nbytes), event)

    def _sent(self, to: int, source: int, stream: Any, part: range) -> None:
        block, begin, count = self._free.get(), part.start, len(part)
        try:
            with self._around(f"a copy of {count:,} bytes failed"):
                block.wait()
                ctypes.memmove(block.address, source + begin, count)
                block.copy(self._cuda, to + begin, block.address, count, TO_DEVICE, stream)
        finally:
            self._free.put(block)

    def _fetched(self, to: int, source: int, stream: Any, part: range) -> None:
        block, begin, count = self._free.get(), part.start, len(part)
        try:
            with self._around(f"a copy of {count:,} bytes failed"):
                block.wait()
                block.copy(self._cuda, block.address, source + begin, count, TO_HOST, stream)
                block.wait()
                ctypes.memmove(to + begin, block.address, count)
        finally:
            self._free.put(block)


def _parts(nbytes: int) -> Iterator[range]:
    """The range of bytes of each block."""
    return (range(i, min(i + BLOCK, nbytes)) for i in range(0, nbytes, BLOCK))
