"""Attention of few queries to many keys, which several programs share: it takes two turns."""

from __future__ import annotations

import re

import numpy as np
import pytest

import migx
from migx.targets.gpu import tiles
from migx.targets.gpu.architectures import ARCHITECTURES
from migx.targets.gpu.cost_model import around
from migx.targets.gpu.operations import CodeObject
from migx.targets.gpu.runs.executable import GpuExecutable
from tests.targets.gpu.on_interpreter import gpu, holds
from tests.targets.gpu.test_attention import (
    AS_THEY_ARE,
    CHANGED,
    MASKED,
    NAN_OR_0,
    SINKS,
    ZERO,
    changed,
    expect_nan_and_0,
    in_groups,
    with_sink,
)


def of_sizes(text: str, **sizes: str) -> str:
    """A text with these sizes, and a batch of two, known."""
    for name, size in {"b": "2", **sizes}.items():
        text = re.sub(rf"\b{name}\b", size, text)
    turns = [op.turns for op in kernels(text) if op.kernel == "attention"]
    assert turns == [2]
    return text


def kernels(text: str) -> list[CodeObject]:
    """The kernels of a program."""
    made = migx.parse(text).compile(gpu()).compiled.executable
    assert isinstance(made, GpuExecutable)
    return [at.op for piece in made.pieces for at in piece if isinstance(at.op, CodeObject)]


@pytest.mark.parametrize("s", ["1", "3"])
@pytest.mark.parametrize("keys", ["t", "4500"])
def test_parts_are_combined(keys: str, s: str) -> None:
    """Also where there are too few keys for all parts, or none."""
    text = of_sizes(in_groups("b, 1, s, t"), s=s, t=keys)
    for t in (41, 1200, 0, 1) if keys == "t" else (4500,):
        holds(text, {"t": t})


@pytest.mark.parametrize("after", [AS_THEY_ARE, ZERO + "%11 = where(%6, %19, %10)"])
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_a_sink_counts_once(sink: tuple[str, str], after: str) -> None:
    text = of_sizes(with_sink(sink[0], after, sink[1]), s="1")
    for t in (1100, 5, 0):
        holds(text, {"t": t})


@pytest.mark.parametrize(("between", "after"), NAN_OR_0.values(), ids=NAN_OR_0)
def test_rows_that_are_nan_or_0(between: str, after: str) -> None:
    expect_nan_and_0(of_sizes(changed("b, 3, s, 1", after, between), s="1"), {"t": 700})


@pytest.mark.parametrize("after", CHANGED.values(), ids=CHANGED)
def test_rows_that_are_masked_whole_or_in_their_first_parts(after: str) -> None:
    met = np.random.default_rng(1).standard_normal((2, 3, 1, 900)).astype(np.float32)
    met[..., :800] = -1
    met[0, ..., 800:] = -3
    text = of_sizes(changed("b, 3, s, t", after, MASKED), s="1")
    expect_nan_and_0(text, {"t": 900}, n=met)


@pytest.mark.parametrize(("batch", "tile"), [(2, False), (48, True)])
def test_queries_that_share_keys_are_a_tile_where_units_have_enough(batch: int, tile: bool) -> None:
    """Which reads the keys once for all of them."""
    text = re.sub(r"\bb\b", str(batch), in_groups("b, 1, s, t").replace("f32", "f16"))
    text = re.sub(r"\bs\b", "2", text)
    (op,) = kernels(text)
    assert ("tl.dot" in op.source) is tile
    for t in (37, 300):
        holds(text, {"t": t})


def test_keys_are_shared_where_units_would_idle() -> None:
    gpu = ARCHITECTURES["sm_90"]
    with around(gpu.name):
        few, long, many = (
            tiles.query(keys, queries, 128, 128, 16)
            for keys, queries in ((128, 32), (4096, 32), (4096, 4096))
        )
    assert (few.parts, many.parts) == (1, 1)
    assert gpu.units <= 32 * long.parts <= 4 * gpu.units
