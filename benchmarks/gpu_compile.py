"""Compiles all models for GPUs, on a machine without one: ``make gpu-compile``.

For each model it prints the number of kernels and of distinct ones, their compile time, the
instructions that run on the host for want of a kernel, and the bytes of the binaries. Nothing is
run.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import migx
from benchmarks import models
from benchmarks.gpu_table import show
from migx.errors import MigxError
from migx.targets.gpu import Gpu
from migx.targets.gpu.operations import CodeObject
from migx.targets.gpu.runs.executable import GpuExecutable

USUAL = ("sm_90", "gfx942")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_compile", description=__doc__)
    parser.add_argument("--arch", metavar="A,B", default=",".join(USUAL), help="for which GPUs")
    parser.add_argument("--fast-math", action="store_true", help="multiply f32 as tf32")
    parser.add_argument("--models", nargs="*", default=models.names(), help="only these")
    options = parser.parse_args(arguments)
    rows, failed = [], 0
    for name in options.models:
        try:
            rows.append(_row(name, tuple(options.arch.split(",")), options.fast_math))
        except MigxError as error:
            rows.append((name, *[""] * 4, f"failed: {error}"))
            failed += 1
        print(f"{name}: {', '.join(rows[-1][1:])}", flush=True)
    show(("model", "kernels", "distinct", "seconds", "MB", "on the host"), rows)
    return 1 if failed else 0


def _row(name: str, archs: tuple[str, ...], fast_math: bool) -> tuple[str, ...]:
    """The row of one compiled model."""
    program = migx.parse_onnx(models.make(name))
    start = time.perf_counter()
    executable = program.compile(Gpu(archs), fast_math=fast_math).compiled.executable
    took = time.perf_counter() - start
    assert isinstance(executable, GpuExecutable)
    sources = [at.op.source for m in executable.pieces for at in m if isinstance(at.op, CodeObject)]
    size = sum(len(binary.code) for binary in executable.binaries.values())
    host = Counter(at.name for at in executable.fallbacks())
    said = " ".join(f"{n}×{count}" if count > 1 else n for n, count in host.most_common())
    return (
        name,
        str(len(sources)),
        str(len(set(sources))),
        f"{took:.1f}",
        f"{size / 1e6:.2f}",
        said or "-",
    )


if __name__ == "__main__":
    raise SystemExit(main())
