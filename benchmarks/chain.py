"""A long chain of instructions: built, verified, printed, parsed, copied and compared, in
instructions a second.

The peer is the onnx package on the same chain of nodes: ``helper.make_node`` and ``make_model``,
``checker.check_model`` with the shape inference that our verifier does too, ``printer.to_text``,
``parser.parse_model``, ``CopyFrom``, and ``==``. All but the first are C++.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import onnx
from onnx import TensorProto, checker, helper, parser, printer

import migx
from benchmarks.measure import Result, ResultError, seconds
from migx import Shape, ops
from migx.verify import verify

BAR = "at least 100,000/s built, 200,000/s verified and printed, at every length"
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
DIMS = (2, 3)

Steps = list[tuple[str, Callable[[], object]]]


def results(lengths: tuple[int, ...], rounds: int) -> Iterator[Result]:
    """Each step at each length, ours and the peer's in turn. The longest chains are made once."""
    for _, step in (*_ours(10), *_peer(10)):
        step()  # runs imports that happen on first use
    for length in lengths:
        taken: list[dict[str, list[float]]] = [{}, {}]
        for _ in range(rounds if length < LENGTHS[-1] else 1):
            for samples, steps in zip(taken, (_ours, _peer), strict=True):
                gc.collect()  # chains are cycles of instructions and users, freed only by this
                for name, step in steps(length):
                    samples.setdefault(name, []).append(length / seconds(step))
                del step
        for name in taken[0]:
            ours, peer = (tuple(samples[name]) for samples in taken)
            yield Result(f"chain {name}", length, "instructions/s", ours, peer, "onnx")


def _ours(length: int) -> Steps:
    made: dict[str, Any] = {}

    def build() -> None:
        program = made["program"] = migx.Program()
        value = program.main.add_parameter("x", Shape("f32", DIMS))
        op = ops.Relu
        for _ in range(length):
            value = program.main.add_instruction(op(), value)
        program.main.add_return(value)

    return [
        ("build", build),
        ("verify", lambda: verify(made["program"])),
        ("print", lambda: made.update(text=str(made["program"]))),
        ("parse", lambda: migx.parse(made["text"])),
        ("copy", lambda: made.update(copy=made["program"].copy())),
        ("compare", lambda: _expect_equal(made["program"], made["copy"])),
    ]


def _peer(length: int) -> Steps:
    made: dict[str, Any] = {}

    def build() -> None:
        names = ["x", *(f"v{i}" for i in range(length))]
        nodes = [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, DIMS) for n in ("x", names[-1]))
        graph = helper.make_graph(nodes, "main", [x], [y])
        made["model"] = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])

    return [
        ("build", build),
        ("verify", lambda: checker.check_model(made["model"], full_check=True)),
        ("print", lambda: made.update(text=printer.to_text(made["model"]))),
        ("parse", lambda: parser.parse_model(made["text"])),
        ("copy", lambda: made.update(copy=_copied(made["model"]))),
        ("compare", lambda: _expect_equal(made["model"], made["copy"])),
    ]


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _expect_equal(one: object, other: object) -> None:
    if one != other:
        raise ResultError("a chain does not equal its copy")
