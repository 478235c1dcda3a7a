"""Matrix products on the ``cpu`` target against onnxruntime's, shape by shape: run as
``python -m benchmarks.cpu_gemm [--threads N] [--rounds N] [NAME ...]``.

Ours is the kernel alone, run by the pool; the peer's is a session of the one product and its
epilogue, bound to its buffers. Samples are taken in turn, with one of a loop that does nothing but
multiply and add, which is what the machine's peak is at that moment. The best of all samples and
the medians are shown; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import migx
from migx.fusion import source
from migx.ops.builtin import Literal, Param
from migx.ops.formats import read
from migx.targets.cpu import jit
from migx.targets.cpu.emit import F32, I64, PTR, Module
from migx.targets.cpu.kernels.gemm import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.memory import address, aligned
from migx.targets.cpu.pool import pool
from migx.targets.cpu.runtime import STEP_WORDS, run_steps

Array = NDArray[Any]
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A product [batch..., m, k] x [k, n], of weights unless ``given``, and what follows it:
    nothing, ``bias``, or ``gelu`` of the biased product.
    """

    m: int
    k: int
    n: int
    batch: tuple[int, ...] = ()
    given: bool = False
    after: str = ""

    @property
    def name(self) -> str:
        lead = "".join(f"{d}x" for d in self.batch)
        kind = " given" if self.given else ""
        return f"{lead}{self.m}x{self.k}x{self.n}{kind}{' ' + self.after if self.after else ''}"

    @property
    def flops(self) -> int:
        """Multiplications and additions of the product."""
        return 2 * int(np.prod(self.batch)) * self.m * self.k * self.n


PAUSE = 0.01
"""Seconds after the peer has run, until its threads no longer spin on the cores of ours."""

CASES = (
    Case(512, 768, 3072),
    *(Case(m, 768, 3072, after="gelu") for m in (128, 512)),
    *(Case(m, 3072, 768, after="bias") for m in (128, 512)),
    *(Case(m, 768, 768, after="bias") for m in (128, 512)),
    Case(128, 768, 2304, after="bias"),
    Case(197, 768, 3072, after="gelu"),
    Case(3136, 96, 384, after="gelu"),
    Case(1, 4096, 4096),
    Case(1, 2048, 5632),
    Case(8, 4096, 4096),
    Case(32, 4096, 4096),
    Case(4, 2048, 2048),
    Case(8, 2048, 2048),
    Case(1, 768, 1000, after="bias"),
    Case(512, 512, 512, given=True),
    Case(128, 64, 128, (12,), True),
    Case(27, 64, 27, (64,), True),
    Case(1, 256, 10, after="bias"),
    Case(64, 13, 512, after="bias"),
)


def model(case: Case) -> onnx.ModelProto:
    """The case as an ONNX model, its weights drawn."""
    dice = np.random.default_rng(0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*case.batch, case.m, case.k])
    w_dims = [*case.batch, case.k, case.n] if case.given else [case.k, case.n]
    inputs, weights = [x], []
    if case.given:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, w_dims))
    else:
        weights.append(("w", dice.standard_normal(w_dims) / np.sqrt(case.k)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"])]
    if case.after:
        weights.append(("b", dice.standard_normal(case.n)))
        nodes.append(helper.make_node("Add", ["p", "b"], ["q"]))
    if case.after == "gelu":
        nodes.append(helper.make_node("Gelu", ["q"], ["g"]))
    result = nodes[-1].output[0]
    y = helper.make_tensor_value_info(result, TensorProto.FLOAT, [*case.batch, case.m, case.n])
    held = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights]
    graph = helper.make_graph(nodes, "product", inputs, [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def ours(case: Case, inputs: dict[str, Array], threads: int) -> tuple[Call, Array]:
    """A call of the kernel on some threads, and where it puts the result."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "product.onnx")
        path.write_bytes(model(case).SerializeToString())
        program = migx.parse_onnx(path)
        migx.run_passes(program, "optimize_module,fuse_pointwise,fuse_epilogue")
        held = {at: np.array(at.op.value.array) for at in program.main if type(at.op) is Literal}
    (at,) = program.main.outputs
    kernel = kernel_for(at, host())
    assert kernel is not None, case.name
    formats, operands = dict(kernel.formats), []
    for index, value in enumerate(at.inputs):
        root = source(value)
        array = inputs[root.op.parameter] if isinstance(root.op, Param) else held[root]
        array = read(formats[index], array.ndim).pack(array) if index in formats else array
        operands.append(moved(np.ascontiguousarray(array)))
    result = moved(np.empty([int(d) for d in at.shape.dims], np.float32))
    args = np.array([address(a) for a in (*operands, result)], np.int64)
    code = jit.load([kernel.text])[kernel.text]
    steps = np.zeros(STEP_WORDS, np.int64)
    steps[:3] = code.address, address(args), int(kernel.tiles)
    room = -(-int(kernel.scratch) // 64) * 64
    scratch = aligned(room * threads)
    pool().provide(threads)
    run = run_steps()
    words = address(steps), 0, 1, pool().address, threads, address(scratch), room

    def call(kept: Any = (code, args, operands, steps, scratch)) -> None:
        run(*words)

    return call, result


def peer(case: Case, inputs: dict[str, Array], threads: int) -> tuple[Call, Callable[[], Array]]:
    """A call of onnxruntime, bound to its buffers, and what gives its result."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(model(case).SerializeToString(), options)
    binding = session.io_binding()
    for value in session.get_inputs():
        binding.bind_cpu_input(value.name, inputs[value.name])
    binding.bind_output(session.get_outputs()[0].name, "cpu")
    return lambda: session.run_with_iobinding(binding), lambda: binding.copy_outputs_to_cpu()[0]


def peak() -> tuple[Call, int]:
    """A loop that does nothing but multiply and add, on one thread, and its operations."""
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
    made = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def seconds(call: Call) -> float:
    """How long a call takes, once."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measured(case: Case, threads: int, rounds: int) -> str:
    """The line of a case."""
    dice = np.random.default_rng(1)
    inputs = {"x": dice.standard_normal([*case.batch, case.m, case.k]).astype(np.float32)}
    if case.given:
        inputs["w"] = dice.standard_normal([*case.batch, case.k, case.n]).astype(np.float32)
    mine, result = ours(case, inputs, threads)
    theirs, expected = peer(case, inputs, threads)
    top, work = peak()
    for call in (mine, theirs, top):
        call()
    np.testing.assert_allclose(result, expected(), atol=1e-6 * case.k, rtol=1e-5)
    repeat = max(1, round(2e-4 / min(seconds(mine) for _ in range(3))))
    samples: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(rounds):
        if threads > 1:
            time.sleep(PAUSE)
        samples[0].append(seconds(lambda: [mine() for _ in range(repeat)]) / repeat)
        samples[1].append(seconds(lambda: [theirs() for _ in range(repeat)]) / repeat)
        samples[2].append(work / seconds(top))
    a, b = (statistics.median(s) for s in samples[:2])
    rate, other = case.flops / min(samples[0]) / 1e9, case.flops / min(samples[1]) / 1e9
    most = max(samples[2]) / 1e9 * threads
    moved_bytes = 4 * case.k * case.n / min(samples[0]) / 1e9
    return (
        f"{case.name:28} {rate:7.1f} {rate / most:5.0%} {other:7.1f} "
        f"{a * 1e6:9.1f} {b * 1e6:9.1f} {b / a:6.2f} {min(samples[1]) / min(samples[0]):6.2f}"
        f" {moved_bytes:6.1f}"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="cases, by what their names contain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    print(
        f"{given.threads} threads; best in GFLOP/s (of peak), the peer's; medians in us; ratio of"
    )
    print("medians, of the best; and the weights read in GB/s")
    for case in CASES:
        if not given.names or any(name in case.name for name in given.names):
            print(measured(case, given.threads, given.rounds), flush=True)


if __name__ == "__main__":
    main()
