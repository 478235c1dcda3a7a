"""Convolutions and pooling on the ``cpu`` target against onnxruntime's, shape by shape: run as
``python -m benchmarks.cpu_conv [--threads N] [--rounds N] [NAME ...]``.

As ``benchmarks.cpu_gemm``: the kernel alone against a session of the one operation and what follows
it, in turn, with the machine's peak at that moment. The peer may not choose how its input and
result lie, so it may have to turn them; in whole models it turns them once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import migx
from benchmarks.cpu_gemm import Call, moved, peak, seconds
from migx.fusion import source
from migx.ops.builtin import Literal, Param
from migx.ops.formats import read
from migx.targets.cpu import jit
from migx.targets.cpu.kernels import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.memory import address, aligned
from migx.targets.cpu.pool import pool
from migx.targets.cpu.runtime import STEP_WORDS, run_steps

Array = NDArray[Any]
PASSES = "optimize_module,fuse_pointwise,fuse_epilogue"


@dataclass(frozen=True)
class Case:
    """A convolution of an image [1, channels, size, size] to some outputs, and what follows it:
    nothing, ``bias``, ``relu`` of the biased result, or ``add``: relu of it and another image.
    """

    channels: int
    size: int
    outputs: int
    kernel: int
    stride: int = 1
    group: int = 1
    after: str = "relu"

    @property
    def name(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        group = f" group {self.group}" if self.group > 1 else ""
        shape = f"{self.size}x{self.size}x{self.channels}-{self.outputs}"
        return f"{self.kernel}x{self.kernel}{stride} {shape}{group} {self.after}"

    @property
    def made(self) -> int:
        """The height and width of the result."""
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def flops(self) -> int:
        """Multiplications and additions of the convolution."""
        taps = self.channels // self.group * self.kernel**2
        return 2 * self.made**2 * self.outputs * taps


CASES = (
    Case(64, 56, 64, 3, after="add"),
    Case(64, 56, 64, 3),
    Case(128, 28, 128, 3),
    Case(256, 14, 256, 3),
    Case(512, 7, 512, 3),
    Case(128, 56, 128, 3, 2),
    Case(64, 56, 256, 1, after="add"),
    Case(256, 56, 64, 1),
    Case(512, 28, 128, 1),
    Case(256, 14, 1024, 1, after="add"),
    Case(1024, 14, 256, 1),
    Case(512, 7, 2048, 1, after="add"),
    Case(256, 56, 512, 1, 2),
    Case(3, 224, 64, 7, 2),
    Case(3, 640, 16, 3, 2),
    Case(16, 160, 16, 3),
    Case(32, 256, 32, 3),
    Case(64, 128, 64, 3),
    Case(16, 112, 96, 1),
    Case(144, 56, 24, 1, after="bias"),
    Case(64, 14, 384, 1),
    Case(960, 7, 160, 1, after="bias"),
    Case(32, 112, 32, 3, group=32),
    Case(96, 112, 96, 3, 2, group=96),
    Case(144, 56, 144, 3, group=144),
    Case(384, 14, 384, 3, group=384),
    Case(960, 7, 960, 3, group=960),
    Case(192, 20, 192, 5, group=192),
)


def model(case: Case) -> onnx.ModelProto:
    """The case as an ONNX model, its weights drawn."""
    dice = np.random.default_rng(0)
    taps = case.channels // case.group
    kernels = dice.standard_normal((case.outputs, taps, case.kernel, case.kernel))
    weights = [("w", kernels / np.sqrt(taps * case.kernel**2))]
    dims = [1, case.outputs, case.made, case.made]
    inputs = [_value("x", [1, case.channels, case.size, case.size])]
    attributes: dict[str, Any] = {"pads": [case.kernel // 2] * 4, "group": case.group}
    attributes["strides"] = [case.stride] * 2
    given = ["x", "w"]
    if case.after:
        weights.append(("b", dice.standard_normal(case.outputs)))
        given.append("b")
    nodes = [helper.make_node("Conv", given, ["c"], **attributes)]
    if case.after == "add":
        inputs.append(_value("r", dims))
        nodes.append(helper.make_node("Add", ["c", "r"], ["s"]))
    if case.after in ("relu", "add"):
        nodes.append(helper.make_node("Relu", [nodes[-1].output[0]], ["y"]))
    held = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights]
    graph = helper.make_graph(
        nodes, "convolution", inputs, [_value(nodes[-1].output[0], dims)], held
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _value(name: str, dims: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def ours(case: Case, inputs: dict[str, Array], threads: int) -> tuple[Call, Array]:
    """A call of the kernel on some threads, and where it puts the result."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "convolution.onnx")
        path.write_bytes(model(case).SerializeToString())
        program = migx.parse_onnx(path)
        migx.run_passes(program, PASSES)
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


def peer(case: Case, inputs: dict[str, Array], threads: int) -> tuple[Call, Array]:
    """A call of onnxruntime, bound to its buffers, and its result."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model(case).SerializeToString(), options)
    binding = session.io_binding()
    for value in session.get_inputs():
        binding.bind_cpu_input(value.name, inputs[value.name])
    binding.bind_output(session.get_outputs()[0].name, "cpu")
    session.run_with_iobinding(binding)
    expected: Array = binding.copy_outputs_to_cpu()[0]
    return lambda: session.run_with_iobinding(binding), expected


def measured(case: Case, threads: int, rounds: int) -> str:
    """The line of a case."""
    dice = np.random.default_rng(1)
    dims = {
        "x": (1, case.channels, case.size, case.size),
        "r": (1, case.outputs, case.made, case.made),
    }
    inputs = {name: dice.standard_normal(d).astype(np.float32) for name, d in dims.items()}
    mine, result = ours(case, inputs, threads)
    theirs, expected = peer(case, inputs, threads)
    top, work = peak()
    mine()
    np.testing.assert_allclose(result, expected, atol=1e-6 * case.kernel**2 * case.channels)
    repeat = max(1, round(2e-4 / min(seconds(mine) for _ in range(3))))
    samples: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(rounds):
        samples[0].append(seconds(lambda: [mine() for _ in range(repeat)]) / repeat)
        samples[1].append(seconds(lambda: [theirs() for _ in range(repeat)]) / repeat)
        samples[2].append(work / seconds(top))
    a, b = (statistics.median(s) for s in samples[:2])
    rate, other = (case.flops / min(s) / 1e9 for s in samples[:2])
    most = max(samples[2]) / 1e9 * threads
    return (
        f"{case.name:34} {rate:7.1f} {rate / most:5.0%} {other:7.1f} "
        f"{a * 1e6:9.1f} {b * 1e6:9.1f} {b / a:6.2f} {min(samples[1]) / min(samples[0]):6.2f}"
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
    print("medians, of the best")
    for case in CASES:
        if not given.names or any(name in case.name for name in given.names):
            print(measured(case, given.threads, given.rounds), flush=True)


if __name__ == "__main__":
    main()
