"""The time of optimisation: ``optimize_module`` to its fixpoint on each model, against the
optimisers of onnxscript and onnxruntime on the same file; each pass on ever longer stacks of
transformer blocks; and how many of the models each pass changes.

onnxruntime optimises while a session is made, so its time is that of a session with its extended
optimisations less that of one without any.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import migx
from benchmarks.measure import Result, in_turn, seconds
from benchmarks.models import make
from migx import Instruction, Module, Program, Shape, ops, plugins
from migx.fields import required
from migx.manager import Pass

BAR = "no slower than onnxscript on any, at most 0.4 s"
STACKS_BAR = f"the time of an instruction grows no more than {(MOST := 1.5)} times"
CHANGES_BAR = "no pass without a model that it changes"
LENGTHS = (1_000, 10_000, 100_000, 300_000)
OPTIMIZE = "optimize_module"
WIDTH, HEADS, TOKENS = 8, 2, 4


def optimised(name: str, folder: Path | None, rounds: int, budget: float) -> list[Result]:
    """Seconds for 1,000 instructions of one model, against either peer."""
    from onnxscript import ir, optimizer

    path = make(name, folder)
    program = migx.parse_onnx(path)
    count = program.size

    def ours() -> float:
        copy = program.copy()
        return seconds(lambda: migx.run_passes(copy, OPTIMIZE)) / count * 1000

    def script() -> float:
        model = ir.load(path)
        return seconds(lambda: optimizer.optimize(model)) / count * 1000

    def runtime() -> float:
        levels = onnxruntime.GraphOptimizationLevel
        on, off = (_session(path, x) for x in (levels.ORT_ENABLE_EXTENDED, levels.ORT_DISABLE_ALL))
        return max(0.0, on - off) / count * 1000

    ours()  # runs imports that happen on first use
    found = []
    for peer, sample in {"onnxscript": script, "onnxruntime": runtime}.items():
        mine, theirs = in_turn(ours, sample, rounds, budget)
        found.append(Result(f"optimize {name}", count, "s", tuple(mine), tuple(theirs), peer))
    return found


def _session(path: Path, level: Any) -> float:
    """Seconds to create a session."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return seconds(lambda: onnxruntime.InferenceSession(path, options, providers=providers))


def stacks(lengths: Sequence[int], rounds: int) -> Iterator[Result]:
    """Each pass on a stack of each length, in instructions a second; short ones more often."""
    for length in lengths:
        program = stack(length)
        again = max(1, rounds * LENGTHS[0] * 3 // length)
        for each in every_pass():
            taken = tuple(program.size / _alone(each, program.copy()) for _ in range(again))
            yield Result(f"pass {each.name}", program.size, "instructions/s", taken, (), "")


def _alone(each: Pass, program: Program) -> float:
    """Seconds of one pass, with garbage collected before."""
    gc.collect()
    return seconds(lambda: migx.run_passes(program, [each]))


def growth(results: Sequence[Result]) -> list[str]:
    """The growth of the time per instruction from the shortest stack to the longest: the largest,
    and that of each pass above the limit.
    """
    by_pass: dict[str, list[Result]] = {}
    for r in results:
        by_pass.setdefault(r.test, []).append(r)
    grown = {
        name: statistics.median(rs[0].ours) / statistics.median(rs[-1].ours)
        for name, rs in by_pass.items()
    }
    most = max(grown, key=lambda name: grown[name])
    over = [f"{name} grows {times:.2f} times" for name, times in grown.items() if times > MOST]
    return [f"the most: {most}, {grown[most]:.2f} times", *over]


def changes(names: Sequence[str], folder: Path | None) -> list[Result]:
    """The number of models that each pass changes, as read or after optimisation."""
    counts = dict.fromkeys((p.name for p in every_pass()), 0)
    for name in names:
        read = migx.parse_onnx(make(name, folder))
        done = read.copy()
        migx.run_passes(done, OPTIMIZE)
        for each in every_pass():
            counts[each.name] += any(migx.run_passes(p.copy(), [each]) for p in (read, done))
    return [
        Result(f"changed by {name}", len(names), "models", (float(count),), (), "")
        for name, count in counts.items()
    ]


def every_pass() -> list[Pass]:
    """The passes that need no options."""
    classes = [plugins.load("passes", name) for name in plugins.names("passes")]
    return [cls() for cls in classes if not required(cls)]


def stack(length: int) -> Program:
    """Transformer blocks, as exporters write them, up to a number of instructions."""
    program, rng = Program(), np.random.default_rng(0)
    main = program.main
    x = main.add_parameter("x", Shape("f32", (1, TOKENS, WIDTH)))
    while len(main) < length:
        x = _Block(main, rng).add(x)
    main.add_return(x)
    return program


class _Block:
    """One transformer block: attention and two dense layers, each behind a normalisation."""

    def __init__(self, main: Module, rng: np.random.Generator) -> None:
        self.main, self.rng = main, rng

    def add(self, x: Instruction) -> Instruction:
        """The block on a value."""
        x = self.do(ops.Add(), x, self.attention(self.normalised(x)))
        hidden = self.dense(self.normalised(x), 2 * WIDTH)
        half = self.do(ops.Mul(), hidden, self.number(0.5, hidden))
        scaled = self.do(ops.Div(), hidden, self.number(2**0.5, hidden))
        erf = self.do(ops.Erf(), scaled)
        active = self.do(ops.Mul(), half, self.do(ops.Add(), erf, self.number(1.0, hidden)))
        return self.do(ops.Add(), x, self.dense(active, WIDTH))

    def attention(self, x: Instruction) -> Instruction:
        query, key, value = (self.heads(self.dense(x, WIDTH)) for _ in range(3))
        turned = self.do(ops.Transpose((0, 1, 3, 2)), key)
        scores = self.do(ops.Dot(), query, turned)
        scaled = self.do(ops.Div(), scores, self.number((WIDTH / HEADS) ** 0.5, scores))
        mixed = self.do(ops.Dot(), self.do(ops.Softmax(3), scaled), value)
        together = self.do(ops.Transpose((0, 2, 1, 3)), mixed)
        return self.dense(self.do(ops.Reshape((1, TOKENS, WIDTH)), together), WIDTH)

    def heads(self, x: Instruction) -> Instruction:
        split = self.do(ops.Reshape((1, TOKENS, HEADS, WIDTH // HEADS)), x)
        return self.do(ops.Transpose((0, 2, 1, 3)), split)

    def normalised(self, x: Instruction) -> Instruction:
        mean = self.spread(self.do(ops.ReduceMean((2,)), x), x)
        centred = self.do(ops.Sub(), x, mean)
        variance = self.do(ops.ReduceMean((2,)), self.do(ops.Mul(), centred, centred))
        steady = self.do(ops.Add(), variance, self.number(1e-5, variance))
        deviation = self.spread(self.do(ops.Sqrt(), steady), x)
        scaled = self.do(ops.Mul(), self.do(ops.Div(), centred, deviation), self.weight(x))
        return self.do(ops.Add(), scaled, self.weight(x))

    def dense(self, x: Instruction, width: int) -> Instruction:
        inner = int(x.shape.dims[2])
        matrix = self.main.add_literal(self.rng.standard_normal((inner, width), np.float32))
        spread = self.do(ops.Multibroadcast((1, inner, width)), matrix)
        product = self.do(ops.Dot(), x, spread)
        return self.do(ops.Add(), product, self.weight(product))

    def weight(self, like: Instruction) -> Instruction:
        width = int(like.shape.dims[2])
        vector = self.main.add_literal(self.rng.standard_normal((width,), np.float32))
        return self.spread(vector, like)

    def number(self, value: float, like: Instruction) -> Instruction:
        return self.spread(self.main.add_literal(np.float32(value)), like)

    def spread(self, x: Instruction, like: Instruction) -> Instruction:
        return self.do(ops.Multibroadcast(like.shape.dims), x)

    def do(self, op: Any, *inputs: Instruction) -> Instruction:
        return self.main.add_instruction(op, *inputs)
