"""The steps of ``benchmarks.gpu`` on a device: each gives a line of the table, or a part of one,
and depends on no state of other steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import migx
from benchmarks import gpu_peers, gpu_texts, models
from benchmarks.gpu_peers import ONNXRUNTIME, Missing
from benchmarks.gpu_table import Line
from migx.argument import Argument
from migx.binding import sizes_of
from migx.errors import ShapeError
from migx.profile import Cost
from migx.program import Program
from migx.specialise import bound
from migx.targets.gpu import Gpu
from migx.targets.gpu.devices.device import Device
from migx.targets.gpu.devices.values import DeviceArgument
from migx.targets.gpu.runs.executable import GpuExecutable

KERNELS = (
    *("pointwise", "layer norm", "softmax"),
    *("gemm f16", "gemm f32", "int4 gemv", "int4 gemv, small"),
)
SIDE = 4096
"""The side of the square matrices of products."""
WIDE = 4 * SIDE
"""The side of four-bit matrices that take longer to read than a kernel takes to start."""
DRAWN = (1 << 20) - 1
"""The count of numbers drawn: no multiple of a row's length, so that no row equals the next."""
AHEAD = 0.02
"""Seconds that the host may take to enqueue the measured calls."""


@dataclass
class Limits:
    """The limits of the device: bytes a second of a copy on it, read and written, and of the link
    to it; and operations a second of a product of f16 by the vendor's library.
    """

    copy: float = math.nan
    link: float = math.nan
    operations: float = math.nan


class Bench:
    """A device, and how it is measured; with ``quick``, at tiny sizes, to see that everything runs.
    With ``fast_math`` models multiply f32 as tf32, and so do peers.
    """

    def __init__(self, device: Device, *, quick: bool, fast_math: bool = False) -> None:
        self.device, self.quick, self.fast_math = device, quick, fast_math
        self.limits = Limits()

    # Time.

    def timed(self, work: Callable[[], Any]) -> float:
        """Seconds of one call on device and host: the least of several rounds."""
        self._warm(work)
        once = self._round(work, 1)
        count = 1 if self.quick else max(1, min(1000, int(0.05 / max(once, 1e-7))))
        return min(self._round(work, count) for _ in range(1 if self.quick else 5))

    def _warm(self, work: Callable[[], Any]) -> None:
        """Runs until kernels are replayed: the second run records them, the third replays."""
        for _ in range(1 if self.quick else 3):
            work()
        self.device.synchronize()

    def _round(self, work: Callable[[], Any], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            work()
        self.device.synchronize()
        return (time.perf_counter() - begin) / count

    def by_events(self, work: Callable[[], Any], *, ahead: bool = False) -> float:
        """Seconds that the device takes for the work one call enqueues. With ``ahead`` it begins
        when all is enqueued, so that the host's time does not count.
        """
        self._warm(work)
        begin = time.perf_counter()
        work()
        host = time.perf_counter() - begin
        once = self.device.elapsed(work, host)
        most = min(200.0, 0.05 / max(once, 1e-7), AHEAD / max(host, 1e-7))
        count = 1 if self.quick else max(1, int(most))

        def calls() -> None:
            for _ in range(count):
                work()

        busy = 2 * host * count if ahead else 0.0
        return min(self.device.elapsed(calls, busy) for _ in range(1 if self.quick else 5)) / count

    # The limits.

    def copy_on_the_device(self, line: Line) -> None:
        """Bandwidth of a copy within device memory."""
        size = 1 << (16 if self.quick else 29)
        source, to = self.device.allocate(size), self.device.allocate(size)
        self.device.upload(source.address, np.zeros(size, np.uint8))
        move = self.device.move
        line.seconds = self.by_events(lambda: move(to.address, source.address, size), ahead=True)
        line.amount, line.unit = 2 * size / line.seconds / 1e9, "GB/s"

    def link_to_the_device(self, line: Line) -> None:
        """Bandwidth of the link, from pinned memory; without CuPy, that of an upload."""
        size = 1 << (16 if self.quick else 28)
        there = self.device.allocate(size)
        try:
            send = gpu_peers.pinned(there.address, size, self.device.stream)
        except Missing:
            held = np.zeros(size, np.uint8)
            send = lambda: self.device.upload(there.address, held)  # noqa: E731
        line.seconds = self.timed(send)
        line.amount, line.unit = size / line.seconds / 1e9, "GB/s"

    def gemm_f16_by_the_library(self, line: Line) -> None:
        """A square product of f16 by CuPy or torch, whichever is faster."""
        found, said = [], []
        for call in (gpu_peers.cublas, gpu_peers.torch_product):
            try:
                found.append(call(SIDE))
            except Exception as error:  # noqa: BLE001  # whatever is missing there, the other may do
                said.append(str(error).strip().partition("\n")[0])
        if not found:
            raise Missing("; ".join(said))
        line.seconds = min(found)
        line.amount, line.unit = 2 * SIDE**3 / line.seconds / 1e12, "Tflop/s"

    # Kernels.

    def kernel(self, line: Line) -> None:
        """A chain of one kernel, by its name, against its limit."""
        rows, columns, side, wide = (8, 64, 32, 64) if self.quick else (16384, 4096, SIDE, WIDE)
        few = gpu_texts.CHAIN // 4
        moved = 2 * rows * columns * 2 / 1e9
        copy, operations = self.limits.copy / 1e9, self.limits.operations / 1e12
        text, amount, line.unit, line.limit = {
            "pointwise": (gpu_texts.pointwise(rows, columns), moved, "GB/s", copy),
            "layer norm": (gpu_texts.norm(rows, columns), moved, "GB/s", copy),
            "softmax": (gpu_texts.softmax(rows, columns), moved, "GB/s", copy),
            "gemm f16": (gpu_texts.gemm(side), 2 * side**3 / 1e12, "Tflop/s", operations),
            "gemm f32": (
                gpu_texts.gemm(side, "f32"),
                2 * side**3 / 1e12,
                "Tflop/s",
                operations / 6,
            ),
            "int4 gemv": (gpu_texts.int4(wide, few), wide * wide / 2 / 1e9, "GB/s", copy),
            "int4 gemv, small": (gpu_texts.int4(side), side * side / 2 / 1e9, "GB/s", copy),
        }[line.name]
        run = self.prepared(migx.parse(text, draw_missing=1))
        count = few if line.name == "int4 gemv" else gpu_texts.CHAIN
        line.seconds = self.by_events(run, ahead=True) / count
        line.amount = amount / line.seconds

    def kernel_by(self, line: Line, peer: str) -> None:
        """The same kernel by torch."""
        rows, columns = (8, 64) if self.quick else (16384, 4096)
        shape = (SIDE, SIDE) if line.name.startswith("gemm") else (rows, columns)
        compiled = peer == gpu_peers.COMPILED
        line.peers[peer] = gpu_peers.kernel(line.name, *shape, compiled=compiled)

    def prepared(self, program: Program) -> Callable[[], Any]:
        """A call that enqueues a program on values already on the device, one for all parameters of
        a shape.
        """
        made = program.compile(Gpu(device=self.device, offload_copy=False)).compiled
        shapes = {name: p.shape for name, p in program.main.parameters.items()}
        drawn_there = {
            shape: DeviceArgument.of_host(drawn(shape), self.device) for shape in shapes.values()
        }
        there = {name: drawn_there[shape] for name, shape in shapes.items()}
        return lambda: made.run_async(there)

    def swap_weights(self, line: Line) -> None:
        """New weights for a running program, without copying them first, in bytes a second."""
        side = 32 if self.quick else 8192
        program = migx.parse(gpu_texts.swapped(side), draw_missing=1)
        program.compile(Gpu(device=self.device))
        new = np.ones((side, side), np.float32)

        def swap() -> None:
            with program.update_weights(copy=False) as update:
                update["w"] = new

        line.seconds = self.timed(swap)
        line.amount, line.unit = new.nbytes / line.seconds / 1e9, "GB/s"
        line.limit = self.limits.link / 1e9

    # Models.

    def model(self, line: Line) -> list[Argument]:
        """The results of a model, and its time on values on the device, beside that of its kernels
        at the device's limits. Like peers it is compiled for these sizes.
        """
        path, given = models.make(line.name), models.inputs(line.name)
        arguments = {n: Argument.of(v) for n, v in given.items()}
        program = of_sizes(migx.parse_onnx(path), arguments)
        target = Gpu(device=self.device, offload_copy=False)
        made = program.compile(target, fast_math=self.fast_math).compiled
        there = {n: DeviceArgument.of_host(v, self.device) for n, v in arguments.items()}
        outputs = made.run_async(there)
        results = [target.copy_from(value) for value in outputs]
        executable = made.executable
        assert isinstance(executable, GpuExecutable)
        if host := len(executable.fallbacks()):
            line.say(f"{host} on the host")
        with made.weights.reading() as slots:
            costs = executable.profile(made.arguments(there), slots).costs
        limits = self.limits
        if math.isfinite(limits.operations):
            of_kernels = [c for c in costs if c.kernel]
            line.floor = sum(
                max(moved(c) / limits.copy, c.flops / limits.operations) for c in of_kernels
            )
        line.seconds = self.by_events(lambda: made.run_async(there))
        line.amount, line.unit = 1 / line.seconds, "runs/s"
        return results

    def model_by(self, line: Line, peer: str) -> None:
        """The same model by a peer."""
        path, given = models.make(line.name), models.inputs(line.name)
        if peer == ONNXRUNTIME:
            line.peers[peer] = self.timed(
                gpu_peers.onnxruntime(path, given, fast_math=self.fast_math)
            )
        else:
            gpu_peers.torch_module()  # before the model is read
            arguments = {n: Argument.of(v) for n, v in given.items()}
            program = of_sizes(migx.parse_onnx(path), arguments)
            compiled = peer == gpu_peers.COMPILED
            line.peers[peer] = gpu_peers.model(
                program, given, compiled=compiled, fast_math=self.fast_math
            )


def moved(cost: Cost) -> int:
    """The bytes that a kernel must move: of data it gathers from, only those it gathers."""
    shapes = [v.shape for v in cost.at.inputs[1:]]
    if not cost.kernel.startswith("gather") or not all(shape.static for shape in shapes):
        return cost.nbytes
    indices, result = (int(shape.nbytes) for shape in shapes)
    return min(cost.nbytes, indices + 2 * result)


def of_sizes(program: Program, given: Mapping[str, Argument]) -> Program:
    """A program specialised to the sizes of some arguments; unchanged if a branch that these sizes
    never take is invalid with them.
    """
    parameters = program.main.parameters.items()
    sizes = sizes_of((n, p.shape, given[n].shape) for n, p in parameters if n in given)
    try:
        return bound(program, sizes)
    except ShapeError:
        return program


def drawn(shape: Any) -> Argument:
    """A value of static shape, of numbers so small that products of such matrices are, too. They
    repeat, as many would take longer to draw than to compute with.
    """
    dims = tuple(int(d) for d in shape.dims)
    numbers = np.random.default_rng(0).standard_normal(DRAWN, np.float32) / math.sqrt(dims[-1])
    return Argument.of(np.resize(numbers.astype(shape.dtype.numpy), dims))
