"""Programs written as ONNX files: onnx's checker accepts them, onnxruntime runs them, and what is
read back is the same; with one error for all that has no ONNX form.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import migx
import migx.onnx
from benchmarks import models
from benchmarks.conformance import page
from migx import Dim, Shape, backend, ops
from migx.argument import Argument
from migx.binding import check_inputs
from migx.cli import main
from migx.errors import OnnxError
from migx.onnx import writer
from migx.onnx.reader import program_of
from migx.onnx.wire import Stripped
from migx.program import Program
from migx.shape import STR
from migx.testing import suite
from migx.testing.bounds import Bound, TensorBounds, compare
from migx.testing.draws import Dice
from migx.testing.oracles import Outputs, run_on_ref
from migx.testing.programs import draw_program
from tests.onnx.build import Array

FUSED = "optimize_module,fuse_attention,fuse_pointwise_reduce,fuse_epilogue,fuse_concat"
NO_KERNEL = (
    *("NOT_IMPLEMENTED", "by zero", "not supported with", "mode only supports"),
    *("/lrn.", "IR version", "can't be converted to MLDataType", "No corresponding Numpy type"),
)
"""What onnxruntime says of models that are valid, but not for it, and of inputs and results whose
type it does not take from numpy or give to it.
"""


def written(program: Program, folder: Path) -> Path:
    path = folder / "written.onnx"
    migx.onnx.write(program, path)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def graph_of(path: Path) -> onnx.GraphProto:
    return onnx.load(path, load_external_data=False).graph


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in graph_of(path).node]


def peer(path: Path, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """What onnxruntime gives by name, for those of the inputs that the file has."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(str(path), options)
    names = [value.name for value in session.get_outputs()]
    fed = {value.name: np.asarray(inputs[value.name]) for value in session.get_inputs()}
    return dict(zip(names, session.run(None, fed), strict=True))


def assert_same(got: Outputs, wanted: Outputs) -> None:
    for i, ((value, after), (expected, before)) in enumerate(zip(got, wanted, strict=True)):
        found = compare(f"output {i}", value, expected, before, after)
        assert found.passed, found.problem


def assert_agrees(
    program: Program, inputs: Mapping[str, Any], folder: Path, peers: bool = True
) -> Path:
    """Fails unless what is written, read back on ref and run by onnxruntime, gives what ref does,
    within the bounds of both ways.
    """
    given = check_inputs(program.main, inputs)
    wanted = run_on_ref(program, given, program)
    path = written(program, folder)
    again = migx.parse_onnx(path)
    assert_same(run_on_ref(again, {n: given[n] for n in again.main.parameters}, again), wanted)
    if peers:
        found = peer(path, given)
        values = [Argument.of(found[name]) for name in program.main.output_names]
        bounds: list[Bound] = [bound for _, bound in wanted]
        assert_same(list(zip(values, bounds, strict=True)), wanted)
    return path


@pytest.mark.parametrize("passes", ["", FUSED])
@pytest.mark.parametrize("first", range(0, 80, 20))
def test_random_programs(first: int, passes: str, tmp_path: Path) -> None:
    done = collections.Counter[str]()
    for seed in range(first, first + 20):
        drawn = draw_program(Dice(seed))
        migx.run_passes(drawn.program, passes)
        if any(p.shape.parts for p in drawn.program.main.parameters.values()):
            with pytest.raises(OnnxError, match="ONNX has no tuples, which 'x"):
                written(drawn.program, tmp_path)
            done["tuples"] += 1
            continue
        try:
            assert_agrees(drawn.program, drawn.inputs, tmp_path, peers=False)
        except OnnxError as error:
            assert "operations that have no ONNX form" in str(error)  # noqa: PT017 - not the others
            done["refused"] += 1
            continue
        try:
            peer(tmp_path / "written.onnx", drawn.inputs)
            done["ran"] += 1
        except Exception as error:  # onnxruntime has no common class of errors
            if not any(said in str(error) for said in NO_KERNEL):
                raise
            done["no kernel"] += 1
    assert done["refused"] <= 3
    assert done["ran"] >= 4  # not those with an input of bf16 or f8, which numpy has no name for


SYMBOLIC = """
module main(x: f32[batch, length, 8], b: f32[length]) {
  %0 = reshape(x) {dims=(batch*length, 8)}
  %1 = reshape(%0) {dims=(batch, 2, length//2, 8)}
  %2 = pad(x) {pads=(0, length//2, 0, 0, batch, 0)}
  %3 = dim_literal() {values=(batch*length - 1, min(batch, length), max(length, 4)), lens=(3,)}
  %4 = broadcast(b) {axis=1, out_lens=(batch, length, 8)}
  %5 = add(x, %4)
  %6 = softmax(%4) {axis=1}
  return one=%1, two=%2, three=%3, four=%5, five=%6
}
"""


def test_sizes_are_computed_by_the_file(tmp_path: Path) -> None:
    program = migx.parse(SYMBOLIC)
    path = written(program, tmp_path)
    for batch, length in ((1, 2), (3, 4), (0, 6), (2, 10)):
        rng = np.random.default_rng([batch, length])
        inputs = {
            "x": rng.random((batch, length, 8), np.float32),
            "b": rng.random(length, np.float32),
        }
        assert_agrees(program, inputs, tmp_path)
    graph = graph_of(path)
    x, b = (value.type.tensor_type.shape.dim for value in graph.input)
    assert [d.dim_param or d.dim_value for d in (*x, *b)] == ["batch", "length", 8, "length"]
    assert [value.name for value in graph.output] == ["one", "two", "three", "four", "five"]
    counts = collections.Counter(kinds(path))
    assert (counts["Shape"], counts["Div"], counts["Expand"]) == (2, 1, 1)


def test_dims_keep_their_names(tmp_path: Path) -> None:
    """Whatever the text form makes of them: some of its words are dims in models."""
    program = migx.parse("module main(x: f32[`sequence`, `past + 1`]) { return x }")
    path = written(program, tmp_path)
    graph = graph_of(path)
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        assert [d.dim_param for d in dims] == ["sequence", "past + 1"]
    assert migx.parse_onnx(path).symbols() == program.symbols()


CONV = """
module main(x: f32[2, 3, 8, 8]) {
  %0 = @literal() {value=[0.5, 0.25, 1.0, 2.0, 0.0, 1.0], label="w"} : f32[2, 3, 1, 1]
  %1 = @literal() {value=[1.0, 2.0], label="bias"} : f32[2]
  %2 = convolution(x, %0)
  %3 = broadcast(%1) {axis=1, out_lens=(2, 2, 8, 8)}
  %4 = add(%2, %3)
  %5 = @literal() {value=[0.0]} : f32[]
  %6 = multibroadcast(%5) {out_lens=(2, 2, 8, 8)}
  %7 = max(%4, %6)
  return %7
}
"""


@pytest.mark.parametrize("passes", ["", "fuse_pointwise_reduce,fuse_epilogue"])
def test_broadcasts_and_biases_are_left_to_onnx(passes: str, tmp_path: Path) -> None:
    program = migx.parse(CONV)
    migx.run_passes(program, passes)
    path = assert_agrees(program, {"x": np.ones((2, 3, 8, 8), np.float32)}, tmp_path)
    assert kinds(path) == ["Conv", "Max"]
    assert graph_of(path).node[0].input == ["x", "w", "bias"]


SHARED = """
module main(x: f32[1, 2, 4], y: f32[1, 2, 4], w: f32[2, 2, 1], v: f32[2, 2, 1], b: f32[2]) {
  %0 = group(x, w) {tag="conv_epilogue"} [held]
  %1 = group(y, v) {tag="conv_epilogue"} [held]
  %2 = broadcast(b) {axis=1, out_lens=(1, 2, 4)}
  %3 = add(%0, %2)
  return %3, %1
}

module held(x0: f32[1, 2, 4], x1: f32[2, 2, 1]) bypass {
  %0 = convolution(x0, x1) {padding=(0, 0), stride=(1,), dilation=(1,)}
  return %0
}
"""


def test_a_module_that_two_instructions_share_is_written_for_each(tmp_path: Path) -> None:
    rng, dims = np.random.default_rng(0), {"x": (1, 2, 4), "y": (1, 2, 4), "b": (2,)}
    dims |= dict.fromkeys("wv", (2, 2, 1))
    inputs = {name: rng.random(d, np.float32) for name, d in dims.items()}
    path = assert_agrees(migx.parse(SHARED), inputs, tmp_path)
    assert kinds(path) == ["Conv", "Conv"]


def test_a_value_is_cast_once_to_each_type(tmp_path: Path) -> None:
    program = migx.parse(
        "module main(x: f32[4], y: f32[4], i: u8[2]) {"
        " %0 = gather(x, i) {axis=0} %1 = gather(y, i) {axis=0} return %0, %1 }"
    )
    x, y = (np.arange(4, dtype=np.float32) + n for n in (0, 4))
    path = assert_agrees(program, {"x": x, "y": y, "i": np.array([3, 1], np.uint8)}, tmp_path)
    assert sorted(kinds(path)) == ["Cast", "Gather", "Gather"]


@pytest.mark.parametrize("passes", ["", FUSED])
def test_operands_of_a_resize_may_have_been_rewritten(passes: str, tmp_path: Path) -> None:
    """Sizes, scales, and sizes of which the aspect is kept: known to the run alone."""
    names = ["sizes_cubic", "scales_linear", "sizes_nearest_not_larger"]
    for name in (f"test_resize_downsample_{n}" for n in names):
        case = suite.cases("node")[name]
        model, sets = suite.loaded(case)
        program = program_of(Stripped(model, {}), tmp_path)
        migx.run_passes(program, passes)
        prepared = backend.prepare(onnx.load(written(program, tmp_path)))
        for inputs, wanted in sets:
            suite.compare(wanted, list(prepared.run(inputs)), case)


CENTRED = """
module main(x: i32[2, 3, 8, 8], w: i32[2, 3, 1, 1]) {
  %0 = convolution(x, w) : i32[2, 2, 8, 8]
  return %0
}
"""
SLOTS = """
module main(x: f32[2]) {
  %0 = @slot() {slot="s", shape=f32[2]}
  %1 = add(x, %0)
  return %1
}

module weights() bypass {
  %0 = @literal() {value=[1.0, 2.0], label="w"} : f32[2]
  %1 = neg(%0)
  return s=%1
}
"""


def test_the_weights_module_comes_first(tmp_path: Path) -> None:
    path = written(migx.parse(SLOTS), tmp_path)
    (result,) = peer(path, {"x": np.ones(2, np.float32)}).values()
    assert (kinds(path), result.tolist()) == (["Neg", "Add"], [0.0, -1.0])


def test_what_has_no_form_is_written_as_a_value_also_where_it_reads_a_slot(tmp_path: Path) -> None:
    program = migx.parse(
        """
module main(x: f32[3]) {
  %0 = @slot() {slot="p", shape=f32[1, 3, 3]}
  %1 = couple_chances(%0)
  %2 = mul(%1, %1)
  %3 = squeeze(%2) {axes=(0,)}
  %4 = mul(x, %3)
  return %4
}
module weights() bypass {
  %0 = @literal() {value=LITERAL, label="w", replaceable=true} : f32[1, 3, 3]
  %1 = add(%0, %0)
  return p=%1
}
""".replace("LITERAL", str([i / 8 for i in range(9)]))
    )
    path = assert_agrees(program, {"x": np.ones(3, np.float32)}, tmp_path)
    assert {node.op_type for node in graph_of(path).node} <= {"Mul", "Squeeze"}


@pytest.mark.parametrize("passes", ["", FUSED])
@pytest.mark.parametrize("name", ["script_loop_rnn", "qonnx_mnist_conv", "mobilenet_v2"])
def test_models_agree_within_the_derived_bound(name: str, passes: str, tmp_path: Path) -> None:
    try:
        program = migx.parse_onnx(models.make(name))
    except models.NoNetwork as error:
        pytest.skip(str(error))
    inputs = models.inputs(name)
    compiled = program.copy().compile("ref").compiled
    given = check_inputs(program.main, inputs)
    bounds = TensorBounds(compiled.program, given)
    trace: Any = compiled.executable.trace  # type: ignore[attr-defined]
    with compiled.weights.reading() as slots:
        wanted = trace(given, bounds, slots)
    migx.run_passes(program, passes)
    results = peer(written(program, tmp_path), inputs)
    ends = zip(program.main.output_names, wanted, compiled.program.main.outputs, strict=True)
    for output, expected, at in ends:
        found = compare(output, Argument.of(results[output]), expected, bounds.of(at))
        assert found.passed, found.problem


NO_FORM = {"test_identity_sequence": "the element type of 'y', a sequence(), is not known"}


def test_cases_of_the_suite_survive(tmp_path: Path) -> None:
    """Each 45th, all of control flow, and the one that does not: the model declares too little."""
    names = list(suite.cases("node"))
    chosen = names[::45] + [n for n in names if n.startswith(("test_loop", "test_if", "test_scan"))]
    for name in dict.fromkeys([*chosen, *NO_FORM]):
        case = suite.cases("node")[name]
        model, sets = suite.loaded(case)
        program = program_of(Stripped(model, {}), tmp_path)
        if name in NO_FORM:
            with pytest.raises(OnnxError, match=re.escape(NO_FORM[name])):
                written(program, tmp_path)
            continue
        prepared = backend.prepare(onnx.load(written(program, tmp_path)))
        for inputs, wanted in () if name in page.failures() else sets:
            suite.compare(wanted, list(prepared.run(inputs)), case)


def test_four_bits_stay_four_bits(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "zero"], ["wide"], axis=0),
        helper.make_node("Add", ["x", "wide"], ["y"]),
        helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["q"], axis=0),
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["z"], axis=0),
    ]
    x, y, z = (helper.make_tensor_value_info(name, 1, [2, 4]) for name in "xyz")
    held = [
        helper.make_tensor("w", TensorProto.INT4, [2, 4], [1, -2, 3, -4, 5, -6, 7, -8]),
        helper.make_tensor("s", TensorProto.FLOAT, [2], [0.5, 2.0]),
        helper.make_tensor("zero", TensorProto.INT4, [2], [0, 1]),
    ]
    graph = helper.make_graph(nodes, "packed", [x], [y, z], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    program = program_of(Stripped(model, {}), tmp_path)
    inputs = {"x": np.array([[1, -2, 3, 9], [-9, 7, 0.5, 4]], np.float32)}
    path = assert_agrees(program, inputs, tmp_path)
    assert kinds(path)[0] == "DequantizeLinear"
    (weight,) = [tensor for tensor in graph_of(path).initializer if tensor.name == "w"]
    assert (weight.data_type, len(weight.raw_data)) == (TensorProto.INT4, 4)


def test_large_weights_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "EXTERNAL", 0)
    program, rng = Program(), np.random.default_rng(0)
    x = program.main.add_parameter("x", Shape("f32", (Dim("n"), 64)))
    for i in range(3):
        weight = rng.normal(0, 0.1, (64, 64)).astype(np.float32)
        w = program.main.add_literal(weight, name=f"w{i}")
        x = program.main.add_instruction(ops.Dot(), x, w)
    program.main.add_return(x, names=["y"])
    inputs = {"x": np.ones((2, 64), np.float32)}
    path = assert_agrees(program, inputs, tmp_path)
    data = path.with_name("written.onnx.data")
    offsets = [
        int(entry.value)
        for tensor in graph_of(path).initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert (offsets, data.stat().st_size) == ([0, 16384, 32768], 3 * 16384)
    # What is read from a file can be written over it: the bytes are mapped from the old one.
    again = migx.parse_onnx(path)
    migx.onnx.write(again, path)
    (before,) = program.compile("ref").eval(inputs)
    np.testing.assert_allclose(peer(path, inputs)["y"], before, rtol=1e-5)


def test_weights_left_out_stay_where_they_are(tmp_path: Path) -> None:
    name, inputs = "script_loop_rnn", models.inputs("script_loop_rnn")
    original = models.make(name, tmp_path)
    program = migx.parse_onnx(original, defer_external_weights=True)
    path = written(program, original.parent)
    for output, value in peer(original, inputs).items():
        np.testing.assert_array_equal(peer(path, inputs)[output], value)
    with pytest.raises(OnnxError, match=r"weights\.bin, which is not in the folder"):
        migx.onnx.write(program, tmp_path / "elsewhere.onnx")


def test_nodes_have_the_names_they_come_from(tmp_path: Path) -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape("f32", (2,)))
    y = program.main.add_instruction(ops.Relu(), x, origins=("first", "second"))
    z = program.main.add_instruction(ops.Rsqrt(), y, origins=("third",))
    program.main.add_return(z, y, x, y, names=["a", "b", "c", "d"])
    graph = graph_of(assert_agrees(program, {"x": np.ones(2, np.float32)}, tmp_path))
    assert [node.name for node in graph.node[:3]] == ["first", "third", "third_1"]
    assert graph.node[0].metadata_props[0].value == '["first", "second"]'
    assert [node.op_type for node in graph.node[3:]] == ["Identity", "Identity"]


def test_all_that_cannot_be_written_is_listed_and_nothing_is(tmp_path: Path) -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape("i64", (1, 1, 4)))
    y = program.main.add_parameter("y", Shape("f64", (4,)))
    z = program.main.add_parameter("z", Shape("f32", (2, 3, 3)))
    windows = ops.Pooling("max", (2,), padding=(0, 0), stride=(1,), dilation=(1,))
    ends = [
        program.main.add_instruction(windows, x, origins=("pool",)),
        program.main.add_instruction(ops.Elu(0.3), y, origins=("elu",)),
        program.main.add_instruction(ops.Elu(0.3), y, origins=("again",)),
        program.main.add_instruction(ops.CoupleChances(), z, origins=("coupled",)),
    ]
    program.main.add_return(*ends)
    with pytest.raises(OnnxError) as caught:
        migx.onnx.write(program, tmp_path / "no.onnx")
    assert str(caught.value).splitlines() == [
        "operations that have no ONNX form:",
        "  pooling: ONNX MaxPool takes no i64, at 'pool'",
        "  elu: ONNX Elu has alpha as f32, which does not hold 0.3, at 'elu', 'again'",
        "  couple_chances: there is no exporter for it, at 'coupled'",
    ]
    assert not list(tmp_path.iterdir())


def test_an_input_and_an_output_of_one_name_are_refused(tmp_path: Path) -> None:
    program = migx.parse("module main(x: f32[2]) {\n  %0 = relu(x)\n  return x=%0\n}\n")
    with pytest.raises(OnnxError, match=r"have one name each, not 'x'"):
        migx.onnx.write(program, tmp_path / "no.onnx")


@pytest.mark.parametrize(
    "given",
    [
        "identity_of_strings",
        "narrow_floats",
    ],
)
def test_values_of_other_kinds(given: str, tmp_path: Path) -> None:
    program = Program()
    if given == "identity_of_strings":
        x = program.main.add_parameter("x", Shape(STR, (2,)))
        y = program.main.add_literal(np.array(["a", "b"], object))
        program.main.add_return(program.main.add_instruction(ops.Equal(), x, y))
        inputs: dict[str, Any] = {"x": np.array(["a", "c"], object)}
    else:
        x = program.main.add_parameter("x", Shape("f32", (3,)))
        narrow = program.main.add_instruction(ops.Convert(migx.DType.of("f8e4m3fn")), x)
        program.main.add_return(program.main.add_instruction(ops.Convert(x.shape.dtype), narrow))
        inputs = {"x": np.array([1.1, 500.0, -0.3], np.float32)}
    assert_agrees(program, inputs, tmp_path)


@pytest.mark.parametrize("dtype", ["i8", "i32", "i64"])
def test_relu_of_integers(dtype: str, tmp_path: Path) -> None:
    """The peer has a Relu of some of them only."""
    program = migx.parse(f"module main(x: {dtype}[3]) {{\n  %0 = relu(x)\n  return y=%0\n}}\n")
    assert_agrees(program, {"x": np.array([-3, 0, 5], migx.DType.of(dtype).numpy)}, tmp_path)


def test_the_command_line_writes_onnx_by_its_suffix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, model = tmp_path / "case.migx", tmp_path / "case.onnx"
    text.write_text(CONV)
    assert main(["opt", str(text), "--passes", "fuse_pointwise_reduce", "-o", str(model)]) == 0
    assert kinds(model) == ["Conv", "Max"]
    text.write_text(CENTRED)
    assert main(["opt", str(text), "--passes", "", "-o", str(tmp_path / "no.onnx")]) == 2
    said = capsys.readouterr().err
    assert "ONNX convolves floats and bytes" in said
    assert "Traceback" not in said
    assert not (tmp_path / "no.onnx").exists()
