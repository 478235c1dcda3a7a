"""Small files as other people's tools write them: every one is legal, or plainly means one thing.

onnxruntime says what they give; numpy where it does not take them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import migx
from migx.errors import OnnxWarning
from tests.onnx.build import Array, peer, read, saved
from tests.onnx.open_models import GIVEN, head, open_model

RNG = np.random.default_rng(15)
X = RNG.normal(0, 2, (2, 3, 4)).astype(np.float32)
IMAGE = RNG.normal(0, 2, (1, 2, 4, 6)).astype(np.float32)
IN, OUT = "main (float[2, 3, 4] x)", "(float[] y)"


Case = tuple[str, str, dict[str, Array]]
AS_PEER: dict[str, Case] = {
    "the body of a SequenceMap that reads values around it": (
        head(18),
        f"""{IN} => {OUT} {{
          w = Exp(x)
          parts = SplitToSequence<axis = 0>(x)
          made = SequenceMap<
            body = one (float[1, 3, 4] p) => (float[2, 3, 4] q) {{ q = Mul(p, w) }}>(parts)
          y = ConcatFromSequence<axis = 0>(made)
        }}""",
        {"x": X},
    ),
    # An operator at an opset where its form is another than today's.
    "softmax of all that follows": (
        head(11),
        f"{IN} => {OUT} {{ y = Softmax<axis = 1>(x) }}",
        {"x": X},
    ),
    "upsample by an operand": (
        head(9),
        (
            "main (float[1, 2, 4, 6] x) => (float[] y) <float[4] s = {1, 1, 2, 1.5}> "
            '{ y = Upsample<mode = "linear">(x, s) }'
        ),
        {"x": IMAGE},
    ),
    "scatter": (
        head(9),
        (
            f"{IN} => {OUT} <int64[1, 1, 2] i = {{2, 0}}, float[1, 1, 2] u = {{5, 6}}> "
            "{ y = Scatter<axis = 1>(x, i, u) }"
        ),
        {"x": X},
    ),
    "resize without regions": (
        head(13),
        (
            "main (float[1, 2, 4, 6] x) => (float[] y) <float[4] s = {1, 1, 0.5, 2}> "
            '{ y = Resize<mode = "linear">(x, , s) }'
        ),
        {"x": IMAGE},
    ),
    "resize of opset 10": (
        head(10),
        (
            "main (float[1, 2, 4, 6] x) => (float[] y) <float[4] s = {1, 1, 0.5, 2}> "
            "{ y = Resize(x, s) }"
        ),
        {"x": IMAGE},
    ),
    "resize of opset 10 that shrinks one axis and stretches the other": (
        head(10),
        (
            "main (float[1, 2, 4, 6] x) => (float[] y) <float[4] s = {1, 1, 0.8, 1.2}> "
            "{ y = Resize(x, s) }"
        ),
        {"x": IMAGE},
    ),
    "resize by a factor that f32 rounds": (
        head(11),
        (
            "main (float[1, 2, 4, 6] x) => (float[] y) "
            "<float[0] roi = {}, float[4] s = {1, 1, 1, 1.2}> "
            '{ y = Resize<coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
            "(x, roi, s) }"
        ),
        {"x": IMAGE},
    ),
    "slice with backward steps": (
        head(10),
        (
            f"{IN} => {OUT} <int64[1] a = {{-1}}, int64[1] b = {{-9223372036854775808}}, "
            "int64[1] c = {-1}, int64[1] d = {-2}> { y = Slice(x, a, b, c, d) }"
        ),
        {"x": X},
    ),
    "the largest of opset 1": (head(9), f"{IN} => {OUT} {{ y, i = TopK<k = 2>(x) }}", {"x": X}),
    "one-sided clip": (
        head(12),
        f"{IN} => {OUT} <float high = {{0.5}}> {{ y = Clip(x, , high) }}",
        {"x": X},
    ),
    "cells of zero with an empty initial state": (
        head(14),
        (
            "main (float[2, 3, 4] x, float[1, 8, 4] w, float[1, 8, 2] r) => (float[] y, float[] c) "
            "{ y, , c = LSTM<hidden_size = 2>(x, w, r, , , , ) }"
        ),
        {"x": X, "w": RNG.random((1, 8, 4), np.float32), "r": RNG.random((1, 8, 2), np.float32)},
    ),
    "mean pool that counts beyond the edge": (
        head(19),
        (
            "main (float[1, 2, 4, 6] x) => (float[] y) "
            "{ y = AveragePool<kernel_shape = [3, 3], ceil_mode = 1, strides = [2, 2]>(x) }"
        ),
        {"x": IMAGE},
    ),
    "reshape of nothing": (
        head(14),
        (
            "main (float[0, 3] x) => (float[] y) <int64[2] d = {3, 0}> "
            "{ y = Reshape<allowzero = 1>(x, d) }"
        ),
        {"x": np.zeros((0, 3), np.float32)},
    ),
    "reduction of nothing named": (
        head(18),
        (
            f"{IN} => {OUT} {{ none = Constant<value = int64[0] {{}}>() "
            "y = ReduceMax<noop_with_empty_axes = 1>(x, none) }"
        ),
        {"x": X},
    ),
    "split of an uneven axis": (
        head(18),
        f"{IN} => (float[] y, float[] z) {{ y, z = Split<axis = 1, num_outputs = 2>(x) }}",
        {"x": X},
    ),
    # Values and names.
    "an output that is an input": (
        head(17),
        "main (float[2] x, float[2] z) => (float[2] y, float[2] z) { y = Neg(x) }",
        {"x": X[0, 0, :2], "z": X[0, 1, :2]},
    ),
    "an output that is an initializer": (
        head(17),
        "main (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1, 2}> { y = Mul(x, w) }",
        {"x": X[0, 0, :2]},
    ),
    "nodes out of order around a branch": (
        head(17),
        (
            "main (bool c, float[n] x) => (float[n] y) { y = If(c) <"
            "then_branch = yes () => (float[n] a) { a = Exp(z) },"
            "else_branch = no () => (float[n] b) { b = Identity(w) }> "
            "w = Neg(z) z = Abs(x) }"
        ),
        {"c": np.array(False), "x": X[0, 0]},
    ),
    "a branch in a branch reads far out": (
        head(17),
        (
            "main (bool c, float[n] x) => (float[n] y) <float two = {2}> { y = If(c) <"
            "then_branch = yes () => (float[n] a) { a = If(c) <"
            "then_branch = deep () => (float[n] d) { d = Mul(x, two) },"
            "else_branch = flat () => (float[n] e) { e = Neg(x) }> },"
            "else_branch = no () => (float[n] b) { b = Sub(x, two) }> }"
        ),
        {"c": np.array(True), "x": X[0, 0]},
    ),
    "branches that use one name twice": (
        head(17),
        (
            "main (bool c, float[n] x) => (float[n] y) { y = If(c) <"
            "then_branch = yes () => (float[n] t) { t = Exp(x) },"
            "else_branch = no () => (float[n] t) { t = Neg(x) }> }"
        ),
        {"c": np.array(True), "x": X[0, 0]},
    ),
    "a loop that gives back what is around": (
        head(17),
        (
            "main (int64 n, float[3] x) => (float[3] y, float[] z) <bool go = {1}> { "
            "y, z = Loop(n, go, x) <body = b (int64 i, bool c, float[3] s) => "
            "(bool d, float[3] t, float[3] u) { d = Identity(go) u = Identity(x) t = Add(s, x) }> }"
        ),
        {"n": np.array(3), "x": X[0, 0, :3]},
    ),
    "a loop that counts in lists of one": (
        head(17),
        (
            "main (int64 n, float[5] x, float[1] y0) => (float[] y, float[] z) "
            "<bool go = {1}, int64[1] one = {1}> { y, z = Loop(n, go, y0) "
            "<body = b (int64[1] i, bool c, float[1] s) => (bool d, float[1] t, float[1] u) "
            "{ d = Identity(c) e = Add(i, one) u = Slice(x, i, e) t = Add(s, u) }> }"
        ),
        {"n": np.array(3), "x": np.arange(5, dtype=np.float32), "y0": np.ones(1, np.float32)},
    ),
    "a domain by its long name": (
        '<ir_version: 8, opset_import: ["ai.onnx" : 17]>\n',
        "main (float[2] x) => (float[2] y) { z = ai.onnx.Abs(x) y = Sqrt(z) }",
        {"x": X[0, 0, :2]},
    ),
    "a constant in every form": (
        head(17),
        (
            "main (float[2] x) => (float[2] y) { a = Constant<value_float = 2.0>() "
            "b = Constant<value_floats = [1.0, 3.0]>() c = Constant<value = float[1] {4}>() "
            "i = Constant<value_ints = [1, 0]>() p = Mul(x, a) q = Add(p, b) r = Sub(q, c) "
            "y = Gather(r, i) }"
        ),
        {"x": X[0, 0, :2]},
    ),
    "a scalar input and a dim of zero": (
        head(17),
        "main (float s, float[0, 3] x) => (float[] y) { y = Add(s, x) }",
        {"s": np.array(2, np.float32), "x": np.zeros((0, 3), np.float32)},
    ),
    "a function of the model in another": (
        '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>\n',
        """main (float[2] x) => (float[2] y) { y = mine.Twice(x) }
        <domain: "mine", opset_import: ["" : 17, "mine" : 1]>
        Twice (a) => (b) { t = mine.Once(a) b = mine.Once(t) }
        <domain: "mine", opset_import: ["" : 17]>
        Once (a) => (b) { t = Exp(a) b = Neg(t) }""",
        {"x": X[0, 0, :2]},
    ),
    "a function with a default": (
        '<ir_version: 9, opset_import: ["" : 17, "mine" : 1]>\n',
        """main (float[2] x) => (float[2] y) { z = mine.Leak(x) y = mine.Leak<slope = 0.5>(z) }
        <domain: "mine", opset_import: ["" : 17]>
        Leak <slope: float = 0.25> (a) => (b) { b = LeakyRelu<alpha: float = @slope>(a) }""",
        {"x": X[0, 0, :2]},
    ),
    "functions of one name": (
        '<ir_version: 10, opset_import: ["" : 17, "mine" : 1]>\n',
        """main (float[2] x) => (float[2] y) { t = mine.F:grown(x) y = mine.F:turned(t) }
        <domain: "mine", overload: "grown", opset_import: ["" : 17]>
        F (a) => (b) { b = Exp(a) }
        <domain: "mine", overload: "turned", opset_import: ["" : 17]>
        F (a) => (b) { b = Neg(a) }""",
        {"x": X[0, 0, :2]},
    ),
}


@pytest.mark.parametrize("case", AS_PEER)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    header, graph, inputs = AS_PEER[case]
    model = open_model(graph, header)
    found, wanted = read(model, tmp_path).compile("ref").eval(inputs), peer(model, inputs)
    for got, want in zip(found, wanted, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, 1e-5, 1e-6)


PLAIN: dict[str, tuple[str, str, Array]] = {
    # A form of another opset, which can only mean what it meant there.
    "axes as an attribute": (head(18), "y = Unsqueeze<axes = [0]>(x)", X[None]),
    "axes of a sum as an attribute": (
        head(18),
        "y = ReduceSum<axes = [1], keepdims = 0>(x)",
        X.sum(1),
    ),
    "axes of a mean as an attribute": (
        head(20),
        "y = ReduceMean<axes = [-1]>(x)",
        X.mean(-1, keepdims=True),
    ),
    "bounds as attributes": (head(18), "y = Clip<min = -0.5, max = 1.0>(x)", X.clip(-0.5, 1)),
    "sizes as an attribute": (head(18), "y, z = Split<axis = 1, split = [1, 2]>(x)", X[:, :1]),
    "pads as an attribute": (
        head(18),
        "y = Pad<pads = [0, 0, 1, 0, 0, 2], value = 3.0>(x)",
        np.pad(X, ((0, 0), (0, 0), (1, 2)), constant_values=3),
    ),
    "places as attributes": (
        head(18),
        "y = Slice<starts = [1], ends = [9], axes = [2]>(x)",
        X[:, :, 1:],
    ),
    "k as an attribute": (head(18), "y, i = TopK<k = 1>(x)", X.max(-1, keepdims=True)),
    "upsample after its end": (
        head(13),
        "s = Constant<value_floats = [1.0, 1.0, 2.0]>() y = Upsample(x, s)",
        X.repeat(2, -1),
    ),
    "scatter after its end": (
        head(13),
        (
            "i = Constant<value = int64[1, 1, 1] {0}>() u = Constant<value = float[1, 1, 1] {7}>() "
            "y = Scatter(x, i, u)"
        ),
        np.concatenate([[[[7, *X[0, 0, 1:]], *X[0, 1:]]], X[1:]]).astype(np.float32),
    ),
    "groups scaled as opset 18 did": (
        head(18),
        (
            "s = Constant<value_floats = [1.0]>() b = Constant<value_floats = [0.5]>() "
            "y = GroupNormalization<num_groups = 1, epsilon = 0.0>(x, s, b)"
        ),
        0.5 + (X - X.mean((1, 2), keepdims=True)) / X.std((1, 2), keepdims=True),
    ),
    "an operand where an attribute was": (
        head(11),
        "a = Constant<value = int64[1] {0}>() y = Unsqueeze(x, a)",
        X[None],
    ),
    "a float as an int": (head(17), "y = LeakyRelu<alpha = 2>(x)", np.where(X < 0, 2 * X, X)),
    "a number as a float": (head(17), "y = ThresholdedRelu<alpha = 1>(x)", np.where(X > 1, X, 0)),
}


@pytest.mark.parametrize("case", PLAIN)
def test_forms_of_other_opsets(case: str, tmp_path: Path) -> None:
    header, nodes, wanted = PLAIN[case]
    program = read(open_model(f"{IN} => {OUT} {{ {nodes} }}", header), tmp_path)
    (found,) = program.compile("ref").eval({"x": X})
    np.testing.assert_allclose(found, wanted, 1e-5, 1e-6)
    assert found.dtype == np.float32


def test_initializers_that_are_inputs_need_not_be_given(tmp_path: Path) -> None:
    graph = "main (float[2] x, float[2] w) => (float[2] y) <float[2] w = {3, 4}> { y = Mul(x, w) }"
    program = read(open_model(graph, head(7, version=3)), tmp_path).compile("ref")
    assert list(program.main.parameters) == ["x"]
    (found,) = program.eval({"x": np.ones(2, np.float32)})
    assert found.tolist() == [3.0, 4.0]


def test_one_value_may_go_out_twice(tmp_path: Path) -> None:
    model = open_model("main (float[2] x) => (float[2] y) { y = Neg(x) }", head(17))
    model.graph.output.append(model.graph.output[0])
    first, second = read(model, tmp_path).compile("ref").eval({"x": np.ones(2, np.float32)})
    assert first.tolist() == second.tolist() == [-1.0, -1.0]


def test_nodes_may_have_one_name_or_none(tmp_path: Path) -> None:
    model = open_model("main (float[2] x) => (float[2] y) { z = Neg(x) y = Exp(z) }", head(17))
    for node in model.graph.node:
        node.name = "same"
    assert [at.origins for at in read(model, tmp_path).main if at.inputs][:2] == [("same",)] * 2


def test_what_is_not_about_the_computation_is_passed_over(tmp_path: Path) -> None:
    model = open_model("main (float[2] x) => (float[2] y) { y = Neg(x) }", head(17))
    model.producer_name, model.doc_string, model.model_version = "someone", "text", 7
    helper.set_model_props(model, {"stripped": "yes"})
    note = model.graph.quantization_annotation.add(tensor_name="x")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    model.training_info.add()
    (found,) = read(model, tmp_path).compile("ref").eval({"x": np.ones(2, np.float32)})
    assert found.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("opset", [7, 9, 13, 18, 23, 26])
def test_one_graph_at_many_opsets(opset: int, tmp_path: Path) -> None:
    nodes = "a = MatMul(x, w) b = Relu(a) y = Sub(b, a)"
    graph = f"{IN} => {OUT} <float[4] w = {{1, 2, 3, 4}}> {{ {nodes} }}"
    (found,) = read(open_model(graph, head(opset)), tmp_path).compile("ref").eval({"x": X})
    product = X @ np.arange(1, 5, dtype=np.float32)
    np.testing.assert_allclose(found, np.maximum(product, 0) - product, 1e-5, 1e-5)


def test_a_known_domain_need_not_be_imported(tmp_path: Path) -> None:
    model = open_model("main (float[2] x) => (float[2] y) { y = Neg(x) }", head(17))
    model.graph.node[0].op_type, model.graph.node[0].domain = "QuickGelu", "com.microsoft"
    with pytest.warns(OnnxWarning, match="imports no opset of com.microsoft; .* read as version 1"):
        program = migx.parse_onnx(saved(model, tmp_path))
    (found,) = program.compile("ref").eval({"x": np.zeros(2, np.float32)})
    assert found.tolist() == [0.0, 0.0]


def test_an_attribute_that_no_version_has_is_told(tmp_path: Path) -> None:
    model = open_model("main (float[2] x) => (float[2] y) { y = Neg<speed = 11>(x) }", head(17))
    with pytest.warns(OnnxWarning, match="Neg 'y' has no attribute speed: it is not read") as told:
        migx.parse_onnx(saved(model, tmp_path))
    assert told[0].filename == __file__  # where the caller's line is, not the reader's


def test_an_opset_that_is_not_known_is_told(tmp_path: Path) -> None:
    model = open_model("main (float[2] x) => (float[2] y) { y = Neg(x) }", head(17))
    model.opset_import[0].version = 999
    known = onnx.defs.onnx_opset_version()
    told = f"the model is of opset 999; its operators are read as opset {known} has them"
    with pytest.warns(OnnxWarning, match=told):
        program = migx.parse_onnx(saved(model, tmp_path))
    assert [at.name for at in program.main] == ["@param", "neg", "@return"]


def test_a_function_may_call_one_of_its_name(tmp_path: Path) -> None:
    """It does not call itself then; onnxruntime finds no overload within a function."""
    graph = """main (float[2] x) => (float[2] y) { y = mine.F:twice(x) }
        <domain: "mine", overload: "once", opset_import: ["" : 17]>
        F (a) => (b) { c = Exp(a) b = Neg(c) }
        <domain: "mine", overload: "twice", opset_import: ["" : 17, "mine" : 1]>
        F (a) => (b) { t = mine.F:once(a) b = mine.F:once(t) }"""
    program = read(open_model(graph, head(17, more=', "mine" : 1')), tmp_path)
    assert [at.name for at in program.main] == ["@param", "exp", "neg", "exp", "neg", "@return"]


def test_a_graph_given_to_a_function_reads_values_around_the_call(tmp_path: Path) -> None:
    model = open_model(GIVEN.replace("NAME", "f"), head(17, more=', "mine" : 1'))
    x, w = np.array([1, 2], np.float32), np.array([3, 4], np.float32)
    (y,) = read(model, tmp_path).compile("ref").eval({"x": x, "w": w, "c": np.array(True)})
    np.testing.assert_allclose(y, w * x + np.exp(x), 1e-6)
