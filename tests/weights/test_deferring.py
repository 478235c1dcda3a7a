"""Weights left out of a program: what the reader makes of external data, with and without files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import migx
from migx.errors import AssumptionError, DataError, OnnxError, WeightError
from migx.onnx import replace_onnx_external_weights
from migx.ops.builtin import OnnxExternalWeights
from migx.program import Program
from migx.verify import verify
from tests.weights.build import (
    HEAD,
    LOOP,
    LOOP_DIMS,
    LOOP_HEAD,
    MLP,
    MLP_DIMS,
    drawn,
    model_of,
    packed,
    write_weights,
)


def deferred(model: onnx.ModelProto, folder: Path) -> Program:
    """The program of a model with its weights left out: verified, equal to its text."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    program = migx.parse_onnx(path, defer_external_weights=True)
    verify(program)
    assert migx.parse(str(program)) == program
    return program


def left_out(program: Program) -> dict[str, OnnxExternalWeights]:
    found = [at.op for module in program.modules.values() for at in module]
    return {op.label: op for op in found if isinstance(op, OnnxExternalWeights)}


def test_no_data_file_need_exist(tmp_path: Path) -> None:
    program = deferred(model_of(MLP, drawn(MLP_DIMS)), tmp_path)
    found = left_out(program)
    assert {name: op.shape.dims for name, op in found.items()} == MLP_DIMS
    # b2 is the last declared and lies first; what stands in the file is read by key.
    assert [found[name].offset for name in ("b2", "w2", "b1", "w1")] == [64, 128, 448, 576]
    assert {op.file for op in found.values()} == {"weights.bin"}


def test_each_initializer_is_one_instruction_however_often_it_is_used(tmp_path: Path) -> None:
    text = """g (float[3] x) => (float[3] y) <float[3] w> {
        a = Add(x, w)
        b = Mul(a, w)
        y = Sub(w, b)
    }"""
    program = deferred(model_of(text, {"w": np.ones(3, np.float32)}), tmp_path)
    migx.run_passes(program, "eliminate_common_subexpression,simplify_algebra")
    assert [at.name for at in program.main].count("onnx_external_weights") == 1


def test_equal_shapes_do_not_merge(tmp_path: Path) -> None:
    text = """g (float[3] x) => (float[3] y) <float[3] v, float[3] w> {
        a = Add(x, v)
        y = Mul(a, w)
    }"""
    ones = np.ones(3, np.float32)
    program = deferred(model_of(text, {"v": ones, "w": ones}), tmp_path)
    migx.run_passes(program, "optimize_module")
    assert list(left_out(program)) == ["v", "w"]


def test_bodies_of_loops_are_deferred_too(tmp_path: Path) -> None:
    model = model_of(LOOP, drawn(LOOP_DIMS), LOOP_HEAD)
    program = deferred(model, tmp_path)
    homes = {
        at.op.label: module.name
        for module in program.modules.values()
        for at in module
        if isinstance(at.op, OnnxExternalWeights)
    }
    assert homes == {"outer": "main", "inside": "main.loop.body"}


def test_four_bits_stay_packed(tmp_path: Path) -> None:
    text = """g (float[3] x) => (float[3] y) <float[3] w> {
        scale = Constant <value = float {0.5}> ()
        d = DequantizeLinear(w, scale)
        y = Add(x, d)
    }"""
    values = packed(np.array([-8, 3, 7], np.int8))
    model = model_of(text, {"w": values})
    program = deferred(model, tmp_path)
    (weight,) = left_out(program).values()
    assert (weight.shape.text, weight.length) == ("i4[3]", 2)
    assert "unpack_int4" in [at.name for at in program.main]
    program.compile("ref")
    with program.update_weights() as new:
        new["w"] = values
    (y,) = program.eval({"x": np.zeros(3, np.float32)})
    assert y.tolist() == [-4, 1.5, 3.5]
    with program.update_weights() as new:  # also as elements
        new["w"] = np.array([1, 2, 3], np.int8)
    assert program.eval({"x": np.zeros(3, np.float32)})[0].tolist() == [0.5, 1, 1.5]


def test_packed_rows_of_matmulnbits_are_deferred_too(tmp_path: Path) -> None:
    text = """g (float[1, 32] x) => (float[1, 4] y) <uint8[4, 1, 16] w, float[4, 1] s> {
        y = com.microsoft.MatMulNBits <K = 32, N = 4, bits = 4, block_size = 32> (x, w, s)
    }"""
    head = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
    values = {
        "w": np.random.default_rng(0).integers(0, 256, (4, 1, 16), np.uint8),
        "s": np.full((4, 1), 0.5, np.float32),
    }
    model = model_of(text, values, head)
    write_weights(model, values, tmp_path)
    program = deferred(model, tmp_path)
    assert {op.shape.text for op in left_out(program).values()} == {"u4[4, 32]", "f32[4, 1]"}
    x = {"x": np.ones((1, 32), np.float32)}
    expected = migx.parse_onnx(tmp_path / "model.onnx").compile("ref").eval(x)[0]
    program.compile("ref")
    for source in (tmp_path, values):
        with program.update_weights() as new:
            new.update(source)
        assert np.array_equal(program.eval(x)[0], expected)


KNOWN = """g (float[2, 3] x) => (float[n] y) <int64[1] dims, float epsilon, float[6] w> {
    flat = Reshape(x, dims)
    more = Add(flat, epsilon)
    y = Mul(more, w)
}"""
VALUES = {
    "dims": np.array([6]),
    "epsilon": np.array(0.5, np.float32),
    "w": np.arange(6, dtype=np.float32),
}


def test_what_the_reader_must_know_is_read_and_assumed(tmp_path: Path) -> None:
    model = model_of(KNOWN, VALUES)
    write_weights(model, VALUES, tmp_path)
    program = deferred(model, tmp_path)
    assert {a.label for a in program.assumptions} == {"dims", "epsilon"}
    assert program.main.returned is not None
    assert program.main.outputs[0].shape.text == "f32[6]"
    x = np.ones((2, 3), np.float32)
    program.compile("ref")
    with program.update_weights() as new:
        new.update(VALUES)
    assert program.eval({"x": x})[0].tolist() == (1.5 * VALUES["w"]).tolist()
    other = {**VALUES, "epsilon": np.array(0.25, np.float32), "w": VALUES["w"] + 1}
    with pytest.raises(AssumptionError, match="'epsilon'"), program.update_weights() as new:
        new.update(other)
    assert program.eval({"x": x})[0].tolist() == (1.5 * VALUES["w"]).tolist()
    folder = write_weights(model, other, tmp_path / "other")
    with pytest.raises(AssumptionError, match="'epsilon'"):
        replace_onnx_external_weights(program, folder)


def test_what_must_be_known_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="external data of 'dims': there is no file"):
        deferred(model_of(KNOWN, VALUES), tmp_path)


def test_baked_for_good_it_is_what_the_reader_makes(tmp_path: Path) -> None:
    for text, head, values in (
        (MLP, HEAD, drawn(MLP_DIMS)),
        (LOOP, LOOP_HEAD, drawn(LOOP_DIMS)),
        (KNOWN, HEAD, VALUES),
    ):
        model = model_of(text, values, head)
        write_weights(model, values, tmp_path)
        program = deferred(model, tmp_path)
        baked = replace_onnx_external_weights(program, tmp_path, replaceable=False)
        assert baked == migx.parse_onnx(tmp_path / "model.onnx")
        assert replace_onnx_external_weights(program, values, replaceable=False) == baked


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("location", "../weights.bin", "leads out of the model's folder"),
        ("offset", "-4", "negative offset"),
        ("length", "12", "takes 512 bytes"),
        ("offset", "x", "no number"),
    ],
)
def test_what_a_model_may_not_declare(key: str, entry: str, message: str, tmp_path: Path) -> None:
    model = model_of(MLP, drawn(MLP_DIMS))
    for given in model.graph.initializer[0].external_data:
        given.value = entry if given.key == key else given.value
    with pytest.raises((OnnxError, DataError), match=message):
        replace_onnx_external_weights(deferred(model, tmp_path), tmp_path)


def test_deferred_weights_are_never_evaluated(tmp_path: Path) -> None:
    model = model_of(MLP, drawn(MLP_DIMS))
    write_weights(model, drawn(MLP_DIMS), tmp_path)
    program = deferred(model, tmp_path)
    migx.run_passes(program, "optimize_module,propagate_constant")
    assert set(left_out(program)) == set(MLP_DIMS)
    assert not program.literals
    with pytest.raises(WeightError, match=r"4 weights have no value yet, 'w1', 'b1', 'w2', 'b2'"):
        program.compile("ref").eval({"x": np.zeros((1, 8), np.float32)})
