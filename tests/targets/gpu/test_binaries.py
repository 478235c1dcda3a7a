"""Kernels that few models bring become binaries too, for both makers of GPUs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

import migx
from migx.targets.gpu import Gpu
from migx.targets.gpu.code import compiling
from migx.targets.gpu.code.compiling import Binary, Request
from migx.targets.gpu.runs import executable
from migx.targets.gpu.runs.executable import GpuExecutable
from tests.targets.gpu.fake_cupy import binaries_of
from tests.targets.gpu.test_lines import program
from tests.targets.gpu.test_recurrent import layer

ARCHS = ("sm_90", "gfx942")
RESIZED = (
    'resize(x) {sizes=(n, 3, m*2), mode="linear", coordinate_transformation_mode="asymmetric"}'
)
SCATTER = """module main(x: f16[n, 77], i: i64[n, 7], u: f16[n, 7]) {
  %0 = scatter_add(x, i, u) {axis=1}
  return %0
}"""
PARTS = """module main(x: f16[64, 4096], w: f16[4096, 512]) {
  %0 = dot(x, w)
  %1 = relu(%0)
  return %1
}"""
EMPTY = """module main(x: u16[32, 32], w: u16[32, 0]) {
  %0 = dot(x, w)
  return %0
}"""
NARROW = """module main(x: f32[n, 40], y: f8e5m2[n, 40], z: f8e8m0[n, 40]) {
  %0 = convert(y) {to=f32}
  %1 = convert(z) {to=f32}
  %2 = mul(%0, %1)
  %3 = add(%2, x)
  %4 = convert(%3) {to=f8e4m3fn, saturate=false}
  return %4
}"""
ROWS = """module main(x: bf16[n, 70]) {
  %0 = reduce_max(x) {axes=(1,)}
  %1 = reduce_prod(x) {axes=(1,)}
  %2 = mul(%0, %1)
  %3 = multibroadcast(%2) {out_lens=(n, 70)}
  %4 = div(x, %3)
  %5 = sigmoid(%4)
  %6 = exp(%5)
  %7 = rsqrt(%6)
  return %7
}"""
CASES = {
    "lstm": layer("lstm", hidden=256),
    "gru": layer("gru", dtype="f16"),
    "argmax": program("argmax(x) {axis=1}", "n, m", "bf16"),
    "prefix_scan_sum": program("prefix_scan_sum(x) {axis=1}", "n, m"),
    "topk": program("topk(x) {k=9, axis=1}", "n, 200", "f16", results=2),
    "resize": program(RESIZED, "n, 3, m"),
    "scatter_add": SCATTER,
    "product in parts": PARTS,
    "product without columns": EMPTY,
    "floats of eight bits": NARROW,
    "rows": ROWS,
}


def test_each_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    compile_all(list(CASES.values()))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it is compiled again"))
    for case, text in CASES.items():
        made = migx.parse(text).compile(Gpu(ARCHS)).compiled.executable
        assert isinstance(made, GpuExecutable)
        assert made.fallbacks() == [], case
        assert sorted(b.arch for b in made.binaries.values()) == sorted(ARCHS), case
        assert all(b.code.startswith(b"\x7fELF") for b in made.binaries.values()), case


def compile_all(texts: Sequence[str]) -> None:
    """Compiles the kernels of all programs at once: what compiles takes a second to start."""
    wanted: list[Request] = []

    def noted(requests: Iterable[Request]) -> dict[str, Binary]:
        wanted.extend(requests)
        return binaries_of(wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executable, "binaries", noted)
        for text in texts:
            migx.parse(text).compile(Gpu(ARCHS))
    compiling.binaries(wanted)
