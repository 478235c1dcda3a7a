"""Memory for large values that come and go: in huge pages, and reused.

Touching fresh memory for the first time takes longer than copying into it, and unmapping stops
every other thread of Python. So memory that nobody reads any more is kept for the next values.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

HUGE = 1 << 21
"""Bytes of a huge page; smaller values are allocated by Python."""
BLOCK = 1 << 26
"""Arrays share blocks of up to this many bytes; a block is reused when none of them is read."""
ALIGNMENT = 64
"""The alignment of values in a block, an arena or a file, in bytes."""
ROOMY = 100
"""Consecutive runs that leave most of some memory unused before it is given up."""
PARALLEL = 1 << 24
"""The bytes from which on a copy is worth several threads."""

THREADS = max(1, (os.cpu_count() or 1) // 2)
"""How many threads work on an update; runs meanwhile have the other processors."""

Arrays = Sequence[NDArray[Any]]


class Memory:
    """The memory of values that replace each other: the weights of an update, or the results of a
    run. Besides what is in use, it keeps what the next could reuse, at most as much as the largest
    has taken; if ``lazy``, the system may reclaim it meanwhile, and telling it takes time.
    Thread-safe, except ``copies``.
    """

    def __init__(self, lazy: bool = True) -> None:
        self._lazy, self._roomy = lazy, 0
        self._spare: list[mmap.mmap] = []
        self._taken = self._most = 0

    def copies(self, arrays: Arrays) -> list[NDArray[Any]]:
        """Row-major copies that nobody else can write to; ``MemoryError`` if they do not fit."""
        self._taken = 0
        made = [array for group in _groups(arrays) for array in self._like(group)]
        self._most = max(self._most, self._taken)
        copy(zip(made, arrays, strict=True))
        return made

    def _like(self, arrays: Arrays) -> Iterator[NDArray[Any]]:
        """Uninitialised arrays with the types and dims of others, allocated together."""
        total = sum(aligned(array.nbytes) for array in arrays)
        if total < HUGE or os.name == "nt" or any(array.dtype.hasobject for array in arrays):
            yield from (np.empty(array.shape, array.dtype) for array in arrays)
            return
        whole, start = self.block(total), 0
        for array in arrays:
            part = whole[start : start + array.nbytes]
            yield part.view(array.dtype).reshape(array.shape)
            start += aligned(array.nbytes)

    def need(self, nbytes: int) -> None:
        """Begins a run that takes so many bytes, as ``mapped``, and lets them be kept. What many
        runs in a row have left unused is dropped.
        """
        if nbytes > self._most:
            self._most = nbytes
        if self._spare:
            self._roomy = self._roomy + 1 if self._most > 2 * nbytes + HUGE else 0
            if self._roomy > ROOMY:
                self._most, self._roomy = nbytes, 0
                self._drop(nbytes)

    def block(self, nbytes: int) -> NDArray[np.uint8]:
        """Uninitialised memory that is reused when its last view is gone; that of a huge page or
        more begins at one. ``MemoryError`` if there is none.
        """
        size, huge = mapped(nbytes), nbytes >= HUGE
        self._taken += size
        found = self._again(size)
        if found is None:
            self._drop(max(0, self._most - size))
            found = _fresh(size)
            if huge:
                _advise(_address(found), size, "MADV_HUGEPAGE")
        start = -_address(found) % HUGE if huge else 0
        whole = np.frombuffer(found, np.uint8, nbytes, start)
        weakref.finalize(whole, self._returned, found).atexit = False
        return whole

    def _again(self, size: int) -> mmap.mmap | None:
        """A spare block of a size; None if there is none."""
        for block in tuple(self._spare):
            if len(block) == size:
                with suppress(ValueError):  # another thread has dropped it
                    self._spare.remove(block)
                    return block
        return None

    def _returned(self, block: mmap.mmap) -> None:
        if self._lazy:
            _advise(_address(block), len(block), "MADV_FREE")
        self._spare.append(block)
        self._drop(self._most)

    def _drop(self, most: int) -> None:
        """Returns the least recently used spare blocks to the system, except for ``most`` bytes."""
        while sum(map(len, tuple(self._spare))) > most:
            with suppress(IndexError):  # another thread has dropped it
                block = self._spare.pop(0)
                _advise(_address(block), len(block), "MADV_DONTNEED")


@cache
def installed() -> int:
    """The bytes of memory the machine has; infinite if it does not say."""
    known = hasattr(os, "sysconf")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else sys.maxsize


def copy(pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Copies arrays into others, large ones on several threads."""
    pairs = list(pairs)
    if THREADS < 2 or sum(to.nbytes for to, _ in pairs) < PARALLEL:
        for to, array in pairs:
            np.copyto(to, array)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda piece: np.copyto(*piece), _pieces(pairs)))


def _pieces(pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> Iterator[tuple[Any, Any]]:
    """Pairs of arrays, split along their first axes into pieces of some megabytes."""
    for to, array in pairs:
        rows = max(1, len(to) * PARALLEL // max(1, to.nbytes)) if to.ndim else 0
        if not rows or rows >= len(to):
            yield to, array
        else:
            cuts = range(0, len(to), rows)
            yield from ((to[i : i + rows], array[i : i + rows]) for i in cuts)


def _groups(arrays: Arrays) -> Iterator[Arrays]:
    """Arrays in order, grouped by what fits into a block."""
    group: list[NDArray[Any]] = []
    size = 0
    for array in arrays:
        if group and size + array.nbytes > BLOCK:
            yield group
            group, size = [], 0
        group.append(array)
        size += aligned(array.nbytes)
    if group:
        yield group


def aligned(nbytes: int) -> int:
    """A number of bytes, rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def mapped(nbytes: int) -> int:
    """The bytes that are mapped for a block: whole pages, and if huge, one more to begin at one."""
    page = HUGE if nbytes >= HUGE else mmap.PAGESIZE
    return -(-nbytes // page) * page + (HUGE if nbytes >= HUGE else 0)


def _fresh(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"there is no memory for {size:,} bytes") from error


def _advise(address: int, nbytes: int, advice: str) -> None:
    """Advises the system on the use of memory, if it supports that; unlike the method of ``mmap``,
    without stopping other threads.
    """
    if (number := getattr(mmap, advice, None)) is not None:
        _madvise()(address, nbytes, number)


def _address(block: mmap.mmap) -> int:
    address: int = np.frombuffer(block, np.uint8).__array_interface__["data"][0]
    return address


@cache
def _madvise() -> Any:
    """The system's ``madvise``."""
    call = ctypes.CDLL(None).madvise
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return call
