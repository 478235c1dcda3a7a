"""What an importer adds by its node."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import migx
from migx import ops
from migx.dim import Dim
from migx.errors import DimError
from migx.onnx.graph_reader import GraphReader
from migx.onnx.model_file import ModelFile
from migx.onnx.node import Node
from migx.shape import BOOL, F16, Shape


def test_operands_of_arithmetic_are_broadcast_and_may_be_numbers() -> None:
    program = migx.Program()
    main = program.main
    x = main.add_parameter("x", Shape(F16, (Dim("n"), 3)))
    c = main.add_parameter("c", Shape(BOOL, (3,)))
    far = main.add_parameter("far", Shape(F16, (5,)))
    reader = GraphReader(onnx.GraphProto(), main, ModelFile(Path(), {}, {}))
    node = Node(onnx.NodeProto(name="layer"), reader, (), 1)
    rest = node.add(ops.Sub(), 1, x)
    main.add_return(node.add(ops.Where(), c, [0, 1, 2], rest))
    with pytest.raises(DimError, match="3 and 5 do not broadcast"):
        node.add(ops.Add(), far, x)
    assert (
        str(program)
        == """module main(x: f16[n, 3], c: bool[3], far: f16[5]) {
  %0 = @literal() {value=[1.0]} : f16[]
  %1 = multibroadcast(%0) {out_lens=(n, 3)} : f16[n, 3]
  %2 = sub(%1, x) : f16[n, 3]
  %3 = @literal() {value=[0.0, 1.0, 2.0]} : f16[3]
  %4 = multibroadcast(c) {out_lens=(n, 3)} : bool[n, 3]
  %5 = multibroadcast(%3) {out_lens=(n, 3)} : f16[n, 3]
  %6 = where(%4, %5, %2) : f16[n, 3]
  return %6
}
"""
    )
