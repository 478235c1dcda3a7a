"""The small model of the documentation: ``python -m migx.testing.small`` writes it to
``model.onnx``, with its weights in ``model.data``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save_model(path: Path) -> None:
    """Writes two dense layers, ``x: f32[batch, 8]`` to ``y: f32[batch, 4]``, with external data."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(dims, dtype=np.float32)
        for name, dims in {"w1": (8, 16), "b1": (16,), "w2": (16, 4), "b2": (4,)}.items()
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["hidden"], name="dense1"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"], name="dense2"),
        helper.make_node("Softmax", ["logits"], ["y"], name="softmax", axis=-1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 8), ("y", 4))
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(
        model, path, save_as_external_data=True, location="model.data", size_threshold=0
    )


if __name__ == "__main__":
    save_model(Path("model.onnx"))
