"""The threads that share out tiles: every tile once, in any number of threads, after a fork, and at
exit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import migx
from benchmarks import models
from migx.errors import TargetError
from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import I64, PTR, Module
from migx.targets.cpu.plans.memory import address
from migx.targets.cpu.threads.pool import Pool, pool, wanted_threads
from migx.targets.cpu.threads.runtime import STEP_WORDS, runtime

TEXT = "module main(x: f32[n, 64]) {\n %0 = exp(x)\n %1 = softmax(%0) {axis=1}\n return %1\n}\n"


def counting() -> str:
    """A kernel that adds one to the word of each tile."""
    module = Module()
    f = module.function("kernel", [("args", PTR), ("begin", I64), ("end", I64), ("scratch", PTR)])
    args, begin, end, _ = f.parameters
    with f.loop(begin, end) as tile:
        at = f.element(args, tile.index, I64)
        f.store(f.load(at, I64) + 1, at)
    return module.text


def run(state: Pool, tiles: int, times: int, threads: int) -> None:
    """Runs a step of some tiles many times; every tile must be done every time."""
    code = jit.load([counting()])[counting()]
    words = np.zeros(tiles, np.int64)
    steps = np.zeros((times, STEP_WORDS), np.int64)
    steps[:, :3] = code.address, address(words), tiles
    state.grow(threads)
    asked = [address(steps), 0, times, state.address, threads, address(words), 0]
    call = np.array(asked, np.int64)
    runtime().run(address(call))
    assert (words == times).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("tiles", [0, 1, 2, 5, 1000])
def test_every_tile_is_done_once(tiles: int, threads: int) -> None:
    run(pool(), tiles, 300, threads)


def test_every_tile_is_done_once_by_threads_that_rest_after_each() -> None:
    script = """
from migx.targets.cpu.threads import cores

cores.SPELL = -1
from tests.targets.cpu.test_pool import pool, run

for tiles in (2, 5, 1000):
    run(pool(), tiles, 300, 3)
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, cwd=root)


def _comes_to(state: Pool, thread: int, cores: set[int]) -> bool:
    """Whether a thread is held to some cores once it sleeps after work: a run that comes as it lies
    down may not wake it, so there are more.
    """
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        run(state, 50, 10, 2)
        time.sleep(0.01)
        if os.sched_getaffinity(thread) == cores:
            return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads stay where they are put")
def test_sleepers_keep_off_the_core_of_who_wakes_them() -> None:
    allowed, state = os.sched_getaffinity(0), Pool()
    try:
        for core in sorted(allowed):
            os.sched_setaffinity(0, {core})
            run(state, 50, 10, 2)
            (thread,) = (t.native_id or 0 for t in state._threads)
            os.sched_setaffinity(thread, allowed)  # it was started by one that had one core
            assert _comes_to(state, thread, allowed - {core} or allowed)
        os.sched_setaffinity(thread, {min(allowed)})  # what somebody else has set stays
        for _ in range(5):
            run(state, 50, 10, 2)
            time.sleep(0.01)
        assert os.sched_getaffinity(thread) == {min(allowed)}
    finally:
        os.sched_setaffinity(0, allowed)
        state.stop()


def test_a_thread_whose_start_is_interrupted_is_the_only_one_of_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, state = threading.Thread.start, Pool()

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        state.provide(2)
    before = threading.active_count()
    try:
        run(state, 50, 100, 2)
        state._threads[0].join(20)
        assert threading.active_count() == before
    finally:
        state.stop()
    assert threading.active_count() == before - 1


def test_several_callers_at_once() -> None:
    callers = [threading.Thread(target=run, args=(pool(), 50, 200, 2)) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


def test_a_child_has_threads_of_its_own() -> None:
    run(pool(), 50, 10, 2)
    child = os.fork() if hasattr(os, "fork") else None
    if child == 0:
        status = 1
        try:
            run(pool(), 50, 10, 2)
            status = 0
        finally:
            os._exit(status)
    if child is not None:
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)", "raise SystemExit(0)"])
def test_threads_leave_at_exit(end: str) -> None:
    script = f"""
import migx, numpy as np
program = migx.parse({TEXT!r})
program.compile("cpu", num_threads=3)
program.eval({{"x": np.zeros((4000, 64), np.float32)}})
{end}
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.fixture
def _crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have as many threads as they may, however few cores there are."""
    monkeypatch.setattr(Pool, "useful", lambda _, threads: threads)


@pytest.mark.usefixtures("_crowded")
def test_answers_do_not_depend_on_threads() -> None:
    x = np.random.default_rng(0).standard_normal((3001, 64)).astype(np.float32)
    answers = []
    for threads in (1, 2, 3):
        program = migx.parse(TEXT)
        (answer,) = program.compile("cpu", num_threads=threads).eval({"x": x})
        answers.append(answer.tobytes())
    assert len(set(answers)) == 1


@pytest.mark.usefixtures("_crowded")
@pytest.mark.parametrize("name", ["script_loop_rnn", "dlrm_like"])
def test_answers_of_whole_models_do_not_depend_on_threads(name: str, tmp_path: Path) -> None:
    path, given = models.make(name, tmp_path), models.inputs(name)
    program, answers = migx.parse_onnx(path), set()
    for threads in (1, 2, 3):
        made = program.compile("cpu", num_threads=threads).eval(given)
        answers.add(b"".join(a.tobytes() for a in made))
    assert len(answers) == 1


def test_no_more_than_two_threads_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([2, 8, 3])
    monkeypatch.setattr("migx.targets.cpu.threads.pool.logical_cpus", lambda _: next(counts))
    monkeypatch.setattr("migx.targets.cpu.threads.pool.RECOUNT", 0.0)
    state = Pool()
    assert [state.useful(64) for _ in range(2)] == [4, 16]
    assert state.useful(2) == 2
    script = f"""
import migx, numpy as np, threading
from migx.targets.cpu.machine import logical_cpus
program = migx.parse({TEXT!r})
program.compile("cpu", num_threads=64)
for _ in range(3):
    program.eval({{"x": np.zeros((4000, 64), np.float32)}})
served = [t for t in threading.enumerate() if t.name.startswith("migx-")]
assert len(served) == min(64, 2 * logical_cpus()) - 1, served
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGX_NUM_THREADS", "5")
    assert (wanted_threads(None), wanted_threads(2)) == (5, 2)
    for wrong in ("0", "-1", "many", "1025"):
        monkeypatch.setenv("MIGX_NUM_THREADS", wrong)
        with pytest.raises(TargetError, match=f"MIGX_NUM_THREADS is '{wrong}'"):
            wanted_threads(None)
    for asked in (0, 10**9, "two", 1.0):
        with pytest.raises(
            TargetError, match=f"num_threads is {asked!r}; it must be a whole number from 1"
        ):
            migx.Program().compile("cpu", num_threads=asked)  # type: ignore[arg-type]
