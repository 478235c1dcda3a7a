"""Convolutions and pooling on the ``cpu`` target against onnxruntime's, shape by shape: run as
``python -m benchmarks.cpu_conv [--threads N] [--rounds N] [NAME ...]``.

Each is an operation and what follows it; ``benchmarks.alone`` says how they are measured. The peer
cannot choose the layout of its input and result, so it may have to convert them; in whole models it
does so once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.alone import samples, table


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
    """The case as an ONNX model with random weights."""
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


def measured(case: Case, threads: int, rounds: int) -> str:
    """The line of a case."""
    dice = np.random.default_rng(1)
    dims = {
        "x": (1, case.channels, case.size, case.size),
        "r": (1, case.outputs, case.made, case.made),
    }
    inputs = {name: dice.standard_normal(d).astype(np.float32) for name, d in dims.items()}
    atol = 1e-6 * case.kernel**2 * case.channels
    found = samples(model(case), inputs, threads, rounds, atol)
    return f"{case.name:34} {found.line(case.flops)}"


if __name__ == "__main__":
    table(CASES, measured, __doc__)
