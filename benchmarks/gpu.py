"""Measures the gpu target on a machine with a GPU: ``python -m benchmarks.gpu``.

It needs nobody to watch it and takes under eight minutes: what there is no time for, or what is not
installed (torch, onnxruntime with CUDA), is left out and said to be. First the limits of this
device, measured here: bandwidth of a copy, of the link, and operations of a product by the maker's
library. Then kernels against these, then models: each answer is compared with ``ref`` before it is
timed. Results go to a file for ``benchmarks/results``, and one table is printed.

``--device interpreter --quick`` goes through all of it, tiny, on a machine without a GPU; its times
mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import migx
from benchmarks import models
from migx.argument import Argument
from migx.errors import MigxError
from migx.ir import Program
from migx.targets.gpu import Gpu
from migx.targets.gpu.device import Device
from migx.targets.gpu.executable import GpuExecutable
from migx.targets.gpu.values import DeviceArgument
from migx.testing.oracles import Trial

BUDGET = 450.0
"""Seconds in all: no model is begun when they are over."""
CHAIN = 16
"""Kernels one after another in a measured program, so that starting a run counts little."""
BARS = {
    "pointwise": 0.85,
    "layer norm": 0.85,
    "softmax": 0.85,
    "gemm f16": 0.70,
    "int4 gemv": 0.70,
    "swap weights": 0.80,
}
"""What share of the limit each is to reach."""


@dataclass(frozen=True)
class Line:
    """One line of the table: what took how long, what that is in ``unit``, and the limit or peer it
    is held against; ``note`` says what is missing.
    """

    name: str
    seconds: float | None
    amount: float | None = None
    unit: str = ""
    against: str = ""
    other: float | None = None
    note: str = ""

    @property
    def share(self) -> float | None:
        """How much of the limit, or how many times the speed of the peer."""
        known = self.amount and self.other and math.isfinite(self.other)
        return self.amount / self.other if known and self.amount and self.other else None


class Bench:
    """A device, its measured limits, and the lines found so far."""

    def __init__(self, device: Device, *, quick: bool) -> None:
        self.device, self.quick, self.lines = device, quick, list[Line]()
        self.begin = time.monotonic()
        self.copy = self.link = self.operations = math.nan

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return BUDGET - (time.monotonic() - self.begin)

    def timed(self, work: Callable[[], Any], least: float = 0.2) -> float:
        """Seconds of one call, in the median of several batches of calls; device and host."""
        for _ in range(3):  # the second time kernels are recorded, the third replayed
            work()
        self.device.synchronize()
        once = _seconds(work, 1, self.device)
        count = 1 if self.quick else max(1, min(1000, int(least / 5 / max(once, 1e-7))))
        return float(np.median([_seconds(work, count, self.device) for _ in range(5)]))

    @contextmanager
    def line(self, name: str) -> Iterator[None]:
        """Notes what goes wrong in a measurement, and goes on with the next."""
        try:
            yield
        except (MigxError, RuntimeError, ImportError, AssertionError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            self.lines.append(Line(name, None, note=said[0][:100]))

    # The limits.

    def measure_limits(self) -> None:
        """Bandwidth of a copy on the device and over the link, in bytes a second read and written;
        operations a second of a product of f16 by the maker's library.
        """
        size = 1 << (16 if self.quick else 29)
        held = np.zeros(size, np.uint8)
        buffer = self.device.allocate(size)
        took = self.timed(lambda: self.device.upload(buffer.address, held))
        self.link = size / took
        self.lines.append(Line("link to the device", took, self.link / 1e9, "GB/s"))
        try:
            import cupy
        except ImportError:
            return
        with self.line("copy on the device"):
            source, to = cupy.zeros(size, cupy.uint8), cupy.empty(size, cupy.uint8)
            took = _events(lambda: cupy.copyto(to, source))
            self.copy = 2 * size / took
            self.lines.append(Line("copy on the device", took, self.copy / 1e9, "GB/s"))
            side = 4096
            x, y = (cupy.ones((side, side), cupy.float16) for _ in range(2))
            took = _events(lambda: cupy.matmul(x, y))
            self.operations = 2 * side**3 / took
            self.lines.append(Line("library gemm f16", took, self.operations / 1e12, "Tflop/s"))

    # Kernels.

    def measure_kernels(self) -> None:
        """Each kernel of a chain against the limit that it should reach."""
        rows, columns = (8, 64) if self.quick else (16384, 4096)
        moved = 2 * rows * columns * 2
        with self.line("pointwise"):
            text = _pointwise(rows, columns)
            self._kernel("pointwise", text, 2 * moved / 1e9, "GB/s", "copy", self.copy / 1e9)
        for name, text in (
            ("layer norm", _norm(rows, columns)),
            ("softmax", _softmax(rows, columns)),
        ):
            with self.line(name):
                self._kernel(name, text, moved / 1e9, "GB/s", "copy", self.copy / 1e9)
        side = 64 if self.quick else 4096
        with self.line("gemm f16"):
            work = 2 * side**3 / 1e12
            self._kernel(
                "gemm f16", _gemm(side), work, "Tflop/s", "library", self.operations / 1e12
            )
        with self.line("int4 gemv"):
            packed = side * side / 2 / 1e9
            self._kernel("int4 gemv", _int4(side), packed, "GB/s", "copy", self.copy / 1e9)

    def _kernel(
        self, name: str, text: str, work: float, unit: str, against: str, limit: float
    ) -> None:
        program = migx.parse(text, draw_missing=1)
        run = self.prepared(
            program, {n: drawn(p.shape) for n, p in program.main.parameters.items()}
        )
        took = self.timed(run) / CHAIN
        self.lines.append(Line(name, took, work / took, unit, against, limit))

    def prepared(self, program: Program, given: dict[str, Argument]) -> Callable[[], Any]:
        """A call that runs a program on values that are on the device already."""
        target = Gpu(device=self.device, offload_copy=False)
        made = program.compile(target).compiled
        there = {name: DeviceArgument.of_host(value, self.device) for name, value in given.items()}
        return lambda: made.results(there)

    # Models.

    def measure_models(self, names: Sequence[str]) -> None:
        """Each model: right first, then timed, beside onnxruntime where it can."""
        for name in names:
            if self.left < 30:
                self.lines.append(Line(name, None, note="no time is left"))
                continue
            with self.line(name):
                self._model(name)

    def _model(self, name: str) -> None:
        path = models.make(name)
        program, given = migx.parse_onnx(path), models.inputs(name)
        arguments = {n: Argument.of(v) for n, v in given.items()}
        target = Gpu(device=self.device)
        Trial(program, arguments).target(target)  # raises where an answer is not as it must be
        run = self.prepared(program, arguments)
        took, peer = self.timed(run), self._onnxruntime(path, given)
        executable = program.compiled.executable
        assert isinstance(executable, GpuExecutable)
        host = len(executable.fallbacks())
        note = f"{host} on the host" if host else ""
        other = None if peer is None else 1 / peer
        said = "" if peer is None else "onnxruntime CUDA"
        self.lines.append(Line(name, took, 1 / took, "runs/s", said, other, note))

    def _onnxruntime(self, path: Path, given: dict[str, Any]) -> float | None:
        """Seconds of a run by onnxruntime's CUDA provider, copies included; None without one."""
        try:
            import onnxruntime
        except ImportError:
            return None
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return None
        session = onnxruntime.InferenceSession(path, providers=["CUDAExecutionProvider"])
        return self.timed(lambda: session.run(None, given))

    def measure_swap(self) -> None:
        """New weights for a program that runs, in bytes a second of the link."""
        side = 32 if self.quick else 8192
        label = (
            f'@literal() {{value=bytes("w", 0, {side * side * 4}), label="w", replaceable=true}}'
        )
        text = f"module main(x: f32[1, {side}]) {{\n %0 = {label} : f32[{side}, {side}]\n"
        program = migx.parse(text + " %1 = dot(x, %0)\n return %1\n}", draw_missing=1)
        program.compile(Gpu(device=self.device))
        new = np.ones((side, side), np.float32)

        def swap() -> None:
            with program.update_weights() as update:
                update["w"] = new

        took = self.timed(swap)
        limit = self.link / 1e9
        self.lines.append(
            Line("swap weights", took, new.nbytes / took / 1e9, "GB/s", "link", limit)
        )


def drawn(shape: Any) -> Argument:
    """A value of static shape, of small numbers."""
    dims = tuple(int(d) for d in shape.dims)
    return Argument.of(np.random.default_rng(0).standard_normal(dims).astype(shape.dtype.numpy))


def _seconds(work: Callable[[], Any], count: int, device: Device) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        work()
    device.synchronize()
    return (time.perf_counter() - begin) / count


def _events(work: Callable[[], Any], count: int = 20) -> float:
    """Seconds of one call by events on the device."""
    import cupy

    work()
    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    first.record()
    for _ in range(count):
        work()
    last.record()
    last.synchronize()
    return float(cupy.cuda.get_elapsed_time(first, last)) / 1e3 / count


def _chain(dims: str, step: Callable[[str, int], tuple[list[str], str]], head: str = "") -> str:
    """A program of a kernel after another; ``step`` gives lines and the result of one."""
    lines, value = list[str](), "x"
    for _ in range(CHAIN):
        more, value = step(value, len(lines))
        lines += more
    body = "\n".join(f"  {line}" for line in lines)
    return f"module main(x: f16[{dims}]{head}) {{\n{body}\n  return {value}\n}}"


def _pointwise(rows: int, columns: int) -> str:
    def step(x: str, n: int) -> tuple[list[str], str]:
        both = [f"%{n} = sigmoid({x})", f"%{n + 1} = mul({x}, %{n})"]
        turned = f"%{n + 2} = reverse(%{n + 1}) {{axes=(1,)}}"  # which no arithmetic is fused with
        return [*both, turned], f"%{n + 2}"

    return _chain(f"{rows}, {columns}", step)


def _softmax(rows: int, columns: int) -> str:
    return _chain(f"{rows}, {columns}", lambda x, n: ([f"%{n} = softmax({x}) {{axis=1}}"], f"%{n}"))


def _norm(rows: int, columns: int) -> str:
    def step(x: str, n: int) -> tuple[list[str], str]:
        wide = f"{{out_lens=({rows}, {columns})}}"
        return [
            f"%{n} = reduce_mean({x}) {{axes=(1,)}}",
            f"%{n + 1} = multibroadcast(%{n}) {wide}",
            f"%{n + 2} = sub({x}, %{n + 1})",
            f"%{n + 3} = mul(%{n + 2}, %{n + 2})",
            f"%{n + 4} = reduce_mean(%{n + 3}) {{axes=(1,)}}",
            f"%{n + 5} = rsqrt(%{n + 4})",
            f"%{n + 6} = multibroadcast(%{n + 5}) {wide}",
            f"%{n + 7} = mul(%{n + 2}, %{n + 6})",
        ], f"%{n + 7}"

    return _chain(f"{rows}, {columns}", step)


def _gemm(side: int) -> str:
    return _chain(
        f"{side}, {side}",
        lambda x, n: ([f"%{n} = dot({x}, w)"], f"%{n}"),
        f", w: f16[{side}, {side}]",
    )


def _int4(side: int) -> str:
    """Weights of their own for each product, so that no cache holds them."""

    def step(x: str, n: int) -> tuple[list[str], str]:
        blocks = side // 32
        return [
            f"%{n} = {_literal(f'w{n}', side * side // 2)} : u4[{side}, {side}]",
            f"%{n + 1} = {_literal(f's{n}', side * blocks * 2)} : f16[{blocks}, {side}]",
            f"%{n + 2} = unpack_int4(%{n})",
            f"%{n + 3} = dequantizelinear(%{n + 2}, %{n + 1}) {{axis=0, block=32}}",
            f"%{n + 4} = dot({x}, %{n + 3})",
        ], f"%{n + 4}"

    return _chain(f"1, {side}", step)


def _literal(name: str, nbytes: int) -> str:
    return f'@literal() {{value=bytes("{name}", 0, {nbytes})}}'


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table."""
    table = Table(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _shown(line: Line) -> tuple[str, ...]:
    took = "" if line.seconds is None else f"{line.seconds * 1e3:,.3f} ms"
    amount = "" if line.amount is None else f"{line.amount:,.2f} {line.unit}"
    share = "" if line.share is None else f"{line.share:.2f} of {line.against}"
    bar = BARS.get(line.name)
    due = (
        "" if bar is None or line.share is None else ("reached" if line.share >= bar else "missed")
    )
    return line.name, took, amount, share, f"{bar:.2f} {due}" if bar else "", line.note


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("gpu", "interpreter"), default="gpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs")
    parser.add_argument("--models", nargs="*", default=models.names(), help="only these")
    parser.add_argument("--to", type=Path, default=Path(".bench/gpu.json"), help="results go there")
    options = parser.parse_args(arguments)
    bench = Bench(_device(options.device), quick=options.quick)
    bench.measure_limits()
    bench.measure_kernels()
    with bench.line("swap weights"):
        bench.measure_swap()
    bench.measure_models(options.models)
    show(("what", "time", "amount", "share", "due", ""), [_shown(line) for line in bench.lines])
    ratios = [line.share for line in bench.lines if line.unit == "runs/s" and line.share]
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"models: {mean:.2f} times the peer's speed in the geometric mean of {len(ratios)}")
    options.to.parent.mkdir(exist_ok=True)
    found = {"arch": bench.device.arch, "lines": [asdict(line) for line in bench.lines]}
    options.to.write_text(json.dumps(found, indent=1))
    return 0


def _device(kind: str) -> Device:
    if kind == "interpreter":
        from migx.targets.gpu.interpreter import InterpreterDevice

        return InterpreterDevice()
    from migx.targets.gpu.cupy_device import CupyDevice

    return CupyDevice()


if __name__ == "__main__":
    raise SystemExit(main())
