"""Tiles that work together: right whoever comes, however late, and ready for the next run."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from migx import Program
from migx.dim import Dim
from migx.shape import Shape
from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import I64
from migx.targets.cpu.kernel import Frame, Kernel
from migx.targets.cpu.machine import host
from migx.targets.cpu.parts.together import Team
from migx.targets.cpu.plans.memory import address

ITEMS, TURNS, TEAMS, MOST = 50, 40, 2, 4
Call = Callable[[int, int], None]


def kernel() -> Kernel:
    """Two teams, each with its own row: turn after turn, each number becomes its neighbours' sum
    modulo 1000, by way of a second row; in every fourth turn one member does it all.
    """
    main = Program().main
    at = main.add_parameter("x", Shape("i64", (2 * TEAMS, ITEMS)))
    frame = Frame(at, host())
    f, members = frame.function, frame.extent(Dim("members"))
    team = Team(frame, TEAMS, Dim("members"), MOST)
    with f.loop(frame.begin, frame.end) as tile:
        number = tile.index % TEAMS
        rows = [f.element(frame.operands[0], (2 * number + k) * ITEMS, I64) for k in (0, 1)]
        with team.joined(number, tile.index // TEAMS), f.loop(0, TURNS) as turn:
            alone = (turn.index & 3) >= 3
            with team.by_one(alone):
                parts = f.select(alone, 1, members)
                with team.phase(parts) as part, f.loop(*part.of(f.as_index(ITEMS))) as i:
                    near = [f.element(rows[0], (i.index + k) % ITEMS, I64) for k in (1, ITEMS - 1)]
                    sum_ = f.load(near[0], I64) + f.load(near[1], I64)
                    f.store(sum_ % 1000, f.element(rows[1], i.index, I64))
                with team.phase(parts) as part, f.loop(*part.of(f.as_index(ITEMS))) as i:
                    value = f.load(f.element(rows[1], i.index, I64), I64)
                    f.store(value + turn.index, f.element(rows[0], i.index, I64))
    return frame.finished("neighbours", TEAMS * Dim("members"))


def expected(start: NDArray[np.int64]) -> NDArray[np.int64]:
    row = start
    for turn in range(TURNS):
        row = (np.roll(row, 1) + np.roll(row, -1)) % 1000 + turn
    return row


class Trial:
    """A block of arguments for some members, run again and again."""

    def __init__(self, members: int) -> None:
        made = kernel()
        self.code = jit.load([made.text])[made.text]
        self.rows = np.zeros((TEAMS, 2, ITEMS), np.int64)
        words = [members if isinstance(word, Dim) else 0 for word in made.words]
        self.args = np.array([address(self.rows), *words], np.int64)
        self.words = self.args.copy()
        self.tiles = TEAMS * members
        kinds = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
        self.function = ctypes.CFUNCTYPE(None, *kinds)(self.code.address)

    def check(self, run: Callable[[Call, int], None]) -> None:
        """Runs all tiles as given; results must be right, and the counters zeros again."""
        self.rows[:, 0] = np.arange(ITEMS) * np.arange(1, TEAMS + 1)[:, None]
        want = [expected(row) for row in self.rows[:, 0].copy()]
        run(lambda begin, end: self.function(address(self.args), begin, end, None), self.tiles)
        np.testing.assert_array_equal(self.rows[:, 0], want)
        np.testing.assert_array_equal(self.args, self.words)


def in_order(call: Call, tiles: int) -> None:
    call(0, tiles)


def from_the_back(call: Call, tiles: int) -> None:
    for tile in reversed(range(tiles)):
        call(tile, tile + 1)


@pytest.mark.parametrize("members", [1, 2, 3, MOST])
def test_one_thread_does_all(members: int) -> None:
    trial = Trial(members)
    for run in (in_order, from_the_back, in_order):
        trial.check(run)


@pytest.mark.parametrize("members", [2, MOST])
@pytest.mark.parametrize("late", [0.0, 2e-5, 2e-4])
def test_threads_that_come_when_they_like(members: int, late: float) -> None:
    trial = Trial(members)
    dice = np.random.default_rng(members)
    with ThreadPoolExecutor(3) as threads:

        def together(call: Call, tiles: int) -> None:
            waiting = [*range(tiles)]
            lock = threading.Lock()

            def work(pause: float) -> None:
                time.sleep(pause)
                while True:
                    with lock:
                        if not waiting:
                            return
                        tile = waiting.pop(0)
                    call(tile, tile + 1)

            for done in [threads.submit(work, late * dice.random()) for _ in range(3)]:
                done.result()

        for _ in range(60):
            trial.check(together)
