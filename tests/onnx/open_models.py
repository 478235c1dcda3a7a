"""Models of any opsets as text, which their writers did not check."""

from __future__ import annotations

import onnx

from tests.onnx.build import model_of


def head(opset: int, version: int = 8, more: str = "") -> str:
    return f'<ir_version: {version}, opset_import: ["" : {opset}{more}]>\n'


def open_model(graph: str, header: str) -> onnx.ModelProto:
    """The model of a graph whose outputs may have any dims."""
    model = model_of(graph, header)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


GIVEN = """main (float[2] x, float[2] w, bool c) => (float[2] y) {
      y = mine.Chosen<g = one () => (float[2] o) { o = Mul(w, x) }>(x, c)
    }
    <domain: "mine", opset_import: ["" : 17]>
    Chosen <g> (a, d) => (b) {
      NAME = Exp(a)
      e = If(d) <then_branch: graph = @g, else_branch: graph = @g>
      b = Add(e, NAME)
    }"""
