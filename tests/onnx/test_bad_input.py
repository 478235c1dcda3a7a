"""Files that are not what they should be: each gets an error that says what and where."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import migx
from migx.errors import DataError, DataWarning, MigxError, OnnxError, ShapeError
from migx.verify import verify
from tests.onnx.build import HEAD, model_of, saved

ADD = "main (float[n, 3] x) => (float[n, 3] y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }"


def message_of(path: Path | str) -> str:
    """What a user is told who reads a bad file."""
    with pytest.raises(MigxError) as caught:
        migx.parse_onnx(path)
    return str(caught.value)


def broken(graph: str, folder: Path, head: str = HEAD) -> str:
    return message_of(saved(model_of(graph, head), folder))


def whole() -> bytes:
    data: bytes = model_of(ADD).SerializeToString()
    return data


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"Dear reader,\nthis is no model.\n", "is not an ONNX model: it is text"),
    "json": (b'{"weights": [1, 2, 3]}\n' * 20, "is not an ONNX model: it is text"),
    "mxr": (b"MIGX MXR" + bytes(range(256)), "it is an .mxr file, which migx.load reads"),
    "zip": (b"PK\3\4" + bytes(range(256)) * 8, "is not an ONNX model: it is a zip archive"),
    "gzip": (gzip.compress(whole()), "it is compressed: 'gunzip' gives the file itself"),
    "ort": (b"\x14\0\0\0ORTM" + bytes(range(256)), "it is in onnxruntime's own format: give the"),
    "model as text": (b"ir_version: 10\ngraph {\n  node {", "as text: onnx.load reads that"),
    "zeros": (bytes(512), "is not an ONNX model"),
    "truncated": (whole()[:-20], "truncated"),
    "one byte short": (whole()[:-1], "truncated"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
                        "it is a pointer to a file in Git LFS; 'git lfs pull' fetches the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model(name: str, tmp_path: Path) -> None:
    data, expected = FILES[name]
    path = saved(data, tmp_path)
    message = message_of(path)
    assert str(path) in message
    assert expected in message


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    assert message_of(tmp_path / "none.onnx").endswith("none.onnx: No such file or directory")
    assert "Is a directory" in message_of(tmp_path)
    if os.geteuid():
        path = saved(whole(), tmp_path)
        path.chmod(0)
        assert "Permission denied" in message_of(path)


@pytest.mark.filterwarnings("ignore::migx.errors.OnnxWarning")
@settings(max_examples=150)
@given(st.data())
def test_damaged_bytes_never_escape_as_another_error(data: st.DataObject) -> None:
    """Whatever is wrong with a file: a model, or an error of ours."""
    good = whole()
    at = data.draw(st.integers(0, len(good)))
    put = data.draw(st.binary(max_size=4))
    cut = data.draw(st.sampled_from([0, 1, len(put), len(good)]))
    damaged = data.draw(st.sampled_from([good[:at] + put + good[at + cut :], put * 50]))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(MigxError):
        verify(migx.parse_onnx(saved(damaged, Path(folder))))


GRAPHS: dict[str, tuple[str, str]] = {
    "cycle": (
        """main (float[n] x) => (float[n] y) {
          s = Neg(x)
          a = Add(s, c)
          b = Exp(a)
          c = Abs(b)
          y = Relu(c)
        }""",
        "the graph has a cycle: 'a' -> 'b' -> 'c' -> 'a'",
    ),
    "node of itself": (
        "main (float[n] x) => (float[n] y) { y = Add(x, y) }",
        "the graph has a cycle: 'y' -> 'y'",
    ),
    "missing value": (
        "main (float[n] x) => (float[n] y) { y = Add(x, absent) }",
        "Add 'y': nothing in the model produces the value 'absent'",
    ),
    "missing output": (
        "main (float[n] x) => (float[n] y, float[n] z) { y = Neg(x) }",
        "nothing in the model produces the output 'z'",
    ),
    "two of a name": (
        "main (float[n] x) => (float[n] y) { y = Neg(x) y = Exp(x) }",
        "two values are named 'y'",
    ),
    "two of a name, around a cycle": (
        "main (float[n] x) => (float[n] y) { a = Neg(x) b = Exp(a) a = Abs(b) y = Relu(a) }",
        "two values are named 'a'",
    ),
    "bounds of a slice that are no list": (
        """main (float[n] x) => (float[m] y) <int64 start = {0}, int64[1] end = {1}> {
          y = Slice(x, start, end)
        }""",
        "Slice 'y': its starts are i64[]; a list of numbers has one dim",
    ),
    "input and node of a name": (
        "main (float[n] x) => (float[n] x) { x = Exp(x) }",
        "two values are named 'x'",
    ),
    "initializer and node of a name": (
        "main (float[n] x) => (float[n] w) <float[1] w = {1}> { w = Exp(x) }",
        "two values are named 'w'",
    ),
    "missing operand": (
        "main (float[n] x) => (float[n] y) { y = Add(x) }",
        "Add 'y': input 1 is missing",
    ),
    "missing attribute": (
        "main (float[n] x) => (float[n] y) { y = Concat(x, x) }",
        "Concat 'y': attribute 'axis' is missing",
    ),
    "text for a number": (
        'main (float[n] x) => (float[n] y) { y = Softmax<axis = "one">(x) }',
        "Softmax 'y': attribute 'axis' is STRING, where INT belongs",
    ),
    "float for a whole number": (
        "main (float[n] x) => (float[n] y) { y = Softmax<axis = 1.0>(x) }",
        "Softmax 'y': attribute 'axis' is FLOAT, where INT belongs",
    ),
    "number for several": (
        "main (float[1, 1, 4] x) => (float[1, 1, 2] y) { y = MaxPool<kernel_shape = 2>(x) }",
        "MaxPool 'y': attribute 'kernel_shape' is INT, where INTS belongs",
    ),
    "too many operands": (
        "main (float[n] x) => (float[n] y) { y = Add(x, x, x) }",
        "Add 'y': it has 3 inputs; it takes 2",
    ),
    "output of another type": (
        "main (float[n] x) => (int64[n] y) { y = Relu(x) }",
        "output 'y' is declared as i64, and computed as f32[n]",
    ),
    "axis out of range": (
        "main (float[n] x) => (float[n] y) { y = Softmax<axis = 3>(x) }",
        "Softmax 'y': axis 3 is out of range for rank 1",
    ),
    "reshape to too many": (
        "main (float[2, 3] x) => (float[a, b] y) <int64[2] d = {4, 2}> { y = Reshape(x, d) }",
        "Reshape 'y': ",
    ),
    "parts that are not the whole": (
        """main (float[4] x) => (float[1] y, float[2] z) <int64[2] sizes = {1, 2}> {
          y, z = Split(x, sizes)
        }""",
        "Split 'y': its parts (1, 2) add up to 3, the axis has 4",
    ),
    "more parts than outputs": (
        "main (float[4] x) => (float[a] y, float[b] z) { y, z = Split<num_outputs = 9>(x) }",
        "Split 'y': num_outputs is 9, it has 2 outputs",
    ),
    "operand of the wrong rank": (
        "main (float[4] x) => (float[4] y) <int64[2] axis = {0, 0}> { y = CumSum(x, axis) }",
        "CumSum 'y': its operands (f32[4], i64[2]) or attributes do not fit it: ",
    ),
    "missing value in a branch": (
        """main (bool c, float[n] x) => (float[n] y) {
          y = If(c) <
            then_branch = yes () => (float[n] a) { a = Neg(inner) },
            else_branch = no () => (float[n] b) { b = Neg(x) }
          >
        }""",
        "Neg 'a': nothing in the model produces the value 'inner'",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_wrong(name: str, tmp_path: Path) -> None:
    graph, expected = GRAPHS[name]
    assert expected in broken(graph, tmp_path)


def test_shapes_that_do_not_fit_are_drawn(tmp_path: Path) -> None:
    model = model_of("""
        main (float[n, 4] x) => (float[n, 3] y) <float[5, 3] w> { y = MatMul(x, w) }
        """)
    del model.graph.initializer[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((5, 3), np.float32), "w"))
    model.graph.node[0].name = "head/MatMul"
    with pytest.raises(ShapeError) as caught:
        migx.parse_onnx(saved(model, tmp_path))
    first, *drawing = str(caught.value).splitlines()
    assert first.startswith("MatMul 'head/MatMul': dot ")
    assert drawing[0] == "  dot(x, %0)"
    assert drawing[1] == "  ^^^"
    assert "  x : f32[n, 4]" in drawing
    assert "  %0 : f32[5, 3]" in drawing
    assert drawing[-1] == "  in module main, from ONNX 'head/MatMul'"


def test_everything_unsupported_is_listed_at_once(tmp_path: Path) -> None:
    message = broken(
        """main (bool c, float[n] x) => (float[n] y) {
          a = Frobnicate(x)
          b = Frobnicate(a)
          d = Frobnicate(b)
          e = Frobnicate(d)
          f = my.domain.Twist(e)
          g = Det(f)
          y = If(c) <
            then_branch = yes () => (float[n] h) { h = Untwist(g) },
            else_branch = no () => (float[n] i) { i = Neg(x) }
          >
        }""",
        tmp_path,
        '<ir_version: 9, opset_import: ["" : 18, "my.domain" : 3]>\n',
    )
    lines = message.splitlines()
    assert lines[0] == "operators that are not supported:"
    assert "  ai.onnx.Frobnicate version 18: 4 nodes, at 'a', 'b', 'd', ..." in lines
    assert "  ai.onnx.Untwist version 18: 1 node, at 'h'" in lines
    assert "  my.domain.Twist version 3: 1 node, at 'f'" in lines
    assert lines[-1].endswith("docs/how-to/add-an-onnx-importer.md")
    assert (Path(__file__).parents[2] / lines[-1].rpartition(" ")[2]).exists()


def test_a_model_of_one_machine_is_refused_with_what_to_do(tmp_path: Path) -> None:
    message = broken(
        """main (float[1,8,5,5] x) => (float y) {
          a = com.microsoft.nchwc.ReorderInput(x)
          y = com.microsoft.nchwc.GlobalMaxPool(a)
        }""",
        tmp_path,
        '<ir_version: 9, opset_import: ["" : 18, "com.microsoft.nchwc" : 1]>\n',
    )
    assert "  com.microsoft.nchwc.ReorderInput version 1: 1 node, at 'a'\n" in message
    assert message.count("ORT_ENABLE_EXTENDED") == 1
    assert "com.microsoft.nchwc is what onnxruntime makes of a model for one processor" in message


def test_a_model_without_opsets(tmp_path: Path) -> None:
    model = model_of(ADD)
    del model.opset_import[:]
    assert message_of(saved(model, tmp_path)) == (
        "the model imports no opset of the default domain, so its operators have no version"
    )


def test_a_model_without_graph_or_version(tmp_path: Path) -> None:
    model = model_of(ADD)
    model.ClearField("graph")
    assert "is not an ONNX model: it has no graph" in message_of(saved(model, tmp_path))
    model = model_of(ADD)
    model.ir_version = 0
    assert "it has no graph or no IR version" in message_of(saved(model, tmp_path))


def test_a_model_in_memory_is_read_like_one_in_a_file(tmp_path: Path) -> None:
    model = model_of(ADD)
    expected = migx.parse_onnx(saved(model, tmp_path))
    assert migx.parse_onnx(model) == expected
    assert migx.parse_onnx(model.SerializeToString()) == expected
    for wrong in (b"", b"text", onnx.ModelProto(), model.SerializeToString()[:-3]):
        with pytest.raises(OnnxError, match="what was given is not an ONNX model"):
            migx.parse_onnx(wrong)


def with_weight(change: Callable[[TensorProto], None]) -> onnx.ModelProto:
    """A model whose weight, f32[3] of 12 raw bytes, is changed."""
    model = model_of(ADD)
    (weight,) = model.graph.initializer
    weight.CopyFrom(onnx.numpy_helper.from_array(np.arange(3, dtype=np.float32), "w"))
    change(weight)
    return model


def raw(data: bytes) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        tensor.raw_data = data

    return change


def typed(*values: float) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values)

    return change


def external(*entries: tuple[str, str]) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries:
            tensor.external_data.add(key=key, value=value)

    return change


def at_file(location: str, offset: int = 0, length: int = 12) -> Callable[[TensorProto], None]:
    return external(("location", location), ("offset", str(offset)), ("length", str(length)))


def dims(*extents: int) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        tensor.dims[:] = extents

    return change


def strings_outside(tensor: TensorProto) -> None:
    external(("location", "w.bin"))(tensor)
    tensor.data_type = TensorProto.STRING


def kind(code: int) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        tensor.data_type = code

    return change


TENSORS: dict[str, tuple[Callable[[TensorProto], None], str]] = {
    "short": (raw(bytes(8)), "tensor 'w' is f32[3] and takes 12 bytes, but has 8"),
    "overlong": (raw(bytes(16)), "tensor 'w' is f32[3] and takes 12 bytes, but has 16"),
    "large and short": (raw(bytes(4000)), "takes 12 bytes, but has 4000"),
    "typed and short": (typed(1.0), "tensor 'w' is f32[3] and takes 3 values, but has 1"),
    "no data": (typed(), "takes 3 values, but has 0"),
    "declared larger": (dims(1000, 1000), "is f32[1000, 1000] and takes 4000000 bytes, but has 12"),
    "negative dims": (dims(-3), "tensor 'w': a dim cannot be negative: -3 in (-3,)"),
    "many dims": (dims(*[1] * 65), "tensor 'w': a tensor has at most 64 axes, not 65"),
    "unknown type": (kind(99), "tensor 'w' has the element type 99, which is not supported"),
    "complex": (kind(14), "tensor 'w' has the element type COMPLEX64, which is not supported"),
    "no type": (kind(0), "tensor 'w' has the element type UNDEFINED, which is not supported"),
    "no file": (at_file("none.bin"), "; with defer_external_weights=True none need be there yet"),
    "a folder": (at_file("folder"), "external data of 'w': there is no file"),
    "short file": (at_file("w.bin", 8), "has 16 bytes, the tensor is at bytes 8 to 20"),
    "far offset": (at_file("w.bin", 99), "has 16 bytes, the tensor is at bytes 99 to 111"),
    "far offset, no length": (external(("location", "w.bin"), ("offset", "99")),
                              "has 16 bytes, the tensor is at bytes 99 to 111"),
    "length too short": (at_file("w.bin", 0, 8), "takes 12 bytes, but has 8"),
    "length too long": (at_file("w.bin", 0, 16), "takes 12 bytes, but has 16"),
    "no length, short file": (external(("location", "w.bin"), ("offset", "8")),
                              "has 16 bytes, the tensor is at bytes 8 to 20"),
    "declared larger than its file": (dims(1000), "takes 4000 bytes, but has 12"),
    "no location": (external(("offset", "0")), "external data of 'w' has no location"),
    "strings": (strings_outside, "external data of 'w': strings stand in the model itself"),
    "offset is no number": (external(("location", "w.bin"), ("offset", "x")),
                            "has an offset or length that is no number"),
    "negative offset": (at_file("w.bin", -4), "has a negative offset or length: -4, 12"),
    "absolute": (at_file("/etc/passwd"), "the path '/etc/passwd' is absolute; only files in the"),
    "absolute elsewhere": (at_file("C:\\w.bin"), "is absolute; only files in the model's folder"),
    "climbs out": (at_file("../w.bin"), "the path '../w.bin' leads out of the model's folder"),
    "climbs out later": (at_file("folder/../../w.bin"), "leads out of the model's folder"),
    "link out": (at_file("link.bin"), "the path 'link.bin' leads out of the model's folder"),
    "linked folder": (at_file("out/w.bin"), "the path 'out/w.bin' leads out of the model's folder"),
    "no path": (at_file("w\0.bin"), "is no path"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with files and links in it and around it."""
    inside = tmp_path / "model"
    (inside / "folder").mkdir(parents=True)
    for file in (tmp_path / "w.bin", inside / "w.bin"):
        file.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "w.bin")
    (inside / "out").symlink_to(tmp_path)
    return inside


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_whose_data_is_wrong(name: str, folder: Path) -> None:
    change, expected = TENSORS[name]
    model = with_weight(change)
    if name == "declared larger than its file":
        at_file("w.bin")(model.graph.initializer[0])
    message = message_of(saved(model, folder))
    assert expected in message
    assert "'w'" in message


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    (folder / "inner.bin").symlink_to(folder / "w.bin")
    path = saved(with_weight(at_file("folder/../inner.bin", 4)), folder)
    x = np.zeros((1, 3), np.float32)
    assert migx.parse_onnx(path).compile("ref").eval({"x": x})[0].tolist() == [[1, 2, 3]]


def test_a_file_that_goes_on_behind_the_last_tensor_is_told(folder: Path) -> None:
    path = saved(with_weight(at_file("w.bin")), folder)
    with pytest.warns(DataWarning, match=r"w\.bin has 4 bytes behind the last tensor"):
        migx.parse_onnx(path)


def test_a_weight_that_is_removed_after_reading_is_missed_at_the_run(folder: Path) -> None:
    path = saved(with_weight(at_file("w.bin", 4)), folder)
    program = migx.parse_onnx(path)
    (folder / "w.bin").unlink()
    with pytest.raises(MigxError, match=r"cannot read tensor data: No such file .*w\.bin"):
        program.compile("ref").eval({"x": np.zeros((1, 3), np.float32)})


INPUTS = {
    "type": (helper.make_tensor_type_proto(TensorProto.COMPLEX64, [2]),
             "input 'x' has the element type COMPLEX64"),
    "map": (helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [2])),
            "input 'x' is a map to more than single values"),
    "sequence of maps": (helper.make_sequence_type_proto(helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))),
                         "input 'x' is a map to more than single values"),
    "none": (onnx.TypeProto(), "input 'x' is not a tensor but untyped"),
    "many axes": (helper.make_tensor_type_proto(TensorProto.FLOAT, [1] * 65),
                  "input 'x': a tensor has at most 64 axes, not 65"),
    "sequence of many axes": (helper.make_sequence_type_proto(
        helper.make_tensor_type_proto(TensorProto.FLOAT, [1] * 65)),
                              "input 'x': a tensor has at most 64 axes, not 65"),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_are_not_supported(name: str, tmp_path: Path) -> None:
    model = model_of("main (float[n] x) => (float[n] y) { y = Identity(x) }")
    proto, expected = INPUTS[name]
    model.graph.input[0].type.CopyFrom(proto)
    assert expected in message_of(saved(model, tmp_path))


def test_a_wrong_tensor_in_an_attribute_is_named_by_its_node(tmp_path: Path) -> None:
    model = model_of("main () => (float[2] y) { y = Constant <value = float[2] {1, 2}> () }")
    model.graph.node[0].name = "c"
    model.graph.node[0].attribute[0].t.dims[:] = [3]
    assert "Constant 'c': tensor '" in message_of(saved(model, tmp_path))


def test_strings_that_are_not_utf_8(tmp_path: Path) -> None:
    model = model_of("main () => (string[1] w) { }")
    model.graph.initializer.add(name="w", data_type=8, dims=[1], string_data=[b"\xff\xfe"])
    assert "tensor 'w' holds a string that is not UTF-8" in message_of(saved(model, tmp_path))


def test_errors_are_of_the_kinds_they_are_documented_as(folder: Path) -> None:
    for change, error in (
        (at_file("none.bin"), DataError),
        (raw(bytes(8)), DataError),
        (at_file("../w.bin"), DataError),
        (kind(99), OnnxError),
    ):
        with pytest.raises(error):
            migx.parse_onnx(saved(with_weight(change), folder))
