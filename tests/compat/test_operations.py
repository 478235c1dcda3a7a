"""Operations and macros: MIGraphX's attributes, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import migx.compat.migraphx as migraphx
from migx.compat.migraphx import lowering, macros
from migx.compat.migraphx.forms import ABSENT
from migx.errors import CompatError, FieldError, ShapeError, UnknownName

Array = NDArray[Any]
CORE = """
abs acos acosh add allocate argmax argmin as_shape asin asinh atan atanh bit_cast bitwise_and
broadcast broadcast_for_dot broadcast_with_dims capture ceil clip concat concat_past_present
contiguous convert convolution convolution_backwards cos cosh dequantizelinear dimensions_of div dot
dynamic_range elu equal erf exp fill fixed_pad flatten floor fmod gather gathernd get_tuple_elem
gqa_rotary_embedding greater group gru identity if im2col isinf isnan layout leaky_relu less load
log log2 logical_and logical_or logical_xor logsoftmax loop lrn lstm max min mod mul multibroadcast
multinomial nearbyint neg nonmaxsuppression nonzero not onehot outline pack_fp4 pack_int4 pad
pointwise pooling pow prefix_scan_sum prelu quant_convolution quant_dot quantizelinear random_seed
random_uniform recip reduce_all reduce_any reduce_max reduce_mean reduce_min reduce_prod reduce_sum
relu reshape reshape_lazy resize reverse rnn rnn_last_cell_output rnn_last_hs_output
rnn_var_sl_last_output rnn_var_sl_shift_output rnn_var_sl_shift_sequence roialign rsqrt
run_on_target scalar scan_slice scatter_add scatter_max scatter_min scatter_mul scatter_none
scatternd_add scatternd_max scatternd_min scatternd_mul scatternd_none select_module sigmoid sign
sin sinh slice softmax sqdiff sqrt squeeze step sub tan tanh topk transpose undefined unique unknown
unpack_fp4 unpack_int4 unsqueeze where
"""
"""The operations of MIGraphX's core."""


def test_each_operation_of_migraphx_is_there_or_says_why_not() -> None:
    core = set(CORE.split())
    assert lowering.names() | ABSENT.keys() == core
    assert not lowering.names() & ABSENT.keys()
    for name in lowering.names():
        assert migraphx.op(name).name() == name
    for name in ABSENT:
        with pytest.raises(CompatError, match=f"operation {name} cannot be added by hand: "):
            migraphx.op(name)


def floats(*dims: int) -> Array:
    return np.random.default_rng(len(dims)).standard_normal(dims).astype(np.float32)


def evaluated(op: Any, inputs: Sequence[Array], target: str = "ref") -> Array:
    """What an operation, or a macro, gives for inputs."""
    p = migraphx.program()
    main = p.get_main_module()
    refs = []
    for i, array in enumerate(inputs):
        shape = migraphx.argument(np.array(array, order="C")).get_shape()
        refs.append(main.add_parameter(f"x{i}", shape))
    if isinstance(op, migraphx.macro):
        result = main.add_macro(op, refs)[-1]
    else:
        result = main.add_instruction(op, refs)
    main.add_return([result])
    p.compile(migraphx.get_target(target))
    (found,) = p.run({f"x{i}": array for i, array in enumerate(inputs)})
    told, lens = result.shape(), found.get_shape().lens()
    bounds = told.dyn_dims() or [migraphx.shape.dynamic_dimension(n, n) for n in told.lens()]
    assert all(d.min <= n <= d.max for d, n in zip(bounds, lens, strict=True))
    return np.array(found)


X, Y, W = floats(2, 3, 4), floats(2, 3, 4), floats(5, 3, 2, 2)
IMAGE = floats(1, 3, 5, 5)
BOXES = np.array([[[1, 1, 2, 2], [1, 1, 2, 1.9], [5, 5, 2, 2]]], np.float32)
SCORES = np.array([[[0.7, 0.6, 0.9]]], np.float32)
I8 = np.array([[-8, 7, 3, -1]], np.int8)


def convolved(x: Array, w: Array, pads: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Array:
    top, left, bottom, right = pads
    around = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = sliding_window_view(around, w.shape[2:], (2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, w))


OPS: list[tuple[str, dict[str, Any], tuple[Array, ...], Array]] = [
    ("add", {}, (X, Y), X + Y),
    ("softmax", {"axis": -1}, (X,), np.exp(X) / np.exp(X).sum(-1, keepdims=True)),
    ("softmax", {}, (X,), np.exp(X) / np.exp(X).sum(1, keepdims=True)),
    ("reduce_sum", {"axes": [-1, 0]}, (X,), X.sum((0, 2), keepdims=True)),
    ("reduce_max", {}, (X,), X.max(keepdims=True)),
    ("argmax", {"axis": -2}, (X,), X.argmax(1, keepdims=True)),
    ("concat", {"axis": -1}, (X, Y), np.concatenate([X, Y], -1)),
    ("gather", {"axis": -1}, (X, np.array([2, 0])), X[:, :, [2, 0]]),
    ("convert", {"target_type": 5}, (np.array([1.7, -2.5]),), np.array([1, -2], np.int8)),
    ("bit_cast", {"target_type": 10}, (np.array([-1], np.int32),), np.array([2**32 - 1])),
    ("greater", {}, (X, Y), (X > Y).astype(np.float32)),
    ("not", {}, (np.array([0.0, 2.0]),), np.array([1.0, 0.0])),
    ("isnan", {}, (np.array([np.nan, 2.0]),), np.array([1.0, 0.0])),
    ("isinf", {"detect_negative": 0}, (np.array([np.inf, -np.inf]),), np.array([1.0, 0.0])),
    ("logical_and", {}, (np.array([2, 0, 1]), np.array([1, 1, 0])), np.array([1, 0, 0])),
    ("where", {}, (X > 0, X, Y), np.where(X > 0, X, Y)),
    ("log2", {}, (abs(X),), np.log2(abs(X))),
    ("leaky_relu", {"alpha": 0.5}, (X,), np.where(X < 0, X / 2, X)),
    ("transpose", {"permutation": [2, 0, 1]}, (X,), X.transpose(2, 0, 1)),
    ("layout", {"permutation": [2, 0, 1]}, (X,), X),
    ("reshape", {"dims": [0, -1]}, (X,), X.reshape(2, 12)),
    ("reshape_lazy", {"dims": [4, 6]}, (X,), X.reshape(4, 6)),
    ("flatten", {"axis": 2}, (X,), X.reshape(6, 4)),
    ("squeeze", {}, (X[:, :1],), X[:, 0]),
    ("squeeze", {"axes": [-2]}, (X[:, :1],), X[:, 0]),
    ("unsqueeze", {"axes": [-1]}, (X,), X[..., None]),
    ("slice", {"axes": [-1], "starts": [-3], "ends": [99]}, (X,), X[:, :, -3:99]),
    ("slice", {"axes": [2]}, (X, np.array([1]), np.array([-1])), X[:, :, 1:-1]),
    ("slice", {"starts": [1], "ends": [3]}, (X, np.array([2])), X[:, :, 1:3]),
    ("slice", {}, (X, np.array([1, 0]), np.array([9, 1]), np.array([2, 0])), X[:1, :, 1:]),
    ("reshape", {}, (X, np.zeros((4, 6))), X.reshape(4, 6)),
    ("broadcast", {"axis": 1}, (X[0, :, 0], X), np.broadcast_to(X[:1, :, :1], X.shape)),
    ("broadcast_with_dims", {}, (X[:1], np.array([2, 3, 4])), np.stack([X[0]] * 2)),
    ("dynamic_range", {}, (np.array([1]), np.array([8]), np.array([3])), np.array([1, 4, 7])),
    ("fixed_pad", {}, (X,), X),
    ("scan_slice", {"axis": 1}, (X, np.array([2])), X[:, 2:]),
    ("scan_slice", {"axis": -1, "direction": 1}, (X, np.array([0])), X[:, :, 3:]),
    ("nonzero", {}, (np.eye(2) - 1,), np.array([[0, 1, 0, 0], [1, 0, 0, 0]])),
    (
        "nonmaxsuppression",
        {"center_point_box": 1},
        (BOXES, SCORES, np.array([2]), np.array([0.5], np.float32), np.array([0.1], np.float32)),
        np.array([[0, 0, 2], [0, 0, 0], [0, 0, 0]]),
    ),
    (
        "multinomial",
        {"dtype": 9},
        (np.array([[1.0, 3.0, 4.0]]), np.array([[0.0, 0.2, 0.25, 0.7, 0.99]])),
        np.array([[0, 0, 1, 1, 2]]),
    ),
    ("multibroadcast", {}, (X[:1, :1], X[:, :1], X[:1]), np.broadcast_to(X[:1, :1], X.shape)),
    (
        "multibroadcast",
        {"out_dyn_dims": [migraphx.shape.dynamic_dimension(n, n) for n in (2, 2, 3, 4)]},
        (X,),
        np.stack([X] * 2),
    ),
    ("onehot", {}, (np.array([0, 2]), np.array([3]), np.array([5, 7])), np.eye(3)[[0, 2]] * 2 + 5),
    ("onehot", {"depth": 2, "axis": 0}, (np.array([1, 0]), np.array([0, 1])), np.eye(2)[::-1]),
    (
        "scatter_add",
        {"axis": -1, "skip_out_of_bounds": 0},
        (np.ones((1, 3)), np.array([[2, 2]]), np.array([[1.0, 2.0]])),
        np.array([[1.0, 1.0, 4.0]]),
    ),
    ("pad", {"pads": np.array([0.0, 1.0, 0.0, 0.0])}, (X[0],), np.pad(X[0], ((0, 0), (1, 0)))),
    ("step", {"axes": [-1], "steps": [2]}, (X,), X[:, :, ::2]),
    ("reverse", {"axes": [-1]}, (X,), X[:, :, ::-1]),
    ("multibroadcast", {"out_lens": [3, 2, 4]}, (X[:1, 0],), np.broadcast_to(X[:1, 0], (3, 2, 4))),
    ("multibroadcast", {}, (X[:1], Y), np.broadcast_to(X[:1], X.shape)),
    ("broadcast", {"axis": 1, "out_lens": [2, 3]}, (X[0, :, 0],), np.stack([X[0, :, 0]] * 2)),
    ("broadcast_for_dot", {}, (X[0], Y), np.stack([X[0]] * 2)),
    ("scalar", {"scalar_bcst_dims": [2, 2]}, (np.array([3.0]),), np.full((2, 2), 3.0)),
    ("fill", {}, (np.array([3.0]), np.zeros((2, 2))), np.full((2, 2), 3.0)),
    (
        "pad",
        {"pads": [0, 1, 1, 0], "value": 2.0},
        (X[0],),
        np.pad(X[0], ((0, 1), (1, 0)), constant_values=2),
    ),
    ("pad", {"pads": [1, 0, 1, 0], "mode": 1}, (X[0],), np.pad(X[0], ((1, 1), (0, 0)), "reflect")),
    ("convolution", {}, (IMAGE, W), convolved(IMAGE, W)),
    ("convolution", {"padding": [1, 0]}, (IMAGE, W), convolved(IMAGE, W, (1, 0, 1, 0))),
    ("convolution", {"padding": [0, 1, 2, 0]}, (IMAGE, W), convolved(IMAGE, W, (0, 1, 2, 0))),
    ("convolution", {"stride": [2, 2]}, (IMAGE, W), convolved(IMAGE, W)[:, :, ::2, ::2]),
    (
        "pooling",
        {"mode": migraphx.op.pooling_mode.max, "lengths": [2, 2]},
        (IMAGE,),
        sliding_window_view(IMAGE, (2, 2), (2, 3)).max((4, 5)),
    ),
    ("pooling", {"lengths": [5, 5]}, (IMAGE,), IMAGE.mean((2, 3), keepdims=True)),
    ("pooling", {"dyn_global": True}, (IMAGE,), IMAGE.mean((2, 3), keepdims=True)),
    (
        "resize",
        {"coordinate_transformation_mode": "asymmetric"},
        (IMAGE, np.array([1, 3, 10, 5])),
        IMAGE.repeat(2, 2),
    ),
    (
        "resize",
        {"scales": [1.0, 1.0, 2.0, 2.0], "coordinate_transformation_mode": "asymmetric"},
        (IMAGE,),
        IMAGE.repeat(2, 2).repeat(2, 3),
    ),
    ("pack_int4", {}, (I8,), np.array([[0x78, -13]], np.int8)),
    ("unpack_int4", {"axis": -1}, (np.array([[0x78, -13]], np.int8),), I8),
    (
        "quantizelinear",
        {},
        (X[0], np.full((3, 4), 0.5, np.float32), np.full((3, 4), 3, np.int8)),
        np.rint(X[0] / 0.5) + 3,
    ),
    (
        "dequantizelinear",
        {},
        (I8, np.array([[1, 2, 3, 4]], np.float32)),
        np.array([[-8, 14, 9, -4]], np.float32),
    ),
    ("onehot", {"depth": 3}, (np.array([2, 0]), np.array([0.0, 1.0])), np.eye(3)[[2, 0]]),
]


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize(("name", "attributes", "inputs", "wanted"), OPS)
def test_operations(
    name: str, attributes: dict[str, Any], inputs: tuple[Array, ...], wanted: Array, target: str
) -> None:
    found = evaluated(migraphx.op(name, **attributes), inputs, target)
    assert found.shape == wanted.shape
    # Sums of at most 25 products in f32, and one rounding of an elementary function.
    assert np.allclose(found, wanted, rtol=1e-5, atol=25 * 2.0**-24 * 16)


def test_attributes_are_read_back() -> None:
    op = migraphx.op("convolution", padding=[1, 1], group=3)
    assert op.values() == {
        "padding": [1, 1],
        "stride": [1, 1],
        "dilation": [1, 1],
        "group": 3,
        "padding_mode": 0,
    }
    assert migraphx.op("convert", target_type=migraphx.shape.type_t.int8_type).values() == {
        "target_type": 5
    }
    assert migraphx.op("leaky_relu", alpha=0.1).values() == {"alpha": float(np.float32(0.1))}
    assert [int(each) for each in migraphx.op.rnn_direction] == [0, 1, 2]
    assert [each.name for each in migraphx.op.pooling_mode] == ["average", "max", "lpnorm"]


def test_last_states_of_recurrent_layers() -> None:
    x, w, r = floats(4, 2, 3), floats(1, 20, 3)[:, :, :3], floats(1, 20, 5)
    p = migraphx.program()
    main = p.get_main_module()
    inputs = [main.add_literal(each) for each in (x, w, r)]
    direction = migraphx.op.rnn_direction.reverse
    states = main.add_instruction(migraphx.op("lstm", hidden_size=5, direction=direction), inputs)
    last = main.add_instruction(migraphx.op("rnn_last_hs_output"), [states])
    cell = main.add_instruction(migraphx.op("rnn_last_cell_output"), [states])
    main.add_return([states, last, cell])
    p.compile(migraphx.get_target("ref"))
    all_steps, hidden, cells = map(np.array, p.run({}))
    assert (all_steps.shape, cells.shape) == ((4, 1, 2, 5), (1, 2, 5))
    assert np.array_equal(all_steps[0], hidden)
    with pytest.raises(ShapeError, match="takes the result of rnn, gru or lstm"):
        main.add_instruction(migraphx.op("rnn_last_hs_output"), inputs[:1])


def test_slices_that_are_told_too_much_or_too_little() -> None:
    for attributes in ({"axes": [0], "starts": [0], "ends": [1]}, {"axes": [0]}):
        with pytest.raises(ShapeError, match="takes each of starts, ends and axes once"):
            evaluated(migraphx.op("slice", **attributes), [X, np.array([0])])


def test_what_is_told_twice_or_not_at_all() -> None:
    index, values = np.array([0]), np.array([0.0, 1.0])
    for attributes, inputs in (({}, [index, values]), ({"depth": 2}, [index, index, values])):
        with pytest.raises(ShapeError, match="onehot takes a depth once"):
            evaluated(migraphx.op("onehot", **attributes), inputs)
    bounds = migraphx.shape.dynamic_dimension(1, 4)
    with pytest.raises(ShapeError, match=r"the dim \[1..4\] is not computed from another"):
        evaluated(migraphx.op("multibroadcast", out_dyn_dims=[bounds]), [index])
    with pytest.raises(CompatError, match="indices outside are errors here"):
        scatter = migraphx.op("scatter_none", skip_out_of_bounds=True)
        evaluated(scatter, [values, index, values[:1]])


def test_as_many_results_as_a_run_finds() -> None:
    p = migraphx.program()
    main = p.get_main_module()
    x = main.add_literal(np.array([3, 1, 3, 2]))
    parts = []
    for ordered in (True, False):
        whole = main.add_instruction(migraphx.op("unique", sorted=ordered), [x])
        parts += [
            main.add_instruction(migraphx.op("get_tuple_elem", index=i), [whole]) for i in range(4)
        ]
    inputs = [main.add_literal(each) for each in (BOXES, SCORES, np.array([2]))]
    chosen = migraphx.op("nonmaxsuppression", use_dyn_output=True, center_point_box=True)
    main.add_return([*parts, main.add_instruction(chosen, inputs)])
    p.compile(migraphx.get_target("ref"))
    found = [each.tolist() for each in p.run({})]
    assert found[:4] == [[1, 2, 3], [1, 3, 0], [2, 0, 2, 1], [1, 1, 2]]
    assert found[4:8] == [[3, 1, 2], [0, 1, 3], [0, 1, 0, 2], [2, 1, 1]]
    assert found[8] == [0, 0, 2, 0, 0, 0]


def test_sizes_up_to_their_bounds() -> None:
    p = migraphx.program()
    main = p.get_main_module()
    dims = [migraphx.shape.dynamic_dimension(*ends) for ends in ((1, 4), (2, 2))]
    x = main.add_parameter("x", migraphx.shape(dyn_dims=dims))
    main.add_return([main.add_instruction(migraphx.op("fixed_pad"), [x])])
    assert [s.lens() for s in p.get_output_shapes()] == [[4, 2]]
    p.compile(migraphx.get_target("ref"))
    assert p.run({"x": np.ones((1, 2), np.float32)})[0].tolist() == [1.0, 1.0, *[0.0] * 6]


@pytest.mark.parametrize(
    ("name", "attributes", "error", "message"),
    [
        ("relux", {}, UnknownName, "no operation is named 'relux'; similar: relu"),
        ("relu", {"alpha": 1}, UnknownName, "relu has no attribute 'alpha'; there are: none"),
        ("transpose", {}, ShapeError, "transpose requires permutation"),
        ("transpose", {"permutation": 3}, FieldError, r"permutation is tuple\[int, ...\], not 3"),
        ("convolution", {}, ShapeError, r"its inputs \(f32\[2, 3, 4\]\) or attributes do not fit"),
        ("pooling", {"padding_mode": 1}, CompatError, "padding_mode is not supported: give the"),
        ("pooling", {"mode": -1}, ShapeError, "attributes do not fit it: -1"),
        ("slice", {"axes": [0], "starts": [0, 1], "ends": [2]}, ShapeError, "do not fit it: zip"),
        ("reshape", {"dims": 6}, FieldError, r"reshape: dims is tuple\[int, ...\], not 6"),
        ("unsqueeze", {"axes": [0], "steps": [2]}, CompatError, "steps is not supported: use resh"),
        ("lstm", {"actv_func": ["tanh"]}, CompatError, "actv_func is not supported"),
        ("pad", {"pads": [0.5] * 6}, FieldError, r"pads is tuple\[int, ...\], not 0.5"),
        ("onehot", {}, ShapeError, "its inputs .f32.2, 3, 4.. or attributes do not fit"),
        ("scatter_none", {"skip_out_of_bounds": True}, ShapeError, "do not fit it"),
        ("fixed_pad", {"axes": 1}, UnknownName, "fixed_pad has no attribute 'axes'"),
        ("softmax", {"axis": 7}, ShapeError, "axis 7 is not one of the 3 axes"),
        ("convert", {"target_type": None}, TypeError, "target_type is a bool, int"),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, attributes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluated(migraphx.op(name, **attributes), [X])


A, B = floats(2, 3), floats(3, 2)
TURNED, COSINES = floats(1, 3, 2, 4), (floats(2, 2), floats(2, 2) / 2)
SCALE, BIAS, MEAN, VAR = (np.array(each, np.float32) for each in ([2, 1], [1, -1], [2, 5], [4, 9]))
MACROS: list[tuple[str, dict[str, Any], tuple[Array, ...], Array]] = [
    ("gemm", {}, (A, B), A @ B),
    ("gemm", {"transA": True, "alpha": 0.5}, (B, B), B.T @ B / 2),
    ("gemm", {"beta": 2.0}, (A, B, SCALE), A @ B + 2 * SCALE),
    ("dot", {}, (X, floats(4, 2)), X @ floats(4, 2)),
    ("convolution", {"paddings": [1, 0]}, (IMAGE, W), convolved(IMAGE, W, (1, 0, 1, 0))),
    ("convolution", {}, (IMAGE, W, floats(5)), convolved(IMAGE, W) + floats(5).reshape(5, 1, 1)),
    ("einsum", {"equation": "ij,jk->ki"}, (A, B), (A @ B).T),
    ("einsum", {"equation": "ii->"}, (A @ B,), np.array([np.trace(A @ B)])),
    ("add", {}, (X, X[0, :1]), X + X[0, :1]),
    ("add", {"broadcasted_axis": 1}, (X, X[0, :, 0]), X + X[0, :, :1]),
    ("tile", {"repeats": [2, 1]}, (A,), np.tile(A, (2, 1))),
    ("celu", {"alpha": 2.0}, (A,), np.where(A > 0, A, 2 * np.expm1(A / 2))),
    ("clip", {}, (A, np.array(0, np.float32), np.array(1, np.float32)), A.clip(0, 1)),
    (
        "batchnorm",
        {"epsilon": 0.5},
        (IMAGE[:, :2], SCALE, BIAS, MEAN, VAR),
        (IMAGE[:, :2] - MEAN.reshape(2, 1, 1)) * (SCALE / np.sqrt(VAR + 0.5)).reshape(2, 1, 1)
        + BIAS.reshape(2, 1, 1),
    ),
    ("convolution", {"auto_pad": "SAME_LOWER"}, (IMAGE, W), convolved(IMAGE, W, (1, 1, 0, 0))),
    (
        "gelu_tanh",
        {"fast": True},
        (A,),
        A / 2 * (1 + np.tanh(0.797885 * A + 0.035677 * A**3)),
    ),
    (
        "rotary_embedding",
        {"interleaved": False},
        (TURNED, np.array([[1, 0]]), *COSINES),
        np.concatenate(
            [
                TURNED[..., :2] * COSINES[0][[1, 0]] - TURNED[..., 2:] * COSINES[1][[1, 0]],
                TURNED[..., 2:] * COSINES[0][[1, 0]] + TURNED[..., :2] * COSINES[1][[1, 0]],
            ],
            -1,
        ),
    ),
    ("gelu_quick", {"alpha": 1.5}, (A,), A / (1 + np.exp(-1.5 * A))),
    (
        "gelu_tanh",
        {},
        (A,),
        A / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (A + 0.044715 * A**3))),
    ),
]


@pytest.mark.parametrize(("name", "options", "inputs", "wanted"), MACROS)
def test_macros(
    name: str, options: dict[str, Any], inputs: tuple[Array, ...], wanted: Array
) -> None:
    made = migraphx.macro(name, **options)
    assert (made.name(), made.options()) == (name, options)
    found = evaluated(made, inputs)
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, rtol=1e-5, atol=25 * 2.0**-24 * 16)


def test_macros_that_are_not_there() -> None:
    for name in macros.ABSENT:
        with pytest.raises(CompatError, match=f"there is no macro {name}: "):
            migraphx.macro(name)
    with pytest.raises(UnknownName, match="no macro is named 'gem'; similar: gemm"):
        migraphx.macro("gem")
    with pytest.raises(UnknownName, match="gemm has no attribute 'trans'"):
        migraphx.macro("gemm", trans=True)


def test_every_macro_that_is_told_nothing_can_be_made() -> None:
    for name in macros.MACROS:
        assert repr(migraphx.macro(name)) == name
