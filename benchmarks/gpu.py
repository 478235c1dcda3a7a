"""Measures the gpu target on a machine with a GPU: ``python -m benchmarks.gpu``.

It runs unattended and takes under eight minutes. Missing models are made first; those from a
package index are left out if none can be reached. Then it measures, in this order:

1. the limits of the device: a copy on it, the link to it, a product of f16 by the vendor's library;
2. kernels against these limits, and swapping weights, against the link;
3. transformers: their time, beside the floor of their kernels (for each, bytes over bandwidth or
   operations over peak, the greater), then that of ``torch.compile``; and whether each answers as
   ``ref`` does, within derived bounds: one that does not has no time;
4. the other models, likewise but for ``torch.compile``;
5. kernels by torch, eager and compiled;
6. transformers by onnxruntime's CUDA provider and by torch, eager;
7. the other models by all of these.

Each step runs in another process (``gpu_worker.py``), and its errors are noted in its line. When
the time is over, the rest of this list is dropped; dropped rows, and peers that are not installed,
are reported. Device times are by events: those of kernels are the device's alone, those of models,
ours and peers', include the host's where the device waits for it. Results go to the screen and to a
file in ``benchmarks/results`` at once, and a table is printed at the end, also if the run is ended
early.

With ``--fast-math`` models multiply f32 as tf32, ours and those of peers.

``--device interpreter --quick`` runs all of it at tiny sizes, on a machine without a GPU; its times
mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import TimeoutError as NotYet
from multiprocessing import get_context
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import Any

import numpy as np

import migx
from benchmarks import models
from benchmarks.gpu_peers import COMPILED, EAGER, ONNXRUNTIME
from benchmarks.gpu_steps import KERNELS, Limits
from benchmarks.gpu_table import Line, report, shown
from benchmarks.gpu_worker import Found, Worker
from migx.argument import Argument
from migx.errors import TargetError
from migx.target import CompileOptions, passes_for
from migx.targets.gpu import Gpu
from migx.targets.gpu.architectures import ARCHITECTURES
from migx.testing.bounds import compare
from migx.testing.oracles import Trial

BUDGET = 460.0
"""Seconds in all: no step begins after them."""
LAST = 15.0
"""Seconds of these that are kept for the report at the end."""
MADE = 90.0
"""Seconds after which a model that is not made is left out."""
CHECKED = 0.5
"""The share of the budget after which results of ``ref`` are no longer waited for."""
MODEL = 60.0
"""Seconds that we may take to compile and run one model."""
PEER = {ONNXRUNTIME: 30.0, EAGER: 40.0, COMPILED: 75.0}
"""Seconds that a peer may take for a kernel or a model."""
LEAST = {ONNXRUNTIME: 5.0, EAGER: 5.0, COMPILED: 20.0}
"""The least seconds left with which a peer is asked."""
TRANSFORMERS = (
    *("bert_base", "distilgpt2_kv", "llama_2048x4_kv", "vit_base_timm", "swin_tiny"),
    *("whisper_tiny_encoder", "llama_int4_qdq_b32", "llama_matmulnbits_b32"),
)
"""The models whose speed is held against torch.compile's, in the geometric mean."""
QUICK = ("qonnx_mnist_conv",)

Do = Callable[..., Found]


class Run:
    """The lines found so far, and the time that is left."""

    def __init__(
        self,
        do: Do,
        budget: float = BUDGET,
        tell: Callable[[Line], None] = print,
        *,
        fast_math: bool = False,
    ) -> None:
        self.do, self.budget, self.tell, self.fast_math = do, budget, tell, fast_math
        self.begin = time.monotonic()
        self.lines: dict[str, Line] = {}
        self.asked: set[tuple[str, str]] = set()
        self.limits = Limits()

    @property
    def taken(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begin

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.budget - LAST - self.taken

    def step(self, name: str, step: str, seconds: float, *given: Any, least: float = 1.0) -> Any:
        """Runs one step of ``Bench`` for a line, if there is the ``least`` time for it; returns its
        value.
        """
        line = self.lines.setdefault(name, Line(name))
        if self.left < least:
            line.say("dropped: the time is over")
            return None
        found = self.do(step, line, self.limits, min(seconds, self.left), *given)
        line.take(found.line)
        self.tell(line)
        return found.value

    def measure_limits(self) -> None:
        """Measures the limits of the device."""
        for name, field, scale in (
            ("copy on the device", "copy", 1e9),
            ("link to the device", "link", 1e9),
            ("gemm f16 by the library", "operations", 1e12),
        ):
            self.step(name, name.replace(" ", "_"), MODEL)
            if (amount := self.lines[name].amount) is not None:
                setattr(self.limits, field, amount * scale)

    def measure_kernels(self) -> None:
        """Measures kernels and swaps of weights, while nothing else runs on this machine."""
        for name in KERNELS:
            self.step(name, "kernel", MODEL)
        self.step("swap weights", "swap_weights", MODEL)

    def measure(self, names: Sequence[str]) -> None:
        """Measures everything, the most important first."""
        first, rest = ([n for n in names if (n in TRANSFORMERS) is of] for of in (True, False))
        self.measure_limits()
        self.measure_kernels()
        with answers_of_ref([*first, *rest], self.fast_math) as expected:
            for some, peers in ((first, (COMPILED,)), (rest, ())):
                results = {name: self.step(name, "model", MODEL, least=10) for name in some}
                self.measure_peers("model_by", some, peers)
                for name, found in results.items():
                    if found is not None:
                        self.check(name, found, expected[name])
        self.measure_peers("kernel_by", KERNELS, (EAGER, COMPILED))
        self.measure_peers("model_by", first, (ONNXRUNTIME, EAGER))
        self.measure_peers("model_by", rest, (ONNXRUNTIME, EAGER, COMPILED))

    def check(self, name: str, results: Sequence[Argument], expected: AsyncResult[Any]) -> None:
        """Compares the results of a model with those of ``ref``; a wrong one loses its time."""
        line = self.lines[name]
        try:
            wanted = expected.get(max(0.0, self.left - (1 - CHECKED) * self.budget))
        except NotYet:
            line.say("not checked: ref takes too long")
            return
        except Exception as error:  # noqa: BLE001  # what goes wrong there is said, and others go on
            line.say(f"not checked: {type(error).__name__} on ref")
            return
        if wrong := _difference(results, wanted):
            line.say(wrong)
            line.seconds = line.amount = line.floor = None
        else:
            line.say("right")

    def measure_peers(self, step: str, names: Sequence[str], peers: Sequence[str]) -> None:
        """Measures the same by peers; of models, those that have a time."""
        timed = [n for n in names if step != "model_by" or self.lines[n].seconds]
        for peer in peers:
            for name in timed:
                self.measure_peer(name, step, peer)

    def measure_peer(self, name: str, step: str, peer: str) -> None:
        """Measures one by a peer; what torch failed to run eagerly is not compiled either."""
        asked = peer == COMPILED and (name, EAGER) in self.asked
        if asked and EAGER not in self.lines[name].peers:
            return
        self.asked.add((name, peer))
        self.step(name, step, PEER[peer], peer, least=LEAST[peer])


def _difference(results: Sequence[Argument], wanted: Sequence[tuple[Argument, Any]]) -> str:
    """How results differ from those of ``ref`` by more than their bounds; empty if they do not."""
    try:
        for number, (got, (value, bound)) in enumerate(zip(results, wanted, strict=True)):
            found = compare(f"output {number}", got, value, bound, bound)
            if not found.passed:
                return f"wrong: {found.name}: {found.problem}".partition("\n")[0][:120]
    except Exception as error:  # noqa: BLE001  # results of another kind; and others go on
        return f"wrong: {type(error).__name__}: {error}".partition("\n")[0][:120]
    return ""


@contextmanager
def answers_of_ref(names: Sequence[str], fast_math: bool) -> Iterator[dict[str, AsyncResult[Any]]]:
    """The results of ``ref`` on models, computed meanwhile by processes on half of the processors,
    two each; those that take too long are ended.
    """
    many = max(1, min(len(names), (os.cpu_count() or 1) // 4))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")  # read by the processes when they begin
    with get_context("spawn").Pool(many, _stand_back) as pool:
        yield {name: pool.apply_async(on_ref, (name, fast_math)) for name in names}


def _stand_back() -> None:
    """Lowers the priority of this process below those that measure."""
    os.nice(10)


def on_ref(name: str, fast_math: bool) -> list[tuple[Argument, Any]]:
    """The results of ``ref`` on a model, with bounds."""
    target = Gpu("sm_90")
    passes = passes_for(target, asked=CompileOptions(fast_math=fast_math))
    program = migx.parse_onnx(models.make(name))
    arguments = {n: Argument.of(v) for n, v in models.inputs(name).items()}
    outputs = Trial(program, arguments).outputs(passes)
    return [
        (Argument(v.shape, np.array(v.array)) if v.shape.dtype.is_tensor else v, bound)
        for v, bound in outputs
    ]


def had_all(names: Sequence[str]) -> dict[str, Line]:
    """The lines of models, which are made in parallel; those that take too long are left out."""
    begin, found = time.monotonic(), {name: Line(name) for name in names}
    with get_context("spawn").Pool(max(1, min(len(names), os.cpu_count() or 1))) as pool:
        made = {name: pool.apply_async(had, (name,)) for name in names}
        for name, line in made.items():
            try:
                found[name] = line.get(max(0.0, begin + MADE - time.monotonic()))
            except NotYet:
                found[name].say(f"left out: not made in {MADE:g} s")
    return found


def had(name: str) -> Line:
    """The line of a model, which is made if missing; an error in that is noted."""
    line = Line(name)
    try:
        models.make(name)
    except Exception as error:  # noqa: BLE001  # whatever stands in the way of one, others go on
        line.fail(error)
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("gpu", "interpreter"), default="gpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs")
    parser.add_argument("--fast-math", action="store_true", help="multiply f32 as tf32")
    parser.add_argument("--models", nargs="*", help="only these")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    parser.add_argument("--to", type=Path, help="results go there")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    names = options.models if options.models is not None else models.names()
    if options.quick and options.models is None:
        names = QUICK
    try:
        worker = Worker(options.device, quick=options.quick, fast_math=options.fast_math)
    except TargetError as error:
        print(error, file=sys.stderr)
        return 2
    kind = worker.arch + "-fast-math" * options.fast_math
    to = options.to or _place(kind, options.quick)
    there = had_all(names)
    names = [name for name, line in there.items() if not line.notes]
    run = Run(worker.do, options.budget, fast_math=options.fast_math)
    run.begin, run.lines = begin, there

    def tell(line: Line) -> None:
        print("  ".join(filter(None, (*shown(line)[:4], *line.notes))), flush=True)
        _write(to, worker.arch, run)

    run.tell = tell
    try:
        with _ended_in_order():
            run.measure(names)
    finally:
        worker.close()
        _write(to, worker.arch, run)
        report(list(run.lines.values()), TRANSFORMERS)
        print(f"took {run.taken:.0f} s; figures are in {to}", flush=True)
    return 0


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Prints the table of the results so far also if this process is terminated."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(to: Path, arch: str, run: Run) -> None:
    """Writes the results so far."""
    to.parent.mkdir(parents=True, exist_ok=True)
    found = {"arch": arch, "seconds": run.taken, "lines": [asdict(v) for v in run.lines.values()]}
    to.write_text(json.dumps(found, indent=1))


def _place(kind: str, quick: bool) -> Path:
    """The file for results: of real GPUs, in the folder where they are kept."""
    if quick or not kind.startswith(tuple(ARCHITECTURES)):
        return Path(".bench/gpu.json")
    return Path(__file__).parent / "results" / f"gpu-{kind}.json"


if __name__ == "__main__":
    raise SystemExit(main())
