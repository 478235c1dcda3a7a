"""Models with external data, and sets of weights for them in folders."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

Array = NDArray[Any]
HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'

MLP = """mlp (float[batch, 8] x) => (float[batch, 4] y) <
    float[8, 16] w1, float[16] b1, float[16, 4] w2, float[4] b2
> {
    a = MatMul(x, w1)
    b = Add(a, b1)
    c = Relu(b)
    d = MatMul(c, w2)
    y = Add(d, b2)
}"""
MLP_DIMS = {"w1": (8, 16), "b1": (16,), "w2": (16, 4), "b2": (4,)}

LOOP = """looped (float[4] x, int64 trips) => (float[4] y) <float[4] outer> {
    yes = Constant <value = bool {1}> ()
    y = Loop (trips, yes, x) <body = body (int64 i, bool go, float[4] at)
        => (bool on, float[4] next) <float[4, 4] inside> {
        on = Identity(go)
        column = Unsqueeze <axes = [1]> (at)
        t = Transpose <perm = [1, 0]> (inside)
        turned = MatMul (t, column)
        flat = Squeeze <axes = [1]> (turned)
        scaled = Mul (flat, outer)
        next = Tanh (scaled)
    }>
}"""
LOOP_HEAD = '<ir_version: 7, opset_import: ["" : 12]>\n'
LOOP_DIMS = {"outer": (4,), "inside": (4, 4)}


def drawn(dims: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    """Values for weights, from a seed."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(d, np.float32) for name, d in dims.items()}


def model_of(
    text: str, weights: Mapping[str, Array], head: str = HEAD, *, backwards: bool = True
) -> onnx.ModelProto:
    """A model in onnx's text form, its declared initializers external: one file, ``weights.bin``.

    The tensors lie in it in reverse order, with a gap before each, and their entries begin with a
    checksum, so that who reads them by place reads them wrongly.
    """
    model = onnx.parser.parse_model(head + text)
    offset = 0
    order = list(weights)[::-1] if backwards else list(weights)
    places = {}
    for name in order:
        offset += 64 - offset % 64
        places[name] = offset, weights[name].nbytes
        offset += weights[name].nbytes
    for graph in graphs(model.graph):
        for value in [v for v in graph.value_info if v.name in weights]:
            kind = value.type.tensor_type
            dims = [d.dim_value for d in kind.shape.dim]
            made = TensorProto(name=value.name, data_type=kind.elem_type, dims=dims)
            place_externally(made, weights[value.name], *places[value.name])
            graph.initializer.append(made)
            graph.value_info.remove(value)
    return model


def graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and those inside it."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [graph, *(g for each in inner for g in graphs(each))]


def place_externally(tensor: TensorProto, value: Array, offset: int, length: int) -> None:
    """Makes a tensor one with external data; bytes given for floats make it one of i4."""
    tensor.data_location = TensorProto.EXTERNAL
    if value.dtype == np.uint8 and tensor.data_type == TensorProto.FLOAT:
        tensor.data_type = TensorProto.INT4
    entries = {"checksum": "none", "length": length, "offset": offset, "location": "weights.bin"}
    for key, entry in entries.items():
        tensor.external_data.add(key=key, value=str(entry))


def write_weights(model: onnx.ModelProto, weights: Mapping[str, Array], folder: Path) -> Path:
    """Writes ``weights.bin`` with values where the model has them; the folder."""
    folder.mkdir(exist_ok=True)
    content = bytearray()
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            entries = {e.key: e.value for e in tensor.external_data}
            offset, length = int(entries["offset"]), int(entries["length"])
            content.extend(bytes(max(0, offset + length - len(content))))
            content[offset : offset + length] = weights[tensor.name].tobytes()
    (folder / "weights.bin").write_bytes(content)
    return folder


def packed(values: Array) -> Array:
    """The bytes of i4 values."""
    flat = values.astype(ml_dtypes.int4).astype(np.int8).reshape(-1).view(np.uint8) & 15
    flat = np.concatenate([flat, np.zeros(flat.size % 2, np.uint8)])
    result: Array = flat[::2] | flat[1::2] << 4
    return result


_SAFETENSORS = {"float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8"}


def safetensors(weights: Mapping[str, Array], path: Path) -> Path:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, value in weights.items():
        offsets = [len(content), len(content) + value.nbytes]
        dtype = _SAFETENSORS[value.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": offsets}
        content += value.tobytes()
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + content)
    return path
