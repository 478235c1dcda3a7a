"""What the command line writes: names in a model's file cannot steer the terminal."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from migx.cli import _streams
from tests.cli.conftest import Migx

STEERS = "\x1b[31m\r\n\x9b"
SHOWN = r"\u001b[31m\u000d\u000a\u009b"


@pytest.fixture
def steering(tmp_path: Path) -> Path:
    """A model whose names are control sequences."""
    x, w, y = (f"{name}{STEERS}" for name in "xwy")
    node = helper.make_node("Add", [x, w], [y], name=f"add{STEERS}")
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"b{STEERS}", 3]) for n in (x, y)
    ]
    weight = helper.make_tensor(w, TensorProto.FLOAT, [3], [1, 2, 3])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    path = tmp_path / "steering.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, path)
    return path


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["read", "--stats"], f"y{SHOWN}  f32["),
        (["params"], f"w{SHOWN}  f32[3]"),
        (["run"], f"y{SHOWN}  f32[1, 3]"),
        (["verify"], f"y{SHOWN} "),
        (["run", "--dim-param", "q=3"], r"its inputs have: b\u001b[31m\u000d"),
        (["read", "--json"], r"y\u001b[31m\r\n\u009b"),
    ],
)
def test_control_characters_are_escaped(
    migx: Migx, steering: Path, words: list[str], shown: str
) -> None:
    verb, *rest = words
    result = migx(verb, steering, *rest)
    written = result.out + result.err
    assert shown in written
    assert _streams.CONTROL.search(written.replace("\n", "")) is None
