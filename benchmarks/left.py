"""How many instructions that do work are left after optimisation and fusion, against the nodes that
onnxruntime's extended optimisation leaves.

Views, constants and parameters are no work, on either side; instructions of submodules count. A
fused instruction counts as one, but a group only if it holds at most one dot or convolution, or one
attention: else its instructions count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnxruntime

import migx
from benchmarks.measure import Result
from benchmarks.models import make
from migx import op as operations
from migx.ir import Instruction, Module
from migx.ops.fused import Fused, Group
from migx.program import Program

BAR = "no more than onnxruntime on at least 22 of 26"
PASSES = (
    "optimize_module,fuse_attention,optimize_module,fuse_pointwise_reduce,fuse_epilogue,fuse_concat"
)
PRODUCTS = frozenset(
    {"dot", "quant_dot", "convolution", "quant_convolution", "convolution_backwards"}
)
NO_WORK = frozenset({"undefined", "onnx_external_weights"})
VIEWS = frozenset(
    {
        "Constant",
        "Expand",
        "Flatten",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that are views in migx."""


def left(model: str, folder: Path | None, passes: str = PASSES) -> Result:
    """The work left of a model on either side; the batch is the number of instructions before."""
    path = make(model, folder)
    program = migx.parse_onnx(path)
    before = count(program)
    migx.run_passes(program, passes)
    ours, peer = count(program), sum(1 for _ in peer_nodes(path))
    return Result(f"left {model}", before, "left", (ours,), (peer,), "onnxruntime")


def within(results: Sequence[Result]) -> str:
    """The number of models within the bar."""
    kept = sum(r.ours[0] <= r.peer[0] for r in results)
    return f"no more than onnxruntime on {kept} of {len(results)}"


def count(program: Program) -> int:
    """The instructions of a program that do work."""
    return sum(1 for _ in work(program.main))


def work(module: Module) -> Iterator[Instruction]:
    """The instructions of a module, and of those it holds, that do work."""
    for at in module:
        if at.name.startswith("@") or at.name in NO_WORK:
            continue
        if operations.traits(at.op).view is not None:
            continue
        if at.name != "group" or is_one(at):
            yield at
        if not isinstance(at.op, Fused) or (at.name == "group" and not is_one(at)):
            for inner in at.modules:
                yield from work(inner)


def is_one(group: Instruction) -> bool:
    """Whether a group counts as one instruction."""
    products = sum(at.name in PRODUCTS for module in group.modules for at in module)
    return products <= 1 or group.op_as(Group).tag == "attention"


def peer_nodes(path: Path) -> Iterator[str]:
    """The operators of the nodes that do work and are left by onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "model.onnx"
        asked = onnxruntime.SessionOptions()
        asked.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        asked.optimized_model_filepath = str(optimized)
        asked.log_severity_level = 4
        prefix = "session.optimized_model_external_initializers_"
        asked.add_session_config_entry(f"{prefix}file_name", "weights.bin")
        asked.add_session_config_entry(f"{prefix}min_size_in_bytes", "1024")
        onnxruntime.InferenceSession(str(path), asked, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized, load_external_data=False).graph
    yield from (node for node in _nodes(graph) if node not in VIEWS)


def _nodes(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
