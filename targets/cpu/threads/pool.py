"""Runs the steps of a plan, sharing out the tiles of each among threads.

The threads are Python's, parked in compiled code: they spin for a while, then sleep. A kernel of
several tiles is a job: idle threads claim the next tiles from a counter, so a thread whose core is
busy elsewhere takes fewer, and one that is late finds the gate closed. The thread that runs the
plan works with them and returns when all tiles are done. The process has one set of threads, of
which a run uses at most two per core: a job wakes all of them. A run that finds the set taken by
another works alone, so runs never wait for each other. How the threads share cores with other work
is in ``cores``.

After a fork the child has none of the threads, and starts its own when it needs them. At exit they
are stopped before LLVM's memory is freed.

A thread that holds the lock may be preempted, so a waker never waits for the lock: a sleeper that
is missed sleeps until the next job, which is harmless.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

import numpy as np

from migx.errors import TargetError
from migx.target import MOST_THREADS
from migx.targets.cpu.machine import cores, logical_cpus
from migx.targets.cpu.threads.runtime import STATE_BYTES, runtime

SPINS = 20_000
"""How often an idle thread polls before it sleeps: half a millisecond, more than most steps that a
thread does alone. One that sleeps between two jobs may be woken on a core that others want, and the
short sleeps are no occasion for the system to move these.
"""
EACH = 2
"""The most threads per core that a run uses."""
RECOUNT = 1.0
"""Seconds after which the available cores are counted again."""


def wanted_threads(asked: int | None) -> int:
    """The number of threads for a program: as asked, or by ``MIGX_NUM_THREADS``, or one for each
    physical core the process may use.
    """
    if asked is not None:
        return asked
    given = os.environ.get("MIGX_NUM_THREADS", "")
    if not given:
        return cores()
    if not given.isdecimal() or not 1 <= int(given) <= MOST_THREADS:
        raise TargetError(
            f"MIGX_NUM_THREADS is {given!r}; it must be a whole number from 1 to {MOST_THREADS}"
        )
    return int(given)


class Pool:
    """The threads of this process that wait for tiles."""

    def __init__(self) -> None:
        self._memory = np.zeros(STATE_BYTES + 64, np.uint8)
        self.address = -(-self._memory.ctypes.data // 64) * 64
        self._threads: list[threading.Thread] = []
        self._serving: dict[int, threading.Thread] = {}
        self._lock = threading.Lock()
        self._cores, self._counted = 1, -RECOUNT
        runtime().start(self.address)

    def useful(self, threads: int) -> int:
        """The threads a program may use, limited to ``EACH`` for each core available now."""
        if threads <= EACH:
            return threads
        now = time.monotonic()
        if now - self._counted >= RECOUNT:
            self._cores, self._counted = logical_cpus(os.getpid()), now
        return min(threads, EACH * self._cores)

    def provide(self, threads: int) -> int:
        """Ensures that the threads a program may use exist, besides the one that runs the plan;
        gives their number.
        """
        useful = self.useful(threads)
        if len(self._threads) < useful - 1:
            self.grow(useful)
        return useful

    def grow(self, threads: int) -> None:
        """Ensures that there are so many threads, including the one that runs the plan."""
        with self._lock:
            while len(self._threads) < threads - 1:
                number = len(self._threads) + 1
                made = threading.Thread(
                    target=self._serve, args=(number,), name=f"migx-{number}", daemon=True
                )
                try:
                    made.start()
                except RuntimeError:  # the system allows no more: those that exist share the work
                    return
                self._threads.append(made)

    def _serve(self, number: int) -> None:
        """The body of a thread, unless another has its number: a thread whose start was interrupted
        serves although it was never recorded.
        """
        me = threading.current_thread()
        if self._serving.setdefault(number, me) is me:
            runtime().serve(self.address, number, SPINS if number < logical_cpus() else 0)

    def stop(self) -> None:
        """Stops and joins all threads."""
        runtime().stop(self.address)
        for thread in {*self._threads, *self._serving.values()}:
            thread.join()
        self._threads.clear()
        self._serving.clear()


_pool: Pool | None = None
_making = threading.Lock()


def pool() -> Pool:
    """The pool of this process."""
    global _pool  # noqa: PLW0603  one for the process, made when first needed
    if _pool is None:
        with _making:
            if _pool is None:
                _pool = Pool()
                atexit.register(_pool.stop)
    return _pool


def _after_fork() -> None:
    global _pool, _making
    if _pool is not None:
        atexit.unregister(_pool.stop)
    _pool, _making = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
