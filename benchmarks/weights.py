"""Weights that are left out and put in later: what that costs a run, what a swap takes, and what
memory the weights take.

A model whose weights are known is optimised for what they happen to be: a scale of ones goes. Drawn
models are full of such luck and trained ones are not, so tensors of one repeated value are drawn
again here, on either side.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import migx
from benchmarks.measure import Result, in_turn, seconds
from benchmarks.models import inputs, make
from benchmarks.ref import agree, repeated
from migx.argument import Argument
from migx.hoisting import weights_of
from migx.ir import Program
from migx.onnx import replace_onnx_external_weights
from migx.onnx.external import values_from
from migx.op import Array

MODELS = ("resnet50", "bert_base", "llama_2048x4_kv")
SWAPPED = "bert_base"
SHARED = "resnet50"
PASSES = "optimize_module,fuse_attention,hoist_weights,fuse_pointwise_reduce"
TARGETS: dict[str, dict[str, str]] = {"ref": {"passes": PASSES}, "cpu": {}}
STEADY_BAR = "0.98 to 1.02 of the speed of the model compiled with its weights"
SWAP_BAR = "50 times faster than parse and compile; half the rate of a copy to fresh memory"
PAUSE_BAR = "under 1 ms longer than beside a thread that copies memory"
ONE_BAR = "time proportional to the tensor"

Values = dict[str, Argument]


def values(program: Program, folder: Path) -> Values:
    """The weights of a deferred program, mapped from a folder; those of one repeated value drawn
    again.
    """
    found: Values = values_from(folder, weights_of(program))
    rng = np.random.default_rng(0)
    for name, value in found.items():
        array = value.array
        if value.shape.dtype.is_float and array.size > 1 and (array == array.flat[0]).all():
            drawn = rng.standard_normal(array.shape) / 16 + float(array.flat[0])
            found[name] = Argument(value.shape, drawn.astype(array.dtype))
    return found


def steady(model: str, target: str, folder: Path | None, rounds: int) -> Iterator[Result]:
    """A run of the model baked, and swapped live, against one compiled with its weights."""
    path, given = make(model, folder), inputs(model)
    template = migx.parse_onnx(path, defer_external_weights=True)
    weights = values(template, path.parent)
    known = replace_onnx_external_weights(template, weights, replaceable=False)
    known.compile(target, **TARGETS[target])
    template.compile(target, **TARGETS[target])
    counts = [instructions(p.compiled.program) for p in (template, known)]
    yield Result(f"{target} {model} left", 1, "left", (counts[0],), (counts[1],), "known")
    baked = replace_onnx_external_weights(template, weights, target).finalize(target)
    with template.update_weights() as new:
        new.update({name: value.array.copy() for name, value in weights.items()})
    expected = known.eval(given)
    peer = repeated(lambda: known.eval(given))
    for how, program in (("baked", baked), ("swapped", template)):
        agree(model, program.eval(given), expected)
        ours = repeated(lambda program=program: program.eval(given))  # type: ignore[misc]
        samples = in_turn(ours, peer, rounds, 60.0)
        batch = next(iter(given.values())).shape[0]
        yield Result(f"{target} {model} {how}", batch, "s", *map(tuple, samples), "known")


def instructions(program: Program) -> int:
    """The instructions outside the module of weights."""
    return sum(len(m) for m in program.modules.values() if m is not program.weights)


class Swaps:
    """A compiled program without its weights, and two sets of arrays for it."""

    def __init__(self, model: str, target: str, folder: Path | None) -> None:
        self.path, self.target = make(model, folder), target
        self.program = migx.parse_onnx(self.path, defer_external_weights=True)
        self.mapped = values(self.program, self.path.parent)
        self.program.compile(target, **TARGETS[target])
        one = {name: value.array.copy() for name, value in self.mapped.items()}
        self.sets = [one, {name: array.copy() for name, array in one.items()}]
        self.nbytes = sum(array.nbytes for array in one.values())
        for _ in range(3):
            self.swap()

    def swap(self) -> None:
        """Swaps all weights, from arrays."""
        self.sets.reverse()
        with self.program.update_weights() as self.last:
            self.last.update(self.sets[0])

    def swap_folder(self) -> None:
        """Swaps all weights, mapped from files."""
        with self.program.update_weights() as self.last:
            self.last.update(self.path.parent)

    def swap_one(self, name: str) -> None:
        """Swaps one weight."""
        with self.program.update_weights() as self.last:
            self.last[name] = self.sets[0][name]

    def compile(self) -> None:
        """Parses and compiles the model with its weights."""
        migx.parse_onnx(self.path).compile(self.target, **TARGETS[self.target])

    def copy(self) -> None:
        """Copies as many bytes to fresh memory."""
        for array in self.sets[0].values():
            self.kept = [*getattr(self, "kept", ()), np.copy(array)]
        del self.kept


def swaps(made: Swaps, rounds: int) -> Iterator[Result]:
    """A swap of all weights, against parsing and compiling, and against a copy."""
    what = f"{made.target} {SWAPPED}"
    for how, swap in (("from arrays", made.swap), ("from a folder", made.swap_folder)):
        samples = in_turn(lambda s=swap: seconds(s), lambda: seconds(made.compile), rounds, 60.0)  # type: ignore[misc]
        yield Result(f"{what} all, {how}", 1, "s", *map(tuple, samples), "parse, compile")
    for _ in range(3):
        made.swap()
    ours, peer = in_turn(
        lambda: made.nbytes / seconds(made.swap),
        lambda: made.nbytes / seconds(made.copy),
        2 * rounds,
        60.0,
    )
    yield Result(f"{what} all, bytes", 1, "B/s", tuple(ours), tuple(peer), "np.copy")


def single(made: Swaps, rounds: int) -> Iterator[Result]:
    """Swaps of one tensor of each size there is, against a copy of it; the batch is its bytes."""
    sizes = {array.nbytes: name for name, array in made.sets[0].items()}
    for size, name in sorted(sizes.items()):
        array = made.sets[0][name]
        ours = repeated(lambda name=name: made.swap_one(name))  # type: ignore[misc]
        peer = repeated(lambda array=array: np.copy(array))  # type: ignore[misc]
        samples = in_turn(ours, peer, rounds, 30.0)
        yield Result(f"{made.target} one tensor", size, "s", *map(tuple, samples), "np.copy")


def pauses(made: Swaps, rounds: int) -> Result:
    """The longest a caller of a tiny program waits while all weights of another are swapped, and
    while as many bytes are copied.
    """
    source, to = made.sets[0], {n: np.empty_like(a) for n, a in made.sets[0].items()}

    def copy() -> None:
        for name, array in source.items():
            np.copyto(to[name], array)

    with calls() as longest:
        samples = in_turn(lambda: longest(made.swap), lambda: longest(copy), rounds, 60.0)
    what = f"{made.target} {SWAPPED} longest call"
    return Result(what, 1, "s", *map(tuple, samples), "beside a copy")


@contextmanager
def calls() -> Iterator[Callable[[Callable[[], None]], float]]:
    """A thread calls a tiny program without pause; what is given says how long the longest call
    took while something was done.
    """
    program = migx.Program()
    x = program.main.add_parameter("x", migx.Shape("f32", (4,)))
    weight = program.main.add_literal(np.ones(4, np.float32), name="w", replaceable=True)
    program.main.add_return(program.main.add_instruction(migx.ops.Add(), x, weight))
    program.compile("ref")
    ends: list[float] = []
    done = threading.Event()
    given: dict[str, Array] = {"x": np.zeros(4, np.float32)}

    def run() -> None:
        while not done.is_set():
            program.eval(given)
            ends.append(time.perf_counter())

    def longest(work: Callable[[], None]) -> float:
        time.sleep(0.05)
        ends.clear()
        time.sleep(0.01)
        work()
        time.sleep(0.01)
        seen = ends.copy()
        return max(b - a for a, b in zip(seen, seen[1:], strict=False))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield longest
    finally:
        done.set()
        thread.join()


def beyond(result: Result) -> str:
    """By how much the longest call is longer beside a swap."""
    apart = statistics.median(result.ours) - statistics.median(result.peer)
    return f"{result.test}: {apart * 1e3:+.2f} ms"


def slope(results: list[Result]) -> str:
    """The time of a byte in the largest tensor, and that of the smallest tensor."""
    small, large = results[0], results[-1]
    first, last = statistics.median(small.ours), statistics.median(large.ours)
    rate = (large.batch - small.batch) / (last - first)
    return f"one tensor: {first * 1e6:.0f} us and its bytes at {rate / 1e9:.1f} GB/s"
