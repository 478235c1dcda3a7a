"""Tensors that the reader finds in a file, in each of its fields, or beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import migx
from migx.ops.builtin import Literal, OnnxExternalWeights
from tests.onnx.build import Array, assert_agrees, drawn, model_of, peer, read, saved


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


def test_external_data_without_a_length_has_the_bytes_its_shape_takes(tmp_path: Path) -> None:
    """ONNX makes ``length`` optional: more may follow in the file, as another tensor here."""
    (tmp_path / "w.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    model = external(tmp_path, {
        "a": ([2], [("location", "w.bin")]),
        "b": ([2], [("location", "w.bin"), ("offset", "16")]),
    })  # fmt: skip
    path, x = saved(model, tmp_path), np.zeros(2, np.float32)
    (y,) = migx.parse_onnx(path).compile("ref").eval({"x": x})
    np.testing.assert_array_equal(y, peer(path, {"x": x})[0])
    assert y.tolist() == [0 + 4, 1 + 5]


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


BRANCHES = """main (bool c, float[n, 3] x) => (float[n, 2] y) {
  y = If(c) <
    then_branch = yes () => (float[n, 2] a) {
      w = Constant<value = float[3, 2] {0, 0, 0, 0, 0, 0}>()
      a = MatMul(x, w)
    },
    else_branch = no () => (float[n, 2] b) <float[3, 2] w = {0, 0, 0, 0, 0, 0}> {
      b = MatMul(x, w)
    }
  >
}"""
"""Two weights of one name: a Constant in one branch, an initializer in the other."""


def branches_outside(folder: Path) -> tuple[Path, Array]:
    """The model with its weights in a file, and what they are there."""
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    (folder / "w.bin").write_bytes(values.tobytes())
    model = model_of(BRANCHES)
    then, other = (attribute.g for attribute in model.graph.node[0].attribute)
    for offset, tensor in ((0, then.node[0].attribute[0].t), (24, other.initializer[0])):
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", offset), ("length", 24)):
            tensor.external_data.add(key=key, value=str(value))
    return saved(model, folder), values


def test_constants_with_external_data_are_left_out_too(tmp_path: Path) -> None:
    """No data file need be there; weights of one name in two graphs are told apart."""
    path, values = branches_outside(tmp_path)
    (tmp_path / "w.bin").rename(tmp_path / "later.bin")
    program = migx.parse_onnx(path, defer_external_weights=True)
    found = [at.op for module in program.modules.values() for at in module]
    places = [(op.label, op.offset) for op in found if isinstance(op, OnnxExternalWeights)]
    assert places == [("w", 0), ("w.1", 24)]
    (tmp_path / "later.bin").rename(tmp_path / "w.bin")
    program.compile("ref")
    with program.update_weights() as new:
        new.update(tmp_path)
    x = np.ones((2, 3), np.float32)
    for c, value in zip((True, False), values, strict=True):
        inputs = {"c": np.array(c), "x": x}
        assert np.array_equal(program.eval(inputs)[0], x @ value)
        assert np.array_equal(peer(path, inputs)[0], x @ value)
    assert migx.onnx.replace_onnx_external_weights(
        migx.parse_onnx(path, defer_external_weights=True), tmp_path, replaceable=False
    ) == migx.parse_onnx(path)


def test_weights_of_one_name_in_two_graphs_are_replaced_apart(tmp_path: Path) -> None:
    program = migx.parse_onnx(branches_outside(tmp_path)[0])
    program.make_replaceable()
    program.compile("ref")
    with program.update_weights() as new:
        new["w.1"] = np.ones((3, 2), np.float32)
    inputs = {"c": np.array(True), "x": np.ones((1, 3), np.float32)}
    assert program.eval(inputs)[0].tolist() == [[6, 9]]
    assert program.eval({**inputs, "c": np.array(False)})[0].tolist() == [[3, 3]]


def test_a_graph_that_is_read_twice_keeps_the_names_of_its_weights(tmp_path: Path) -> None:
    """As the body of a loop whose dims change is, and a function called twice."""
    program = read("""
        main (float[n] x) => (float[k] y) <int64 trips = {3}, bool go = {1}> {
          y = Loop(trips, go, x) <
            body = step (int64 i, bool c, float[a] state) => (bool d, float[b] next)
              <float[1] w = {2}> {
              d = Identity(c)
              t = Mul(state, w)
              next = Concat<axis = 0>(t, x)
            }
          >
        }""", tmp_path)  # fmt: skip
    labels = [at.op.label for at in program.literals if isinstance(at.op, Literal) and at.op.label]
    assert sorted(labels) == ["go", "trips", "w"]
