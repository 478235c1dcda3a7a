"""What a compiled program keeps in its file: loading compiles nothing where it fits, and everything
again where it does not.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import migx
from migx.errors import TargetError
from migx.targets.cpu import machine
from migx.targets.cpu.code import jit, saved
from migx.targets.cpu.code.alike import digest
from migx.targets.cpu.runs import executable
from migx.targets.cpu.runs.executable import CpuExecutable

TEXT = """
module main(x: f32[batch, 64], b: f32[40]) {
  %0 = @literal() {value=sha256("0"), label="w", replaceable=true} : f32[64, 40]
  %1 = dot(x, %0)
  %2 = multibroadcast(b) {out_lens=(batch, 40)}
  %3 = add(%1, %2)
  %4 = softmax(%3) {axis=1}
  %5 = unique(%4) {axis=1, count=found}
  return %4, %5
}
"""
INPUTS = {
    "x": np.linspace(-1, 1, 5 * 64, dtype=np.float32).reshape(5, 64),
    "b": np.linspace(0, 1, 40, dtype=np.float32),
}
LOADING = """
import sys
import numpy as np
import llvmlite.binding
import migx
from migx.errors import TargetError
llvmlite.binding.parse_assembly = None
program = migx.load(sys.argv[1])
x = np.linspace(-1, 1, 5 * 64, dtype=np.float32).reshape(5, 64)
answer = program.eval({"x": x, "b": np.linspace(0, 1, 40, dtype=np.float32)})[0]
np.save(sys.argv[2], answer)
"""


def compiled() -> migx.Program:
    return migx.parse(TEXT, draw_missing=0).compile("cpu", num_threads=2)


def native(program: migx.Program) -> CpuExecutable:
    """What runs it, which has a kernel for all but the last instruction."""
    found = program.compiled.executable
    assert isinstance(found, CpuExecutable)
    assert [at.name for at in found.fallbacks()] == ["unique"]
    return found


def test_a_file_is_run_without_llvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compiled()
    monkeypatch.setenv("MIGX_CACHE_DIR", "")
    migx.save(program, tmp_path / "a.mxr")
    again = migx.load(tmp_path / "a.mxr")
    migx.save(again, tmp_path / "b.mxr")  # what was loaded can be saved
    for name in ("a", "b"):
        paths = [str(tmp_path / f"{name}.{suffix}") for suffix in ("mxr", "npy")]
        subprocess.run([sys.executable, "-c", LOADING, *paths], check=True)
        assert np.array_equal(np.load(paths[1]), program.eval(INPUTS)[0])


def test_kernels_are_read_as_they_were_saved() -> None:
    made = native(compiled())
    held = saved.Kernels(made.save_code(), made.program)
    for at, kernel in made.kernels.items():
        if digest(at) is not None:
            text = None if kernel is None else dataclasses.replace(kernel, text="")
            assert held.find(at) == (True, text)


def test_for_another_cpu_it_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dataclasses.replace(machine.host(), vector_bytes=16, registers=16, masks=False)
    with monkeypatch.context() as patch:
        patch.setattr(machine, "host", lambda: small)
        patch.setattr(executable, "host", lambda: small)
        patch.setattr(jit, "about", lambda: "another CPU")
        program = compiled()
        migx.save(program, tmp_path / "program.mxr")
    again = migx.load(tmp_path / "program.mxr")
    assert native(again).context.saved == {}
    bound = 64 * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(again.eval(INPUTS)[0], program.eval(INPUTS)[0], rtol=bound)


@pytest.mark.parametrize("missing", ["about", "kernels", "objects"])
def test_code_that_is_not_whole_is_not_used(missing: str) -> None:
    whole = native(compiled()).save_code()
    assert saved.is_usable(whole)
    first = next(name for name in whole if name.startswith(missing))
    if missing == "objects":
        rows = json.loads(whole["kernels"]).values()
        first = next("objects/" + row["symbol"] for row in rows if row is not None)
    assert not saved.is_usable({n: c for n, c in whole.items() if n != first})


def test_a_file_keeps_what_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "program.mxr"
    migx.save(migx.parse(TEXT, draw_missing=0).compile("cpu", num_threads=1), path)
    assert migx.load(path).executable.threads == 1
    assert migx.load(path, num_threads=3).executable.threads == 3
    with pytest.raises(TargetError, match="num_threads is 0"):
        migx.load(path, num_threads=0)
    given = migx.parse(TEXT, draw_missing=0).compile("cpu", passes="simplify_qdq, fuse_int4")
    migx.save(given, path)
    assert native(migx.load(path)).context.options.passes == "simplify_qdq,fuse_int4"
