"""The reader: names, order, dims of inputs, graphs in graphs, versions of operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import migx
from migx.dim import Dim
from migx.errors import DataWarning, EvaluationError, OnnxError, ShapeError
from migx.ops.builtin import Literal
from migx.shape import F32, Shape
from tests.onnx.build import assert_agrees, drawn, model_of, peer, read, saved

ADD = "main (float[n, 3] x) => (float[n, 3] y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }"


def test_names_of_nodes_are_origins(tmp_path: Path) -> None:
    model = model_of("""
        main (float[n, 3] x) => (float[n, 3] y) <float[3] w = {1, 2, 3}> {
          t = Add(x, w)
          y = Relu(t)
        }""")
    model.graph.node[0].name = "layer/Add"
    program = read(model, tmp_path)
    origins = {at.name: at.origins for at in program.main}
    assert origins["add"] == origins["multibroadcast"] == ("layer/Add",)
    assert origins["relu"] == ("y",)  # a node without a name is known by its first output
    (weight,) = (at.op for at in program.main if isinstance(at.op, Literal))
    assert weight.label == "w"


def test_results_and_inputs_keep_their_names(tmp_path: Path) -> None:
    model = model_of("""
        main (float[n] x, float[n] unused) => (float[n] x2, float[n] x2_again, float[n] x) {
          x2 = Exp(x)
          x2_again = Identity(x2)
        }""")
    program = read(model, tmp_path)
    assert list(program.main.parameters) == ["x", "unused"]
    assert program.main.output_names == ("x2", "x2_again", "x")
    x = np.zeros(2, np.float32)
    assert [y.tolist() for y in program.compile("ref").eval({"x": x, "unused": x})] == [
        [1, 1]
    ] * 2 + [[0, 0]]


def test_nodes_need_not_be_sorted(tmp_path: Path) -> None:
    model = model_of("""
        main (float[n] x, bool c) => (float[n] y) {
          a = Exp(x)
          b = Neg(a)
          t = If(c) <
            then_branch = yes () => (float[n] d) { d = Add(a, b) },
            else_branch = no () => (float[n] e) { e = Identity(x) }
          >
          y = Relu(t)
        }""")
    ordered = read(model, tmp_path)
    nodes = list(model.graph.node)
    shuffled = onnx.ModelProto.FromString(model.SerializeToString())
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes[::-1])
    program = read(shuffled, tmp_path)
    assert sorted(at.name for at in program.main) == sorted(at.name for at in ordered.main)
    inputs = {"x": np.array([1, -2], np.float32), "c": np.array(True)}
    assert (
        program.compile("ref").eval(inputs)[0].tolist()
        == ordered.compile("ref").eval(inputs)[0].tolist()
    )


def test_initializers_may_be_listed_as_inputs(tmp_path: Path) -> None:
    """As IR version 3 demands; they are no inputs of the program."""
    model = model_of(ADD, '<ir_version: 3, opset_import: ["" : 8]>\n')
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, [3])
    model.graph.input.append(listed)
    program = read(model, tmp_path)
    assert list(program.main.parameters) == ["x"]
    assert program.compile("ref").eval({"x": np.zeros((1, 3), np.float32)})[0].tolist() == [
        [1, 2, 3]
    ]


def test_dims_without_a_name_get_one_that_no_other_has(tmp_path: Path) -> None:
    model = model_of("main (float[n] x, float[m] y, float[k] z) => (float[n] a) { a = Exp(x) }")
    inputs = model.graph.input
    inputs[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    inputs[1].type.tensor_type.shape.dim[0].dim_param = "x.0"
    inputs[2].type.tensor_type.shape.dim[0].dim_param = "?"
    program = read(model, tmp_path)
    shapes = [str(p.shape) for p in program.main.parameters.values()]
    assert shapes == ["f32[x.0.1]", "f32[x.0]", "f32[z.0]"]


def test_sizes_the_data_decides_do_not_take_the_names_of_others(tmp_path: Path) -> None:
    """A node's output is named as an input's dim is."""
    model = model_of("main (float[n] x) => (int64[1, k] n) { n = NonZero(x) }")
    program = read(model, tmp_path).compile("ref")
    assert "count=n.1" in str(program)
    assert program.eval({"x": np.array([0, 1, 2], np.float32)})[0].tolist() == [[1, 2]]


def test_input_dims_replace_those_of_the_file(tmp_path: Path) -> None:
    path = saved(model_of(ADD), tmp_path)
    n = Dim("rows", 1, 8)
    for dims, text in (((4, 3), "f32[4, 3]"), ((n, 3), "f32[rows, 3]")):
        program = migx.parse_onnx(path, {"x": dims})
        assert text in str(program)
        assert program.main.outputs[0].shape == Shape(F32, dims)
    with pytest.raises(OnnxError, match="input_dims: there is no input 'z'; the inputs are 'x'"):
        migx.parse_onnx(path, {"z": (1,)})
    with pytest.raises(OnnxError, match="input 'x' has rank 2, not 1"):
        migx.parse_onnx(path, {"x": (1,)})
    with pytest.raises(OnnxError, match="input 'x': a dim cannot be negative: -1"):
        migx.parse_onnx(path, {"x": (-1, 3)})


def test_names_of_dims_need_not_be_identifiers(tmp_path: Path) -> None:
    model = model_of("main (float[n, 3] x, float[n, 3] y) => (float[n, 3] z) { z = Add(x, y) }")
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "batch size"
    program = migx.parse_onnx(saved(model, tmp_path), {"x": (4, 3)})
    assert [p.shape for p in program.main.parameters.values()] == [Shape(F32, (4, 3))] * 2


def test_what_is_given_for_a_name_holds_in_all_inputs(tmp_path: Path) -> None:
    text = "main (float[n, m] x, float[n, m] y) => (float[n, m] z) { z = Add(x, y) }"
    path = saved(model_of(text), tmp_path)
    rows, m = Dim("rows", 1, 8), Dim("m", 2, 9)
    for dims in ((4, 3), (rows, 3), (2 * m, m), (Dim("n", 1, 4), Dim("k"))):
        program = migx.parse_onnx(path, {"x": dims})
        shapes = [p.shape for p in program.main.parameters.values()]
        assert shapes == [Shape(F32, dims)] * 2
        assert program.main.outputs[0].shape == Shape(F32, dims)
    symbols = migx.parse_onnx(path, {"x": (m, 3)}).symbols()
    assert set(symbols) == {"m"}
    message = "dim 'n' as 4 in x and as rows of 1..8 in y: one name is one size"
    with pytest.raises(OnnxError, match=message):
        migx.parse_onnx(path, {"x": (4, 3), "y": (rows, 3)})
    with pytest.raises(OnnxError, match=r"dim 'k' as k of 0..inf in x and as k of 1..inf in x"):
        migx.parse_onnx(path, {"x": (Dim("k"), Dim("k", 1))})


def test_a_symbol_given_must_stand_alone_somewhere(tmp_path: Path) -> None:
    """Of a size that is twice another that nothing tells, nothing is known."""
    text = "main (float[n] x, float[m] y) => (float[n] z, float[m] w) { z = Exp(x) w = Exp(y) }"
    path, k = saved(model_of(text), tmp_path), Dim("k")
    for dim in (2 * k, k // 2, k + Dim("m")):
        with pytest.raises(OnnxError, match="gives x the dim .*, but nothing tells what k is"):
            migx.parse_onnx(path, {"x": (dim,)})
    program = migx.parse_onnx(path, {"x": (2 * k,), "y": (k,)}).compile("ref")
    inputs = {"x": np.ones(4, np.float32), "y": np.ones(2, np.float32)}
    assert [v.shape for v in program.eval(inputs)] == [(4,), (2,)]


def test_a_symbol_given_is_the_one_of_that_name_in_the_file(tmp_path: Path) -> None:
    text = "main (float[n] x, float[m] y) => (float[n] z, float[m] w) { z = Exp(x) w = Exp(y) }"
    m = Dim("m", 2, 9)
    program = migx.parse_onnx(saved(model_of(text), tmp_path), {"x": (m,)})
    assert [v.shape for v in program.main.outputs] == [Shape(F32, (m,))] * 2


def test_an_input_of_unknown_rank_needs_dims(tmp_path: Path) -> None:
    model = model_of("main (float[n] x) => (float[n] y) { y = Exp(x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    path = saved(model, tmp_path)
    with pytest.raises(OnnxError, match="input 'x' declares no rank: give its dims by input_dims"):
        migx.parse_onnx(path)
    assert migx.parse_onnx(path, {"x": (2, 3)}).main.outputs[0].shape == Shape(F32, (2, 3))


def test_a_known_condition_leaves_the_branch_it_takes(tmp_path: Path) -> None:
    graph = """
        main (float[n] x) => (float[n] y) <int64 four = {4}, bool c = {CONDITION}> {
          y = If(c) <
            then_branch = yes () => (float[n] a) { t = Neg(x)  a = Exp(t) },
            else_branch = no () => (float[n] b) { t = Abs(x)  b = Sqrt(t) }
          >
        }"""
    for condition, names in ((1, ["neg", "exp"]), (0, ["abs", "sqrt"])):
        program = read(graph.replace("CONDITION", str(condition)), tmp_path)
        assert list(program.modules) == ["main"]
        assert [at.name for at in program.main] == ["@param", *names, "@return"]


def test_branches_of_other_ranks_are_settled_by_a_checked_assumption(tmp_path: Path) -> None:
    """Squeezing where a dim is 1, as exporters write it; only one way agrees with what follows."""
    model = model_of("""
        main (bool c, float[n, 1] x) => (float[n] y) <int64[1] one = {1}> {
          y = If(c) <
            then_branch = yes () => (float[n] a) { a = Squeeze(x, one) },
            else_branch = no () => (float[n, 1] b) { b = Identity(x) }
          >
        }""")
    program = read(model, tmp_path).compile("ref")
    x = np.ones((3, 1), np.float32)
    assert program.eval({"c": True, "x": x})[0].shape == (3,)
    with pytest.raises(EvaluationError, match="(?s)this condition is True.*ONNX 'y'"):
        program.eval({"c": False, "x": x})


def test_a_choice_by_which_a_branch_around_it_cannot_be_is_made_otherwise(tmp_path: Path) -> None:
    model = model_of("""
        main (bool c, bool d, float[n, 1] x) => (float[m, k] y) <int64[1] one = {1}> {
          y = If(c) <
            then_branch = plain () => (float[n, 1] a) { a = Neg(x) },
            else_branch = turned () => (float[1, n] b) {
              z = If(d) <
                then_branch = yes () => (float[n] f) { f = Squeeze(x, one) },
                else_branch = no () => (float[n, 1] g) { g = Identity(x) }
              >
              b = Transpose<perm = [1, 0]>(z)
            }
          >
        }""")
    program = read(model, tmp_path).compile("ref")
    x = np.ones((3, 1), np.float32)
    for c, d in ((True, False), (True, True), (False, False)):
        assert program.eval({"c": c, "d": d, "x": x})[0].shape == ((3, 1) if c else (1, 3))
    with pytest.raises(EvaluationError, match="(?s)this condition is False.*ONNX 'z'"):
        program.eval({"c": False, "d": True, "x": x})


def test_single_numbers_of_other_ranks_in_branches_have_one_rank_of_which_is_told(
    tmp_path: Path,
) -> None:
    """Ranks cannot be left to the run: the greater one is taken, and a warning says of what."""
    model = model_of("""
        main (bool c, float[n, 3] x) => (float[] y, float[] z, float[n, 3] more) {
          y, z = If(c) <
            then_branch = yes () => (float a, float e) {
              a = ReduceSum<keepdims = 0>(x)
              e = ReduceMax<keepdims = 0>(x)
            },
            else_branch = no () => (float[1, 1] b, float d) {
              b = ReduceSum<keepdims = 1>(x)
              d = ReduceMin<keepdims = 0>(x)
            }
          >
          more = Add(x, y)
        }""")
    for result in model.graph.output[:2]:
        result.type.tensor_type.ClearField("shape")
    said = (
        "If 'y': its result 'y' is of one element, of rank 0 if the condition holds and of rank 2 "
        "if not; here it has rank 2 in both cases"
    )
    with pytest.warns(DataWarning) as told:
        program = read(model, tmp_path).compile("ref")
    assert [str(each.message) for each in told] == [said]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for c in (True, False):
        inputs = {"c": np.array(c), "x": x}
        (y, *rest), (wanted, *others) = program.eval(inputs), peer(model, inputs)
        assert (y.shape, wanted.shape) == ((1, 1), () if c else (1, 1))
        assert y.item() == wanted.item()
        for got, want in zip(rest, others, strict=True):
            np.testing.assert_array_equal(got, want, strict=True)


def test_constants_within_branches_and_outputs_taken_from_around(tmp_path: Path) -> None:
    model = model_of("""
        main (bool c, float[2] x) => (float[2] y) {
          z = Neg(x)
          y = If(c) <
            then_branch = yes () => (float[2] a) <float[2] w = {5, 6}> { a = Add(x, w) },
            else_branch = no () => (float[2] z) { }
          >
        }""")
    program = read(model, tmp_path).compile("ref")
    x = np.array([1, 2], np.float32)
    assert program.eval({"c": True, "x": x})[0].tolist() == [6, 8]
    assert program.eval({"c": False, "x": x})[0].tolist() == [-1, -2]


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_operators_are_read_by_the_version_of_their_opset(opset: int, tmp_path: Path) -> None:
    """Squeeze, Clip, Softmax and ReduceSum changed from one opset to the next."""
    attributes = opset < 13
    clip = "Clip<min = -1.0, max = 1.0>(s)" if opset < 11 else "Clip(s, low, high)"
    squeeze = "Squeeze<axes = [1]>(c)" if attributes else "Squeeze(c, one)"
    total = (
        "ReduceSum<axes = [1], keepdims = 0>(m)" if attributes else "ReduceSum<keepdims=0>(m, one)"
    )
    model = model_of(f"""
        main (float[n, 1, 4] x) => (float[n] y)
        <int64[1] one = {{1}}, float low = {{-1}}, float high = {{1}}> {{
          s = Softmax<axis = 1>(x)
          c = {clip}
          m = {squeeze}
          y = {total}
        }}""", f'<ir_version: 8, opset_import: ["" : {opset}]>\n')  # fmt: skip
    program = read(model, tmp_path).compile("ref")
    inputs = drawn(model, {"n": 3})
    assert_agrees(program, model, inputs)
    summed = peer(model, inputs)[0]
    # Up to opset 12 Softmax runs over all axes from its own on; then over that axis alone.
    assert np.allclose(summed, 1) == attributes


def test_a_branch_that_cannot_be_at_the_dims_given_is_taken_by_no_run(tmp_path: Path) -> None:
    graph = """
        main (float[n, 3] x, float[4, 3] w, bool c) => (float[k, 3] y) {
          y = If(c) <
            then_branch = yes () => (float[k, 3] a) { t = Neg(x)  a = Exp(t) },
            else_branch = no () => (float[k, 3] b) {
              u = If(c) <
                then_branch = inner () => (float[4, 3] d) { d = Neg(w) },
                else_branch = other () => (float[4, 3] e) { e = Abs(w) }
              >
              b = KIND
            }
          >
        }"""
    x, w = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    for kind in ("Add(u, x)", "MatMul(u, x)"):
        path = saved(model_of(graph.replace("KIND", kind)), tmp_path)
        program = migx.parse_onnx(path, {"x": (2, 3)})
        assert list(program.modules) == ["main"]
        compiled = program.compile("ref")
        np.testing.assert_allclose(compiled.eval({"x": x, "w": w, "c": True})[0], np.exp(-x))
        with pytest.raises(EvaluationError, match="inputs at which this condition is True"):
            compiled.eval({"x": x, "w": w, "c": False})
    both = graph.replace("KIND", "MatMul(u, x)").replace("a = Exp(t)", "a = MatMul(t, x)")
    with pytest.raises(ShapeError, match="'yes'|MatMul"):
        migx.parse_onnx(saved(model_of(both), tmp_path), {"x": (2, 3)})
