"""Operators in the forms that early opsets gave them; numpy says what they mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, model_of, read

X = np.random.default_rng(3).normal(0, 2, (2, 3, 4)).astype(np.float32)
IMAGE = np.random.default_rng(4).normal(0, 2, (1, 2, 3, 2)).astype(np.float32)
ROW, COLUMN = X[0, :, 0].copy(), X[0, :, 1:2].copy()


def head(version: int) -> str:
    return f'<ir_version: 3, opset_import: ["" : {version}]>\n'


def on_three(operator: str, y: str) -> str:
    """A graph of one node on x f32[2, 3, 4] and another operand."""
    return f"main (float[2, 3, 4] x, {y}) => (float[p, q, r] z) {{ z = {operator} }}"


ALIGNED = "<broadcast = 1, axis = 1>(x, y)"
CASES: dict[str, tuple[int, str, dict[str, Array], Array]] = {
    "add along an axis": (
        6,
        on_three(f"Add{ALIGNED}", "float[3] y"),
        {"x": X, "y": ROW},
        X + ROW[:, None],
    ),
    "add to the last axes": (
        1,
        on_three("Sub<broadcast = 1>(x, y)", "float[3, 1] y"),
        {"x": X, "y": COLUMN},
        X - COLUMN,
    ),
    "multiply by a number": (
        6,
        on_three("Mul<broadcast = 1>(x, y)", "float[1] y"),
        {"x": X, "y": ROW[:1]},
        X * ROW[0],
    ),
    "equal dims": (1, on_three("Div(x, y)", "float[2, 3, 4] y"), {"x": X, "y": X}, X / X),
    "power": (
        1,
        on_three("Pow<broadcast = 1>(x, y)", "float[1] y"),
        {"x": abs(X), "y": np.array([2], np.float32)},
        X**2,
    ),
    "slope for each channel": (
        6,
        on_three("PRelu(x, y)", "float[3] y"),
        {"x": X, "y": ROW},
        np.where(X < 0, X * ROW[:, None], X),
    ),
    "gemm": (
        6,
        (
            "main (float[3, 4] a, float[3] c) => (float[3, 3] z) "
            "{ z = Gemm<broadcast = 1, transB = 1>(a, a, c) }"
        ),
        {"a": X[0], "c": ROW},
        X[0] @ X[0].T + ROW,
    ),
    "normalise": (
        6,
        on_three("BatchNormalization<is_test = 1>(x, y, y, y, y)", "float[3] y"),
        {"x": X, "y": abs(ROW)},
        (X - (v := abs(ROW)[:, None])) / np.sqrt(v + 1e-5) * v + v,
    ),
    "reshape": (
        1,
        "main (float[2, 3, 4] x) => (float[p, q] z) { z = Reshape<shape = [0, -1]>(x) }",
        {"x": X},
        X.reshape(2, 12),
    ),
    "pad": (
        1,
        (
            "main (float[2, 3, 4] x) => (float[p, q, r] z) "
            "{ z = Pad<paddings = [0, 1, 0, 0, 0, 2], value = 5.0>(x) }"
        ),
        {"x": X},
        np.pad(X, ((0, 0), (1, 0), (0, 2)), constant_values=5),
    ),
    "upsample": (
        1,
        (
            "main (float[1, 2, 3, 2] x) => (float[p, q, r, s] z) "
            "{ z = Upsample<height_scale = 2.0, width_scale = 3.0>(x) }"
        ),
        {"x": IMAGE},
        IMAGE.repeat(2, 2).repeat(3, 3),
    ),
    "upsample by scales": (
        7,
        (
            "main (float[1, 2, 3, 2] x) => (float[p, q, r, s] z) "
            "{ z = Upsample<scales = [1.0, 1.0, 1.0, 2.0]>(x) }"
        ),
        {"x": IMAGE},
        IMAGE.repeat(2, 3),
    ),
    "join": (
        1,
        "main (float[2, 3, 4] x) => (float[p, q, r] z) { z = Concat(x, x) }",
        {"x": X},
        np.concatenate([X, X], 1),
    ),
    "tile": (
        1,
        on_three("Tile(x, n, a)", "int64[1] n, int64[1] a"),
        {"x": X, "n": np.array([3]), "a": np.array([1])},
        np.tile(X, (1, 3, 1)),
    ),
    "clip": (
        1,
        "main (float[2, 3, 4] x) => (float[p, q, r] z) { z = Clip<min = -0.5>(x) }",
        {"x": X},
        X.clip(-0.5),
    ),
    "cast": (
        1,
        'main (float[2, 3, 4] x) => (int32[p, q, r] z) { z = Cast<to = "INT32">(x) }',
        {"x": X},
        X.astype(np.int32),
    ),
    "dropout of inference": (
        6,
        "main (float[2, 3, 4] x) => (float[p, q, r] z) { z = Dropout<is_test = 1>(x) }",
        {"x": X},
        X,
    ),
    "norm of planes": (
        1,
        "main (float[1, 2, 3, 2] x) => (float[p, q, r, s] z) { z = GlobalLpPool<p = 2.0>(x) }",
        {"x": IMAGE},
        np.sqrt((IMAGE**2).sum((2, 3), keepdims=True)),
    ),
    "greater along an axis": (
        1,
        f"main (float[2, 3, 4] x, float[3] y) => (bool[p, q, r] z) {{ z = Greater{ALIGNED} }}",
        {"x": X, "y": ROW},
        ROW[:, None] < X,
    ),
    "scan of a batch": (
        8,
        (
            "main (float[2, 4] s, float[2, 3, 4] x) => (float[2, 3, 4] z) "
            "{ last, z = Scan<num_scan_inputs = 1, directions = [1], body = b "
            "(float[4] t, float[4] u) => (float[4] v, float[4] w) "
            "{ v = Add(t, u) w = Identity(v) }>(, s, x) }"
        ),
        {"s": X[:, 0], "x": X},
        X[:, 0][:, None] + X[:, ::-1].cumsum(1),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_early_forms_mean_what_they_meant(case: str, tmp_path: Path) -> None:
    version, graph, inputs, wanted = CASES[case]
    program = read(model_of(graph, head(version)), tmp_path)
    (got,) = program.compile("ref").eval(inputs)
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_dropout_of_training_was_the_default(tmp_path: Path) -> None:
    graph = "main (float[99] x) => (float[99] y, float[99] m) { y, m = Dropout<ratio = 0.25>(x) }"
    program = read(model_of(graph, head(6)), tmp_path)
    y, mask = program.compile("ref").eval({"x": np.ones(99, np.float32)})
    assert 50 < mask.sum() < 99
    np.testing.assert_allclose(y, mask / 0.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("version", "graph", "message"),
    [
        (
            6,
            on_three("Add<broadcast = 1, axis = 5>(x, y)", "float[3] y"),
            "axis 5 is out of range",
        ),
        (
            8,
            on_three(
                "Scan<num_scan_inputs = 1, body = b (float[3, 4] u) => (float[3, 4] w) "
                "{ w = Identity(u) }>(y, x)",
                "int64[2] y",
            ),
            "sequences of different lengths",
        ),
        (
            7,
            (
                "main (float[2, 3] x, float[3] s) => (float[2, 3] y) "
                "{ y, m = BatchNormalization(x, s, s, s, s) }"
            ),
            "give it training_mode",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(
    version: int, graph: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError, match=message):
        read(model_of(graph, head(version)), tmp_path)
