"""The reader: names, order, symbols through shape arithmetic, graphs in graphs, tensors' data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import migx
from migx.dim import Dim
from migx.errors import EvaluationError, OnnxError
from migx.ops.builtin import Literal
from migx.shape import F32, Shape
from tests.onnx.build import assert_agrees, drawn, model_of, peer, read, saved

LEFT_BEHIND = ("dimensions_of", "gather(", "concat(", "dim_literal")
"""What a chain of shape arithmetic must not leave where its results are dims."""

# Graph, sizes to run at, a piece of the text that shows the dims, and whether no chain is left.
SYMBOLIC: dict[str, tuple[str, list[dict[str, int]], str]] = {
    "shape gather concat reshape": ("""
        main (float[batch, 3, 4] x) => (float[a, b] y)
        <int64 zero = {0}, int64[1] axis = {0}, int64[1] rest = {12}> {
          s = Shape(x)
          g = Gather(s, zero)
          u = Unsqueeze(g, axis)
          d = Concat<axis = 0>(u, rest)
          y = Reshape(x, d)
        }""", [{"batch": 1}, {"batch": 5}, {"batch": 0}], "reshape(x) {dims=(batch, 12)}"),
    "reshape copies and finds": ("""
        main (float[n, m, 6] x) => (float[a, b, c] y)
        <int64[3] d = {0, -1, 3}> { y = Reshape(x, d) }
        """, [{"n": 2, "m": 3}, {"n": 1, "m": 1}], "reshape(x) {dims=(n, 2*m, 3)}"),
    "reshape flattens": ("""
        main (float[n, m, 6] x) => (float[a] y) <int64[1] d = {-1}> { y = Reshape(x, d) }
        """, [{"n": 2, "m": 3}], "reshape(x) {dims=(6*m*n,)}"),
    "split heads": ("""
        main (float[n, t, 12] x) => (float[n, 3, t, 4] y)
        <int64[1] one = {1}, int64[1] heads = {3}, int64[1] width = {4}> {
          b = Shape<start = 0, end = 2>(x)
          d = Concat<axis = 0>(b, heads, width)
          r = Reshape(x, d)
          y = Transpose<perm = [0, 2, 1, 3]>(r)
        }""", [{"n": 2, "t": 5}, {"n": 1, "t": 1}], "reshape(x) {dims=(n, t, 3, 4)}"),
    "slice by half": ("""
        main (float[n, 3] x) => (float[a, 3] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}> {
          s = Shape<start = 0, end = 1>(x)
          half = Div(s, two)
          y = Slice(x, zero, half, zero, one)
        }""", [{"n": 4}, {"n": 5}, {"n": 1}], "n//2"),
    "slice from the end": ("""
        main (float[n, 3] x) => (float[a, b] y)
        <int64[2] starts = {-3, 1}, int64[2] ends = {9223372036854775807, -1}> {
          y = Slice(x, starts, ends)
        }""", [{"n": 5}, {"n": 3}], "slice(x)"),
    "slice of the last of all": ("""
        main (float[n, m] x) => (float[a, m] y) <int64[1] minus = {-1}, int64[1] far = {9999999999},
                                                 int64[1] first = {0}> {
          n = Shape<start = 0, end = 1>(x)
          back = Mul(n, minus)
          y = Slice(x, back, far, first)
        }""", [{"n": 5, "m": 2}, {"n": 0, "m": 2}], "return y=x"),
    "slice whose bounds change sign": ("""
        main (float[n, m] x) => (float[a, m] y)
        <int64[1] four = {4}, int64[1] seven = {7}, int64[1] axis = {0}, int64[1] ten = {10}> {
          m = Shape<start = 1, end = 2>(x)
          low = Sub(four, m)
          high = Sub(ten, m)
          y = Slice(x, low, high, axis)
        }""", [{"n": n, "m": m} for n in (3, 6) for m in (1, 3, 4, 5, 6, 8, 12)], "slice(x)"),
    "division of what may be negative": ("""
        main (float[n, m] x) => (float[a] y)
        <int64[1] one = {1}, int64[1] three = {3}, int64[1] five = {5}> {
          n = Shape<start = 0, end = 1>(x)
          less = Sub(n, five)
          part = Div(less, three)
          more = Add(part, five)
          y = ConstantOfShape(more)
        }""", [{"n": n, "m": 1} for n in range(10)],
        "(max(n - 5, 0)//3 + 5 - (max(5 - n, 0)//3),)"),
    "sizes as floats": ("""
        main (float[n, m] x) => (float[a, b] y)
        <float[2] by = {0.5, 1.5}, float three = {3}, float[1] half = {0.5}, int64[1] one = {1}> {
          s = Shape(x)
          f = Cast<to = 1>(s)
          g = Mul(f, by)
          h = Floor(g)
          i = Div(h, three)
          j = Ceil(i)
          k = Add(j, half)
          d = Cast<to = 7>(k)
          y = ConstantOfShape(d)
        }""", [{"n": n, "m": 11 - n} for n in range(12)],
        "out_lens=((n + 4)//6, (m + m//2 + 2)//3)"),
    "a constant that was a float": ("""
        main (float[n, 4] x) => (float[a, b] y)
        <float wide = {6.82}, float by = {1.1}, int64[1] zero = {0}> {
          more = Mul(wide, by)
          up = Ceil(more)
          i = Cast<to = 7>(up)
          u = Unsqueeze(i, zero)
          n = Shape<start = 0, end = 1>(x)
          d = Concat<axis = 0>(n, u)
          y = ConstantOfShape(d)
        }""", [{"n": 3}], "out_lens=(n, 8)"),
    "counting by what is not zero": ("""
        main (float[n, m] x, float[k] z) => (float[a, b] y, int64[1, c] w, int64[1, d] v)
        <int64[4] some = {5, 0, 0, 2}> {
          n = Shape<start = 0, end = 1>(x)
          ones = ConstantOfShape<value = int64[1] {1}>(n)
          p = NonZero(ones)
          noughts = ConstantOfShape<value = int64[1] {0}>(n)
          v = NonZero(noughts)
          w = NonZero(some)
          s = Shape(p)
          y = Expand(z, s)
        }""", [{"n": n, "m": 1, "k": 1} for n in (4, 0)], "out_lens=(1, broadcast(k, n))"),
    "expand like another": ("""
        main (float[n, 1] x, float[n, m] like) => (float[n, m] y) {
          s = Shape(like)
          y = Expand(x, s)
        }""", [{"n": 2, "m": 3}, {"n": 1, "m": 1}], "multibroadcast(x) {out_lens=(n, m)}"),
    "constant of shape": ("""
        main (float[n, m] x) => (float[n, m] y) {
          s = Shape(x)
          c = ConstantOfShape(s)
          y = Add(x, c)
        }""", [{"n": 2, "m": 3}, {"n": 0, "m": 3}], "out_lens=(n, m)"),
    "arithmetic": ("""
        main (float[n, m] x) => (float[a] y)
        <int64[1] two = {2}, int64[1] three = {3}, int64[1] minus = {-1}> {
          n = Shape<start = 0, end = 1>(x)
          m = Shape<start = 1, end = 2>(x)
          a = Mul(n, two)
          b = Add(a, three)
          c = Sub(b, three)
          d = Div(c, two)
          e = Mul(d, m)
          f = Cast<to = 7>(e)
          y = Reshape(x, f)
        }""", [{"n": 2, "m": 3}, {"n": 1, "m": 1}], "reshape(x) {dims=(m*n,)}"),
    "greatest and least": ("""
        main (float[n, m] x) => (float[a, b] y) <int64[2] some = {2, 4}> {
          s = Shape(x)
          most = Max(s, some)
          d = Min(most, s, most)
          y = ConstantOfShape(most)
          z = Reshape(x, d)
        }""", [{"n": 3, "m": 3}, {"n": 1, "m": 5}], "(max(n, 2), max(m, 4))"),
    "where picks a dim": ("""
        main (float[n, 4] x) => (float[a, b] y)
        <int64[2] given = {-1, 4}, int64[2] minus = {-1, -1}> {
          s = Shape(x)
          missing = Equal(given, minus)
          d = Where(missing, s, given)
          y = Reshape(x, d)
        }""", [{"n": 3}], "return y=x"),
    "size and squeeze": ("""
        main (float[n, 4] x) => (float[a, 1] y) <int64[1] zero = {0}, int64[1] one = {1}> {
          s = Size(x)
          u = Unsqueeze(s, zero)
          d = Concat<axis = 0>(u, one)
          y = Reshape(x, d)
        }""", [{"n": 3}], "reshape(x) {dims=(4*n, 1)}"),
    "reduced product of dims": ("""
        main (float[n, m, 2] x) => (float[a, 2] y) <int64[1] two = {2}> {
          s = Shape<start = 0, end = 2>(x)
          p = ReduceProd<keepdims = 1>(s)
          d = Concat<axis = 0>(p, two)
          y = Reshape(x, d)
        }""", [{"n": 2, "m": 3}], "reshape(x) {dims=(m*n, 2)}"),
    "flatten and split": ("""
        main (float[n, 2, 6] x) => (float[a, b] y, float[c, d] z) {
          f = Flatten<axis = 1>(x)
          y, z = Split<axis = 1, num_outputs = 2>(f)
        }""", [{"n": 3}, {"n": 1}], "f32[n, 6]"),
}  # fmt: skip

DATA: dict[str, tuple[str, list[dict[str, int]]]] = {
    "range over a dim": ("""
        main (float[n, m] x) => (int64[k] y) <int64 zero = {0}, int64 one = {1}> {
          s = Shape(x)
          n = Gather(s, one)
          y = Range(zero, n, one)
        }""", [{"n": 2, "m": 3}, {"n": 1, "m": 0}]),
    "dims as data": ("""
        main (float[n, m] x) => (float[n, m] y, int64[2] s) {
          s = Shape(x)
          f = Cast<to = 1>(s)
          r = ReduceProd<keepdims = 0>(f)
          q = Sqrt(r)
          y = Div(x, q)
        }""", [{"n": 2, "m": 3}, {"n": 4, "m": 1}]),
    "range over floats": ("""
        main (float start, float limit, float delta) => (float[k] y) {
          y = Range(start, limit, delta)
        }""", [{}]),
    "nonzero": ("""
        main (float[n, m] x) => (int64[2, k] y, int64[2] s, float[a, m] rows)
        <int64[1] zero = {0}, float z = {0}, int64 first = {0}> {
          c = Greater(x, z)
          y = NonZero(c)
          s = Shape(y)
          i = Gather<axis = 0>(y, first)
          rows = Gather<axis = 0>(x, i)
        }""", [{"n": 2, "m": 3}, {"n": 6, "m": 1}, {"n": 0, "m": 2}]),
    "slice by data": ("""
        main (float[n] x, int64[1] e) => (float[k] y, int64[1] s) <int64[1] zero = {0}> {
          y = Slice(x, zero, e)
          s = Shape(y)
        }""", [{"n": 1}, {"n": 9}]),
    "choice of equal dims": ("""
        main (bool c, float[n] x) => (float[n] y) {
          y = If(c) <
            then_branch = yes () => (float[n] a) { a = Neg(x) },
            else_branch = no () => (float[n] b) { t = Add(x, x)  b = Abs(t) }
          >
        }""", [{"n": 1}, {"n": 2}, {"n": 3}]),
    "choice of differing dims": ("""
        main (bool c, float[n] x) => (float[k] y, int64[1] s) {
          y = If(c) <
            then_branch = yes () => (float[j] a) { a = Concat<axis = 0>(x, x) },
            else_branch = no () => (float[n] b) { b = Neg(x) }
          >
          s = Shape(y)
        }""", [{"n": 1}, {"n": 2}, {"n": 3}]),
    "nested choices": ("""
        main (bool c, bool d, float[n] x) => (float[n] y) {
          z = Exp(x)
          y = If(c) <
            then_branch = yes () => (float[n] a) {
              w = Neg(z)
              a = If(d) <
                then_branch = yesyes () => (float[n] e) { e = Add(w, x) },
                else_branch = yesno () => (float[n] f) { f = Identity(w) }
              >
            },
            else_branch = no () => (float[n] b) { b = Identity(x) }
          >
        }""", [{"n": n} for n in range(1, 6)]),
    "loop with its state growing": ("""
        main (float[n] x) => (float[k] y, int64[1] s) <int64 trips = {3}, bool go = {1}> {
          y = Loop(trips, go, x) <
            body = step (int64 i, bool c, float[a] state) => (bool d, float[b] next) {
              d = Identity(c)
              next = Concat<axis = 0>(state, x)
            }
          >
          s = Shape(y)
        }""", [{"n": 1}, {"n": 4}]),
    "loop with scans": ("""
        main (int64 trips, float[n] x) => (float[n] y, float[k, n] rows) <bool go = {1}> {
          y, rows = Loop(trips, go, x) <
            body = step (int64 i, bool c, float[n] state) => (bool d, float[n] next, float[n] row) {
              d = Identity(c)
              f = Cast<to = 1>(i)
              next = Add(state, f)
              row = Mul(next, x)
            }
          >
        }""", [{"n": 1}, {"n": 4}, {"n": 2}]),
    "loop until": ("""
        main (float[n] x) => (int64 count)
        <bool go = {1}, float limit = {20}, int64 zero = {0}, int64 one = {1}> {
          last, count = Loop(, go, x, zero) <
            body = step (int64 i, bool c, float[n] state, int64 t)
              => (bool d, float[n] next, int64 u) {
              next = Add(state, state)
              m = Abs(next)
              top = ReduceMax<keepdims = 0>(m)
              d = Less(top, limit)
              u = Add(t, one)
            }
          >
        }""", [{"n": 1}, {"n": 4}]),
    "loop that starts with other ranks": ("""
        main (float[n] x) => (float[1, n] y, float[1, n] last, bool[1] flag)
        <int64 trips = {3}, bool go = {1}, float none = {7}, bool no = {0}, int64[2] to = {1, -1}> {
          y, last, flag = Loop(trips, go, none, none, no) <
            body = step (int64 i, bool c, float[1, a] before, float[1, b] unread, bool f)
              => (bool d, float[1, n] next, float[1, n] also, bool[1] g) {
              d = Identity(c)
              next = Reshape(x, to)
              k = Cast<to = 1>(i)
              also = Add(next, k)
              one = Constant<value_ints = [1]>()
              h = Reshape(f, one)
              g = Not(h)
            }
          >
        }""", [{"n": 1}, {"n": 4}]),
    "scan": ("""
        main (float[n] s, float[t, n] x) => (float[n] y, float[t, n] z) {
          y, z = Scan(s, x) <num_scan_inputs = 1,
            body = step (float[n] a, float[n] b) => (float[n] c, float[n] d) {
              c = Add(a, b)
              d = Identity(c)
            }
          >
        }""", [{"n": 2, "t": 3}, {"n": 1, "t": 1}]),
}  # fmt: skip
CASES = {**{k: v[:2] for k, v in SYMBOLIC.items()}, **DATA}


@pytest.mark.parametrize("name", CASES)
def test_results_are_onnxruntimes_at_every_size(name: str, tmp_path: Path) -> None:
    graph, sizes = CASES[name]
    model = model_of(graph)
    program = read(model, tmp_path).compile("ref")
    (tmp_path / "model.onnx").unlink()  # nothing is read again
    for each in sizes:
        assert_agrees(program, model, drawn(model, each))


def test_a_loop_that_does_not_begin_cannot_give_what_its_body_would_have_made(
    tmp_path: Path,
) -> None:
    program = read("""
        main (int64 trips, float[2, 3] x) => (float[2, 3] y) <bool go = {1}, float none = {7}> {
          y = Loop(trips, go, none) <
            body = step (int64 i, bool c, float[2, 3] unread) => (bool d, float[2, 3] next) {
              d = Identity(c)
              next = Neg(x)
            }
          >
        }""", tmp_path).compile("ref")  # fmt: skip
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(program.eval({"trips": np.array(2), "x": x})[0], -x)
    with pytest.raises(EvaluationError, match="condition is True"):
        program.eval({"trips": np.array(0), "x": x})


@pytest.mark.parametrize("name", SYMBOLIC)
def test_shape_arithmetic_becomes_dims_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    graph, _, shown = SYMBOLIC[name]
    text = str(read(graph, tmp_path))
    assert shown in text
    assert not [word for word in LEFT_BEHIND if word in text], text


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
    for dims, text in (((4, 3), "f32[4, 3]"), ((n, 3), "f32[rows, 3]"), ((2 * n, 3), "f32[2*rows")):
        program = migx.parse_onnx(path, {"x": dims})
        assert text in str(program)
        assert program.main.outputs[0].shape == Shape(F32, dims)
    with pytest.raises(OnnxError, match="input_dims names z; the inputs are x"):
        migx.parse_onnx(path, {"z": (1,)})
    with pytest.raises(OnnxError, match="input 'x' has rank 2, not 1"):
        migx.parse_onnx(path, {"x": (1,)})


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


def test_graphs_in_graphs_become_modules_that_capture(tmp_path: Path) -> None:
    program = read(DATA["nested choices"][0], tmp_path)
    assert set(program.modules) == {
        "main", "main.if.then", "main.if.else", "main.if.then.if.then", "main.if.then.if.else",
    }  # fmt: skip
    assert "main:" in str(program)
    assert "main.if.then:%" in str(program)


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
