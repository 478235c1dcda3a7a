"""Kernels are compiled in the background while passes still run."""

from __future__ import annotations

from pathlib import Path

import pytest

import migx
from migx.base.recent import Recent
from migx.targets.cpu import kernels
from migx.targets.cpu.code import compiling, jit
from migx.targets.cpu.runs.executable import CpuExecutable

TEXT = """
module main(x: f32[30, 64], y: f32[64, 48]) {
  %0 = dot(x, y)
  %1 = softmax(%0) {axis=1}
  %2 = transpose(%1) {permutation=(1, 0)}
  %3 = contiguous(%2)
  return %1, %3
}
"""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers for the shortest text, and nothing in the caches."""
    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_known", Recent(kernels.MOST))
    monkeypatch.setattr(compiling, "WORTH", 1)
    monkeypatch.setattr(compiling, "cores", lambda: 3)


def text_of(number: int) -> str:
    return f"define i64 @kernel() {{\n  ret i64 {number}\n}}\n"


def test_when_code_is_asked_for_its_compilation_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, objects = set[str](), compiling.Ahead.objects

    def noted(self: compiling.Ahead, texts: dict[str, str]) -> dict[str, bytes]:
        begun.update(name for name in texts if name in self)
        return objects(self, texts)

    monkeypatch.setattr(compiling.Ahead, "objects", noted)
    executable = migx.parse(TEXT).compile("cpu").compiled.executable
    assert isinstance(executable, CpuExecutable)
    made = {kernel.symbol for kernel in executable.kernels.values() if kernel is not None}
    assert len(made) == 3
    assert begun >= made


def test_an_error_while_compiling_ends_the_workers() -> None:
    with pytest.raises(ZeroDivisionError), compiling.ahead() as ahead:
        for number in range(4):
            jit.expect(text_of(7200 + number))
        workers = ahead._pool._processes
        assert len(workers) == 3
        raise ZeroDivisionError
    assert all(worker.returncode is not None for worker in workers)


def test_code_that_is_there_is_not_compiled_again() -> None:
    loaded, cached, new = map(text_of, (7210, 7211, 7212))
    jit.load([cached])
    code = jit.load([loaded])
    with compiling.ahead() as ahead:
        for text in (loaded, cached, new):
            jit.expect(text)
        assert [jit.symbol(text) in ahead for text in (loaded, cached, new)] == [False, False, True]
    assert code


def test_whoever_asks_early_waits_for_what_was_asked_alone() -> None:
    texts = {f"k{number}": text_of(number).replace("@kernel", f"@k{number}") for number in range(4)}
    alone = compiling.objects(texts)
    with compiling.ahead() as ahead:
        for name, text in texts.items():
            ahead.expect(name, text)
        assert compiling.objects({"k2": texts["k2"]}) == {"k2": alone["k2"]}
        assert compiling.objects(texts) == alone


def test_nothing_is_expected_outside() -> None:
    jit.expect(text_of(7220))
    assert compiling.current() is None
