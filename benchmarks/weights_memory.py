"""What the weights of a program take in memory, in a process of its own:
``python -m benchmarks.weights_memory variants MODEL.onnx`` or ``... loaded FILE.mxr``.

*variants* bakes one folder into four programs, compiled for four batches from one template.
*loaded* loads a compiled file; it prints a line when all weights are in memory, and goes on when it
is given one. Prints the bytes that the weights added to what the process is charged for (``Pss``),
and those they should take. Linux only.
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

PASSES = "optimize_module,fuse_attention,hoist_weights,fuse_pointwise_reduce"
BATCHES = (1, 2, 4, 8)
PAGE = 4096


def charged() -> int:
    """The bytes of memory this process is charged for: what it shares counts in part."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/smaps_rollup has no line Pss")


def touch(values: Iterable[Argument]) -> None:
    """Brings values into memory, as a run would."""
    for value in values:
        flat = value.array.reshape(-1).view(np.uint8)
        np.bitwise_or.reduce(flat[::PAGE])


def variants(path: Path) -> tuple[int, int]:
    """Four programs with the weights of one folder."""
    template = migx.parse_onnx(path, defer_external_weights=True)
    symbol = next(iter(template.symbols()))
    programs = [bound(template, {symbol: n}).compile("ref", passes=PASSES) for n in BATCHES]
    before = charged()
    baked = [replace_onnx_external_weights(p, path.parent, "ref").finalize("ref") for p in programs]
    epochs = [program.compiled.weights.current for program in baked]
    for epoch in epochs:
        touch(epoch.slots.values())
    return charged() - before, sum(v.nbytes for v in epochs[0].weights.values())


def loaded(path: Path) -> tuple[int, int]:
    """One program of a file that another process has loaded, too."""
    program = migx.load(path)
    before = charged()
    epoch = program.compiled.weights.current
    touch(epoch.slots.values())
    print("touched", flush=True)
    sys.stdin.readline()
    return charged() - before, sum(v.nbytes for v in epoch.weights.values())


if __name__ == "__main__":
    measure = {"variants": variants, "loaded": loaded}[sys.argv[1]]
    print(*measure(Path(sys.argv[2])), flush=True)
    sys.stdin.readline()
