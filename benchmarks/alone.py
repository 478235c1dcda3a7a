"""One kernel of the ``cpu`` target alone, against a session of onnxruntime of the same small model:
what the benchmarks of single shapes share.

Ours is the kernel, run by the pool; the peer's is a session bound to its buffers. Samples are taken
in turn, with one of a loop that does nothing but multiply and add, which is what the machine's peak
is at that moment. The best of all samples and the medians are shown; the ratio is that of the
medians.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import migx
from benchmarks.measure import seconds
from migx.cli.perf import PAUSE
from migx.ops.builtin import Param
from migx.ops.formats import pack
from migx.planning import source
from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import F32, I64, PTR, Module
from migx.targets.cpu.kernels import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.plans.memory import address, allocated
from migx.targets.cpu.threads.pool import pool
from migx.targets.cpu.threads.runtime import STEP_WORDS, runtime

Array = NDArray[Any]
Call = Callable[[], object]

PASSES = "optimize_module,fuse_pointwise,fuse_epilogue"
AT_LEAST = 2e-4
"""The least seconds of a sample: shorter calls are repeated."""


class Case(Protocol):
    """A shape to measure."""

    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=Case)


@dataclass(frozen=True)
class Samples:
    """Seconds of each call of ours and of the peer's, and the machine's peak in operations a
    second.
    """

    ours: Sequence[float]
    theirs: Sequence[float]
    peak: float

    def line(self, flops: int) -> str:
        """The columns that both tables have, for a number of operations in a call."""
        best, others_best = min(self.ours), min(self.theirs)
        a, b = statistics.median(self.ours), statistics.median(self.theirs)
        return (
            f"{flops / best / 1e9:7.1f} {flops / best / self.peak:5.0%} "
            f"{flops / others_best / 1e9:7.1f} {a * 1e6:9.1f} {b * 1e6:9.1f} {b / a:6.2f} "
            f"{others_best / best:6.2f}"
        )


def table(
    cases: Sequence[C], measured: Callable[[C, int, int], str], about: str | None, more: str = ""
) -> None:
    """The command line of a benchmark: prints the line of each case, measured with the threads and
    rounds asked for.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("names", nargs="*", help="cases, by what their names contain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    print(
        f"{given.threads} threads; best in GFLOP/s (of peak), the peer's; medians in us; ratio of"
    )
    print(f"medians, of the best{more}")
    for case in cases:
        if not given.names or any(name in case.name for name in given.names):
            print(measured(case, given.threads, given.rounds), flush=True)


def samples(
    model: onnx.ModelProto, inputs: Mapping[str, Array], threads: int, rounds: int, atol: float
) -> Samples:
    """Runs a model both ways in turn; the results must agree within ``atol``."""
    mine, result = ours(model, inputs, threads)
    theirs, expected = peer(model, inputs, threads)
    top, work = peak()
    for call in (mine, theirs, top):
        call()
    np.testing.assert_allclose(result, expected(), atol=atol, rtol=1e-5)
    repeat = max(1, round(AT_LEAST / min(seconds(mine) for _ in range(3))))
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(rounds):
        if threads > 1:
            time.sleep(PAUSE)
        found[0].append(seconds(mine, repeat))
        found[1].append(seconds(theirs, repeat))
        found[2].append(work / seconds(top))
    return Samples(found[0], found[1], max(found[2]) * threads)


def ours(
    model: onnx.ModelProto, inputs: Mapping[str, Array], threads: int, passes: str = PASSES
) -> tuple[Call, Array]:
    """A call of the kernel that some passes make of a model, on a number of threads, and its result
    buffer.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        program = migx.parse_onnx(path)
        migx.run_passes(program, passes)
        (at,) = program.main.outputs
        kernel = kernel_for(at, host())
        assert kernel is not None, f"no kernel for {at}"
        formats, operands = dict(kernel.formats), []
        for index, value in enumerate(at.inputs):
            op: Any = source(value).op
            if isinstance(op, Param):
                array = inputs[op.parameter]
            else:
                array = (pack(op.value, formats[index]) if index in formats else op.value).array
            operands.append(moved(array))
    result = moved(np.empty([int(d) for d in at.shape.dims], np.float32))
    args = np.array([address(a) for a in (*operands, result)], np.int64)
    code = jit.load([kernel.text])[kernel.text]
    steps = np.zeros(STEP_WORDS, np.int64)
    steps[:3] = code.address, address(args), int(kernel.tiles)
    room = -(-int(kernel.scratch) // 64) * 64
    scratch = allocated(room * threads)
    pool().provide(threads)
    run = runtime().run
    words = [address(steps), 0, 1, pool().address, threads, address(scratch), room]
    asked = np.array(words, np.int64)
    where = address(asked)

    def call(kept: Any = (code, args, operands, result, steps, scratch, asked)) -> None:
        run(where)

    return call, result


def peer(
    model: onnx.ModelProto, inputs: Mapping[str, Array], threads: int
) -> tuple[Call, Callable[[], Array]]:
    """A call of onnxruntime, bound to its buffers, and a function that returns its result."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    binding = session.io_binding()
    for value in session.get_inputs():
        binding.bind_cpu_input(value.name, inputs[value.name])
    binding.bind_output(session.get_outputs()[0].name, "cpu")
    return lambda: session.run_with_iobinding(binding), lambda: binding.copy_outputs_to_cpu()[0]


def peak() -> tuple[Call, int]:
    """A loop of multiply-adds alone, on one thread, and its operations."""
    machine = host()
    vector, turns, chains = F32.times(machine.lanes(F32)), 100_000, min(24, machine.registers - 4)
    module = Module()
    f = module.function("kernel", [("x", PTR), ("n", I64)])
    x, n = f.parameters
    one = f.splat(f.load(x, F32), vector.lanes)
    with f.loop(0, n, carry=[f.const(vector, 1 + i) for i in range(chains)]) as loop:
        loop.carry(*(f.intrinsic("fmuladd", one, c, one) for c in loop.carried))
    total = loop.carried[0]
    for each in loop.carried[1:]:
        total = total + each
    f.store(total, x)
    code = jit.load([module.text])[module.text]
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(code.address)
    room = np.zeros(vector.lanes, np.float32)

    def call(kept: Any = code) -> None:
        room[0] = 0.5
        function(address(room), turns)

    return call, 2 * vector.lanes * chains * turns


def moved(array: Array) -> Array:
    """A copy at an aligned address."""
    made = allocated(array.nbytes).view(array.dtype).reshape(array.shape)
    made[...] = array
    return made
