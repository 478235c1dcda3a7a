"""Objects on disk: kept, shared, damaged, and where nothing can be kept."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from migx.base import workers
from migx.errors import TargetError
from migx.targets.cpu.code import compiling, jit


def text_of(number: int) -> str:
    """A function that gives a number."""
    return f"define i64 @kernel() {{\n  ret i64 {number}\n}}\n"


def texts_of(count: int) -> dict[str, str]:
    """So many kernels by their symbols."""
    return {f"k{i}": text_of(i).replace("@kernel", f"@k{i}") for i in range(count)}


def result(code: jit.Code) -> int:
    found: int = ctypes.CFUNCTYPE(ctypes.c_int64)(code.address)()
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where objects are kept."""
    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    return tmp_path / "objects"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_object_is_kept_and_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = jit.load([text_of(7001)])[text_of(7001)]
    assert (result(code), len(files(folder))) == (7001, 1)
    del code  # nothing holds it in memory any more
    monkeypatch.setattr(jit, "compiled", None)
    assert result(jit.load([text_of(7001)])[text_of(7001)]) == 7001


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_object_is_made_again(folder: Path, damage: bytes | None) -> None:
    text = text_of(7002)
    jit.load([text])
    (path,) = files(folder)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?" if damage is None else damage)
    assert result(jit.load([text])[text]) == 7002
    assert path.read_bytes() == content


def test_where_nothing_can_be_kept_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    for setting in (str(tmp_path / "file"), ""):
        monkeypatch.setenv("MIGX_CACHE_DIR", setting)
        text = text_of(7003)
        assert result(jit.load([text])[text]) == 7003
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_writers_do_not_disturb_each_other(folder: Path) -> None:
    texts = [text_of(7100 + i % 5) for i in range(20)]
    with ThreadPoolExecutor(8) as threads:
        codes = list(threads.map(lambda text: jit.load([text])[text], texts))
    assert [result(c) for c in codes] == [7100 + i % 5 for i in range(20)]
    assert len(files(folder)) == 5


def resident() -> int:
    """The kilobytes of memory that mapped files take."""
    fields = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(words[1]) for words in fields if words[0] == "RssFile:")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what lies in memory")
def test_llvm_leaves_memory_until_it_is_called_again() -> None:
    before = jit.compiled(text_of(7004)), resident()
    jit.give_back()
    assert resident() < before[1] - 5_000
    assert jit.compiled(text_of(7004)) == before[0]
    assert result(jit.load([text_of(7004)])[text_of(7004)]) == 7004


def test_workers_compile_what_this_process_would(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of(6)
    alone = compiling.objects(texts)
    monkeypatch.setattr(compiling, "WORTH", 1)
    monkeypatch.setattr(compiling, "cores", lambda: 3)
    assert compiling.objects(texts) == alone


def test_workers_that_die_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of(4)
    monkeypatch.setattr(compiling, "WORTH", 1)
    monkeypatch.setattr(compiling, "cores", lambda: 3)
    monkeypatch.setattr(compiling, "_COMMAND", "raise SystemExit(1)")
    assert compiling.objects(texts).keys() == texts.keys()


def test_a_worker_may_print_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello')\n")
    monkeypatch.syspath_prepend(tmp_path)
    texts = texts_of(4)
    alone = compiling.objects(texts)
    monkeypatch.setattr(compiling, "WORTH", 1)
    monkeypatch.setattr(compiling, "cores", lambda: 2)
    monkeypatch.setattr(jit, "compiled", lambda text: pytest.fail(f"{text} was left to this one"))
    assert compiling.objects(texts) == alone


def test_a_worker_that_says_nothing_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of(4)
    monkeypatch.setattr(compiling, "WORTH", 1)
    monkeypatch.setattr(workers, "PATIENCE", 0.1)
    monkeypatch.setattr(compiling, "cores", lambda: 2)
    monkeypatch.setattr(compiling, "_COMMAND", "import time; time.sleep(600)")
    assert compiling.objects(texts).keys() == texts.keys()


def test_a_worker_runs_nothing_of_the_folder_it_is_started_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "struct.py").write_text("raise SystemExit('this is not the struct you want')\n")
    monkeypatch.setattr(sys, "path", [p or os.getcwd() for p in sys.path])
    monkeypatch.chdir(tmp_path)
    texts = texts_of(4)
    monkeypatch.setattr(compiling, "WORTH", 1)
    monkeypatch.setattr(compiling, "cores", lambda: 2)
    monkeypatch.setattr(jit, "compiled", lambda text: pytest.fail(f"{text} was left to this one"))
    assert compiling.objects(texts).keys() == texts.keys()


def test_where_no_thread_can_be_started_it_is_compiled_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    texts = texts_of(4)
    monkeypatch.setattr(compiling, "WORTH", 1)
    monkeypatch.setattr(compiling, "cores", lambda: 2)
    monkeypatch.setattr(threading.Thread, "start", none)
    assert compiling.objects(texts).keys() == texts.keys()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_compiles_though_its_parent_was_compiling() -> None:
    stop = threading.Event()

    def busy() -> None:
        for number in itertools.count(900_000):
            if stop.is_set():
                return
            jit.load([text_of(number)])

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for number in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                jit.load([text_of(990_000 + number)])
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def test_text_that_llvm_refuses_is_shown() -> None:
    with pytest.raises(TargetError, match=r"IR that LLVM refuses(.|\n)*i64 x"):
        jit.compiled("define i64 @kernel() {\n  ret i64 x\n}\n")


HALVES = """define void @kernel(ptr %given, ptr %made, i64 %count) {
entry:
  br label %next
next:
  %i = phi i64 [0, %entry], [%after, %next]
  %from = getelementptr double, ptr %given, i64 %i
  %to = getelementptr half, ptr %made, i64 %i
  %x = load double, ptr %from
  %half = fptrunc double %x to half
  store half %half, ptr %to
  %after = add i64 %i, 1
  %more = icmp ult i64 %after, %count
  br i1 %more, label %next, label %done
done:
  ret void
}
"""


def test_f64_is_rounded_to_f16_once() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    ties = (halves[1:] + halves[:-1]) / 2
    near = [ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf)]
    x = np.concatenate([halves, *near, [1e300, 5e-324, 65520.0, np.inf, np.nan]])
    x = np.concatenate([x, -x])
    made = np.empty(len(x), np.float16)
    other = HALVES + "; another text, whose object brings the same function\n"
    code = jit.load([HALVES, other])[other]
    pointers = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
    ctypes.CFUNCTYPE(None, *pointers)(code.address)(x.ctypes.data, made.ctypes.data, len(x))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(made, x.astype(np.float16))
    assert (np.signbit(made) == np.signbit(x)).all()


def test_without_llvmlite_the_target_says_so_and_ref_works() -> None:
    script = """
import sys
import threading
sys.modules["llvmlite"] = None
import migx
program = migx.parse("module main(x: f32[2]) {\\n %0 = relu(x)\\n return %0\\n}\\n")
program.compile("ref")
try:
    program.compile("cpu")
except migx.MigxError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install llvmlite" in done.stdout
