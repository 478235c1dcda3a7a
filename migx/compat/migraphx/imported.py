"""What operators of ONNX become, for what ONNX has and migx has no operation of its own for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from migx.ir import Instruction, Module

NONE: Mapping[str, Any] = MappingProxyType({})


def read(
    module: Module,
    operator: str,
    inputs: Sequence[Instruction | None],
    attributes: Mapping[str, Any] = NONE,
    domain: str = "",
) -> Instruction:
    """What an operator of ONNX, in its newest version, becomes for these inputs: its first result.
    None is an input that is left out. Sizes that only a run knows are named after its place.
    """
    from onnx import GraphProto, helper

    from migx.onnx import importers
    from migx.onnx.model_file import ModelFile
    from migx.onnx.reader import GraphReader

    names = ["" if value is None else f"input_{i}" for i, value in enumerate(inputs)]
    result = f"{module.name}.{operator}.{len(module)}"
    node = helper.make_node(operator, names, [result], domain=domain, **attributes)
    reader = GraphReader(GraphProto(), module, ModelFile(Path(), importers.newest(), {}))
    given = zip(names, inputs, strict=True)
    reader.values.update({name: value for name, value in given if value is not None})
    reader.node(node)
    return reader.values[result]
