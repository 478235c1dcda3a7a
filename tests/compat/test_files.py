"""Models read, saved and quantised, and devices, as by MIGraphX's Python module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import migx.compat.migraphx as migraphx
from migx.errors import CompatError, DataError, OnnxError, TargetError, UnknownName

Array = NDArray[Any]
BATCH = migraphx.shape.dynamic_dimension(1, 8)
targets = pytest.mark.parametrize("name", ["ref", "cpu"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier of digits: image [batch, 1, 28, ?], convolution, pooling, product."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.standard_normal((4, 1, 5, 5), dtype=np.float32) / 5,
        "matrix": rng.standard_normal((576, 10), dtype=np.float32) / 24,
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("MaxPool", ["active"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, None])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    onnx.save_model(model, path)
    return path


FIXED: dict[str, Any] = {"map_input_dims": {"image": [2, 1, 28, 28]}}


def run(p: migraphx.program, target: str = "ref", count: int = 2) -> Array:
    """What the classifier says of drawn images."""
    if not p.is_compiled():
        p.compile(migraphx.get_target(target))
    image = migraphx.generate_argument(migraphx.shape(lens=[count, 1, 28, 28]))
    return np.array(p.run({"image": image})[-1])


@targets
def test_a_model_is_read_compiled_and_run(digits: Path, name: str) -> None:
    p = migraphx.parse_onnx(str(digits), **FIXED)
    assert p.get_parameter_shapes()["image"].lens() == [2, 1, 28, 28]
    assert p.get_output_shapes()[-1].lens() == [2, 10]
    found = run(p, name)
    same = migraphx.parse_onnx_buffer(digits.read_bytes(), **FIXED)
    assert same == migraphx.parse_onnx(str(digits), **FIXED)
    # Each logit is a sum of 576 products of sums of 25.
    wanted = run(same)
    assert np.allclose(found, wanted, atol=(576 + 25) * 2.0**-24 * abs(wanted).max() * 16)


ONE, LINES = (migraphx.shape.dynamic_dimension(n, n) for n in (1, 28))
DYNAMIC: dict[str, Any] = {"map_dyn_input_dims": {"image": [BATCH, ONE, LINES, LINES]}}
DIMS: list[tuple[dict[str, Any], list[tuple[int, int]]]] = [
    ({}, [(1, 1), (1, 1), (28, 28), (1, 1)]),
    ({"default_dim_value": 2}, [(2, 2), (1, 1), (28, 28), (2, 2)]),
    ({"default_dyn_dim_value": BATCH}, [(1, 8), (1, 1), (28, 28), (1, 8)]),
    ({"dim_params": {"batch": BATCH}}, [(1, 8), (1, 1), (28, 28), (1, 1)]),
    (FIXED, [(2, 2), (1, 1), (28, 28), (28, 28)]),
    (DYNAMIC, [(1, 8), (1, 1), (28, 28), (28, 28)]),
    (
        {"map_dyn_input_dims": {"image": [BATCH, 1, 28, np.int64(28)]}},
        [(1, 8), (1, 1), (28, 28), (28, 28)],
    ),
    ({"dim_params": {"batch": 3}}, [(3, 3), (1, 1), (28, 28), (1, 1)]),
]


@pytest.mark.parametrize(("options", "wanted"), DIMS)
def test_dims_that_the_file_leaves_open(
    digits: Path, tmp_path: Path, options: dict[str, Any], wanted: list[tuple[int, int]]
) -> None:
    model = onnx.load(digits)
    del model.graph.node[2:]
    del model.graph.node[0]
    model.graph.node[0].input[0] = "image"
    model.graph.output[0].name = "active"
    onnx.save_model(model, tmp_path / "open.onnx")
    p = migraphx.parse_onnx(str(tmp_path / "open.onnx"), **options)
    shape = p.get_parameter_shapes()["image"]
    dims = shape.dyn_dims() or [migraphx.shape.dynamic_dimension(n, n) for n in shape.lens()]
    assert [(d.min, d.max) for d in dims] == wanted


def test_a_program_of_many_sizes(digits: Path) -> None:
    p = migraphx.parse_onnx(str(digits), **DYNAMIC)
    p.compile(migraphx.get_target("cpu"))
    assert [run(p, count=count).shape for count in (1, 8)] == [(1, 10), (8, 10)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"skip_unknown_operators": True}, CompatError, "the error lists all of them"),
        ({"print_program_on_error": True}, CompatError, "leave print_program_on_error out"),
        ({"max_loop_iterations": 3}, CompatError, "loops run as long as the model says"),
        ({"limit_max_iterations": 3}, CompatError, "loops run as long as the model says"),
        ({"default_dim_value": 2, "default_dyn_dim_value": BATCH}, CompatError, "not both"),
        ({**FIXED, "map_dyn_input_dims": {"image": [BATCH]}}, CompatError, "not both"),
        ({"map_input_dims": {"picture": [1]}}, OnnxError, "the inputs are .image."),
        (
            {"map_dyn_input_dims": {"image": ["n"]}},
            CompatError,
            "dim 'image.0' is a dynamic_dimension or a number, not 'n'",
        ),
    ],
)
def test_options_that_ask_for_what_is_not_done(
    digits: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        migraphx.parse_onnx(str(digits), **options)


def test_other_files_than_onnx() -> None:
    with pytest.raises(CompatError, match="tf2onnx"):
        migraphx.parse_tf("model.pb")
    assert {"Conv", "Gemm", "LSTM", "QuickGelu"} <= set(migraphx.get_onnx_operators())


@targets
def test_compiled_programs_are_saved(digits: Path, tmp_path: Path, name: str) -> None:
    p = migraphx.parse_onnx(str(digits), **FIXED)
    wanted = run(p, name)
    path = str(tmp_path / "digits.mxr")
    for form in ("msgpack", "json"):
        migraphx.save(p, path, format=form)
        buffer = migraphx.save_buffer(p, form)
        for found in (migraphx.load(path, format=form), migraphx.load_buffer(buffer, form)):
            assert found.is_compiled()
            assert found.sort() == p.sort()
            assert np.array_equal(run(found), wanted)
    assert "module main(" in json.loads(buffer)["program"][0]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.mxr"
    theirs.write_bytes(b"\x85\xa7version\x08")
    with pytest.raises(CompatError, match="those of MIGraphX hold code for its own targets"):
        migraphx.load(str(theirs))
    with pytest.raises(CompatError, match="what was given is no .mxr file"):
        migraphx.load_buffer(theirs.read_bytes())
    for data in (b"{}", b"[]", b"not json", b'{"mxr": "?"}', b'{"mxr": "AAAA"}', b'{"mxr": 3}'):
        with pytest.raises(CompatError, match="what was given is no .mxr file"):
            migraphx.load_buffer(data, "json")
    with pytest.raises(CompatError, match="format 'text' is not there"):
        migraphx.save(migraphx.program(), "p.txt", format="text")
    with pytest.raises(DataError, match="cannot read"):
        migraphx.load(str(tmp_path / "absent.json"), "json")
    with pytest.raises(DataError, match="cannot read"):
        migraphx.load(str(tmp_path / "absent.mxr"))


@targets
@pytest.mark.parametrize(
    ("quantize", "digits_kept"),
    [(migraphx.quantize_fp16, 11), (migraphx.quantize_bf16, 8)],
    ids=["fp16", "bf16"],
)
def test_floats_are_truncated(
    digits: Path, quantize: Callable[..., None], digits_kept: int, name: str
) -> None:
    p = migraphx.parse_onnx(str(digits), **FIXED)
    wanted = run(migraphx.parse_onnx(str(digits), **FIXED))
    quantize(p)
    assert p.get_output_shapes()[-1].type_string() == "float_type"
    found = run(p, name)
    # Images, weights, maps and logits are rounded; sums are made in f32.
    assert 0 < abs(found - wanted).max() < 5 * 2.0**-digits_kept * abs(wanted).max() * 4


def test_operations_are_quantised_by_name(digits: Path) -> None:
    p = migraphx.parse_onnx(str(digits), **FIXED)
    migraphx.quantize_fp16(p, ["dot"])
    types = {
        at.name(): at.shape().type_string() for at in p.get_main_module() if at.name()[0] != "@"
    }
    assert (types["dot"], types["convolution"]) == ("half_type", "float_type")
    with pytest.raises(UnknownName, match="no operation is named 'gemm'"):
        migraphx.quantize_fp16(p, ["gemm"])
    p.compile(migraphx.get_target("ref"))
    with pytest.raises(CompatError, match="before it is compiled"):
        migraphx.quantize_bf16(p)


@targets
def test_products_of_bytes_are_calibrated(digits: Path, name: str) -> None:
    p, target = migraphx.parse_onnx(str(digits), **FIXED), migraphx.get_target(name)
    wanted = run(migraphx.parse_onnx(str(digits), **FIXED))
    inputs = [
        {"image": migraphx.generate_argument(p.get_parameter_shapes()["image"], seed)}
        for seed in range(2)
    ]
    migraphx.quantize_int8(p, target, inputs)
    names = [at.name() for at in p.get_main_module()]
    assert (names.count("quantizelinear"), names.count("dequantizelinear")) == (4, 4)
    p.compile(target)
    if name == "cpu":
        left = {at.name for at in p.program.compiled.program.main}
        assert not left & {"dot", "convolution"}
    # Either operand of two products in a row is off by half a level, 1 / 254 of its greatest.
    assert 0 < abs(run(p) - wanted).max() < 4 / 254 * abs(wanted).max() * 4


def test_what_cannot_be_quantised_is_refused() -> None:
    p, target = migraphx.program(), migraphx.get_target("ref")
    for quantize in (migraphx.quantize_int8, migraphx.quantize_fp8):
        with pytest.raises(CompatError, match="calibration is needed"):
            quantize(p, target)
    with pytest.raises(CompatError, match="is for dot and convolution, not add"):
        migraphx.quantize_int8(p, target, [{}], ["add"])
    p.compile(target)
    with pytest.raises(CompatError, match="before it is compiled"):
        migraphx.autocast_fp8(p)


@targets
def test_products_of_f8_are_calibrated(digits: Path, name: str) -> None:
    p, target = migraphx.parse_onnx(str(digits), **FIXED), migraphx.get_target(name)
    wanted = run(migraphx.parse_onnx(str(digits), **FIXED))
    inputs = {"image": migraphx.generate_argument(p.get_parameter_shapes()["image"])}
    migraphx.quantize_fp8(p, target, [inputs])
    types = [at.shape().type_string() for at in p.get_main_module()]
    assert types.count("fp8e4m3fn_type") == 4
    # Each operand of two products in a row is off by 2**-4 of itself at most.
    assert 0 < abs(run(p, name) - wanted).max() < 4 * 2.0**-4 * abs(wanted).max()


def test_parameters_and_results_of_f8_are_cast() -> None:
    made = []
    f8, f32 = (migraphx.shape(type=name, lens=[2]) for name in ("fp8e4m3fnuz", "float"))
    for given in (f8, f32):
        p = migraphx.program()
        main = p.get_main_module()
        x, y = (main.add_parameter(name, shape) for name, shape in (("x", given), ("y", f32)))
        code = migraphx.shape.type_t.fp8e4m3fnuz_type
        narrow = migraphx.op("convert", target_type=code)
        x = x if given == f8 else main.add_instruction(narrow, [x])
        doubled = main.add_instruction(migraphx.op("add"), [x, x])
        wide = migraphx.op("convert", target_type=migraphx.shape.type_t.float_type)
        doubled = doubled if given == f8 else main.add_instruction(wide, [doubled])
        main.add_return([doubled, y])
        made.append(p)
    wanted = made[1].clone()
    for p in made:
        migraphx.autocast_fp8(p)
        assert p.sort() == wanted.sort()
        assert p.get_parameter_names() == ["x", "y"]


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    value = migraphx.fill_argument(migraphx.shape(lens=[2]), 1)
    assert migraphx.from_gpu(value) == value
    with pytest.raises(CompatError, match="leave host out"):
        migraphx.to_gpu(value, host=True)
    monkeypatch.setattr("migx.targets.gpu.devices.cupy_device.found", lambda: (None, "no GPU"))
    for call in (migraphx.gpu_sync, lambda: migraphx.to_gpu(value)):
        with pytest.raises(TargetError, match="there is no GPU here"):
            call()
    with pytest.raises(TargetError, match="there is no GPU here"):
        migraphx.allocate_gpu(value.get_shape())
