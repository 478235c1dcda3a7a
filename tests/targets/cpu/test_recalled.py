"""Kernels that an earlier process has made are not made again, and no other is taken for one."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import migx
from migx.base.recent import Recent
from migx.ir import Instruction
from migx.targets.cpu import kernels
from migx.targets.cpu.code import recalled
from migx.targets.cpu.code.alike import likeness
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.machine import host

TEXT = """
module main(x: f32[5, batch]) {
  %0 = exp(x)
  %1 = reduce_sum(%0) {axes=(1,)}
  return %1
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kernels are kept."""
    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process knows what lies on disk alone, as one that has just begun."""
    monkeypatch.setattr(kernels, "_known", Recent(kernels.MOST))


def first(text: str = TEXT) -> Instruction:
    return next(at for at in migx.parse(text).main if at.op.name == "exp")


def known(at: Instruction) -> tuple[bool, Kernel | None]:
    return recalled.recalled(at, likeness(at), host())


@pytest.mark.usefixtures("forgetful")
def test_a_kernel_is_made_once_for_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = kernels.kernel_for(first(), host())
    assert made is not None
    monkeypatch.setattr(kernels, "_known", Recent(kernels.MOST))
    monkeypatch.setattr(kernels, "_made", None)
    assert kernels.kernel_for(first(), host()) == made


@pytest.mark.usefixtures("forgetful")
def test_a_program_compiled_again_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
    (expected,) = migx.parse(TEXT).compile("cpu").eval({"x": x})
    monkeypatch.setattr(kernels, "_known", Recent(kernels.MOST))
    monkeypatch.setattr(kernels, "_made", None)
    (found,) = migx.parse(TEXT).compile("cpu").eval({"x": x})
    assert found.tobytes() == expected.tobytes()


@pytest.mark.usefixtures("forgetful")
def test_that_there_is_none_is_kept_too() -> None:
    at = first()
    recalled.keep(at, likeness(at), host(), None)
    assert known(at) == (True, None)


@pytest.mark.usefixtures("forgetful")
def test_what_decides_a_kernel_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    at = first()
    assert kernels.kernel_for(at, host()) is not None
    assert known(at)[0]
    assert not known(first(TEXT.replace("5, batch", "6, batch")))[0]
    assert not known(first(f"dim batch = 1..8\n{TEXT}"))[0]
    other = replace(host(), registers=host().registers // 2)
    assert not recalled.recalled(at, likeness(at), other)[0]
    monkeypatch.setattr(recalled, "SOURCES", "those of another version")
    assert not known(at)[0]


def test_all_that_kernels_are_written_by_decides_them() -> None:
    """Except ``migx.base``, which does not depend on programs."""
    deciding = recalled.deciding()
    for path in deciding:
        if not {"emit", "fusion", "kernels", "parts"}.isdisjoint(path.parts):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                module = node.module if isinstance(node, ast.ImportFrom) and node.module else ""
                if module.startswith("migx.") and not module.startswith("migx.base"):
                    file = recalled.CORE.joinpath(*module.split(".")[1:])
                    assert {file.with_suffix(".py"), file / "__init__.py"} & {*deciding}, module


@pytest.mark.usefixtures("forgetful")
def test_a_damaged_file_is_made_again(folder: Path) -> None:
    made = kernels.kernel_for(first(), host())
    (path,) = (p for p in folder.rglob("*") if p.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    assert not known(first())[0]
    assert kernels._made(first(), host()) == made
