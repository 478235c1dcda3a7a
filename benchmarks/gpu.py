"""Measures the gpu target on a machine with a GPU: ``python -m benchmarks.gpu``.

It needs nobody to watch it and takes under eight minutes. What is measured, in this order:

1. the limits of this device: a copy on it, the link to it, a product of f16 by the maker's library;
2. kernels against these limits, and against torch;
3. swapping weights, against the link;
4. models: whether each answers as ``ref`` does, within derived bounds;
5. models: their time, beside the floor of their kernels (for each, bytes over bandwidth or
   operations over peak, the greater) and onnxruntime's CUDA provider;
6. models by torch, eager;
7. models by ``torch.compile``, transformers first.

When the time is over, what is left is dropped, from the end of this list; each row that is dropped,
and each peer that is not installed, is said. Times of the device are by events. One table is
printed, and the figures go to a file in ``benchmarks/results``.

``--device interpreter --quick`` goes through all of it, tiny, on a machine without a GPU; its times
mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import migx
from benchmarks import gpu_peers, gpu_texts, models
from benchmarks.gpu_peers import COMPILED, EAGER, ONNXRUNTIME, Missing
from benchmarks.gpu_texts import CHAIN
from migx.argument import Argument
from migx.compiler import Compiled
from migx.program import Program
from migx.target import CompileOptions
from migx.targets.gpu import Gpu
from migx.targets.gpu.device import Device
from migx.targets.gpu.executable import GpuExecutable
from migx.targets.gpu.values import DeviceArgument
from migx.testing.bounds import compare
from migx.testing.oracles import Trial

BUDGET = 450.0
"""Seconds in all: nothing is begun when they are over."""
BARS = {
    "pointwise": 0.85,
    "layer norm": 0.85,
    "softmax": 0.85,
    "gemm f16": 0.70,
    "int4 gemv": 0.70,
    "swap weights": 0.80,
}
"""What share of the limit each is to reach."""
TRANSFORMERS = (
    *("bert_base", "distilgpt2_kv", "llama_2048x4_kv", "vit_base_timm", "swin_tiny"),
    *("whisper_tiny_encoder", "llama_int4_qdq_b32", "llama_matmulnbits_b32"),
)
"""The models whose speed is held against torch.compile's, in the geometric mean."""
QUICK = ("qonnx_mnist_conv",)
PEERS = (EAGER, COMPILED, ONNXRUNTIME)


@dataclass
class Line:
    """One line of the table: what took how long, what that is in ``unit``, and the limit that it is
    held against; the seconds of ``peers``, and of the floor; ``notes`` say what is missing.
    """

    name: str
    seconds: float | None = None
    amount: float | None = None
    unit: str = ""
    limit: float | None = None
    floor: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """How much of the limit is reached; of the floor's speed, for a model."""
        if self.seconds and self.floor:
            return self.floor / self.seconds
        known = self.amount and self.limit and math.isfinite(self.limit)
        return self.amount / self.limit if known and self.amount and self.limit else None

    def say(self, what: str) -> None:
        """Adds to the notes, once."""
        if what not in self.notes:
            self.notes.append(what)


class Bench:
    """A device, its measured limits, and the lines found so far."""

    def __init__(self, device: Device, *, quick: bool, budget: float = BUDGET) -> None:
        self.device, self.quick, self.budget = device, quick, budget
        self.lines: dict[str, Line] = {}
        self.begin = time.monotonic()
        self.copy = self.link = self.operations = math.nan
        self.programs: dict[str, tuple[Path, dict[str, Any], Compiled]] = {}

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.budget - (time.monotonic() - self.begin)

    def timed(self, work: Callable[[], Any]) -> float:
        """Seconds of one call, in the least of several rounds of calls; device and host."""
        self._warm(work)
        once = self._round(work, 1)
        count = 1 if self.quick else max(1, min(1000, int(0.05 / max(once, 1e-7))))
        return min(self._round(work, count) for _ in range(1 if self.quick else 5))

    def _warm(self, work: Callable[[], Any]) -> None:
        """The second time kernels are recorded, the third replayed."""
        for _ in range(1 if self.quick else 3):
            work()
        self.device.synchronize()

    def _round(self, work: Callable[[], Any], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            work()
        self.device.synchronize()
        return (time.perf_counter() - begin) / count

    def by_events(self, work: Callable[[], Any]) -> float:
        """Seconds that the device takes for what one call enqueues."""
        self._warm(work)
        once = self.device.elapsed(work)
        count = 1 if self.quick else max(1, min(200, int(0.05 / max(once, 1e-7))))

        def calls() -> None:
            for _ in range(count):
                work()

        return min(self.device.elapsed(calls) for _ in range(1 if self.quick else 5)) / count

    def need(self, seconds: float) -> None:
        """Drops something that takes about so long, if there is not so much time left."""
        if self.left < seconds:
            raise Missing("dropped: the time is over")

    @contextmanager
    def line(self, name: str) -> Iterator[Line]:
        """The line of a name. What goes wrong in what is done with it is noted there, and the next
        is gone on with.
        """
        line = self.lines.setdefault(name, Line(name))
        try:
            yield line
        except Missing as error:
            line.say(str(error))
        except Exception as error:  # noqa: BLE001  # what a peer raises is no reason to stop
            said = str(error).strip().splitlines() or [""]
            line.say(f"{type(error).__name__}: {said[0]}"[:100])

    # The limits.

    def measure_limits(self) -> None:
        """Bandwidth of a copy on the device and over the link, in bytes a second read and written;
        operations a second of a product of f16 by the maker's library.
        """
        size = 1 << (16 if self.quick else 29)
        with self.line("copy on the device") as line:
            self.need(0)
            source, to = self.device.allocate(size), self.device.allocate(size)
            line.seconds = self.by_events(
                lambda: self.device.move(to.address, source.address, size)
            )
            self.copy = 2 * size / line.seconds
            line.amount, line.unit = self.copy / 1e9, "GB/s"
        with self.line("link to the device") as line:
            self.need(0)
            held, there = np.zeros(size, np.uint8), self.device.allocate(size)
            line.seconds = self.timed(lambda: self.device.upload(there.address, held))
            self.link = size / line.seconds
            line.amount, line.unit = self.link / 1e9, "GB/s"
        with self.line("gemm f16 by the library") as line:
            self.need(0)
            side = 4096
            line.seconds = _library(side)
            self.operations = 2 * side**3 / line.seconds
            line.amount, line.unit = self.operations / 1e12, "Tflop/s"

    # Kernels.

    def measure_kernels(self) -> None:
        """Each kernel of a chain against the limit that it should reach, and against torch."""
        rows, columns = (8, 64) if self.quick else (16384, 4096)
        side = 32 if self.quick else 4096
        moved = 2 * rows * columns * 2 / 1e9
        copy, operations = self.copy / 1e9, self.operations / 1e12
        for name, text, amount, unit, limit, dims in (
            ("pointwise", gpu_texts.pointwise(rows, columns), 2 * moved, "GB/s", copy, None),
            ("layer norm", gpu_texts.norm(rows, columns), moved, "GB/s", copy, None),
            ("softmax", gpu_texts.softmax(rows, columns), moved, "GB/s", copy, None),
            ("gemm f16", gpu_texts.gemm(side), 2 * side**3 / 1e12, "Tflop/s", operations, side),
            ("int4 gemv", gpu_texts.int4(side), side * side / 2 / 1e9, "GB/s", copy, None),
        ):
            with self.line(name) as line:
                self.need(0)
                run = self.prepared(migx.parse(text, draw_missing=1))
                line.seconds = self.by_events(run) / CHAIN
                line.amount, line.unit, line.limit = amount / line.seconds, unit, limit
            for peer in (EAGER, COMPILED):
                with self.line(name) as line:
                    self.need(30 if peer == COMPILED else 0)
                    shape = (dims, dims) if dims else (rows, columns)
                    compiled = peer == COMPILED
                    line.peers[peer] = gpu_peers.kernel(name, *shape, compiled=compiled)

    def prepared(self, program: Program, given: dict[str, Any] | None = None) -> Callable[[], Any]:
        """A call that enqueues a program on values that are on the device already."""
        made = program.compile(Gpu(device=self.device, offload_copy=False)).compiled
        parameters = program.main.parameters.items()
        values = given or {name: drawn(p.shape) for name, p in parameters}
        there = {n: DeviceArgument.of_host(v, self.device) for n, v in values.items()}
        return lambda: made.run_async(there)

    def measure_swap(self) -> None:
        """New weights for a program that runs, in bytes a second of the link."""
        with self.line("swap weights") as line:
            self.need(0)
            side = 32 if self.quick else 8192
            program = migx.parse(gpu_texts.swapped(side), draw_missing=1)
            program.compile(Gpu(device=self.device))
            new = np.ones((side, side), np.float32)

            def swap() -> None:
                with program.update_weights() as update:
                    update["w"] = new

            line.seconds = self.timed(swap)
            line.amount, line.unit = new.nbytes / line.seconds / 1e9, "GB/s"
            line.limit = self.link / 1e9

    # Models.

    def measure_models(self, names: Sequence[str]) -> None:
        """Each model: right first, all of them; then timed, beside what peers there are."""
        workers = ProcessPoolExecutor(mp_context=get_context("spawn"))
        try:
            expected = {name: workers.submit(on_ref, name, self.device.arch) for name in names}
            for name in names:
                with self.line(name) as line:
                    self.need(60)
                    self._check(name, line, expected[name])
        finally:
            workers.shutdown(wait=False, cancel_futures=True)
            for child in active_children():  # else one that takes too long is waited for at the end
                child.terminate()
        for name in self.programs:
            with self.line(name) as line:
                self.need(10)
                self._time(name, line)
            with self.line(name) as line:
                self.need(20)
                path, given, _ = self.programs[name]
                line.peers[ONNXRUNTIME] = self.timed(gpu_peers.onnxruntime(path, given))
        first = [n for n in TRANSFORMERS if n in self.programs]
        order = [*first, *(n for n in self.programs if n not in first)]
        for peer, reserve in ((EAGER, 20), (COMPILED, 60)):
            for name in order:
                with self.line(name) as line:
                    self.need(reserve)
                    path, given, _ = self.programs[name]
                    line.peers[peer] = gpu_peers.model(path, given, compiled=peer == COMPILED)

    def _check(self, name: str, line: Line, expected: Future[Any]) -> None:
        """Holds the answers of a model to those of ``ref``."""
        path, given = models.make(name), models.inputs(name)
        program = migx.parse_onnx(path).compile(Gpu(device=self.device))
        arguments = {n: Argument.of(v) for n, v in given.items()}
        results = program.compiled.results(arguments)
        executable = program.compiled.executable
        assert isinstance(executable, GpuExecutable)
        if host := len(executable.fallbacks()):
            line.say(f"{host} on the host")
        try:
            wanted = expected.result(timeout=max(1.0, self.left - 60))
        except TimeoutError:
            raise Missing("not checked: ref takes too long") from None
        for number, (got, (value, bound)) in enumerate(zip(results, wanted, strict=True)):
            found = compare(f"output {number}", got, value, bound, bound)
            if not found.passed:
                raise AssertionError(f"wrong: {found.name}: {found.problem}")
        self.programs[name] = path, given, program.compiled
        line.say("right")

    def _time(self, name: str, line: Line) -> None:
        """Times a model on values that are on the device, and says what its floor is."""
        path, given, made = self.programs[name]
        arguments = {n: Argument.of(v) for n, v in given.items()}
        line.seconds = self.by_events(self.prepared(migx.parse_onnx(path), arguments))
        line.amount, line.unit = 1 / line.seconds, "runs/s"
        executable = made.executable
        assert isinstance(executable, GpuExecutable)
        with made.weights.reading() as slots:
            costs = executable.profile(arguments, slots).costs
        if math.isfinite(self.operations):
            of_kernels = (c for c in costs if c.kernel)
            line.floor = sum(
                max(c.nbytes / self.copy, c.flops / self.operations) for c in of_kernels
            )


def on_ref(name: str, arch: str) -> list[tuple[Argument, Any]]:
    """The answers of ``ref`` to a model, with bounds; in a process of its own."""
    target = Gpu(arch or "sm_90")
    passes = target.get_passes(target.get_context(), CompileOptions())
    program = migx.parse_onnx(models.make(name))
    arguments = {n: Argument.of(v) for n, v in models.inputs(name).items()}
    outputs = Trial(program, arguments).outputs(passes)
    return [
        (Argument(v.shape, np.array(v.array)) if v.shape.dtype.is_tensor else v, bound)
        for v, bound in outputs
    ]


def _library(side: int) -> float:
    """Seconds of a square product of f16 by CuPy or torch, whichever is faster."""
    found = []
    try:
        import cupy

        x = cupy.ones((side, side), cupy.float16)
        first, last = (cupy.cuda.Event() for _ in range(2))
        for count in (3, 20):
            first.record()
            for _ in range(count):
                cupy.matmul(x, x)
            last.record()
            last.synchronize()
        found.append(cupy.cuda.get_elapsed_time(first, last) / 1e3 / 20)
    except (ImportError, RuntimeError) as error:
        said = f"CuPy: {error}"
    try:
        found.append(gpu_peers.kernel("gemm f16", side, side, compiled=False))
    except Missing as error:
        if not found:
            raise Missing(f"{said.splitlines()[0]}; {error}") from error
    return float(min(found))


def drawn(shape: Any) -> Argument:
    """A value of static shape, of small numbers."""
    dims = tuple(int(d) for d in shape.dims)
    return Argument.of(np.random.default_rng(0).standard_normal(dims).astype(shape.dtype.numpy))


# What is shown.


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table."""
    table = Table(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def _shown(line: Line) -> tuple[str, ...]:
    took = "" if line.seconds is None else f"{line.seconds * 1e3:,.3f} ms"
    amount = "" if line.amount is None else f"{line.amount:,.2f} {line.unit}"
    share = "" if line.share is None else f"{line.share:.2f}"
    bar = BARS.get(line.name)
    if bar is not None and line.share is not None:
        share += f" of {bar:.2f}: {'reached' if line.share >= bar else 'missed'}"
    times = [
        f"{line.peers[p] / line.seconds:.2f}" if p in line.peers and line.seconds else ""
        for p in PEERS
    ]
    return line.name, took, amount, share, *times


def _notes(lines: Sequence[Line]) -> dict[str, list[str]]:
    """What is to be said, each with the lines it is said of."""
    found: dict[str, list[str]] = {}
    for line in lines:
        for note in line.notes:
            found.setdefault(note, []).append(line.name)
    return found


def _mean(lines: Sequence[Line], peer: str) -> str:
    ratios = [
        line.peers[peer] / line.seconds for line in lines if line.seconds and peer in line.peers
    ]
    if not ratios:
        return f"transformers against {peer}: not measured"
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"transformers: {mean:.2f} times the speed of {peer}, geometric mean of {len(ratios)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("gpu", "interpreter"), default="gpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs")
    parser.add_argument("--models", nargs="*", help="only these")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    parser.add_argument("--to", type=Path, help="results go there")
    options = parser.parse_args(arguments)
    bench = Bench(_device(options.device), quick=options.quick, budget=options.budget)
    bench.measure_limits()
    bench.measure_kernels()
    bench.measure_swap()
    names = QUICK if options.quick else models.names()
    bench.measure_models(names if options.models is None else options.models)
    lines = list(bench.lines.values())
    columns = ("what", "time", "amount", "of the limit", *(f"× {p}" for p in PEERS))
    show(columns, [_shown(line) for line in lines])
    for note, named in _notes(lines).items():
        print(f"{note}: {', '.join(named)}")
    for peer in (COMPILED, ONNXRUNTIME):
        print(_mean([line for line in lines if line.name in TRANSFORMERS], peer))
    print(f"took {bench.budget - bench.left:.0f} s")
    to = options.to or _place(bench.device.arch, options.quick)
    to.parent.mkdir(parents=True, exist_ok=True)
    found = {"arch": bench.device.arch, "lines": [asdict(line) for line in lines]}
    to.write_text(json.dumps(found, indent=1))
    return 0


def _place(arch: str, quick: bool) -> Path:
    """Where results go: those that mean something, to where they are kept."""
    if quick or not arch:
        return Path(".bench/gpu.json")
    return Path(__file__).parent / "results" / f"gpu-{arch}.json"


def _device(kind: str) -> Device:
    if kind == "interpreter":
        from migx.targets.gpu.interpreter import InterpreterDevice

        return InterpreterDevice()
    from migx.targets.gpu.cupy_device import CupyDevice

    return CupyDevice()


if __name__ == "__main__":
    raise SystemExit(main())
