"""Weights read while a program lives, and literals of a model made into weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import migx
from migx.argument import Argument
from migx.errors import AssumptionError, InputError, WeightError
from migx.ops.builtin import Literal
from migx.program import Program
from tests.weights.build import HEAD, MLP, MLP_DIMS, Array, drawn, model_of, write_weights

X = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)}
A, B = drawn(MLP_DIMS, 1), drawn(MLP_DIMS, 2)


def model_with(weights: dict[str, Array], text: str = MLP) -> onnx.ModelProto:
    """A model that has its weights inside."""
    model = model_of(text, {name: weights[name] for name in weights})
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in weights.items())
    return model


@pytest.fixture
def program() -> Program:
    return migx.parse_onnx(model_with(A)).make_replaceable().compile("ref")


def result(program: Program) -> Array:
    found: Array = program.eval(X)[0]
    return found


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_weights_inside_the_file_may_be_replaced(target: str) -> None:
    program = migx.parse_onnx(model_with(A)).make_replaceable()
    assert program.weight_shapes == {n: migx.Shape("f32", d) for n, d in MLP_DIMS.items()}
    program.compile(target)
    wanted = migx.parse_onnx(model_with(B)).compile(target).eval(X)[0]
    with program.update_weights() as new:
        new.update(B)
    assert result(program).tobytes() == wanted.tobytes()


def test_weights_without_a_file_of_their_own_are_not_left_out(
    program: Program, tmp_path: Path
) -> None:
    with pytest.raises(WeightError, match="'w1' has no file of external data .* save the program"):
        migx.save(program, tmp_path / "program.mxr", weights=False)


def test_some_may_be_replaced_and_the_rest_stays() -> None:
    program = migx.parse_onnx(model_with(A)).make_replaceable(["w1"]).make_replaceable(["w1"])
    assert [*program.weight_shapes] == ["w1"]
    with pytest.raises(WeightError, match="no replaceable weight 'b1'; there are: w1"):
        program.compile("ref").update_weights().__enter__()["b1"] = B["b1"]
    with pytest.raises(WeightError, match="no literal .W1.; there are: .*w1"):
        program.make_replaceable(["W1"])


NUMBERS = """g (float[n] x) => (float[n] y) <float[1] one = {2.0}, int64[2] shape = {-1, 1}> {
    a = Mul(x, one)
    b = Reshape(a, shape)
    y = Squeeze(b)
}"""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["shape"], r"there is no literal 'shape'; there are: one"),
        (["w"], "there is no literal 'w'; there are: one"),
        ("one", r"takes a list of names, such as \['one'\]"),
        (None, "has no literals with names but 'one'"),
    ],
)
def test_what_must_be_known_stays(names: Any, message: str) -> None:
    program = migx.parse_onnx(onnx.parser.parse_model(HEAD + NUMBERS))
    with pytest.raises(WeightError, match=message):
        program.make_replaceable(names)
    assert not program.weight_shapes


HEADED = """g (float[2, 3] x) => (float[2, 1] y) <float[3, 1] w, float[1] bias, float scale,
    float half, int64 zero> {
    a = MatMul(x, w)
    b = Add(a, bias)
    c = Mul(b, scale)
    shape = Shape(x)
    floats = Cast <to = 1> (shape)
    halved = Mul(floats, half)
    lens = Cast <to = 7> (halved)
    rows = Gather(lens, zero)
    twice = Add(rows, rows)
    column = Constant <value = int64[1] {1}> ()
    row = Reshape(twice, column)
    dims = Concat <axis = 0> (row, column)
    y = Reshape(c, dims)
}"""
HEAD_VALUES: dict[str, Array] = {
    "w": np.array([[1], [2], [3]], np.float32),
    "bias": np.array([0.5], np.float32),
    "scale": np.array(2, np.float32),
    "half": np.array(0.5, np.float32),
    "zero": np.array(0, np.int64),
}


def test_a_weight_that_the_reader_looked_at_keeps_its_value() -> None:
    """The form of the program depends on it: here, how large the result is."""
    scales = np.array([1, 2, 3], np.float32)
    text = """g (float[1, 2, 2] x) => (float[a, b, c] y, float[3] z) {
      y = Resize(x, , scales)
      z = Add(scales, w)
    }"""
    weights = {"scales": scales, "w": np.ones(3, np.float32)}
    program = migx.parse_onnx(model_with(weights, text)).make_replaceable()
    assert migx.parse(str(program)) == program
    for target in ("ref", "cpu"):
        program.compile(target)
        with program.update_weights() as new:
            new.update({"scales": scales, "w": scales})
        y, z = program.eval({"x": np.ones((1, 2, 2), np.float32)})
        assert y.shape == (1, 4, 6)
        assert z.tolist() == [2, 4, 6]
        with (
            pytest.raises(AssumptionError, match="'scales' cannot .*: Resize 'y' relied on the"),
            program.update_weights() as new,
        ):
            new["scales"] = scales + 1


def test_weights_that_were_left_out_and_read_stay_as_they_are(tmp_path: Path) -> None:
    text = """g (float[1, 2] x) => (float[a, b] y, float[2] z) <float[2] s> {
      y = Resize(x, , s)
      z = Add(s, s)
    }"""
    weights = {"s": np.array([1, 2], np.float32)}
    model = model_of(text, weights)
    write_weights(model, weights, tmp_path)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    program = migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=True)
    assert [*program.weight_shapes] == ["s"]
    assert program.copy().make_replaceable() == program
    with pytest.raises(WeightError, match="relied on its value when the model was read"):
        program.make_replaceable(["s"])


def test_a_single_float_is_a_weight_where_it_is_named(tmp_path: Path) -> None:
    """The bias of a head, a scale: by itself a number, on which rewrites may rely."""
    model = model_of(HEADED, HEAD_VALUES)
    write_weights(model, HEAD_VALUES, tmp_path)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    other = {**HEAD_VALUES, "bias": np.array([7], np.float32), "scale": np.array(3, np.float32)}
    x = {"x": np.ones((2, 3), np.float32)}
    for deferred in (False, True):
        program = migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=deferred)
        named = program.make_replaceable(["w", "bias", "scale"]).compile("ref")
        assert {"w", "bias", "scale"} <= named.weight_shapes.keys()
        for values, answer in ((HEAD_VALUES, 13.0), (other, 39.0), (HEAD_VALUES, 13.0)):
            with named.update_weights() as new:
                new.update(values, strict=False)
            assert named.eval(x)[0].tolist() == [[answer]] * 2
    migx.save(named, tmp_path / "program.mxr", weights=False)
    loaded = migx.load(tmp_path / "program.mxr")
    with loaded.update_weights() as new:
        new.update(other)
    assert loaded.eval(x)[0].tolist() == [[39.0]] * 2


def test_a_number_that_was_taken_for_one_says_how_to_make_it_a_weight(tmp_path: Path) -> None:
    model = model_of(HEADED, HEAD_VALUES)
    write_weights(model, HEAD_VALUES, tmp_path)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    program = migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=True)
    with pytest.raises(WeightError, match="literal 'half' .*Cast 'lens'.* relied on its value"):
        program.copy().make_replaceable(["bias", "half"])
    assert not any(at.op_as(Literal).replaceable for at in program.literals)
    program.compile("ref")
    said = r"'bias' cannot .*: the reader relied .*; program.make_replaceable\(\['bias'\]\) before"
    with pytest.raises(AssumptionError, match=said), program.update_weights() as new:
        new.update({**HEAD_VALUES, "bias": np.array([7], np.float32)}, strict=False)
    with pytest.raises(AssumptionError, match="'half' cannot"), program.update_weights() as new:
        new["half"] = np.array(1, np.float32)


def test_nothing_can_be_updated_says_what_to_do() -> None:
    program = migx.parse_onnx(model_with(A), defer_external_weights=True).compile("ref")
    with (
        pytest.raises(WeightError, match=r"call program.make_replaceable\(\) before"),
        program.update_weights() as new,
    ):
        new.update(B)


def test_a_weight_is_read_and_added_to(program: Program) -> None:
    change = np.outer(np.arange(8), np.ones(16)).astype(np.float32)
    with program.update_weights() as new:
        assert [*new] == [*program.weight_shapes]
        assert new["w1"].tobytes() == A["w1"].tobytes()
        new["w1"] += change
        new["w1"] += change
        assert new["w1"].tobytes() == (A["w1"] + change + change).tobytes()
        with pytest.raises(ValueError, match="read-only"):
            new["w1"][...] = 0  # it would change a copy
        with pytest.raises(ValueError, match="read-only"):
            new["w1"][0] += 1
        doubled = same = new["w1"] * 2
        doubled += 1  # arrays made of it are as any other
        assert same is doubled
    wanted = migx.parse_onnx(model_with({**A, "w1": A["w1"] + change + change}))
    assert result(program).tobytes() == wanted.compile("ref").eval(X)[0].tobytes()
    new.rollback()
    with program.update_weights() as again:
        assert again["w1"].tobytes() == A["w1"].tobytes()


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_read_is_the_value_in_use(in_place: bool, program: Program) -> None:
    for weights in (A, B, A):
        with program.update_weights(in_place=in_place) as new:
            new.update(weights)
        with program.update_weights() as new:
            read = {name: new[name] for name in new}
        assert all(read[name].tobytes() == weights[name].tobytes() for name in weights)


def test_reading_what_is_not_there_is_an_error(program: Program) -> None:
    with (
        pytest.raises(WeightError, match="no replaceable weight 'w3'; there are: "),
        program.update_weights() as new,
    ):
        new["w3"]
    with pytest.raises(WeightError, match="has ended"):
        new["w1"]
    deferred = migx.parse_onnx(model_of(MLP, A), defer_external_weights=True).compile("ref")
    with (
        pytest.raises(WeightError, match="1 weight has no value yet, 'w1'"),
        deferred.update_weights() as new,
    ):
        new["w1"]


def test_a_packed_weight_is_read_as_it_is_given() -> None:
    program = Program()
    main = program.main
    value = Argument.of(np.array([-8, 7, 3], np.int8), "i4")
    held = main.add_literal(value, name="w", replaceable=True)
    main.add_return(main.add_instruction(migx.ops.UnpackInt4(), held))
    program.compile("ref")
    with program.update_weights() as new:
        assert new["w"].tobytes() == value.tobytes()
        new["w"] = np.array([1, 2, 3], np.int8)
        new["w"] = new["w"]
    assert program.eval({})[0].tolist() == [1, 2, 3]


def test_a_weight_that_is_given_as_an_input_is_an_error_that_says_so(program: Program) -> None:
    remedy = r"weights 'b1', which program.update_weights\(\) replaces: .*make_replaceable\(\)"
    for each in (program, migx.parse_onnx(model_with(A)).compile("cpu")):
        with pytest.raises(InputError, match=remedy):
            each.eval({**X, "b1": A["b1"], "w3": A["w1"]})
        with pytest.raises(InputError, match=r"no input 'w3'; the inputs are x: f32\[batch, 8\]$"):
            each.eval({**X, "w3": A["w1"]})
