"""Matrix products on the ``cpu`` target against onnxruntime's, shape by shape: run as
``python -m benchmarks.cpu_gemm [--threads N] [--rounds N] [NAME ...]``.

Each is a product and its epilogue; ``benchmarks.alone`` says how they are measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.alone import samples, table


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
    """The case as an ONNX model with random weights."""
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


def measured(case: Case, threads: int, rounds: int) -> str:
    """The line of a case."""
    dice = np.random.default_rng(1)
    inputs = {"x": dice.standard_normal([*case.batch, case.m, case.k]).astype(np.float32)}
    if case.given:
        inputs["w"] = dice.standard_normal([*case.batch, case.k, case.n]).astype(np.float32)
    found = samples(model(case), inputs, threads, rounds, atol=1e-6 * case.k)
    weights = 4 * case.k * case.n / min(found.ours) / 1e9
    return f"{case.name:28} {found.line(case.flops)} {weights:6.1f}"


if __name__ == "__main__":
    table(CASES, measured, __doc__, "; and the weights read in GB/s")
