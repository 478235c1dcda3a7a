"""What the weights of a program take in memory, in a process of its own:
``python -m benchmarks.weights_memory variants MODEL.onnx`` or ``... loaded FILE.mxr``.

*variants* bakes one folder into four programs, compiled for four batches from one template.
*loaded* loads a compiled file. It prints a line when the weights are in memory; given one, it
prints the bytes of memory that they added, and those they should take; given another, it ends.
Linux only.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import migx
from migx.argument import Argument
from migx.onnx import replace_onnx_external_weights
from migx.specialise import bound
from migx.weights.epochs import Epoch

PASSES = "optimize_module,fuse_attention,hoist_weights,fuse_pointwise_reduce"
BATCHES = (1, 2, 4, 8)
PAGE = 4096


def resident(field: str) -> int:
    """The bytes of memory of this process: ``Rss``, all, or ``Pss``, with shared pages in
    proportion.
    """
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def touch(values: Iterable[Argument]) -> None:
    """Brings values into memory, as a run would."""
    for value in values:
        flat = value.array.reshape(-1).view(np.uint8)
        np.bitwise_or.reduce(flat[::PAGE])


def variants(path: Path) -> tuple[int, list[Epoch]]:
    """The bytes resident before the weights, and the weights of four programs, from one folder."""
    template = migx.parse_onnx(path, defer_external_weights=True)
    symbol = next(iter(template.symbols()))
    programs = [bound(template, {symbol: n}).compile("ref", passes=PASSES) for n in BATCHES]
    before = resident("Rss")
    baked = [replace_onnx_external_weights(p, path.parent, "ref") for p in programs]
    return before, [program.finalize("ref").compiled.weights.current for program in baked]


def loaded(path: Path) -> tuple[int, list[Epoch]]:
    """The bytes resident before the weights, and those of a file that another process loads, too:
    pages shared by both count half in each.
    """
    program = migx.load(path)
    epoch = program.compiled.weights.current
    for value in epoch.slots.values():
        value.give_back()
    return resident("Pss"), [epoch]


def main(case: str, path: str) -> None:
    """Measures one case."""
    measure, field = {"variants": (variants, "Rss"), "loaded": (loaded, "Pss")}[case]
    before, epochs = measure(Path(path))
    for epoch in epochs:
        touch(epoch.slots.values())
    print("in memory", flush=True)
    sys.stdin.readline()
    due = sum(value.nbytes for value in epochs[0].weights.values())
    print(resident(field) - before, due, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
