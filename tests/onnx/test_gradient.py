"""Derivatives by ONNX's Gradient against differences of the function itself, in f64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import migx
from migx import Dim, Instruction, ops
from migx.builders import Arithmetic
from migx.errors import OnnxError
from migx.gradient import gradients
from migx.op import Modules, Op, Shapes, Traits
from migx.program import Program
from migx.shape import Shape
from tests.onnx.build import Array, saved

HEAD = '<ir_version: 9, opset_import: ["" : 20, "ai.onnx.preview.training" : 1]>\n'
STEP = 1e-5
TOLERANCE = 1e-7
"""Differences of both sides err by STEP² / 6 times the third derivative, and by 2⁻⁵³ y / STEP: each
is below 1e-8 as long as these are below 600.
"""
X = np.random.default_rng(8).uniform(0.2, 1.8, (2, 3, 3)) * [-1, 1, 1]
Z = np.random.default_rng(9).uniform(0.2, 1.8, (2, 3, 3))
SAME = [
    "Abs",
    "Cos",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "Identity",
    "LeakyRelu",
    "LogSoftmax",
    "Neg",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Sin",
    "Softmax",
    "Softplus",
    "Tanh",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "ReduceSumSquare",
    "Flatten",
    "Transpose",
]
BODIES = [
    *(f"t = {kind}(x)" for kind in SAME),
    "t = Sqrt(z)",
    "t = Log(z)",
    *(f"t = {kind}(x, z)" for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "MatMul")),
    "t = Pow(z, x)",
    "t = Concat<axis = 1>(x, z)",
    "c = Less(x, z) t = Where(c, x, z)",
    "a = Constant<value = double {-0.5}>() b = Constant<value = double {0.9}>() t = Clip(x, a, b)",
    "a = Constant<value_ints = [1]>() b = ReduceMean(z, a) t = Div(x, b)",
    "a = Constant<value_ints = [0, 2]>() b = ReduceMax<keepdims = 0>(z, a) t = Add(x, b)",
    "a, b, c = Split<axis = 2, num_outputs = 3>(x) t = Mul(a, c)",
    "a = Constant<value = int64[2, 2] {2, 0, 2, -1}>() t = Gather<axis = 2>(x, a)",
    "a = Constant<value_ints = [-1, 3]>() b = Reshape(x, a) t = Gemm<transB = 1>(b, b)",
    "a = Constant<value_ints = [1]>() b = Unsqueeze(x, a) c = Squeeze(b, a) t = Mul(c, z)",
    "a = Cast<to = 11>(x) t = Mul(a, z)",
]


def program_of(text: str, folder: Path) -> Program:
    """The program of a model in text, whose outputs may have any dims."""
    model = onnx.parser.parse_model(HEAD + text)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return migx.parse_onnx(saved(model, folder)).compile("ref")


def differences(program: Program, inputs: dict[str, Array], name: str) -> Array:
    """By how much the sum of the first result grows with each element of an input."""
    wanted = np.zeros(inputs[name].shape)
    for place in np.ndindex(wanted.shape):
        step = np.zeros(wanted.shape)
        step[place] = STEP
        up, down = (
            program.eval({**inputs, name: inputs[name] + way})[0].sum() for way in (step, -step)
        )
        wanted[place] = (up - down) / (2 * STEP)
    return wanted


@pytest.mark.parametrize("dims", ["2, 3, 3", "n, m, m"])
@pytest.mark.parametrize("body", BODIES)
def test_a_derivative_is_what_differences_show(body: str, dims: str, tmp_path: Path) -> None:
    program = program_of(
        f"""g (double[{dims}] x, double[{dims}] z) => (double y, double dx, double dz) {{
            {body} y = Mul(t, t)
            dx, dz = ai.onnx.preview.training.Gradient<xs = ["x", "z"], y = "y">(x, z)
        }}""",
        tmp_path,
    )
    inputs: dict[str, Array] = {"x": X, "z": Z}
    found = dict(zip("xz", program.eval(inputs)[1:], strict=True))
    for name, slope in found.items():
        wanted = differences(program, inputs, name)
        np.testing.assert_allclose(slope, wanted, TOLERANCE, TOLERANCE, err_msg=name)


def slopes(folder: Path, nodes: str, names: Sequence[str], **inputs: float) -> list[float]:
    """Some values of a graph of scalars."""
    declared = ", ".join(f"double {name}" for name in inputs)
    outputs = ", ".join(f"double {name}" for name in names)
    made = "ai.onnx.preview.training.Gradient"
    text = f"g ({declared}) => ({outputs}) {{ {nodes.replace('Gradient', made)} }}"
    fed = {name: np.array(value) for name, value in inputs.items()}
    return [float(v) for v in program_of(text, folder).eval(fed)]


def test_derivatives_of_derivatives(tmp_path: Path) -> None:
    nodes = """s = Mul(x, x) y = Mul(s, x)
        d = Gradient<xs = ["x"], y = "y">(x) dd = Gradient<xs = ["x"], y = "d">(x)"""
    assert slopes(tmp_path, nodes, ["d", "dd"], x=3.0) == [27.0, 18.0]


def test_a_value_on_the_way_is_taken_for_independent(tmp_path: Path) -> None:
    nodes = 'h = Mul(x, x) y = Mul(h, x) dh, dx = Gradient<xs = ["h", "x"], y = "y">(h, x)'
    assert slopes(tmp_path, nodes, ["dh", "dx"], x=3.0) == [3.0, 9.0]


def test_a_fixed_value_has_no_share(tmp_path: Path) -> None:
    nodes = 'h = Mul(x, x) y = Mul(h, x) dx = Gradient<xs = ["x"], zs = ["h"], y = "y">(x, h)'
    assert slopes(tmp_path, nodes, ["dx"], x=3.0) == [9.0]


def test_the_operands_may_be_other_values(tmp_path: Path) -> None:
    nodes = 'y = Mul(x, z) dx, dz = Gradient<xs = ["x", "z"], y = "y">(a, b)'
    names = ["y", "dx", "dz"]
    assert slopes(tmp_path, nodes, names, x=3.0, z=4.0, a=5.0, b=6.0) == [12.0, 6.0, 5.0]


def test_what_does_not_matter_has_a_derivative_of_zero(tmp_path: Path) -> None:
    nodes = (
        'f = Floor(x) c = Cast<to = 7>(x) y = Mul(z, z) d, e = Gradient<xs=["x","z"], y="y">(x, z)'
    )
    assert slopes(tmp_path, nodes, ["d", "e"], x=1.5, z=2.0) == [0.0, 4.0]


@pytest.mark.parametrize("dims", ["300, 300", "n, m"])
def test_a_mean_may_be_of_more_elements_than_its_type_can_count(dims: str, tmp_path: Path) -> None:
    program = program_of(
        f"""g (float16[{dims}] x) => (float16 d) {{
            y = ReduceMean(x) d = ai.onnx.preview.training.Gradient<xs = ["x"], y = "y">(x)
        }}""",
        tmp_path,
    )
    (d,) = program.eval({"x": np.zeros((300, 300), np.float16)})
    assert np.array_equal(d, np.full((300, 300), 1 / 90000, np.float16))


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("y = Atanh(x)", "there is no derivative of atanh; there are of abs, add"),
        ("i = Cast<to = 7>(x) y = Identity(i)", "y is i64.*; it must be floating-point"),
        ("z = Neg(x)", "nothing in the model produces the value 'y'"),
    ],
)
def test_what_has_no_derivative_is_said(nodes: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxError, match=said):
        slopes(tmp_path, f'{nodes} d = Gradient<xs = ["x"], y = "y">(x)', ["d"], x=1.0)


class Cubed(Op):
    """x ** 3, of a package of its own."""

    traits = Traits(pointwise=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        return x**3

    @staticmethod
    def derivative(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
        x = at.inputs[i]
        return t(ops.Mul(), g, t(ops.Mul(), t(ops.Mul(), x, x), 3.0))


def test_an_operation_may_have_a_rule_of_its_own() -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape("f32", (Dim("n"),)))
    t = Arithmetic(program.main)
    program.main.add_return(*gradients(t(ops.Mul(), t(Cubed(), x), 2.0), [x], t))
    (found,) = program.compile("ref").eval({"x": np.array([1, 2, 3], np.float32)})
    assert found.tolist() == [6, 24, 54]
