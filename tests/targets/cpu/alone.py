"""One kernel by itself: run on tiles split in several ways, and held against ``ref``."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import migx
from migx import dim
from migx.argument import Argument
from migx.compiler import finalize
from migx.ir import Instruction
from migx.ops.builtin import Literal
from migx.ops.formats import pack
from migx.planning import results, source
from migx.program import Program
from migx.shape import Shape
from migx.target import get_target
from migx.targets.cpu.code import jit
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.machine import Machine, host
from migx.targets.cpu.plans.memory import address, allocated, viewed
from migx.testing.bounds import ElementBounds, compare

Array = NDArray[Any]
GUARD = 256
"""Bytes behind a result that nobody may touch."""
OTHER_MACHINES = {
    "avx2": Machine("haswell", frozenset({"avx2", "fma", "f16c"}), 32, 16, False),
    "sse2": Machine("x86-64", frozenset({"sse2"}), 16, 16, False),
    "neon": Machine("cortex-a72", frozenset({"neon"}), 16, 32, False),
}
"""Machines that kernels are cut for otherwise than for most: what they compute must be right too,
though they are compiled for this one.
"""
KernelFor = Callable[[Instruction, Machine], Kernel | None]


def one(given: str, call: str) -> str:
    """The text of a program of one instruction, with these parameters."""
    return f"module main({given}) {{\n  %0 = {call}\n  return %0\n}}\n"


def parsed(text: str, passes: str = "") -> Program:
    """A program whose output is the instruction to try, after some passes; weights are drawn."""
    program = migx.parse(text, draw_missing=1)
    migx.run_passes(program, passes)
    return program


def problem(
    kernel_for: KernelFor,
    program: Program,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> str:
    """What is wrong with the results of the kernel of a program's output; "" if nothing is.

    It is run on all tiles at once, one by one, and in two uneven parts from the back: the bits must
    be the same each time.
    """
    known = dict(sizes or {})
    at = produced(program)
    kernel = kernel_for(at, host())
    assert kernel is not None, f"no kernel for {at}"
    values, bounds = traced(program, known, seed)
    parts = values[at].parts if at.shape.parts else (values[at],)
    errors = bounds.of(at)
    known_bounds = errors if isinstance(errors, tuple) else (errors,) * len(parts)
    given = [operand(kernel, at, i, values, known) for i in range(len(at.inputs))]
    tiles = dim.evaluate(kernel.tiles, known)
    splits = ([0, tiles], list(range(tiles + 1)), [tiles // 3, tiles, 0, tiles // 3])
    first: list[Array] = []
    for split in splits:
        made = [guarded(shape.bind(known)) for shape in results(at)]
        run(kernel, [*given, *(array for array, _ in made)], known, split)
        if any((guard != 0xA5).any() for _, guard in made):
            return "it writes behind its result"
        got = [array for array, _ in made]
        if any(a.tobytes() != b.tobytes() for a, b in zip(got, first, strict=False)):
            return f"tiles in the order of {split} give other bits"
        first = got
    for array, part, bound in zip(first, parts, known_bounds, strict=True):
        found = compare("result", array.reshape(part.array.shape), part.array, bound, bound)
        if found.problem:
            return found.problem
    return ""


def guarded(shape: Shape) -> tuple[Array, Array]:
    """Memory for a result, full of rubbish, and what lies behind it."""
    memory = allocated(int(shape.nbytes) + GUARD)
    memory[...] = 0xA5
    size = int(shape.nbytes)
    return memory[:size].view(shape.dtype.numpy), memory[size:]


def result(kernel_for: KernelFor, program: Program, sizes: Mapping[str, int]) -> Array:
    """What the kernel of a program's output gives for the first inputs there are."""
    at = produced(program)
    kernel = kernel_for(at, host())
    assert kernel is not None, f"no kernel for {at}"
    values, _ = traced(program, sizes, 0)
    given = [operand(kernel, at, i, values, sizes) for i in range(len(at.inputs))]
    made = laid_out(results(at)[0].bind(sizes), None)
    run(kernel, [*given, made], sizes, [0, dim.evaluate(kernel.tiles, sizes)])
    return made


def produced(program: Program) -> Instruction:
    """The instruction a program's first output is."""
    return program.main.outputs[0]


def traced(
    program: Program, sizes: Mapping[str, int], seed: int
) -> tuple[dict[Instruction, Argument], ElementBounds]:
    """Every value of a run on ``ref`` for random inputs, and the bounds of each."""
    dice = np.random.default_rng(seed)
    inputs = {n: random(dice, p.shape.bind(sizes)) for n, p in program.main.parameters.items()}
    ref = get_target("ref")
    context = ref.get_context()
    finalize(program, context)
    bounds = ElementBounds(program, inputs, program)
    values: dict[Instruction, Argument] = {}

    def seen(at: Instruction, result: Argument) -> None:
        values[at] = result
        bounds(at, result)

    values |= {p: inputs[n] for n, p in program.main.parameters.items()}
    ref.make_executable(program, context).trace(inputs, seen)  # type: ignore[attr-defined]
    return values, bounds


def random(dice: np.random.Generator, shape: Shape) -> Argument:
    """Small whole numbers for integers, normally distributed ones for floats."""
    dims = tuple(int(d) for d in shape.dims)
    if shape.dtype.is_float:
        return Argument.of(dice.standard_normal(dims).astype(shape.dtype.numpy))
    low = 0 if shape.dtype.kind == "uint" else -100
    return Argument.of(dice.integers(low, 100, dims).astype(shape.dtype.numpy))


def operand(
    kernel: Kernel,
    at: Instruction,
    index: int,
    values: Mapping[Instruction, Argument],
    sizes: Mapping[str, int],
) -> Array:
    """An input as a plan would hand it over: packed, or laid out as its shape says."""
    value = at.inputs[index]
    layout = dict(kernel.formats).get(index)
    if layout is not None:
        array = pack(source(value).op_as(Literal).value, layout).array
        made = allocated(array.nbytes).view(array.dtype).reshape(array.shape)
        made[...] = array
        return made
    if not value.shape.dtype.is_tensor:
        return np.empty(0, np.uint8)
    return laid_out(value.shape.bind(sizes), values[value].array)


def laid_out(shape: Shape, array: Array | None) -> Array:
    """The memory of a value of this shape, its elements where the strides say. Behind a view that
    has none there may be some all the same, which a kernel may read.
    """
    memory = allocated(int(shape.nbytes))
    if array is not None and not array.size:
        steps = zip(shape.dims, shape.true_strides, strict=True)
        return np.zeros(1 + sum(int(s) * max(int(d) - 1, 0) for d, s in steps), shape.dtype.numpy)
    if array is not None:
        viewed(memory, shape)[...] = array
    return memory.view(shape.dtype.numpy)


def run(kernel: Kernel, operands: list[Array], sizes: Mapping[str, int], split: list[int]) -> None:
    """Runs the tiles between each number and the next, where that is greater."""
    code = jit.load([kernel.text])[kernel.text]
    if kernel.shared != 0:
        operands = [*operands, allocated(dim.evaluate(kernel.shared, sizes))]
        operands[-1][...] = 0xFF
    words = [address(a) for a in operands] + [dim.evaluate(w, sizes) for w in kernel.words]
    args = np.array(words, np.int64)
    scratch = allocated(dim.evaluate(kernel.scratch, sizes) + 1)
    scratch[...] = 0xFF  # NaN, wherever it is read before it is written
    kinds = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    function = ctypes.CFUNCTYPE(None, *kinds)(code.address)
    for begin, end in itertools.pairwise(split):
        if begin < end:
            function(args.ctypes.data, begin, end, address(scratch))
