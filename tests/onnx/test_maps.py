"""Maps from labels to scores, by onnxruntime's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import migx
import migx.onnx
from migx import ops
from migx.dim import Dim
from migx.errors import InputError, ShapeError
from migx.op import Operation
from migx.ops.maps import map_of
from migx.shape import F32, I64, STR, Shape
from tests.onnx.build import peer, read

HEAD = '<ir_version: 9, opset_import: ["" : 18, "ai.onnx.ml" : 3]>\n'
X = np.array([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]], np.float32)
LETTERS, NUMBERS = 'classlabels_strings = ["a", "b", "c"]', "classlabels_int64s = [3, 5, 7]"
TYPES = {int: onnx.TensorProto.INT64, str: onnx.TensorProto.STRING, float: onnx.TensorProto.FLOAT}


def fed_a_map(node: str, given: dict[Any, Any], out: str) -> onnx.ModelProto:
    """A model of one node that takes a map."""
    model = onnx.parser.parse_model(
        f"{HEAD} g (float x) => ({out} y) {{ y = ai.onnx.ml.{node}(x) }}"
    )
    (key,), (value,) = ({type(v) for v in side} for side in (given.keys(), given.values()))
    kind = model.graph.input[0].type.map_type
    kind.key_type = TYPES[key]
    kind.value_type.tensor_type.elem_type = TYPES[value]
    return model


@pytest.mark.parametrize("labels", [LETTERS, NUMBERS])
def test_rows_become_maps(labels: str, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[n, 3] x) => (float[] y) {{ y = ai.onnx.ml.ZipMap<{labels}>(x) }}"
    )
    model.graph.output[0].ClearField("type")
    key = TYPES[str if labels is LETTERS else int]
    held = model.graph.output[0].type.sequence_type.elem_type.map_type
    held.key_type, held.value_type.tensor_type.elem_type = key, TYPES[float]
    (found,) = read(model, tmp_path).compile("ref").eval({"x": X})
    assert found == peer(model, {"x": X})[0]
    assert isinstance(found, list)
    assert found[1] == dict(zip("abc" if labels is LETTERS else (3, 5, 7), X[1], strict=True))


def test_rows_that_are_longer_than_the_labels(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[n, m] x) => (float[] y) {{ y = ai.onnx.ml.ZipMap<{LETTERS}>(x) }}"
    )
    model.graph.output[0].ClearField("type")
    program = read(model, tmp_path).compile("ref")
    with pytest.raises(
        InputError, match=r"with n=2, m=2: zip_map: .* no column for each of str\[3\]"
    ):
        program.eval({"x": X[:, :2]})


DICTS: dict[str, tuple[str, dict[Any, Any], str, list[Any]]] = {
    "words": (
        'DictVectorizer<string_vocabulary = ["a", "z", "b"]>',
        {"b": 2.5, "a": 1.0},
        "float",
        [1.0, 0.0, 2.5],
    ),
    "counts": ('DictVectorizer<string_vocabulary = ["a", "z"]>', {"z": 4}, "int64", [0, 4]),
    "names": (
        "DictVectorizer<int64_vocabulary = [5, 2, 9]>",
        {2: "two", 9: "nine"},
        "string",
        ["", "two", "nine"],
    ),
    "dense": ("CastMap", {7: 1.5, -2: 0.5, 3: 2.0}, "float", [0.5, 2.0, 1.5]),
    "sparse": (
        'CastMap<map_form = "SPARSE", max_map = 5>',
        {3: 1.5, 0: 2.5},
        "float",
        [2.5, 0.0, 0.0, 1.5, 0.0],
    ),
    "parsed": ('CastMap<cast_to = "TO_FLOAT">', {3: "1.5", 0: "-2"}, "float", [-2.0, 1.5]),
    "truncated": ('CastMap<cast_to = "TO_INT64">', {3: 1.5, 0: -2.5}, "int64", [-2, 1]),
}
UNFED = ("counts", "names", "parsed")
"""onnxruntime's Python takes no maps of these types."""


@pytest.mark.parametrize("case", DICTS)
def test_maps_become_rows(case: str, tmp_path: Path) -> None:
    node, given, out, wanted = DICTS[case]
    model = fed_a_map(node, given, f"{out}[1, n]")
    fed: dict[str, Any] = {"x": given}
    (found,) = read(model, tmp_path).compile("ref").eval(fed)
    assert found.tolist() == [wanted]
    if case not in UNFED:
        (theirs,) = peer(model, fed)
        assert (found.dtype, found.tolist()) == (theirs.dtype, theirs.tolist())


def test_a_map_is_given_as_a_dict(tmp_path: Path) -> None:
    node, given, out, _ = DICTS["dense"]
    program = read(fed_a_map(node, given, f"{out}[1, n]"), tmp_path).compile("ref")
    with pytest.raises(InputError, match="input 'x' is no map: list is no dict"):
        program.eval({"x": [1.0]})


MAP = map_of(STR, F32)


@pytest.mark.parametrize(
    ("op", "shapes", "said"),
    [
        (ops.ZipMap(), [Shape(I64, (3,)), Shape(F32, (2, 4))], "has no column for each of i64.3."),
        (
            ops.ZipMap(),
            [Shape(F32, (3,)), Shape(F32, (2, 3))],
            "from i64 or str to .* not from f32",
        ),
        (ops.MapLookup(), [MAP, Shape(I64, (2,))], "i64.2. are no keys of map"),
        (ops.KeyPlaces(), [Shape(STR, (2,)), Shape(I64, (2,))], "strings and a vector of them"),
        (ops.MapValues(Dim("n")), [Shape(F32, (3,))], "takes a value of the kind map, got f32"),
    ],
)
def test_what_is_no_map_is_refused(op: Operation, shapes: list[Shape], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        op.compute_shape(shapes, ())


@pytest.mark.parametrize(
    "node",
    [
        'LabelEncoder<keys_strings = ["a", "c"], values_floats = [1.5, 2.5], default_float = 7.0>',
        'LabelEncoder<keys_strings = ["a", "c"], values_strings = ["A", "C"]>',
        'OneHotEncoder<cats_strings = ["c", "a", "b"]>',
    ],
)
def test_strings_are_found_among_keys(node: str, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        f"{HEAD} g (string[n, 2] x) => (float[] y) {{ y = ai.onnx.ml.{node}(x) }}"
    )
    model.graph.output[0].ClearField("type")
    x = np.array([["c", "?"], ["a", "c"], ["", "b"]], object)
    program = read(model, tmp_path)
    assert "key_places" in [at.name for at in program.main]
    migx.onnx.write(program, tmp_path / "again.onnx")
    onnx.checker.check_model(tmp_path / "again.onnx")  # its version has what is written
    again = migx.parse_onnx(tmp_path / "again.onnx")
    for made in (program, again):
        (found,), (wanted,) = made.compile("ref").eval({"x": x}), peer(model, {"x": x})
        assert (found.dtype, found.tolist()) == (wanted.dtype, wanted.tolist())


def test_of_equal_keys_the_first_counts(tmp_path: Path) -> None:
    program = migx.Program()
    x = program.main.add_parameter("x", Shape(STR, (3,)))
    keys = program.main.add_literal(np.array(["b", "a", "b"], object))
    program.main.add_return(program.main.add_instruction(ops.KeyPlaces(), x, keys))
    migx.onnx.write(program, tmp_path / "keys.onnx")
    for made in (program, migx.parse_onnx(tmp_path / "keys.onnx")):
        (found,) = made.compile("ref").eval({"x": np.array(["a", "b", "c"], object)})
        assert found.tolist() == [1, 0, 3]
