"""Weights that are known when a program is compiled, and weights that are left out and put in
later, give the same bits, but for what a rewrite sees in values.

So the values here are such that no rewrite sees anything in them: neither zeros nor ones, nothing
repeated, no product that is too large or too small.
"""

from __future__ import annotations

import numpy as np
import pytest

from migx.argument import Argument
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.ops.builtin import Literal, OnnxExternalWeights
from migx.ops.quantization import DequantizeLinear
from migx.program import Program
from migx.shape import F16, I8, Shape
from migx.target import get_target
from migx.testing.fuzz import Subject
from migx.testing.law import without_weights

LISTS = {
    "optimised": "optimize_module,hoist_weights",
    "fused": "optimize_module,fuse_attention,optimize_module,hoist_weights,"
    "fuse_pointwise_reduce,fuse_epilogue,fuse_concat",
}
Values = dict[str, Argument]


def plain(shape: Shape, rng: np.random.Generator) -> Argument:
    """Numbers around one and a half, in bytes around 50."""
    real = 1.25 + rng.random(shape.dims) / 2
    drawn = real if shape.dtype.is_float else np.floor(100 * real - 100)
    return Argument(shape, drawn.astype(shape.dtype.numpy))


def quantised(at: Instruction) -> tuple[Instruction, ...]:
    """Puts bytes, dequantised, in the place of a weight; the weights it then is."""
    assert at.module is not None
    op = at.op_as(OnnxExternalWeights)
    parts = {".levels": Shape(I8, at.shape.dims), ".scale": Shape(at.shape.dtype, (1,))}
    made = [
        at.module.insert_instruction(
            at, OnnxExternalWeights(op.label + end, op.file, 0, int(shape.nbytes), shape)
        )
        for end, shape in parts.items()
    ]
    real = at.module.insert_instruction(at, DequantizeLinear(), *made)
    at.module.replace_instruction(at, real)
    at.module.remove_instruction(at)
    return tuple(made)


def drawn(subject: Subject, seed: int) -> tuple[Program, Program, Values, Values]:
    """A program with known weights, the same with its weights left out, these, and inputs."""
    found = subject.draw(f"known.{seed}")
    template, _ = without_weights(found.program)
    weights: list[Instruction] = []
    for number, at in enumerate(i for m in template.modules.values() for i in m):
        if type(at.op) is OnnxExternalWeights:
            fits = number % 2 == 0 and at.shape.dtype.bits >= F16.bits
            weights += quantised(at) if fits else (at,)
    rng = np.random.default_rng(seed)
    values = {at.op_as(OnnxExternalWeights).label: plain(at.shape, rng) for at in weights}
    known = template.copy()
    for module in known.modules.values():
        for at in module:
            if type(at.op) is OnnxExternalWeights:
                module.replace_operation(at, Literal(values[at.op.label]))
    return known, template, values, dict(found.inputs)


@pytest.mark.parametrize("name", LISTS)
def test_known_or_left_out_weights_give_the_same_bits(name: str) -> None:
    passes, target = Pipeline.parse(LISTS[name]), get_target("ref")
    subject, tried = Subject(passes, target, law=True), 0
    for seed in range(150):
        known, template, values, inputs = drawn(subject, seed)
        known.compile(target, passes=passes)
        template.compile(target, passes=passes)
        with template.update_weights() as new:
            new.update(values)
        first, second = (p.compiled.results(inputs) for p in (known, template))
        assert [r.tobytes() for r in first] == [r.tobytes() for r in second], seed
        tried += bool(values)
    assert tried > 30
