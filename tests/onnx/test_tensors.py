"""Tensors that the reader finds in a file, in each of its fields, or beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from migx.ops.builtin import Literal
from tests.onnx.build import assert_agrees, drawn, model_of, read


def holding(tensor: TensorProto, cast: int | None = None) -> onnx.ModelProto:
    """A model that returns a tensor, through a Cast where its type is packed."""
    kind = tensor.data_type if cast is None else cast
    name = tensor.name if cast is None else "y"
    nodes = [] if cast is None else [helper.make_node("Cast", [tensor.name], ["y"], to=cast)]
    result = helper.make_tensor_value_info(name, kind, list(tensor.dims))
    graph = helper.make_graph(nodes, "holding", [], [result], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=11)


TYPED: list[tuple[str, str, list[Any], list[Any], Any]] = [
    ("FLOAT", "float_data", [1.5, -0.0], [1.5, -0.0], np.float32),
    ("DOUBLE", "double_data", [1.5], [1.5], np.float64),
    ("FLOAT16", "int32_data", [0x3E00, 0x8000], [1.5, -0.0], np.float16),
    ("BFLOAT16", "int32_data", [0x3FC0], [1.5], ml_dtypes.bfloat16),
    ("FLOAT8E4M3FN", "int32_data", [0x3C, 0xBC], [1.5, -1.5], ml_dtypes.float8_e4m3fn),
    ("FLOAT8E5M2", "int32_data", [0x3E], [1.5], ml_dtypes.float8_e5m2),
    ("BOOL", "int32_data", [1, 0], [True, False], np.bool_),
    ("INT8", "int32_data", [-1, 127], [-1, 127], np.int8),
    ("UINT8", "int32_data", [255], [255], np.uint8),
    ("INT16", "int32_data", [-300], [-300], np.int16),
    ("UINT16", "int32_data", [65535], [65535], np.uint16),
    ("INT32", "int32_data", [-5], [-5], np.int32),
    ("UINT32", "uint64_data", [2**32 - 1], [2**32 - 1], np.uint32),
    ("INT64", "int64_data", [-(2**40)], [-(2**40)], np.int64),
    ("UINT64", "uint64_data", [2**63], [2**63], np.uint64),
]


@pytest.mark.parametrize(("kind", "field", "stored", "values", "dtype"), TYPED, ids=str)
def test_data_in_typed_fields_and_raw(
    kind: str, field: str, stored: list[Any], values: list[Any], dtype: Any, tmp_path: Path
) -> None:
    code = TensorProto.DataType.Value(kind)
    typed = TensorProto(name="w", data_type=code, dims=[len(stored)])
    getattr(typed, field).extend(stored)
    wanted = np.array(values).astype(dtype)
    raw = TensorProto(name="w", data_type=code, dims=[len(stored)], raw_data=wanted.tobytes())
    for tensor in (typed, raw):
        (found,) = read(holding(tensor), tmp_path).compile("ref").eval({})
        assert found.dtype == dtype
        assert found.tobytes() == wanted.tobytes()


def test_strings_and_scalars(tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(np.array(["one", "zwei ä"], object), "w")
    (found,) = read(holding(tensor), tmp_path).compile("ref").eval({})
    assert found.tolist() == ["one", "zwei ä"]
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [], [2.5])
    (found,) = read(holding(tensor), tmp_path).compile("ref").eval({})
    assert (found.shape, found.item()) == ((), 2.5)


@pytest.mark.parametrize(
    ("kind", "values"),
    [("INT4", [1, -8, 7]), ("UINT4", [1, 15, 7]), ("INT2", [1, -2, 0, 1, -1]), ("UINT2", [3, 1]),
     ("FLOAT4E2M1", [0.5, -6, 3])],
)  # fmt: skip
def test_packed_data_stays_packed(kind: str, values: list[float], tmp_path: Path) -> None:
    code = TensorProto.DataType.Value(kind)
    typed = helper.make_tensor("w", code, [len(values)], values)
    raw = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(typed), "w")
    assert raw.HasField("raw_data")
    assert not typed.HasField("raw_data")
    for tensor in (typed, raw):
        program = read(holding(tensor, TensorProto.FLOAT), tmp_path)
        (literal,) = (at.op for at in program.main if isinstance(at.op, Literal))
        assert literal.value.shape.dtype.is_packed
        assert literal.value.nbytes == (len(values) * literal.value.shape.dtype.bits + 7) // 8
        assert program.compile("ref").eval({})[0].tolist() == values


def external(path: Path, tensors: dict[str, tuple[Any, list[tuple[str, str]]]]) -> onnx.ModelProto:
    """A model that adds external tensors up, each with its dims and its entries in their order."""
    model = model_of("main (float[2] x) => (float[2] y) { y = Sum(x) }")
    for name, (dims, entries) in tensors.items():
        tensor = model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries:
            tensor.external_data.add(key=key, value=value)
        model.graph.node[0].input.append(name)
    return model


def test_external_data_is_read_by_key(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    (tmp_path / "v.bin").write_bytes(np.full(2, 10, np.float32).tobytes())
    model = external(tmp_path, {
        "a": ([2], [("checksum", "0"), ("length", "8"), ("offset", "8"),
                    ("location", "sub/w.bin")]),
        "b": ([2], [("location", "sub/w.bin"), ("basepath", "x"), ("offset", "16")]),
        "c": ([2], [("location", "v.bin")]),
    })  # fmt: skip
    program = read(model, tmp_path).compile("ref")
    x = np.zeros(2, np.float32)
    assert program.eval({"x": x})[0].tolist() == [2 + 4 + 10, 3 + 5 + 10]


def test_large_raw_data_is_mapped_where_it_lies(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((40, 30)).astype(np.float32) for _ in range(2))
    model = model_of("""
        main (float[n, 40] x) => (float[n, 30] y) <float[1] small = {2}> {
          a = MatMul(x, first)
          b = MatMul(x, second)
          c = Mul(b, small)
          y = Add(a, c)
        }""")
    for name, value in (("first", first), ("second", second)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    program = read(model, tmp_path)
    for at in program.main:
        if isinstance(at.op, Literal) and at.op.label in ("first", "second"):
            source = at.op.value.source
            assert source is not None
            assert (source.file.name, source.length) == ("model.onnx", first.nbytes)
    inputs = drawn(model, {"n": 2})
    assert_agrees(program.compile("ref"), model, inputs)
