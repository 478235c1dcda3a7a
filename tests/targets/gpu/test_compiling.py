"""Kernels compiled ahead of time, with no GPU: for every architecture, kept, and in files."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import migx
from migx.errors import TargetError
from migx.program import Program
from migx.targets.gpu import Gpu
from migx.targets.gpu.architectures import ARCHITECTURES
from migx.targets.gpu.code.compiling import Binary, Request, binaries
from migx.targets.gpu.code.resources import attributes, spilled
from migx.targets.gpu.kernels import kernel_for
from migx.targets.gpu.runs.executable import GpuExecutable
from tests.targets.gpu.on_interpreter import DEVICE

ADD = "module main(x: f32[n, 40], y: f32[n, 40]) {\n %0 = add(x, y)\n return %0\n}"
DOT = "module main(x: f16[n, 512], y: f16[512, 1024]) {\n %0 = dot(x, y)\n return %0\n}"
INT4 = """module main(x: f16[n, 64], w: u4[64, 128], s: f16[2, 128]) {
  %0 = unpack_int4(w)
  %1 = dequantizelinear(%0, s) {axis=0, block=32}
  %2 = dot(x, %1)
  return %2
}"""


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path / "cache"))


def request_for(text: str, arch: str, passes: str = "") -> Request:
    program = migx.parse(text)
    migx.run_passes(program, passes)
    (at,) = program.main.outputs
    kernel = kernel_for(at)
    assert kernel is not None
    return replace(Request.of(kernel.op, arch), aligned=tuple(range(len(kernel.op.pointers))))


def test_every_architecture_has_its_binary() -> None:
    wanted = {name: request_for(ADD, name) for name in ARCHITECTURES}
    made = binaries(wanted.values())
    for name, request in wanted.items():
        binary = made[request.key]
        assert binary.code.startswith(b"\x7fELF")
        assert binary.arch == name
        assert binary.threads == request.warps * ARCHITECTURES[name].warp
        if name.startswith("sm_") and int(name[3:]) < 100:
            assert binary.code[8] <= 7, "drivers of CUDA 12 do not load this version of ELF"


@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
def test_products_fit_the_shared_memory_and_are_compiled_once(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [request_for(DOT, arch), request_for(INT4, arch, "fuse_int4")]
    made = binaries(wanted)
    assert all(0 < b.shared <= ARCHITECTURES[arch].shared for b in made.values())

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a worker is started for what is kept")

    monkeypatch.setattr(subprocess, "Popen", started)
    assert binaries(wanted) == made


def test_a_text_that_triton_refuses_is_shown() -> None:
    wrong = Request(
        "import triton\n@triton.jit\ndef kernel(p0):\n    nothing(p0)\n",
        ("fp32",),
        0,
        (),
        4,
        2,
        "sm_90",
    )
    with pytest.raises(TargetError, match=r"Triton refuses a kernel for sm_90(.|\n)*nothing"):
        binaries([wrong])


def test_where_no_process_can_be_started_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("too many processes")

    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(TargetError, match="no process that compiles .* too many processes"):
        binaries([request_for(ADD, "sm_90")])


def test_what_was_compiled_before_a_failure_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # one worker, in order
    good, wrong = request_for(ADD, "sm_90"), replace(request_for(ADD, "sm_90"), pointers=("no",))
    with pytest.raises(TargetError, match="Triton refuses a kernel"):
        binaries([good, wrong])
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it is compiled again"))
    assert good.key in binaries([good])


@pytest.mark.parametrize("text", [ADD, DOT])
def test_a_binary_takes_pointers_then_words_then_pointers_to_scratch(text: str) -> None:
    """As the driver reads them at a launch, however Triton's version passes scratch memory."""
    for arch in ("sm_90", "gfx942"):
        request = request_for(text, arch)
        binary = binaries([request])[request.key]
        sizes = [8] * len(request.pointers) + [4] * request.words + [8] * binary.scratch
        if arch == "sm_90":
            assert parameters(binary) == sizes
        assert binary.code.count(b".value_kind") == (0 if arch == "sm_90" else len(sizes))


def parameters(binary: Binary) -> list[int]:
    """The bytes of each parameter that a cubin's kernel has, by its KPARAM_INFO attributes."""
    code, section = binary.code, b".nv.info." + binary.entry.encode()
    said = [struct.unpack_from("<IHHI", code, at) for at in attributes(code, section, 0x17)]
    return [flags >> 18 for _, _, _, flags in sorted(said, key=lambda each: each[1])]


def test_a_file_holds_the_binaries_and_runs_where_there_is_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from migx.targets.gpu.devices import cupy_device

    monkeypatch.setattr(cupy_device, "found", lambda: (None, "there is no GPU"))
    program: Program = migx.parse(ADD).compile(Gpu("sm_90"))
    migx.save(program, tmp_path / "program.mxr")
    loaded = migx.load(tmp_path / "program.mxr")
    executable = loaded.compiled.executable
    assert isinstance(executable, GpuExecutable)
    assert [b.arch for b in executable.binaries.values()] == ["sm_90"]
    with pytest.raises(TargetError, match="compiled for sm_90; there is no GPU"):
        loaded.eval({"x": [[1.0] * 40], "y": [[2.0] * 40]})
    monkeypatch.setattr(cupy_device, "found", lambda: (DEVICE, ""))
    (result,) = migx.load(tmp_path / "program.mxr").eval({"x": [[1.0] * 40], "y": [[2.0] * 40]})
    assert result.tolist() == [[3.0] * 40]


@pytest.mark.parametrize("arch", ["sm_90", "gfx1100"])
def test_what_does_not_fit_its_registers_has_more_threads(arch: str) -> None:
    wide = DOT.replace("f16", "f32")
    few = replace(request_for(wide, arch), warps=1, stages=1)
    binary = binaries([few])[few.key]
    assert spilled(binary.code, ARCHITECTURES[arch].code) > 0  # far too many sums for either
    assert binary.threads == 2 * ARCHITECTURES[arch].warp


@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
def test_what_fits_is_left_as_it_is(arch: str) -> None:
    request = request_for(ADD, arch)
    binary = binaries([request])[request.key]
    assert spilled(binary.code, ARCHITECTURES[arch].code) == 0
    assert binary.threads == request.warps * ARCHITECTURES[arch].warp
