"""Weights in four bits: the bytes they take, and what they cost in accuracy, next to the kernel
with which onnxruntime quantises matrices for MatMulNBits.

Either side quantises the same weights in blocks of the same size, and ``ref`` runs both. An error
is the root mean square of the change of an output, relative to that of the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import migx
from benchmarks.measure import Result, ResultError
from benchmarks.models import inputs, make
from migx.argument import Argument
from migx.ir import Instruction
from migx.op import Array
from migx.ops.builtin import Literal
from migx.ops.quantization import DequantizeLinear
from migx.program import Program
from migx.weights.evaluation import evaluated

BAR = "at most 0.16 of the bytes of what was quantised; errors no larger than onnxruntime's"
MODELS = ("bert_base", "resnet50")
BLOCKS = (32, 64, 128)
WAYS = {"": "minmax", ", symmetric=true": "symmetric", ', clip="mse"': "mse"}


def results(model: str, folder: Path | None, quick: bool = False) -> Iterator[Result]:
    """Bytes and errors of one model, for each size of blocks and each way to choose scales."""
    program, given = migx.parse_onnx(make(model, folder)), inputs(model)
    wanted = program.compile("ref").eval(given)
    for block in BLOCKS[:1] if quick else BLOCKS:
        for options, way in WAYS.items():
            ours = quantised(program, f"block={block}{options}")
            if not weights(ours):
                raise ResultError(f"{model} has no weights in main that quantize_int4 takes")
            share = float(np.divide(*bytes_of(ours)))
            yield Result(f"{model} {way} {block} bytes", 1, "of f32", (share,), (), "onnxruntime")
            peer = with_peer_weights(ours, symmetric=way == "symmetric")
            migx.run_passes(ours, "propagate_constant")
            errors = [part(p.compile("ref", passes="").eval(given), wanted) for p in (ours, peer)]
            for i, (mine, theirs) in enumerate(zip(*errors, strict=True)):
                name = f"{model} {way} {block} output {i}"
                yield Result(name, 1, "rms", (mine,), (theirs,), "onnxruntime")


def quantised(program: Program, options: str) -> Program:
    """A copy of a program whose weights are quantised, but not folded yet."""
    made = program.copy()
    migx.run_passes(made, f"quantize_int4{{{options}}}")
    return made


def part(got: list[Array], wanted: list[Array]) -> list[float]:
    """The error of each output."""
    return [
        float(np.sqrt(np.mean(np.square(a - b)) / np.mean(np.square(b))))
        for a, b in zip(got, wanted, strict=True)
    ]


def weights(program: Program) -> list[tuple[Instruction, Instruction]]:
    """Each weight that is quantised, and the value it is dequantised to."""
    found = []
    for at in program.main:
        if at.name == "dequantizelinear" and at.inputs[0].name == "unpack_int4":
            packed = at.inputs[0].inputs[0]
            if packed.name == "pack_int4" and packed.inputs[0].name == "quantizelinear":
                found.append((packed.inputs[0].inputs[0], at))
    return found


def bytes_of(program: Program) -> tuple[int, int]:
    """The bytes of the quantised weights with their parameters, and of the weights before."""
    after = before = 0
    for weight, real in weights(program):
        levels, scale, *zero = real.inputs
        kept = (levels.inputs[0], scale, *(z.inputs[0] for z in zero))
        after += sum(int(v.shape.nbytes) for v in kept)
        before += int(weight.shape.nbytes)
    return after, before


def with_peer_weights(program: Program, symmetric: bool) -> Program:
    """The program with each weight as onnxruntime quantises and dequantises it."""
    made = program.copy()
    found = weights(made)
    known = evaluated([weight for weight, _ in found])
    for weight, real in found:
        op = real.op_as(DequantizeLinear)
        matrix = np.moveaxis(known[weight].array, op.axis, 0)
        rounded = np.moveaxis(by_peer(matrix, op.block, symmetric), 0, op.axis)
        literal = made.main.insert_instruction(real, Literal(Argument.of(rounded.copy())))
        made.main.replace_instruction(real, literal)
    migx.run_passes(made, "dead_code_elimination")
    return made


def by_peer(matrix: Array, block: int, symmetric: bool) -> Array:
    """A matrix of K rows in four bits and back, in blocks along K."""
    from onnxruntime.capi import _pybind_state as runtime

    depth, width = matrix.shape
    blocks = -(-depth // block)
    packed = np.zeros((width, blocks, block // 2), np.uint8)
    scales = np.zeros((width, blocks), np.float32)
    points = np.zeros((width, (blocks + 1) // 2), np.uint8)
    source = np.ascontiguousarray(matrix, np.float32)
    runtime.quantize_matmul_4bits(
        packed, source, scales.reshape(-1), points.reshape(-1), block, width, depth, symmetric
    )
    levels = np.stack([packed & 15, packed >> 4], -1).reshape(width, blocks, block)
    zero = np.stack([points & 15, points >> 4], -1).reshape(width, -1)[:, :blocks]
    middle = np.full_like(zero, 8) if symmetric else zero
    real = (levels - middle[..., None].astype(np.float32)) * scales[..., None]
    return np.asarray(real.reshape(width, -1)[:, :depth].T)
