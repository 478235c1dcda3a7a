"""Sizes through the reader: shape arithmetic becomes dims, and control flow keeps what it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from migx.errors import EvaluationError
from tests.onnx.build import assert_agrees, drawn, model_of, read

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
    "a size that follows from the largest of some": ("""
        main (float[n, 4] x) => (float[n, a] y)
        <float[3] sizes = {1.5, 2.5, 0.5}, int64[1] one = {1}, int64[1] zero = {0}> {
          most, where = TopK<axis = 0>(sizes, one)
          end = Cast<to = 7>(most)
          y = Slice(x, zero, end, one)
        }""", [{"n": 2}, {"n": 0}], "slice(x)"),
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
    "a dim put among others": ("""
        main (float[n, m, 6] x) => (float[a, b, c] y)
        <int64[1] last = {2}, int64[1] two = {2}, int64[1, 1] first = {0}, int64[1] six = {6},
         float[1, 1, 1] one = {1}> {
          s = Shape(x)
          t = ScatterElements(s, last, two)
          d = ScatterND(t, first, six)
          y = Expand(one, d)
        }""", [{"n": 2, "m": 3}, {"n": 1, "m": 0}], "multibroadcast(%0) {out_lens=(6, m, 2)}"),
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
    "least of dims": ("""
        main (float[n, m] x) => (float[a, m] y) <int64[1] most = {3}, int64[1] zero = {0}> {
          s = Shape<start = 0, end = 1>(x)
          both = Concat<axis = 0>(most, s)
          k = ReduceMin<keepdims = 1>(both)
          y = Slice(x, zero, k, zero)
        }""", [{"n": 2, "m": 3}, {"n": 5, "m": 1}], "ends=(min(n, 3),)"),
    "greatest and sum of dims": ("""
        main (float[n, m] x) => (float[a] y, float[b] z) <float one = {1}> {
          s = Shape(x)
          k = ReduceMax<keepdims = 1>(s)
          y = Expand(one, k)
          t = ReduceSum<keepdims = 1>(s)
          z = Expand(one, t)
        }""", [{"n": 2, "m": 3}, {"n": 5, "m": 1}], "out_lens=(max(m, n),)"),
    "dims within bounds": ("""
        main (float[n, 4] x) => (float[a, 4] y) <int64[1] low = {2}, int64[1] high = {5},
                                                 int64[1] zero = {0}, float one = {1}> {
          s = Shape(x)
          first = Slice(s, zero, low, zero)
          k = Clip(first, low, high)
          y = Expand(one, k)
        }""", [{"n": 3}, {"n": 9}], "out_lens=(min(max(n, 2), 5), 4)"),
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
    "loop whose count may be below 0": ("""
        main (float[n] x) => (float[k] rows)
        <int64 three = {3}, bool go = {1}> {
          size = Size(x)
          trips = Sub(size, three)
          rows = Loop(trips, go) <
            body = step (int64 i, bool c) => (bool d, float row) {
              d = Identity(c)
              row = Cast<to = 1>(i)
            }
          >
        }""", [{"n": 5}, {"n": 2}, {"n": 3}]),
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


@pytest.mark.parametrize("step", ["Add(v{i}, v{i})", "Add(one, v{i})", "Neg(v{i})", "Sin(v{i})"])
def test_a_long_chain_before_integers_is_looked_at_once(step: str, tmp_path: Path) -> None:
    """Looked at along every path, it would take for ever; by recursion, the stack."""
    steps = "\n".join(f"v{i + 1} = {step.format(i=i)}" for i in range(600))
    head = "main (float[3] v0) => (int64[3] y) <float[1] one = {1}>"
    program = read(f"{head} {{ {steps} y = Cast<to = 7>(v600) }}", tmp_path)
    assert [at.name for at in program.main][-2:] == ["convert", "@return"]


def test_graphs_in_graphs_become_modules_that_capture(tmp_path: Path) -> None:
    program = read(DATA["nested choices"][0], tmp_path)
    assert set(program.modules) == {
        "main", "main.if.then", "main.if.else", "main.if.then.if.then", "main.if.then.if.else",
    }  # fmt: skip
    assert "main:" in str(program)
    assert "main.if.then:%" in str(program)


def test_floats_that_are_no_sizes_are_looked_at_once(tmp_path: Path) -> None:
    """Each is a product of the one before with itself: 2 ** 64 ways lead to the first."""
    chain = "".join(f"v{i + 1} = Mul(v{i}, v{i})\n" for i in range(64))
    text = f"main (float[4] v0) => (int64[4] y) {{ {chain} y = Cast<to = 7>(v64) }}"
    program = read(text, tmp_path)
    assert [at.name for at in program.main].count("mul") == 64


PARTLY = """
main (float[1, 1, 4] x, int64[1] k) => (float[p, q, r] y)
<int64[1] one = {1}, int64[1] four = {4}, int64[3] minus = {-1, -1, -1},
 int64[3] ones = {1, 1, 1}> {
  c = Concat<axis = 0>(one, k, four)
  e = Equal(c, minus)
  w = Where(e, ones, c)
  y = Expand(x, w)
}"""


def test_elements_of_dims_that_are_known_stay_known(tmp_path: Path) -> None:
    """Exporters write each Expand so that -1 keeps a dim."""
    program = read(PARTLY, tmp_path)
    assert "multibroadcast(x) {out_lens=(1, y.1, 4)}" in str(program)  # x is not read for its size
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    for k in (3, 1, 0, -1):
        (y,) = program.copy().compile("ref").eval({"x": x, "k": np.array([k])})
        np.testing.assert_array_equal(y, np.broadcast_to(x, (1, abs(k), 4)))


@pytest.mark.parametrize("step", ["Add(v{i}, v{i})", "Where(c, one, v{i})"])
def test_dims_computed_by_many_steps_are_looked_at_once(step: str, tmp_path: Path) -> None:
    steps = "\n".join(f"v{i + 1} = {step.format(i=i)}" for i in range(1200))
    head = "main (float[1] x, int64[1] v0, bool[1] c) => (float[n] y) <int64[1] one = {1}>"
    program = read(f"{head} {{ {steps} y = Expand(x, v1200) }}", tmp_path)
    assert "{out_lens=(y.0,)}" in str(program)


INSIDE = """
main (float[1, d] x, int64[2] t, bool c, float zero)
=> (float[p, q] y, float o, float[k, r, s] so) {
  y = If (c) <
    then_branch = g () => (float[p, q] a) { a = Expand(x, t) },
    else_branch = h () => (float[p, q] b) { twice = Add(x, x) b = Expand(twice, t) }
  >
  o, so = Scan <num_scan_inputs = 1,
    body = f (float sum, float[d] row) => (float next, float[r, s] e) {
      e = Expand(row, t)
      all = ReduceSum<keepdims = 0>(e)
      next = Add(sum, all)
    }
  > (zero, x)
}"""


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_computed_dims_inside_control_flow_are_read_from_around_it(
    target: str, tmp_path: Path
) -> None:
    """The result of the Scan has the same dims, but only its body can tell them."""
    program = read(INSIDE, tmp_path).compile(target)
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    for c, t in ((True, (3, 4)), (False, (2, 1)), (True, (1, 1)), (False, (0, 4))):
        given = {"x": x, "t": np.array(t), "c": np.array(c), "zero": np.zeros((), np.float32)}
        y, o, so = program.eval(given)
        wide = np.broadcast_to(x, (t[0], 4))
        np.testing.assert_array_equal(y, wide if c else 2 * wide)
        np.testing.assert_array_equal(o, wide.sum())
        np.testing.assert_array_equal(so, wide[None])


def test_a_list_cut_at_a_size_known_at_run_time_keeps_its_length(tmp_path: Path) -> None:
    text = """
    main (float[n] q, int64[2] t, float[1, 4] x) => (float[p, r] y)
    <int64[1] zero = {0}, int64[1] two = {2}> {
      n = Shape(q)
      a = Slice(t, zero, n)
      b = Slice(t, n, two)
      c = Concat<axis = 0>(a, b)
      y = Expand(x, c)
    }"""
    program = read(text, tmp_path).compile("ref")
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    for count in range(3):
        given = {"q": np.zeros(count, np.float32), "t": np.array([3, 4]), "x": x}
        (y,) = program.eval(given)
        np.testing.assert_array_equal(y, np.broadcast_to(x, (3, 4)))
