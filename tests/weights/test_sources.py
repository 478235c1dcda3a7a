"""Where weights come from: what a source lacks or has too much, other element types, and damage."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import migx
from migx.errors import DataError, DataWarning, WeightError
from migx.onnx import replace_onnx_external_weights
from migx.program import Program
from tests.weights.build import MLP, MLP_DIMS, Array, drawn, model_of, safetensors, write_weights

X = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)}
A, B = drawn(MLP_DIMS, 1), drawn(MLP_DIMS, 2)
ALL = "lacks 4 weights: 'w1', 'b1', 'w2', 'b2'"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A compiled program with the weights A."""
    (tmp_path / "model.onnx").write_bytes(model_of(MLP, A).SerializeToString())
    made = migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=True).compile("ref")
    put(made, A)
    return made


def put(program: Program, source: Any, **options: bool) -> None:
    with program.update_weights() as new:
        new.update(source, **options)


def under(prefix: str, weights: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{prefix}{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("held", "strict", "message"),
    [
        (
            under("q", B),
            True,
            f"{ALL}; has 4 weights the program does not have: 'qw1', .*: qw1, qb1.*by value$",
        ),
        (under("q", B), False, ALL),
        ({}, False, ALL),
        ({"b1": B["b1"]}, True, "lacks 3 weights: 'w1', 'w2', 'b2'; strict=False takes the 1 that"),
        (
            {**B, "step": B["b1"]},
            True,
            "has 1 weight the program does not have: 'step'; .* takes the 4",
        ),
        (
            {"b1": B["b1"], **{f"model.layer.{i}.w1": B["w1"] for i in range(9)}},
            True,
            "lacks 3 weights: .*; for 'w1' similar: model.layer.0.w1, ",
        ),
    ],
)
def test_a_file_of_other_names(
    held: dict[str, Array], strict: bool, message: str, program: Program, tmp_path: Path
) -> None:
    file, before = safetensors(held, tmp_path / "w.safetensors"), program.eval(X)[0]
    with pytest.raises(WeightError, match=f"w.safetensors {message}"):
        put(program, file, strict=strict)
    with pytest.raises(WeightError, match=f"w.safetensors {message}"):
        replace_onnx_external_weights(program, file, strict=strict)
    assert program.eval(X)[0].tobytes() == before.tobytes()


def test_what_is_there_of_both_is_taken_where_that_is_asked_for(
    program: Program, tmp_path: Path
) -> None:
    some = {"b1": B["b1"], "step": B["b2"]}
    for source in (some, safetensors(some, tmp_path / "w.safetensors")):
        put(program, A)
        put(program, source, strict=False)
        weights = program.compiled.weights.current.weights
        assert np.array_equal(weights["b1"].array, B["b1"])
        assert np.array_equal(weights["w1"].array, A["w1"])
        assert "step" not in weights
    put(program, {})
    with pytest.raises(WeightError, match="the values given have 1 weight .*: 'step'"):
        put(program, {"step": B["b2"]}, strict=False)
    with pytest.raises(WeightError, match="lack 3 weights: 'w1', 'w2', 'b2'"):
        replace_onnx_external_weights(program.copy(), some, strict=False)
    replaced = replace_onnx_external_weights(program, {"b2": B["b2"]}).finalize("ref")
    put(program, {"b2": B["b2"]})
    assert replaced.eval(X)[0].tobytes() == program.eval(X)[0].tobytes(), "what is live was lost"


def test_a_folder_has_no_weight_that_came_from_no_file(tmp_path: Path) -> None:
    text = (
        "module main() {\n"
        '  %0 = @literal() {value=[1.0], label="w", replaceable=true} : f32[1]\n'
        "  return %0\n}"
    )
    program = migx.parse(text).compile("ref")
    with pytest.raises(WeightError, match="lacks 1 weight: 'w'"):
        put(program, tmp_path)


def test_another_model_has_weights_by_name(program: Program, tmp_path: Path) -> None:
    """Inside its own file or not; what is no weight, as the axes of a sum, is not taken."""
    summed = "axis = Constant <value = int64[1] {0}> () s = ReduceSum(d, axis) y = Add(d, b2)"
    model = model_of(MLP.replace("y = Add(d, b2)", summed), B)
    folder = write_weights(model, B, tmp_path)
    (folder / "b.onnx").write_bytes(model.SerializeToString())
    put(program, B)
    wanted = program.eval(X)[0]
    put(program, folder / "b.onnx")
    assert np.array_equal(program.eval(X)[0], wanted)
    onnx.save(onnx.load(folder / "b.onnx"), folder / "whole.onnx")
    put(program, folder / "whole.onnx")
    assert np.array_equal(program.eval(X)[0], wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_element_types_are_converted_where_that_is_asked_for(
    dtype: type, program: Program, tmp_path: Path
) -> None:
    given: dict[str, Array] = {name: value.astype(dtype) for name, value in B.items()}
    file = safetensors(given, tmp_path / "w.safetensors")
    for source in (given, file):
        by_update = r"convert it to f32, or give it by update\(values, convert=True\)"
        with pytest.raises(WeightError, match=by_update):
            put(program, source)
        with pytest.raises(WeightError, match="convert it to f32, or say convert=True"):
            replace_onnx_external_weights(program, source)
        put(program, source, convert=True)
        expected = {name: value.astype(np.float32) for name, value in given.items()}
        baked = replace_onnx_external_weights(program, source, convert=True).finalize("ref")
        put(program, expected)
        assert baked.eval(X)[0].tobytes() == program.eval(X)[0].tobytes()
    with pytest.raises(WeightError, match=r"'b2' is f32\[4\]: 1e\+40 is no element of f32"):
        put(program, {"b2": np.full(4, 1e40)}, convert=True)


def packed(header: str, content: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + content


def entry(name: str, first: int, last: int, dims: str = "[8, 16]", dtype: str = "F32") -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{dims},"data_offsets":[{first},{last}]}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes, too few for the length of a header"),
        (b"\x09\0\0\0\0\0\0\0{}", "its header of 9 bytes is longer than the file"),
        (packed("[]"), "its header is a JSON list, not an object"),
        (packed("{!"), "Expecting property name"),
        (packed("[" * 100_000), "(recursion|overflow)"),  # as Python 3.14 has it
        (packed('{"w1":[1, 2]}'), r"'w1' has not a dtype, a shape and two data_offsets: \[1, 2\]"),
        (packed("{" + entry("w1", 0, 512, '["8", 16]') + "}"), "'w1' has not a dtype"),
        (packed("{" + entry("w1", 0, 512, "[8.5]") + "}"), "'w1' has not a dtype"),
        (packed("{" + entry("w1", 0, 512, "[-8]") + "}"), "a dim cannot be negative: -8"),
        (packed("{" + entry("w1", 0, 512, "[9]") + "}"), r"f32\[9\], which is not bytes 0 to 512"),
        (packed("{" + entry("w1", 0, 512, dtype="Q") + "}"), "the type Q of 'w1' is not supported"),
        (packed("{" + entry("w1", 0, 512) + "}", bytes(511)), "'w1' ends at byte 512 of 511"),
        (packed("{" + entry("w1", 0, 512) + "}", bytes(513)), "'w1' ends at byte 512 of 513"),
        (packed("{" + entry("w1", -1, 511) + "}", bytes(512)), "'w1' begins at byte -1, not at 0"),
        (
            packed(f"{{{entry('w1', 0, 512)},{entry('w2', 256, 768)}}}", bytes(768)),
            "'w2' begins at byte 256, not at 512, where 'w1' ends",
        ),
    ],
    ids=range(15),
)
def test_damaged_safetensors(
    content: bytes, message: str, program: Program, tmp_path: Path
) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=f"w.safetensors is no safetensors file: .*{message}"):
        put(program, tmp_path / "w.safetensors")


INDEX = "model.safetensors.index.json"


def in_shards(weights: Mapping[str, Array], folder: Path) -> Path:
    """Two safetensors files, and the index beside them."""
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held in parts.items():
        safetensors({name: weights[name] for name in held}, folder / file)
    files = {name: file for file, held in parts.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder / INDEX


def test_files_of_several_kinds_have_the_same_weights(program: Program, tmp_path: Path) -> None:
    put(program, B)
    expected = program.eval(X)[0]
    index = in_shards(B, tmp_path)
    np.savez(tmp_path / "w.npz", allow_pickle=False, **B)
    for source in (index, tmp_path, tmp_path / "w.npz"):
        put(program, A)
        put(program, source)
        np.testing.assert_array_equal(program.eval(X)[0], expected)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (INDEX, b"{", "is no JSON"),
        (INDEX, b"[]", "has no weight_map from the names of tensors to those of files"),
        (INDEX, b'{"weight_map":{"w1":1}}', "has no weight_map"),
        (INDEX, b'{"weight_map":{"w1":"../a.safetensors"}}', "a file of"),
        (INDEX, b'{"weight_map":{"w1":"none.safetensors"}}', "cannot read .*none.safetensors"),
        (INDEX, b'{"weight_map":{"other":"one.safetensors"}}', "that are not there: 'other'"),
        ("w.npz", b"PK no", "w.npz is no npz file of numbers"),
        ("w.npz", b"", "is no npz file"),
    ],
)
def test_damaged_files(
    name: str, content: bytes, message: str, program: Program, tmp_path: Path
) -> None:
    safetensors(B, tmp_path / "one.safetensors")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        put(program, tmp_path / name)


def test_what_is_not_there_is_said_to_be_so(program: Program, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder .*nowhere"):
        put(program, tmp_path / "nowhere")


def test_a_folder_says_nothing_of_what_stands_in_the_model(tmp_path: Path) -> None:
    """As ``onnx.save_model`` writes it: what is small stays in the model's own file."""
    for name, weights in (("a", A), ("b", B)):
        (tmp_path / name).mkdir()
        model = model_of(MLP, weights)
        write_weights(model, weights, tmp_path / name)
        for tensor in model.graph.initializer:
            if tensor.name.startswith("b"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
        (tmp_path / name / "model.onnx").write_bytes(model.SerializeToString())
    program = migx.parse_onnx(tmp_path / "a/model.onnx", defer_external_weights=True)
    program.compile("ref")
    said = (
        r"b does not have the 2 weights .* stay as they were read, 'b1', 'b2'; write the model with"
    )
    with pytest.warns(DataWarning, match=said):
        put(program, tmp_path / "b")
    with pytest.warns(DataWarning, match=said):
        replace_onnx_external_weights(program.copy(), tmp_path / "b")
    mixed = program.eval(X)[0]
    put(program, tmp_path / "b", strict=False)  # which says so by itself
    assert np.array_equal(program.eval(X)[0], mixed)
    program = migx.parse_onnx(tmp_path / "a/model.onnx", defer_external_weights=True)
    program.make_replaceable().compile("ref")
    put(program, tmp_path / "b", strict=False)
    put(program, {name: B[name] for name in ("b1", "b2")})
    assert not np.array_equal(program.eval(X)[0], mixed)
