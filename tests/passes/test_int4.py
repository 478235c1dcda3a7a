"""Packed weights against an oracle that knows nothing but integers, through every pass there is;
and that they stay packed, whatever stands between them and what reads them.

All scales are powers of two and all other numbers small and whole, so that floats round nothing
and results must be the same bit for bit. ``pytest --whole-grid`` tries every type with every pass.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx import ops, plugins
from migx.argument import Argument
from migx.dim import Dim
from migx.fields import required
from migx.ir import Instruction
from migx.manager import Observer, Pipeline, Step
from migx.observers import Verify
from migx.op import Operation
from migx.program import Program
from migx.shape import DType, Shape
from migx.target import get_target, passes_for
from migx.weights.constants import SMALL

Array = NDArray[Any]
Integers = NDArray[np.int64]

LEAST = 3
"""Scales are 2⁻³ to 2⁰, so that integers stand for eighths."""
BLOCKS = (None, 0, 16, 32, 128, 5)
"""None is one scale for the whole tensor, 0 one for each place on the axis; 5 divides no dim."""
KINDS = {"dot": (40, 12), "convolution": (6, 34, 2, 3), "gather": (17, 38)}
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])
"""What each code of f4 stands for, in halves."""

FUSED = (
    "simplify_qdq,optimize_module,fuse_int4,fuse_attention,fuse_pointwise_reduce,fuse_epilogue,"
    "fuse_concat"
)
WIDE = "simplify_qdq,rewrite_quantization,optimize_module,fuse_horizontal,optimize_module"
LATE = "fuse_pointwise{singles=true},fuse_reduce,fuse_epilogue,fuse_int4,optimize_module"


def pipelines() -> list[str]:
    """Every pass by itself, the pipelines as they are used, and the list of every target, but for
    passes of its own, which leave what only it can run.
    """
    classes = {name: plugins.load("passes", name) for name in plugins.names("passes")}
    alone = [name for name, cls in classes.items() if not required(cls)]
    found = [passes_for(get_target(name)) for name in plugins.names("targets")]
    lists = [str(Pipeline(tuple(s for s in p.steps if "::" not in str(s)))) for p in found]
    return [*alone, FUSED, WIDE, LATE, *dict.fromkeys(filter(None, lists))]


class Packed(Observer):
    """Fails after the pass that makes constants larger, or packed ones fewer or something else."""

    def __init__(self, program: Program) -> None:
        self.bytes, self.packed = held(program)

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        total, packed = held(step.program)
        assert packed == self.packed, f"{step.of} left {packed} packed bytes of {self.packed}"
        assert total <= 1.05 * self.bytes, f"{step.of} left {total} bytes of {self.bytes}"


def held(program: Program) -> tuple[int, int]:
    """The bytes of all literals, each value once, and of packed ones; but for those so small that
    they may be equal by chance, and merged.
    """
    values = {id(at.op_as(ops.Literal).value): at.shape for at in program.literals}
    sizes = [(int(s.nbytes), s.dtype.is_packed) for s in values.values()]
    return sum(n for n, _ in sizes), sum(n for n, packed in sizes if packed and n > SMALL)


@functools.cache
def grid(kind: str, name: str) -> Grid:
    """The grid of one kind of product and one type of weights."""
    return Grid(kind, DType.of(name))


class Grid:
    """One program with a product for every axis, block and zero point of weights of one type, and
    what each comes to.
    """

    def __init__(self, kind: str, dtype: DType) -> None:
        self.kind, self.dtype, self.rng = kind, dtype, np.random.default_rng(7)
        self.program, self.expected = Program(), dict[str, Array]()
        self.dims = KINDS[kind]
        x = {"dot": (3, 40), "convolution": (1, 34, 3, 4), "gather": (2, 4)}[kind]
        top = self.dims[0] if kind == "gather" else 5
        self.x = self.rng.integers(0 if kind == "gather" else -4, top, x)
        given = "i64" if kind == "gather" else "f32"
        shape = Shape(given, (Dim("n", 1), *x[1:]))
        self.input = self.program.main.add_parameter("x", shape)
        results = [self.case(*c) for c in itertools.product(range(len(self.dims)), BLOCKS, (0, 1))]
        self.program.main.add_return(*results, names=list(self.expected))
        self.inputs = {"x": self.x.astype(np.int64 if kind == "gather" else np.float32)}

    def add(self, op: Operation, *inputs: Instruction) -> Instruction:
        return self.program.main.add_instruction(op, *inputs)

    def case(self, axis: int, block: int | None, zero: int) -> Instruction:
        """The product with weights quantised in one way, and the whole number it must be."""
        levels, weights = self.drawn(self.dims)
        dims = scale_dims(self.dims, axis, block)
        exponents = self.rng.integers(-LEAST, 1, dims)
        scale = self.program.main.add_literal(np.exp2(exponents).astype(np.float32))
        points, offsets = self.drawn(dims) if zero else (None, np.zeros(dims, np.int64))
        operands = [levels, scale, *([points] if points is not None else [])]
        floats = self.add(ops.DequantizeLinear(axis=axis, block=block or 0), *operands)
        real = weights - spread(offsets, self.dims, axis, block)
        real = real << spread(exponents + LEAST, self.dims, axis, block)
        name = f"axis {axis}, block {block}, zero point {zero}"
        unit = 2**LEAST * (2 if self.dtype.name == "f4" else 1)
        self.expected[name] = (self.product(real) / unit).astype(np.float32)
        assert np.abs(self.product(np.abs(real))).max() < 2**24, "floats would round"
        op = {"dot": ops.Dot(), "convolution": ops.Convolution((0,) * 4)}.get(self.kind)
        operands = [floats, self.input] if op is None else [self.input, floats]
        return self.add(op or ops.Gather(0), *operands)

    def drawn(self, dims: tuple[int, ...]) -> tuple[Instruction, Integers]:
        """Weights as they are stored and unpacked, and what they are in whole numbers."""
        bits, name = self.dtype.bits, self.dtype.name
        codes = self.rng.integers(0, 2**bits, dims)
        unpack: dict[str, Operation] = {
            "4": ops.UnpackInt4(),
            "2": ops.UnpackInt2(),
            "f4": ops.UnpackFp4(DType.of("f8e4m3fn")),
        }
        if bits == 8:
            values = codes - 128 * (name == "i8")
            return self.program.main.add_literal(values.astype(self.dtype.numpy)), values
        literal = ops.Literal(Argument.packed(Shape(self.dtype, dims), packed_bytes(codes, bits)))
        made = self.add(unpack.get(name) or unpack[str(bits)], self.add(literal))
        if name == "f4":
            return made, FP4[codes]
        signed = codes - (codes >> (bits - 1) << bits) if name.startswith("i") else codes
        return made, signed

    def product(self, w: Integers) -> Integers:
        """What the program computes, of whole numbers."""
        if self.kind == "gather":
            return np.asarray(w[self.x])
        if self.kind == "dot":
            return np.asarray(self.x @ w)
        windows = np.lib.stride_tricks.sliding_window_view(self.x, w.shape[2:], (2, 3))
        return np.asarray(np.einsum("nchwij,ocij->nohw", windows, w))

    def check(self, passes: str) -> None:
        """Fails unless what some passes leave is right to the last bit, and packed as it was."""
        after = self.program.copy()
        observers = [Verify(), *([Packed(after)] if self.dtype.is_packed else [])]
        migx.run_passes(after, passes, observers)
        results = after.compile("ref", passes="").eval(self.inputs)
        for (name, wanted), got in zip(self.expected.items(), results, strict=True):
            assert got.dtype == np.float32, name
            assert np.array_equal(got, wanted), f"{self.kind} of {self.dtype}, {name}: {passes}"


def packed_bytes(codes: Integers, bits: int) -> bytes:
    """Codes one after another, the first in the lowest bits."""
    whole = sum(int(code) << bits * i for i, code in enumerate(codes.reshape(-1)))
    return whole.to_bytes(-(-codes.size * bits // 8), "little")


def scale_dims(dims: tuple[int, ...], axis: int, block: int | None) -> tuple[int, ...]:
    """The dims that scales have, from ONNX's text."""
    if block is None:
        return ()
    if not block:
        return (dims[axis],)
    return (*dims[:axis], -(-dims[axis] // block), *dims[axis + 1 :])


def spread(given: Integers, dims: tuple[int, ...], axis: int, block: int | None) -> Integers:
    """What holds for each weight, of what scales or zero points hold."""
    places = np.indices(dims)
    if block is None:
        return np.broadcast_to(given, dims)
    if not block:
        return np.asarray(given[places[axis]])
    places[axis] //= block
    return np.asarray(given[tuple(places)])


TYPES = ("u4", "i4", "f4", "u2", "i2", "u8", "i8")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TYPES)
def test_results_are_those_of_whole_numbers(name: str, kind: str) -> None:
    for passes in ("", "simplify_qdq", FUSED, WIDE):
        grid(kind, name).check(passes)


@pytest.mark.parametrize("passes", pipelines())
def test_no_pass_changes_a_bit_nor_unfolds_a_weight(
    passes: str, pytestconfig: pytest.Config
) -> None:
    some = [("dot", "u4"), ("convolution", "i4"), ("gather", "f4")]
    whole = pytestconfig.getoption("--whole-grid")
    for kind, name in itertools.product(KINDS, TYPES) if whole else some:
        grid(kind, name).check(passes)


# Whatever stands between the unpacking and the product


class Chain:
    """A product with a weight of 64 by 64, behind some operations that leave its dims what they
    are.
    """

    def __init__(self, steps: Sequence[str], at_levels: bool) -> None:
        self.program, rng = Program(), np.random.default_rng(1)
        self.main = self.program.main
        data = rng.integers(0, 256, 64 * 32, dtype=np.uint8).tobytes()
        packed = ops.Literal(Argument.packed(Shape("u4", (64, 64)), data))
        levels = self.main.add_instruction(ops.UnpackInt4(), self.main.add_instruction(packed))
        scale = self.main.add_literal(np.full((2, 64), 0.5, np.float32))
        levels = self.through(steps, levels) if at_levels else levels
        floats = self.main.add_instruction(ops.DequantizeLinear(0, 32), levels, scale)
        floats = floats if at_levels else self.through(steps, floats)
        x = self.main.add_parameter("x", Shape("f32", (2, 64)))
        self.main.add_return(self.main.add_instruction(ops.Dot(), x, floats))

    def through(self, steps: Sequence[str], value: Instruction) -> Instruction:
        for step in steps:
            value = getattr(self, step)(value)
        return value

    def do(self, value: Instruction, *steps: Operation) -> Instruction:
        for op in steps:
            value = self.main.add_instruction(op, value)
        return value

    def with_number(self, op: Operation, value: Instruction) -> Instruction:
        number = self.main.add_literal(np.array(2, value.shape.dtype.numpy))
        return self.main.add_instruction(op, value, self.do(number, ops.Multibroadcast((64, 64))))

    def reshape(self, v: Instruction) -> Instruction:
        return self.do(v, ops.Reshape((16, 4, 64)), ops.Reshape((64, 64)))

    def transpose(self, v: Instruction) -> Instruction:
        return self.do(v, ops.Transpose((1, 0)))

    def slice(self, v: Instruction) -> Instruction:
        return self.do(self.concat(v), ops.Slice((1,), (32,), (96,)))

    def squeeze(self, v: Instruction) -> Instruction:
        return self.do(v, ops.Unsqueeze((0,)), ops.Squeeze((0,)))

    def broadcast(self, v: Instruction) -> Instruction:
        spread = self.do(v, ops.Multibroadcast((2, 64, 64)))
        return self.do(spread, ops.Slice((0,), (1,), (2,)), ops.Squeeze((0,)))

    def convert(self, v: Instruction) -> Instruction:
        other = DType.of("f16" if v.shape.dtype.is_float else "i16")
        return self.do(v, ops.Convert(other), ops.Convert(v.shape.dtype))

    def sub(self, v: Instruction) -> Instruction:
        return self.with_number(ops.Sub(), v)

    def mul(self, v: Instruction) -> Instruction:
        return self.with_number(ops.Mul(), v)

    def contiguous(self, v: Instruction) -> Instruction:
        return self.do(v, ops.Contiguous())

    def concat(self, v: Instruction) -> Instruction:
        halves = [self.do(v, ops.Slice((1,), (i,), (i + 32,))) for i in (0, 32)]
        return self.main.add_instruction(ops.Concat(1), *halves[::-1], *halves)

    def joined(self, v: Instruction) -> Instruction:
        return self.do(self.concat(v), ops.Slice((1,), (0,), (64,)))

    def abs(self, v: Instruction) -> Instruction:
        return self.do(v, ops.Abs())


MOVES = ("reshape", "transpose", "slice", "squeeze", "broadcast", "contiguous", "joined")
STEPS = (*MOVES, "convert", "sub", "mul", "abs")


def keeps(steps: Sequence[str], at_levels: bool, every: Sequence[str]) -> None:
    """Fails where some pipeline unfolds the weight of a chain or changes the result."""
    program = Chain(steps, at_levels).program
    x = {"x": np.random.default_rng(2).integers(-4, 5, (2, 64)).astype(np.float32)}
    (wanted,) = program.compile("ref", passes="").eval(x)
    for passes in every:
        after = program.copy()
        migx.run_passes(after, passes, [Packed(after), Verify()])
        (got,) = after.compile("ref", passes="").eval(x)
        assert np.array_equal(got, wanted), f"{'levels' if at_levels else 'floats'}, {steps}"


@pytest.mark.parametrize("at_levels", [True, False], ids=["levels", "floats"])
@pytest.mark.parametrize("step", STEPS)
def test_weights_stay_packed_whatever_stands_between(step: str, at_levels: bool) -> None:
    keeps([step], at_levels, [FUSED, WIDE, LATE, "propagate_constant", "optimize_module"])


@pytest.mark.parametrize("second", STEPS)
def test_weights_stay_packed_behind_two_operations(second: str) -> None:
    for first in STEPS:
        keeps([first, second], first < second, [FUSED, WIDE])
