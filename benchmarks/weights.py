"""Deferred weights: their cost in a run, the time of a swap, and the memory that weights take.

A model whose weights are known is optimised for their values: a scale of ones is removed. Randomly
drawn models have many such tensors, trained ones do not, so tensors of one repeated value are drawn
again here, on either side.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import migx
from benchmarks.measure import ROOT, Result, ResultError, in_turn, seconds
from benchmarks.models import inputs, make
from benchmarks.ref import agree, repeated
from benchmarks.tables import show_results
from benchmarks.weights_memory import PASSES, resident
from migx.argument import Argument
from migx.onnx import replace_onnx_external_weights
from migx.op import Array
from migx.program import Program
from migx.target import Asked
from migx.weights.hoisting import weights_of
from migx.weights.sources import values_from

MODELS = ("resnet50", "bert_base", "llama_2048x4_kv")
SWAPPED = "bert_base"
SHARED = ("resnet50", "bert_base")
TARGETS: dict[str, Asked] = {"ref": {"passes": PASSES}, "cpu": {}}
STEADY_BAR = "0.98 to 1.02 of the speed of the model compiled with its weights"
SWAP_BAR = "50 times faster than parse and compile"
RATE_BAR = "half the rate of a copy to fresh memory"
PAUSE_BAR = "under 1 ms longer than beside a thread that copies memory"
ONE_BAR = "time proportional to the tensor"
GROWTH_BAR = "nothing"
MEMORY_BAR = "1.00 to 1.05 times the bytes of the weights"

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
    peer = repeated(partial(known.eval, given))
    for how, program in (("baked", baked), ("swapped", template)):
        agree(model, program.eval(given), expected)
        samples = in_turn(repeated(partial(program.eval, given)), peer, rounds, 60.0)
        batch = next(iter(given.values())).shape[0]
        yield timed(f"{target} {model} {how}", batch, samples, "known")


def timed(test: str, batch: int, samples: tuple[list[float], list[float]], against: str) -> Result:
    """Seconds of ours and of a peer."""
    return Result(test, batch, "s", tuple(samples[0]), tuple(samples[1]), against)


def instructions(program: Program) -> int:
    """The instructions outside the module of weights."""
    return sum(len(m) for m in program.modules.values() if m is not program.weights)


class Swaps:
    """A compiled program without its weights, two sets of arrays for it, and two folders."""

    def __init__(self, model: str, target: str, folder: Path | None) -> None:
        self.path, self.target = make(model, folder), target
        self.program = migx.parse_onnx(self.path, defer_external_weights=True)
        self.mapped = values(self.program, self.path.parent)
        self.program.compile(target, **TARGETS[target])
        one = {name: value.array.copy() for name, value in self.mapped.items()}
        self.sets = [one, {name: array.copy() for name, array in one.items()}]
        self._place = tempfile.TemporaryDirectory()
        self.folders = [self.path.parent, Path(self._place.name)]
        for file in {v.source.file for v in self.mapped.values() if v.source is not None}:
            shutil.copy(file, self._place.name)
        self.nbytes = sum(array.nbytes for array in one.values())
        for _ in range(3):
            self.swap()

    def swap(self, *, copy: bool = True) -> None:
        """Swaps all weights, from arrays."""
        self.sets.reverse()
        with self.program.update_weights(copy=copy) as self.last:
            self.last.update(self.sets[0])

    def swap_folder(self) -> None:
        """Swaps all weights, mapped from files."""
        self.folders.reverse()
        with self.program.update_weights() as self.last:
            self.last.update(self.folders[0])

    def swap_one(self, name: str) -> None:
        """Swaps one weight."""
        with self.program.update_weights() as self.last:
            self.last[name] = self.sets[0][name]

    def compile(self) -> None:
        """Parses and compiles the model with its weights."""
        migx.parse_onnx(self.path).compile(self.target, **TARGETS[self.target])

    def copy(self) -> list[Array]:
        """Copies as many bytes to fresh memory."""
        return [np.copy(array) for array in self.sets[0].values()]


def show_swaps(target: str, folder: Path | None, quick: bool) -> list[Result]:
    """Measures and prints everything about swaps."""
    made, rounds = Swaps(SWAPPED, target, folder), 3 if quick else 7
    compiling = list(swaps(made, rounds))
    copying, pause = rate(made, 2 * rounds), pauses(made, 5 * rounds)
    ones = list(single(made, rounds))
    growth = grown(made, 100 if quick else 1000)
    show_results("Swapping all weights", SWAP_BAR, compiling, [])
    show_results("Swapping all weights", RATE_BAR, [copying], [])
    show_results("Pauses while weights are swapped", PAUSE_BAR, [pause], [beyond(pause)])
    show_results("Swapping one weight; the batch is its bytes", ONE_BAR, ones, [slope(ones)])
    show_results("Growth", GROWTH_BAR, [growth], [])
    return [*compiling, copying, pause, *ones, growth]


def swaps(made: Swaps, rounds: int) -> Iterator[Result]:
    """A swap of all weights, against parsing and compiling."""
    what = f"{made.target} {SWAPPED}"
    ways: dict[str, Callable[[], None]] = {
        "from arrays": made.swap,
        "from arrays as they are": partial(made.swap, copy=False),
        "from a folder": made.swap_folder,
    }
    for how, swap in ways.items():
        swap()
        samples = in_turn(partial(seconds, swap), partial(seconds, made.compile), rounds, 60.0)
        yield timed(f"{what} all, {how}", 1, samples, "parse, compile")


def rate(made: Swaps, rounds: int) -> Result:
    """Bytes a second of a swap from arrays, against a copy to fresh memory."""
    for _ in range(3):
        made.swap()
    ours, peer = in_turn(
        lambda: made.nbytes / seconds(made.swap),
        lambda: made.nbytes / seconds(made.copy),
        rounds,
        60.0,
    )
    test = f"{made.target} {SWAPPED} all, bytes"
    return Result(test, 1, "B/s", tuple(ours), tuple(peer), "np.copy")


def single(made: Swaps, rounds: int) -> Iterator[Result]:
    """Swaps of one tensor of each size, against a copy of it; the batch is its bytes."""
    sizes = {array.nbytes: name for name, array in made.sets[0].items()}
    for size, name in sorted(sizes.items()):
        array = made.sets[0][name]
        ours, peer = repeated(partial(made.swap_one, name)), repeated(partial(np.copy, array))
        samples = in_turn(ours, peer, rounds, 30.0)
        yield timed(f"{made.target} one tensor", size, samples, "np.copy")


def pauses(made: Swaps, rounds: int) -> Result:
    """The longest call of a tiny program while all weights of another are swapped, and while as
    many bytes are copied.
    """
    source, to = made.sets[0], {n: np.empty_like(a) for n, a in made.sets[0].items()}

    def copy() -> None:
        for name, array in source.items():
            np.copyto(to[name], array)

    with calls() as longest:
        samples = in_turn(lambda: longest(made.swap), lambda: longest(copy), rounds, 60.0)
    what = f"{made.target} {SWAPPED} longest call"
    return timed(what, 1, samples, "beside a copy")


@contextmanager
def calls() -> Iterator[Callable[[Callable[[], None]], float]]:
    """A thread calls a tiny program without pause; yields a function that returns the longest call
    during some work.
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
        return max(b - a for a, b in itertools.pairwise(seen))

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


def memory(model: str, folder: Path | None) -> Iterator[Result]:
    """The memory of the weights in four programs of one process, and in two processes together,
    relative to their bytes.
    """
    path = make(model, folder)
    yield _share(f"{model} four variants", *probed("variants", [path]))
    template = migx.parse_onnx(path, defer_external_weights=True).compile("ref", passes=PASSES)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "model.mxr"
        migx.save(replace_onnx_external_weights(template, path.parent, "ref").finalize("ref"), file)
        yield _share(f"{model} two processes", *probed("loaded", [file, file]))


def _share(test: str, taken: int, due: int) -> Result:
    return Result(test, 1, "of the bytes", (taken / due,), (), "")


def probed(case: str, files: list[Path]) -> tuple[int, int]:
    """The bytes that the weights take in all processes together, and those of one set."""
    with ExitStack() as stack:
        running = [stack.enter_context(_started(case, str(file))) for file in files]
        for process in running:
            _line(process)
        found = [_line(process, "measure").split() for process in running]
        for process in running:
            process.communicate("end\n")
    return sum(int(taken) for taken, _ in found), int(found[0][1])


def _started(case: str, file: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.weights_memory", case, file]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)


def _line(process: subprocess.Popen[str], asked: str = "") -> str:
    """The next line of a process, after sending it ``asked``, if given."""
    assert process.stdin is not None
    assert process.stdout is not None
    if asked:
        print(asked, file=process.stdin, flush=True)
    said = process.stdout.readline()
    if not said:
        raise ResultError(f"the process that measures memory ended with {process.wait()}")
    return said


def grown(made: Swaps, times: int) -> Result:
    """The memory that swaps of one tensor add to the process, in MB."""
    sizes = {array.nbytes: name for name, array in made.sets[0].items()}
    name = sizes[sorted(sizes)[-2]]
    for _ in range(3):
        made.swap_one(name)
    before = resident("Rss")
    for _ in range(times):
        made.swap_one(name)
    test = f"{SWAPPED} after {times:,} swaps"
    return Result(test, 1, "MB", (round((resident("Rss") - before) / 1e6, 1),), (), "")
