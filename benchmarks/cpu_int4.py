"""Products with weights of four bits or eight on the ``cpu`` target against onnxruntime's
MatMulNBits, exact and with activations in 8 bits: run as ``python -m benchmarks.cpu_int4
[--threads N] [--rounds N] [NAME ...]``.

Ours is the kernel alone, run by the pool; the peer's is a session of the one product, bound to its
buffers, at accuracy level 0 beside our exact kernel and at 4 beside that of bytes. Samples are
taken in turn. Weights are read from memory or the last cache, as they are in a model; GB/s are
those of the levels and scales.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.alone import AT_LEAST, ours, peer
from benchmarks.measure import Result, seconds
from migx.cli.perf import PAUSE

Array = NDArray[Any]
BAR = "one row in blocks of 32 at least 1.3 times as fast as the peer, exact or not"
THREADS = (1, 2)
LEVELS = {"float": 0, "int8": 4}
"""The peer's accuracy level by the type of our activations."""


@dataclass(frozen=True)
class Case:
    """A product [m, k] x [k, n] of weights in blocks, with zero points or about the middle."""

    m: int
    k: int
    n: int
    block: int = 32
    zero: bool = False
    bits: int = 4

    @property
    def name(self) -> str:
        kind = f"{' zero' if self.zero else ''}{'' if self.bits == 4 else ' bytes'}"
        return f"{self.m}x{self.k}x{self.n} by {self.block}{kind}"

    @property
    def nbytes(self) -> float:
        """The bytes of weights that are read: levels and scales."""
        return self.k * self.n * (self.bits / 8 + 4 / self.block)


CASES = (
    Case(1, 4096, 4096),
    Case(1, 4096, 4096, 128),
    Case(1, 4096, 4096, zero=True),
    Case(1, 2048, 2048),
    Case(1, 2048, 5632),
    Case(1, 5632, 2048),
    Case(1, 4096, 11008),
    Case(4, 4096, 4096),
    Case(32, 4096, 4096),
    Case(128, 4096, 4096),
    Case(32, 4096, 4096, 128),
    Case(1, 4096, 4096, bits=8),
    Case(1, 2048, 2048, bits=8),
    Case(32, 4096, 4096, bits=8),
)


def model(case: Case, level: int) -> onnx.ModelProto:
    """The case as an ONNX model with random weights."""
    dice = np.random.default_rng(0)
    blocks, per = case.k // case.block, 8 // case.bits
    held: dict[str, Array] = {
        "w": dice.integers(0, 256, (case.n, blocks, case.block // per)).astype(np.uint8),
        "s": dice.uniform(0.01, 0.02, (case.n, blocks)).astype(np.float32),
    }
    if case.zero:
        held["z"] = dice.integers(0, 256, (case.n, -(-blocks // per))).astype(np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", *held], ["y"], domain="com.microsoft",
        K=case.k, N=case.n, bits=case.bits, block_size=case.block, accuracy_level=level,
    )  # fmt: skip
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [case.m, case.k])]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [case.m, case.n])]
    weights = [numpy_helper.from_array(v, name) for name, v in held.items()]
    graph = helper.make_graph([node], "product", given, result, weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def samples(
    case: Case, activations: str, threads: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of ours and of the peer, in turn; their results must agree."""
    x = np.random.default_rng(1).standard_normal([case.m, case.k]).astype(np.float32)
    rounding = ",quantize_activations" if activations == "int8" else ""
    passes = f"optimize_module,fuse_int4{rounding}"
    mine, result = ours(model(case, 0), {"x": x}, threads, passes)
    theirs, expected = peer(model(case, LEVELS[activations]), {"x": x}, threads)
    mine()
    theirs()
    # Either rounds activations by a hundredth at most, in a sum of k levels, which is then scaled.
    step = np.abs(x).max() / 127 if activations == "int8" else 1e-6
    allowed = 8 * step * 0.02 * 2 ** (case.bits - 1) * np.sqrt(case.k)
    np.testing.assert_allclose(result, expected(), rtol=1e-4, atol=float(allowed))
    repeat = max(1, round(AT_LEAST / min(seconds(mine) for _ in range(3))))
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, into in ((mine, found[0]), (theirs, found[1])):
            if threads > 1:
                time.sleep(PAUSE)
            call()
            into.append(seconds(call, repeat))
    return found


def results(quick: bool = False) -> Iterator[Result]:
    """The samples of the products of 4096 x 4096, of 1 row and of 32."""
    for case in CASES:
        if (case.k, case.n) == (4096, 4096) and case.m in (1, 32):
            for activations, level in LEVELS.items():
                for threads in THREADS:
                    mine, theirs = samples(case, activations, threads, 9 if quick else 41)
                    name = f"int{case.bits} {case.name}, {activations}, {threads} threads"
                    against = f"onnxruntime at {level}"
                    yield Result(name, case.m, "s", tuple(mine), tuple(theirs), against)


def measured(case: Case, activations: str, threads: int, rounds: int) -> str:
    """The line of a case."""
    mine, theirs = samples(case, activations, threads, rounds)
    a, b = statistics.median(mine), statistics.median(theirs)
    return (
        f"{case.name:24} {activations:6} {a * 1e6:9.1f} {b * 1e6:9.1f} {b / a:6.2f} "
        f"{min(mine) * 1e6:9.1f} {min(theirs) * 1e6:9.1f} {min(theirs) / min(mine):6.2f} "
        f"{case.nbytes / min(mine) / 1e9:6.1f}"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="cases, by what their names contain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    print(f"{given.threads} threads; us: medians of ours, the peer's, ratio; the best; GB/s")
    for case in CASES:
        if not given.names or any(name in case.name for name in given.names):
            for activations in LEVELS:
                print(measured(case, activations, given.threads, given.rounds), flush=True)


if __name__ == "__main__":
    main()
