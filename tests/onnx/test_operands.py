"""Operands that others demand to be constant, given at run time: onnxruntime is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx.errors import DataWarning, EvaluationError, InputError, MigxError, OnnxError
from tests.onnx.build import Array, assert_agrees, model_of, read, saved

X = np.random.default_rng(1).normal(0, 2, (2, 3, 4)).astype(np.float32)
IMAGE = np.random.default_rng(2).normal(0, 2, (1, 2, 4, 6)).astype(np.float32)


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


OF_X = "main (float[a, b, c] x"
CASES: dict[str, tuple[str, dict[str, Array]]] = {
    "slice axes": (
        (
            f"{OF_X}, int64[2] s, int64[2] e, int64[2] n, int64[2] t) => (float[p, q, r] y) "
            "{ y = Slice(x, s, e, n, t) }"
        ),
        {"x": X, "s": i64(-1, 0), "e": i64(-99, 2), "n": i64(-1, 0), "t": i64(-2, 1)},
    ),
    "slice known axes": (
        (
            f"{OF_X}, int64[2] s, int64[2] e) => (float[p, q, r] y) <int64[2] n = {{2, 0}}> "
            "{ y = Slice(x, s, e, n) }"
        ),
        {"x": X, "s": i64(1, 0), "e": i64(3, 1)},
    ),
    "reduce": (
        f"{OF_X}, int64[n] axes) => (float[p, q, r] y) {{ y = ReduceMean(x, axes) }}",
        {"x": X, "axes": i64(-1, 0)},
    ),
    "reduce all": (
        f"{OF_X}, int64[n] axes) => (float[p, q, r] y) {{ y = ReduceL2(x, axes) }}",
        {"x": X, "axes": i64()},
    ),
    "reduce none": (
        (
            f"{OF_X}, int64[n] axes) => (float[p, q, r] y) "
            "{ y = ReduceLogSumExp<noop_with_empty_axes = 1>(x, axes) }"
        ),
        {"x": X, "axes": i64(1)},
    ),
    "reduce without dims": (
        f"{OF_X}, int64[2] axes) => (float[p] y) {{ y = ReduceMax<keepdims = 0>(x, axes) }}",
        {"x": X, "axes": i64(2, 0)},
    ),
    "squeeze": (
        "main (float[1, 3, 1] x, int64[1] axes) => (float[p, q] y) { y = Squeeze(x, axes) }",
        {"x": X[:1, :, :1], "axes": i64(-1)},
    ),
    "unsqueeze": (
        f"{OF_X}, int64[2] axes) => (float[p, q, r, s, t] y) {{ y = Unsqueeze(x, axes) }}",
        {"x": X, "axes": i64(-2, 0)},
    ),
    "pad": (
        f"{OF_X}, int64[6] pads, float v) => (float[p, q, r] y) {{ y = Pad(x, pads, v) }}",
        {"x": X, "pads": i64(1, 0, 2, 0, -1, 1), "v": np.array(7, np.float32)},
    ),
    "pad axes": (
        (
            f"{OF_X}, int64[4] pads, int64[2] axes) => (float[p, q, r] y) "
            '{ y = Pad<mode = "reflect">(x, pads, , axes) }'
        ),
        {"x": X, "pads": i64(1, 2, 0, 1), "axes": i64(-3, 2)},
    ),
    "tile": (
        f"{OF_X}, int64[3] n) => (float[p, q, r] y) {{ y = Tile(x, n) }}",
        {"x": X, "n": i64(2, 1, 3)},
    ),
    "top k": (
        (
            f"{OF_X}, int64[1] k) => (float[p, q, r] y, int64[p, q, r] z) "
            "{ y, z = TopK<axis = 1>(x, k) }"
        ),
        {"x": X, "k": i64(2)},
    ),
    "one hot": (
        (
            "main (int64[a] x, int64[1] depth, float[2] v) => (float[a, d] y) "
            "{ y = OneHot(x, depth, v) }"
        ),
        {"x": i64(0, 2, -1), "depth": i64(4), "v": f32(0, 1)},
    ),
    "resize scales": (
        (
            "main (float[1, 2, h, w] x, float[4] s) => (float[p, q, r, t] y) "
            '{ y = Resize<mode = "linear">(x, , s) }'
        ),
        {"x": IMAGE, "s": f32(1, 1, 2, 0.5)},
    ),
    "resize sizes": (
        (
            "main (float[1, 2, h, w] x, int64[2] s) => (float[1, 2, r, t] y) "
            '{ y = Resize<axes = [3, 2], mode = "cubic">(x, , , s) }'
        ),
        {"x": IMAGE, "s": i64(3, 7)},
    ),
    "resize by what is no ratio of small numbers": (
        (
            "main (float[1, 2, h, w] x) => (float[1, 2, p, q] y) <float[4] s = {1, 1, 1.2, 0.7}> "
            '{ y = Resize<mode = "linear">(x, , s) }'
        ),
        {"x": IMAGE},
    ),
    "resize region": (
        (
            "main (float[1, 2, 4, 6] x, float[8] roi, int64[4] s) => (float[p, q, r, t] y) "
            '{ y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">'
            "(x, roi, , s) }"
        ),
        {"x": IMAGE, "roi": f32(0, 0, 0.4, 0.6, 1, 1, 0.6, 0.8), "s": i64(1, 2, 3, 3)},
    ),
    "resize keeps aspect": (
        (
            "main (float[1, 2, 4, 6] x, int64[2] s) => (float[p, q, r, t] y) "
            '{ y = Resize<axes = [2, 3], keep_aspect_ratio_policy = "not_larger">(x, , , s) }'
        ),
        {"x": IMAGE, "s": i64(7, 8)},
    ),
    "resize keeps aspect, known": (
        (
            "main (float[1, 2, 4, 6] x) => (float[p, q, r, t] y) <int64[2] s = {7, 8}> "
            '{ y = Resize<axes = [2, 3], keep_aspect_ratio_policy = "not_smaller">(x, , , s) }'
        ),
        {"x": IMAGE},
    ),
    "split": (
        (
            f"{OF_X}, int64[2] n) => (float[p, b, c] y, float[q, b, c] z) "
            "{ y, z = Split<axis = 2>(x, n) }"
        ),
        {"x": X, "n": i64(3, 1)},
    ),
    "cumsum": (
        f"{OF_X}, int32 axis) => (float[a, b, c] y) {{ y = CumSum<reverse = 1>(x, axis) }}",
        {"x": X, "axis": np.array(-2, np.int32)},
    ),
    "range": (
        "main (int64 a, int64 b, int64 c) => (int64[n] y) { y = Range(a, b, c) }",
        {"a": np.array(7), "b": np.array(0), "c": np.array(-2)},
    ),
    "constant of shape": (
        "main (int64[2] n) => (float[p, q] y) { y = ConstantOfShape(n) }",
        {"n": i64(2, 3)},
    ),
    "expand to some known dims": (
        (
            "main (float[3, 1] x, int64[1] n) => (float[p, 3, 2] y) <int64[2] k = {3, 2}> "
            "{ d = Concat<axis = 0>(n, k) y = Expand(x, d) }"
        ),
        {"x": f32(1, 2, 3)[:, None], "n": i64(4)},
    ),
    "reshape to some known dims": (
        (
            f"{OF_X}, int64[1] n) => (float[p, q, b] y) <int64[1] k = {{-1}}, int64[1] m = {{3}}> "
            "{ d = Concat<axis = 0>(n, k, m) y = Reshape(x, d) }"
        ),
        {"x": X, "n": i64(4)},
    ),
    "trilu": (
        f"{OF_X}, int64 k) => (float[a, b, c] y) {{ y = Trilu(x, k) }}",
        {"x": X, "k": np.array(-1)},
    ),
    "squeeze of a dim that is not 1": (
        "main (float[a, 1, 3] x) => (float[p, q] y) { y = Squeeze(x) }",
        {"x": X[:, :1, :3]},
    ),
    "branches of one element": (
        (
            "main (bool c, float[2] x) => (float[2] y) <float s = {2}, float[1] l = {3}> "
            "{ k = If(c)<then_branch = t () => (float k1) { k1 = Identity(s) }, "
            "else_branch = e () => (float[1] k2) { k2 = Identity(l) }> y = Mul(x, k) }"
        ),
        {"c": np.array(False), "x": f32(1, 2)},
    ),
    "places of the greatest": (
        (
            "main (float[1, 2, 4, 6] x) => (float[p, q, r, t] y, int64[p, q, r, t] z) "
            "{ y, z = MaxPool<kernel_shape = [3, 2], pads = [1, 0, 1, 1], strides = [2, 1]>(x) }"
        ),
        {"x": IMAGE},
    ),
    "places of the greatest, by columns": (
        (
            "main (float[1, 2, 4, 6] x) => (float[p, q, r, t] y, int64[p, q, r, t] z) "
            "{ y, z = MaxPool<kernel_shape = [2, 2], dilations = [2, 1], storage_order = 1>(x) }"
        ),
        {"x": IMAGE},
    ),
}


@pytest.mark.filterwarnings(
    "ignore:If 'k'. its result 'k' is of one element:migx.errors.DataWarning"
)
@pytest.mark.parametrize("case", CASES)
def test_operands_may_be_known_at_run_time_only(case: str, tmp_path: Path) -> None:
    graph, inputs = CASES[case]
    assert_agrees(read(graph, tmp_path).compile("ref"), model_of(graph), inputs)


OPEN = {
    "ReduceMax<keepdims = 0>": ("axes it folds", i64(1, 0), 1),
    "Squeeze": ("axes it drops", i64(1), 2),
    "Unsqueeze": ("axes it adds", i64(0, -1), 5),
    "Reshape": ("dims", i64(3, 8), 2),
    "Expand": ("dims", i64(2, 1, 1, 4), 4),
}


@pytest.mark.parametrize("operator", OPEN)
def test_a_rank_that_only_a_run_tells_is_an_error(operator: str, tmp_path: Path) -> None:
    what, _, _ = OPEN[operator]
    graph = f"""{OF_X}, int64[n] v) => (float[p] y) {{
      z = {operator}(x, v) y = Identity(z) }}"""
    said = f"how many {what} there are is n, which is not known; the file has to declare the rank"
    with pytest.raises(OnnxError, match=said):
        read(graph, tmp_path)


@pytest.mark.parametrize("operator", OPEN)
def test_a_rank_that_the_model_declares_is_taken(operator: str, tmp_path: Path) -> None:
    _, values, rank = OPEN[operator]
    dims = ", ".join("pqrst"[:rank])
    graph = f"{OF_X}, int64[n] v) => (float[{dims}] y) {{ y = {operator}(x, v) }}"
    inputs = {"x": X[:, :1] if operator == "Squeeze" else X, "v": values}
    program = read(graph, tmp_path).compile("ref")
    assert_agrees(program, model_of(graph), inputs)
    with pytest.raises(MigxError):
        program.eval({**inputs, "v": i64(0, 1, 2, 3, 4, 5)})


@pytest.mark.parametrize(
    ("graph", "inputs"),
    [
        (
            f"{OF_X}, int64[m, k] i) => (float[p, q] y) {{ y = GatherND(x, i) }}",
            {"x": X, "i": i64(1, 2, 0, 1).reshape(2, 2)},
        ),
        (
            (
                f"{OF_X}, int64[m, k] i, float[m, c] u) => (float[a, b, c] y) "
                "{ y = ScatterND(x, i, u) }"
            ),
            {"x": X, "i": i64(1, 2, 0, 1).reshape(2, 2), "u": X[1, :2]},
        ),
    ],
)
def test_the_width_of_index_tuples_follows_from_ranks(
    graph: str, inputs: dict[str, Array], tmp_path: Path
) -> None:
    assert_agrees(read(graph, tmp_path).compile("ref"), model_of(graph), inputs)


def test_the_width_of_index_tuples_must_be_known(tmp_path: Path) -> None:
    graph = f"{OF_X}, int64[m, k] i) => (float[] y) {{ z = GatherND(x, i) y = Identity(z) }}"
    with pytest.raises(OnnxError, match="GatherND 'z': how many indices for an element there are"):
        read(graph, tmp_path)


def test_eye_of_dims_that_are_symbols(tmp_path: Path) -> None:
    graph = "main (float[a, b] x) => (float[a, b] y) { y = EyeLike<k = 1>(x) }"
    assert_agrees(read(graph, tmp_path).compile("ref"), model_of(graph), {"x": X[0]})


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("split", {"n": i64(3, 2)}, "the sizes of the parts are negative, or do not add up to axis 2"),
    ("split", {"n": i64(5, -1)}, "the sizes of the parts are negative"),
    ("top k", {"k": i64(-1)}, "k = -1 of axis 1, which has 3 elements"),
    ("top k", {"k": i64(4)}, "k = 4 of axis 1, which has 3 elements"),
    ("one hot", {"depth": i64(-2)}, "onehot: a depth of -2"),
    ("unsqueeze", {"axes": i64(-2, 3)}, "its axes name one twice"),
    ("tile", {"n": i64(2, -1, 3)}, "does not broadcast to"),
    ("range", {"b": np.array(2**63 - 1), "c": np.array(1)}, "by 1 is too long"),
    ("constant of shape", {"n": i64(2, -3)}, "does not broadcast to"),
    ("reshape to some known dims", {"n": i64(-4)}, "-1 alone stands for what is left"),
    ("resize sizes", {"s": i64(3, -7)}, "a dim cannot be negative: -7"),
    ("resize sizes", {"x": IMAGE[:, :, :, :0]}, "axis 3 of .* has no elements to make 3 of"),
    ("squeeze", {"axes": i64(1)}, "reshape cannot make"),
    ("squeeze of a dim that is not 1", {"x": X[:1, :1, :3]}, "False"),
    ("reduce", {"axes": i64(3)}, "index.* is outside axis 0"),
    ("pad", {"pads": i64(-3, 0, 0, 0, 0, 0)}, "drop more of"),
]


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize(("case", "changed", "message"), WRONG)
def test_values_that_do_not_fit_are_errors_of_the_run(
    case: str, changed: dict[str, Any], message: str, target: str, tmp_path: Path
) -> None:
    graph, inputs = CASES[case]
    program = read(graph, tmp_path).compile(target)
    with pytest.raises(MigxError, match=message):
        program.eval({**inputs, **changed})


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_what_is_empty_is_expanded_to_dims_of_the_run(target: str, tmp_path: Path) -> None:
    graph = "main (float[n, 1] x, int64[2] r) => (float[p, q] y) { y = Expand(x, r) }"
    program = read(graph, tmp_path).compile(target)
    for count, dims in (
        (0, (1, 1)),
        (0, (0, 5)),
        (0, (1, 3)),
        (1, (0, 2)),
        (1, (3, 2)),
        (3, (1, 2)),
    ):
        inputs = {"x": np.ones((count, 1), np.float32), "r": i64(*dims)}
        assert_agrees(program, model_of(graph), inputs)


def dropped(tmp_path: Path, *, ratio: float, training: bool) -> tuple[Array, Array]:
    graph = """main (float[100] x, float r, bool t) => (float[100] y, bool[100] z) {
      y, z = Dropout<seed = 3>(x, r, t) }"""
    program = read(graph, tmp_path).compile("ref")
    given: dict[str, Array] = {
        "x": np.ones(100, np.float32),
        "r": np.array(ratio, np.float32),
        "t": np.array(training),
    }
    y, mask = program.eval(given)
    again, _ = program.eval(given)
    np.testing.assert_array_equal(y, again)
    return y, mask


def test_dropout_in_training_keeps_some_and_scales_them(tmp_path: Path) -> None:
    y, mask = dropped(tmp_path, ratio=0.75, training=True)
    assert 10 < mask.sum() < 40
    np.testing.assert_array_equal(y, np.where(mask, np.float32(4), np.float32(0)))
    y, mask = dropped(tmp_path, ratio=0.75, training=False)
    assert mask.all()
    np.testing.assert_array_equal(y, np.ones(100))


def test_batch_normalization_in_training_makes_running_statistics(tmp_path: Path) -> None:
    graph = """main (float[2, 3, 4] x) => (float[2, 3, 4] y, float[3] m, float[3] v)
      <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, float[3] rm = {1, 1, 1},
       float[3] rv = {2, 2, 2}> {
      y, m, v = BatchNormalization<training_mode = 1, momentum = 0.75>(x, s, b, rm, rv) }"""
    y, mean, variance = read(graph, tmp_path).compile("ref").eval({"x": X})
    own = X.mean((0, 2)), X.var((0, 2))
    np.testing.assert_allclose(mean, 0.75 + own[0] / 4, rtol=1e-5)
    np.testing.assert_allclose(variance, 1.5 + own[1] / 4, rtol=1e-5)
    unit = (X - own[0][:, None]) / np.sqrt(own[1][:, None] + 1e-5)
    np.testing.assert_allclose(y, unit * [[1], [2], [3]] + [[0], [1], [2]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("int4", [-9 + 16, -8, 7, 9 - 16, 0]),
        ("uint4", [16 - 9, 8, 7, 9, 0]),
        ("int2", [-1, 0, -1, 1, 0]),
        ("uint2", [3, 0, 3, 1, 0]),
        ("float4e2m1", [-6, -6, 6, 6, 0]),
    ],
)
def test_casts_to_less_than_a_byte(code: str, wanted: list[int], tmp_path: Path) -> None:
    """Integers keep their low bits, f4 takes the nearest value."""
    kinds = {"int4": 22, "uint4": 21, "int2": 26, "uint2": 25, "float4e2m1": 23}
    graph = f"""<ir_version: 13, opset_import: ["" : 25]>
      main (float[5] x) => (float[5] y) {{
        small = Cast<to = {kinds[code]}>(x) same = CastLike(x, small) y = Cast<to = 1>(same) }}"""
    program = read(model_of(graph, ""), tmp_path).compile("ref")
    (y,) = program.eval({"x": f32(-9, -8, 7, 9, 0)})
    np.testing.assert_array_equal(y, f32(*wanted))


def test_softmax_of_many_small_floats_does_not_stall(tmp_path: Path) -> None:
    graph = "main (bfloat16[1, 4096] x) => (bfloat16[1, 4096] y) { y = Softmax(x) }"
    (y,) = read(graph, tmp_path).compile("ref").eval({"x": np.zeros((1, 4096), "bfloat16")})
    np.testing.assert_array_equal(y.astype(np.float32), 1 / 4096)


def test_an_assumption_is_checked_by_each_run(tmp_path: Path) -> None:
    graph, inputs = CASES["split"]
    program = read(graph, tmp_path).compile("ref")
    program.eval(inputs)
    with pytest.raises(EvaluationError):
        program.eval({**inputs, "n": i64(1, 1)})


def test_places_that_a_signed_number_does_not_hold(tmp_path: Path) -> None:
    """As i64, 2**64 - 1 would be -1 and select the last position; it is out of range."""
    graph = """main (uint64[a] x, float[2] v) => (float[a, 4] y) <int64[1] depth = {4}> {
      y = OneHot(x, depth, v)
    }"""
    x = np.array([3, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    program = read(graph, tmp_path)
    migx.run_passes(program, "rewrite_indexing")
    (y,) = program.compile("ref").eval({"x": x, "v": f32(0, 1)})
    np.testing.assert_array_equal(y, [[0, 0, 0, 1], [0] * 4, [0] * 4, [0] * 4])


SQUEEZED = "main (float[a, 1, 3] x) => (float{} z) {{ y = Squeeze(x) z = Neg(y) }}"
BRANCHED = """main (float[a, b] x) => (float{} z) <int64[1] axis = {{0}}, int64[1] one = {{1}}> {{
  l = Shape(x)
  n = Gather(l, axis)
  c = Equal(n, one)
  y = If(c) <
    then_branch = yes () => (float[b] p) {{ p = Squeeze(x, axis) }},
    else_branch = no () => (float[a, b] q) {{ q = Identity(x) }}
  >
  z = Neg(y)
}}"""


@pytest.mark.parametrize(
    ("graph", "declared", "dims", "wanted", "refused"),
    [
        (SQUEEZED, "[r]", (1, 1, 3), (3,), (2, 1, 3)),
        (SQUEEZED, "[r, s]", (2, 1, 3), (2, 3), (1, 1, 3)),
        (BRANCHED, "[r]", (1, 3), (3,), (2, 3)),
        (BRANCHED, "[r, s]", (2, 3), (2, 3), (1, 3)),
    ],
)
def test_the_declared_rank_says_whether_a_dim_is_one(
    graph: str,
    declared: str,
    dims: tuple[int, ...],
    wanted: tuple[int, ...],
    refused: tuple[int, ...],
    tmp_path: Path,
) -> None:
    """Exporters declare the rank that their example had."""
    program = read(graph.format(declared), tmp_path).compile("cpu")
    x = np.arange(np.prod(dims), dtype=np.float32).reshape(dims)
    np.testing.assert_array_equal(program.eval({"x": x})[0], -x.reshape(wanted))
    why = "made for inputs at which.*by input_dims|has 2 elements, not 1|dim 0 must be 1"
    with pytest.raises((EvaluationError, InputError), match=why):
        program.eval({"x": np.zeros(refused, np.float32)})


def test_of_several_dims_the_first_that_explains_a_file_is_one(tmp_path: Path) -> None:
    """A mask of one image: its rank is not that of a batch, and its height is no reason for it."""
    graph = """main (float[batch, 1, h, w] x) => (float[r] z) <int64[1] rows = {0}> {
      y = Squeeze(x) z = ReduceSum<keepdims = 0>(y, rows) }"""
    program = read(graph, tmp_path)
    assert program.main.parameters["x"].shape.text == "f32[1, 1, h, w]"
    for h, w in ((2, 3), (5, 4)):
        x = np.arange(h * w, dtype=np.float32).reshape(1, 1, h, w)
        (z,) = program.compile("ref").eval({"x": x})
        np.testing.assert_array_equal(z, x[0, 0].sum(0))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            SQUEEZED.format("[r, s, t]"),
            r"'z' is declared as \[r, s, t\], and computed as f32\[a, 3\]",
        ),
        (SQUEEZED.format("[r, 4]"), r"'z' is declared as \[r, 4\], and computed as f32\[a, 3\]"),
    ],
)
def test_outputs_of_other_dims_than_declared_are_told(
    graph: str, message: str, tmp_path: Path
) -> None:
    """As onnxruntime does. With dims given for inputs, outputs may be other than declared."""
    with pytest.warns(DataWarning, match=message):
        program = read(graph, tmp_path)
    assert program.main.outputs[0].shape.rank == 2
    given = migx.parse_onnx(saved(model_of(graph), tmp_path), {"x": (2, 1, 3)})
    assert given.main.outputs[0].shape.dims == (2, 3)


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize(
    ("case", "huge", "message"),
    [
        ("range", {"b": np.array(-(10**15))}, "out of memory"),
        ("tile", {"n": i64(10**15, 1, 1)}, "out of memory"),
        ("tile", {"n": i64(10**9, 1, 10**9)}, "is too large when broadcast to"),
    ],
)
def test_results_that_are_too_large_are_said_to_be(
    case: str, huge: dict[str, Array], message: str, target: str, tmp_path: Path
) -> None:
    graph, inputs = CASES[case]
    program = read(graph, tmp_path).compile(target)
    with pytest.raises(EvaluationError, match=message):
        program.eval({**inputs, **huge})
