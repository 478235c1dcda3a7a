"""Results of ONNX operators, for operations that ONNX has and migx has not."""

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
    """The first result of an ONNX operator, in its newest version, for these inputs. None is an
    omitted input. Sizes known only at run time are named after the instruction's place.
    """
    from onnx import GraphProto, helper

    from migx.onnx import importers
    from migx.onnx.graph_reader import GraphReader
    from migx.onnx.model_file import ModelFile

    names = ["" if value is None else f"input_{i}" for i, value in enumerate(inputs)]
    result = f"{module.name}.{operator}.{len(module)}"
    node = helper.make_node(operator, names, [result], domain=domain, **attributes)
    reader = GraphReader(GraphProto(), module, ModelFile(Path(), importers.newest(), {}))
    given = zip(names, inputs, strict=True)
    reader.values.update({name: value for name, value in given if value is not None})
    reader.node(node)
    return reader.values[result]
