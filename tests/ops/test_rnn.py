"""rnn, gru and lstm against onnxruntime, and against a loop over numbers where that has no say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import result_of
from migx.ops.builtin import Undefined
from migx.ops.rnn import ACTIVATIONS, GRU, LSTM, RNN
from migx.shape import BF16, F16, F32, F64, I8, I32, I64, DType, Shape

Array = NDArray[Any]
TIME, BATCH, FEATURES, HIDDEN = 5, 3, 4, 6
GATES = {RNN: 1, GRU: 3, LSTM: 4}
KINDS: list[Any] = [RNN, GRU, LSTM]
ROLES = ("w", "r", "b", "sequence_lens", "initial_h", "initial_c", "p")


def inputs(kind: Any, directions: int = 1, dtype: Any = np.float32) -> dict[str, Array]:
    """Every input of a layer by role."""
    rng, rows = np.random.default_rng(11), GATES[kind] * HIDDEN
    dims = {
        "x": (TIME, BATCH, FEATURES),
        "w": (directions, rows, FEATURES),
        "r": (directions, rows, HIDDEN),
        "b": (directions, 2 * rows),
        "initial_h": (directions, BATCH, HIDDEN),
        **({"initial_c": (directions, BATCH, HIDDEN)} if kind is LSTM else {}),
        **({"p": (directions, 3 * HIDDEN)} if kind is LSTM else {}),
    }
    given: dict[str, Array] = {k: (rng.normal(size=d) / 2).astype(dtype) for k, d in dims.items()}
    return {**given, "sequence_lens": np.array([5, 2, 3], np.int32)}


def run(op: Any, given: dict[str, Array]) -> list[Array]:
    """The results of a layer, their types and dims checked against the shape rule."""
    roles = ROLES if type(op) is LSTM else ROLES[:5]
    absent = Argument(Undefined().compute_shape([]))
    arguments = [Argument.of(given[role]) if role in given else absent for role in ("x", *roles)]
    while arguments[-1] is absent:
        arguments.pop()
    shape = op.compute_shape([a.shape for a in arguments])
    result = result_of(op, shape, arguments)
    assert result.shape == shape
    assert len(result.parts) == len(shape.parts)
    for part, expected in zip(result.parts, shape.parts, strict=True):
        assert part.shape == expected
        assert part.array.shape == expected.dims
        assert part.array.dtype == expected.dtype.numpy
    return [part.array for part in result.parts]


def onnx(op: Any, given: dict[str, Array]) -> list[Array]:
    """The results of onnxruntime."""
    roles = ("x", *(ROLES if type(op) is LSTM else ROLES[:5]))
    attributes: dict[str, Any] = {"hidden_size": op.hidden_size, "direction": op.direction}
    attributes.update({"clip": op.clip} if op.clip < math.inf else {})
    for name in ("activations", "activation_alpha", "activation_beta"):
        attributes.update({name: getattr(op, name)} if getattr(op, name) else {})
    for name in ("linear_before_reset", "input_forget"):
        attributes.update({name: 1} if getattr(op, name, False) else {})
    outputs = ["y", "h", "c"][: 3 if type(op) is LSTM else 2]
    names = [role if role in given else "" for role in roles]
    node = helper.make_node(type(op).__name__, names, outputs, **attributes)
    values = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in given.items()
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph([node], "g", values, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return [np.asarray(result) for result in session.run(outputs, given)]


def without(given: dict[str, Array], *roles: str) -> dict[str, Array]:
    return {role: array for role, array in given.items() if role not in roles}


def check(op: Any, given: dict[str, Array]) -> None:
    for ours, theirs in zip(run(op, given), onnx(op, given), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    "absent",
    [(), ("sequence_lens",), ("b", "initial_h", "p"), ROLES[2:], ("b", "initial_c")],
    ids=lambda roles: "without " + " ".join(roles),
)
def test_agrees_with_onnxruntime(kind: Any, direction: str, absent: tuple[str, ...]) -> None:
    given = without(inputs(kind, 2 if direction == "bidirectional" else 1), *absent)
    check(kind(HIDDEN, direction), given)


VARIANTS: list[Any] = [
    RNN(HIDDEN, clip=0.2),
    RNN(HIDDEN, clip=0.0),
    GRU(HIDDEN, linear_before_reset=True),
    GRU(HIDDEN, clip=0.2),
    GRU(HIDDEN, linear_before_reset=True, clip=0.3),
    LSTM(HIDDEN, clip=0.2),
    LSTM(HIDDEN, input_forget=True),
    GRU(HIDDEN, activations=("HardSigmoid", "ScaledTanh"), activation_alpha=(0.3, 1.5),
        activation_beta=(0.4, 0.5)),
    LSTM(HIDDEN, activations=("Sigmoid", "LeakyRelu", "Softsign"), activation_alpha=(0.3,)),
    LSTM(HIDDEN, "bidirectional", ("Sigmoid", "Tanh", "Elu", "HardSigmoid", "Relu", "Tanh"),
         (0.7, 0.3), (0.4,)),
]  # fmt: skip


@pytest.mark.parametrize("op", VARIANTS, ids=str)
def test_variants_agree_with_onnxruntime(op: Any) -> None:
    check(op, inputs(type(op), 2 if op.direction == "bidirectional" else 1))


@pytest.mark.parametrize(
    "name", sorted(set(ACTIVATIONS) - {"Affine", "ScaledTanh", "ThresholdedRelu"})
)
def test_activations_have_the_defaults_of_onnxruntime(name: str) -> None:
    given = {
        "x": np.linspace(-3, 3, BATCH * TIME, dtype=np.float32).reshape(TIME, BATCH, 1),
        "w": np.ones((1, HIDDEN, 1), np.float32),
        "r": np.zeros((1, HIDDEN, HIDDEN), np.float32),
    }
    check(RNN(HIDDEN, activations=(name,)), given)


def test_activations_in_which_onnxruntime_differs() -> None:
    given = without(inputs(RNN), "initial_h", "b", "sequence_lens")
    given["r"] = np.zeros_like(given["r"])
    x = np.einsum("tbi,hi->tbh", given["x"], given["w"][0])
    for name, given_alpha, given_beta, expected in (
        ("Affine", (2.0,), (0.5,), 2 * x + 0.5),
        ("ScaledTanh", (2.0,), (0.5,), 2 * np.tanh(0.5 * x)),
        ("Affine", (), (), x),
        ("ThresholdedRelu", (), (), np.where(x >= 1, x, 0)),
        ("ThresholdedRelu", (0.25,), (), np.where(x >= 0.25, x, 0)),
    ):
        op = RNN(HIDDEN, "forward", (name,), given_alpha, given_beta)
        np.testing.assert_allclose(run(op, given)[0][:, 0], expected, rtol=1e-5, atol=1e-6)


def test_a_padded_sequence_is_the_short_one_followed_by_zeros() -> None:
    given = inputs(LSTM, 2)
    y, h, c = run(LSTM(HIDDEN, "bidirectional"), given)
    for n, length in enumerate(given["sequence_lens"].tolist()):
        one = {k: v[:, n : n + 1] for k, v in given.items() if k in ("initial_h", "initial_c")}
        alone = {**without(given, "sequence_lens"), **one, "x": given["x"][:length, n : n + 1]}
        short = run(LSTM(HIDDEN, "bidirectional"), alone)
        padded = (y[:length, :, n], h[:, n], c[:, n])
        for ours, expected in zip(padded, short, strict=True):
            np.testing.assert_allclose(ours, expected.reshape(ours.shape), rtol=1e-5, atol=1e-6)
        assert not y[length:, :, n].any()


def test_no_steps_leave_the_states_as_they_are() -> None:
    given = without(inputs(GRU), "sequence_lens")
    y, h = run(GRU(HIDDEN), {**given, "x": given["x"][:0]})
    assert y.shape == (0, 1, BATCH, HIDDEN)
    np.testing.assert_array_equal(h, given["initial_h"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [F16, BF16, F64], ids=str)
def test_other_floats_are_rounded_once_at_the_end(kind: Any, dtype: DType) -> None:
    given = inputs(kind, dtype=dtype.numpy)
    precise = np.float64 if dtype is F64 else np.float32
    widened = {k: v if v.dtype == np.int32 else v.astype(precise) for k, v in given.items()}
    for ours, wide in zip(run(kind(HIDDEN), given), run(kind(HIDDEN), widened), strict=True):
        np.testing.assert_array_equal(ours, wide.astype(dtype.numpy))


def test_f64_is_not_computed_in_f32() -> None:
    given = inputs(GRU, dtype=np.float64)
    narrow = {k: v if v.dtype == np.int32 else v.astype(np.float32) for k, v in given.items()}
    difference = abs(run(GRU(HIDDEN), given)[0] - run(GRU(HIDDEN), narrow)[0]).max()
    assert 0 < difference < 1e-5


def test_dims_may_be_symbolic() -> None:
    t, n, i = Dim("time"), Dim("batch"), Dim("features")
    shapes = [
        Shape(F32, (t, n, i)),
        Shape(F32, (2, 24, i)),
        Shape(F32, (2, 24, 6)),
        Undefined().compute_shape([]),
        Shape(I32, (Dim("lengths"),)),
        Shape(F32, (2, n, 6)),
    ]
    y, state = Shape(F32, (t, 2, n, 6)), Shape(F32, (2, n, 6))
    lstm = LSTM(6, "bidirectional")
    assert lstm.compute_shape(shapes) == Shape.tuple(y, state, state)
    assert lstm.compute_shape(shapes[:3]) == Shape.tuple(y, state, state)
    with pytest.raises(ShapeError, match=r"needs initial_h to be f32\[2, batch, 6\]"):
        lstm.compute_shape([*shapes[:5], Shape(F32, (2, n + 1, 6))])


def shapes_of(kind: Any) -> list[Shape]:
    given = inputs(kind)
    return [Argument.of(given[role]).shape for role in ("x", *ROLES) if role in given]


@pytest.mark.parametrize(
    ("op", "index", "shape", "message"),
    [
        (RNN(6, clip=-1.0), 0, None, "needs clip to be 0 or more, not -1.0"),
        (RNN(6, "backward"), 0, None, "runs forward, reverse, bidirectional, not 'backward'"),
        (RNN(6, activations=("Swish",)), 0, None, "knows no activation 'Swish', but Relu, Tanh"),
        (LSTM(6, activations=("Tanh",)), 0, None, "lstm takes 3 activations, got Tanh"),
        (RNN(6), 0, Shape(F32, (5, 3)), r"needs floats \[time, batch, input\], got f32\[5, 3\]"),
        (RNN(6), 0, Shape(I8, (5, 3, 4)), "needs floats"),
        (GRU(6), 1, Shape(F32, (1, 12, 4)), r"gru needs w to be f32\[1, 18, 4\], got .*12, 4"),
        (GRU(6), 1, Shape.opaque("optional"), "needs w to be"),
        (GRU(6), 2, Shape(F16, (1, 18, 6)), r"gru needs r to be f32\[1, 18, 6\], got f16"),
        (GRU(6), 4, Shape(I64, (3,)), r"needs sequence_lens to be i32\[3\], got i64"),
        (LSTM(6), 7, Shape(F32, (1, 17)), r"lstm needs p to be f32\[1, 18\], got f32\[1, 17\]"),
    ],
)
def test_errors_say_what_would_be_right(
    op: Any, index: int, shape: Shape | None, message: str
) -> None:
    shapes = shapes_of(type(op))
    if shape is not None:
        shapes[index] = shape
    with pytest.raises(ShapeError, match=message):
        op.compute_shape(shapes)


def test_the_number_of_inputs_is_checked() -> None:
    with pytest.raises(ShapeError, match="rnn takes 3 or 4 or 5 or 6 inputs, got 2"):
        RNN(6).compute_shape(shapes_of(RNN)[:2])
