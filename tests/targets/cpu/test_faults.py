"""What goes wrong around a program that runs natively, and what does not: memory that is not there,
signals, many threads and processes, and what lies in memory before it is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.targets.cpu.code import compiling, jit
from migx.targets.cpu.plans import memory
from migx.targets.cpu.runs import running
from migx.targets.cpu.threads import pool
from migx.testing.oracles import Trial
from tests.targets.cpu.whole import at_once, executable

TEXT = """
module main(x: f32[n, 64], y: f32[64, 48]) {
  %0 = exp(x)
  %1 = softmax(%0) {axis=1}
  %2 = dot(%1, y)
  %3 = transpose(%2) {permutation=(1, 0)}
  %4 = reduce_sum(%3) {axes=(1,)}
  return %2, %4
}
"""
WORKING = f"""
import hashlib
import numpy as np
import migx
program = migx.parse({TEXT!r}).compile("cpu", num_threads=2)
x = np.linspace(-1, 1, 900 * 64, dtype=np.float32).reshape(900, 64)
y = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(64, 48)
answers = {{hashlib.sha256(program.eval({{"x": x, "y": y}})[0]).hexdigest() for _ in range(50)}}
print(*answers)
"""
COMPILING = """
import signal
from migx.targets.cpu.code import compiling
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
compiling.WORTH, compiling.cores = 1, lambda: 2
texts = {f"k{i}": f"define i64 @k{i}() {{\\n  ret i64 {i}\\n}}\\n" for i in range(100_000)}
print("begun", flush=True)
while True:  # until an interrupt comes that Python does not drop
    compiling.objects(texts)
"""


def inputs(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    shapes = {"x": (n, 64), "y": (64, 48)}
    return {name: rng.standard_normal(dims).astype(np.float32) for name, dims in shapes.items()}


def compiled(threads: int = 2) -> migx.Program:
    return migx.parse(TEXT).compile("cpu", num_threads=threads)


def same(answers: list[Any], expected: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(answers, expected, strict=True))


def test_a_full_disk_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "replace", full)
    text = "define i64 @kernel() {\n  ret i64 8001\n}\n"
    assert jit.load([text])[text].address
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_an_interrupt_while_an_object_is_kept_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    text = "define i64 @kernel() {\n  ret i64 8002\n}\n"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        jit.load([text])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert jit.load([text])[text].address


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
def test_an_interrupt_while_compiling_leaves_no_workers() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", COMPILING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        workers = wait_for(lambda: len(found := children(child.pid)) == 2 and found)
        wait_for(lambda: interrupted(child))
        child.kill()  # which does nothing to one that has ended
    assert child.returncode == -signal.SIGINT
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def interrupted(child: subprocess.Popen[str]) -> bool:
    """Whether a process has ended by an interrupt. Python drops one that comes while an object is
    being finalized, so who waits sends another.
    """
    child.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=15)
    return child.returncode is not None


def children(of: int) -> list[str]:
    return Path(f"/proc/{of}/task/{of}/children").read_text().split()


def wait_for(condition: Callable[[], Any]) -> Any:
    """What a condition gives as soon as it holds; what it gives at the end of a minute."""
    end = time.monotonic() + 60
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_values_larger_than_the_machine_are_refused() -> None:
    program = migx.parse(
        "module main(x: f32[n, 1], y: f32[1, n]) {\n %0 = multibroadcast(x) {out_lens=(n, n)}\n"
        " %1 = multibroadcast(y) {out_lens=(n, n)}\n %2 = mul(%0, %1)\n return %2\n}\n"
    ).compile("cpu")
    x, y = (np.ones(dims, np.float32) for dims in ((1 << 22, 1), (1, 1 << 22)))
    with pytest.raises(EvaluationError, match=r"with n=4194304: .* take 70,368,744,\d+,\d+ bytes"):
        program.eval({"x": x, "y": y})
    assert program.eval({"x": x[:2], "y": y[:, :2]})[0].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("refused", [1, 500], ids=["an array", "a block"])
def test_memory_that_cannot_be_had_is_an_error_and_the_next_run_is_right(
    monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    program, small, large = compiled(), inputs(3), inputs(500)
    before, expected = program.eval(small), compiled().eval(large)
    empty = np.empty

    def given(size: Any, dtype: Any = float) -> Any:
        if dtype is np.int64 or np.prod(size) < refused:  # the words of a workspace
            return empty(size, dtype)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", given)
        with pytest.raises(EvaluationError, match="there is no memory for [0-9,]+ bytes"):
            program.eval(small if refused == 1 else large)
    assert same(program.eval(small), before)
    assert same(program.eval(large), expected)


def test_with_no_more_threads_to_be_had_those_there_are_do_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pool, "_pool", pool.Pool())
    monkeypatch.setattr(threading.Thread, "start", none)
    assert same(compiled(3).eval(inputs(700)), compiled(1).eval(inputs(700)))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm")
def test_many_runs_take_no_more_memory() -> None:
    program, given = compiled(), [inputs(n) for n in (1, 2, 3)]

    def pages_after(runs: int) -> int:
        for i in range(runs):
            program.eval(given[i % 3])
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = pages_after(30_000)  # Python's own tables have grown by then
    assert pages_after(30_000) - before < 64


def test_eight_threads_at_once() -> None:
    program = compiled(3)
    sizes = [1, 5, 64, 300]
    expected = {n: compiled(1).eval(inputs(n)) for n in sizes}
    wrong: list[int] = []

    def work(first: int) -> None:
        for turn in range(60):
            n = sizes[(first + turn) % 4]
            if not same(program.eval(inputs(n)), expected[n]):
                wrong.append(n)

    at_once(work, range(8))
    assert wrong == []


def test_two_processes_at_once_with_one_empty_cache(tmp_path: Path) -> None:
    setting = os.environ | {"MIGX_CACHE_DIR": str(tmp_path)}
    working = [
        subprocess.Popen([sys.executable, "-c", WORKING], stdout=subprocess.PIPE, env=setting)
        for _ in range(2)
    ]
    answers = {process.communicate()[0] for process in working}
    assert [process.returncode for process in working] == [0, 0]
    assert len(answers) == len(answers.pop().split()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_while_others_run() -> None:
    program, given = compiled(2), inputs(300)
    expected = program.eval(given)
    leave = threading.Event()

    def work() -> None:
        while not leave.is_set():
            program.eval(given)

    other = threading.Thread(target=work)
    other.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if same(program.eval(given), expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        leave.set()
        other.join()


@pytest.mark.parametrize("fill", [0x00, 0xFF, 0x3C])
def test_what_lay_in_memory_before_does_not_matter(
    fill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filled(nbytes: int) -> Any:
        made = memory.allocated(nbytes)
        made[:] = fill
        return made

    program, given = compiled(3), inputs(201)
    expected = program.eval(given)
    made = executable(program)
    monkeypatch.setattr(running, "allocated", filled)
    for piece in (piece for pieces in made.pieces.values() for piece in pieces):
        for workspace in piece.idle:
            workspace.arena[:] = fill
    assert same(program.eval(given), expected)


def test_workers_that_fail_on_a_text_do_not_hide_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "WORTH", 1)
    monkeypatch.setattr(compiling, "cores", lambda: 2)
    with pytest.raises(migx.MigxError, match="IR that LLVM refuses"):
        compiling.objects({"a": "define i64 @a() {\n  ret i64 x\n}\n", "b": "; nothing\n" * 3})


FOUND = """
module main(p0: f16[1]) {
  %0 = sinh(p0)
  %1 = sinh(%0)
  return %1
}
--
module main(p0: u8[3]) {
  %0 = prelu(p0, p0)
  return %0
}
--
module main(p0: u8[2, 2]) {
  %0 = @literal() {value=[1.0], label="w1", replaceable=true} : f32[]
  %1 = multibroadcast(%0) {out_lens=(2, 1)}
  %2 = quantizelinear(%1, %0)
  %3 = dot(p0, %2)
  %4 = mul(%2, %3)
  return %4
}
--
module main(x: f32[1, 4, 1, 1]) {
  %0 = @literal() {value=sha256("0"), label="w", replaceable=true} : f32[4, 4, 1, 1]
  %1 = convolution(x, %0)
  %2 = multibroadcast(%1) {out_lens=(4, 4, 1, 1)}
  %3 = mul(%2, %0)
  return %3
}
"""


@pytest.mark.parametrize("text", FOUND.split("--"))
def test_what_the_fuzzer_has_found(text: str) -> None:
    program = migx.parse(text, draw_missing=0)
    given = {name: drawn(p.shape) for name, p in program.main.parameters.items()}
    Trial(program, given).target("cpu")


def drawn(shape: migx.Shape) -> migx.Argument:
    size = int(shape.elements)
    values = np.resize([253, 3, 0] if shape.dtype.name == "u8" else [0.4, -0.7], size)
    return migx.Argument.of(values.astype(shape.dtype.numpy).reshape([int(d) for d in shape.dims]))
