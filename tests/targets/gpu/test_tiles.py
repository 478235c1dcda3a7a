"""The model that chooses tiles, and the measuring that may overrule it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx.dim import Dim
from migx.errors import TargetError
from migx.targets.gpu import Gpu, tiles
from migx.targets.gpu.architectures import ARCHITECTURES, Architecture
from migx.targets.gpu.cost_model import LATENCY, MANY, Tile, around, choosing, chosen, many
from migx.targets.gpu.devices import cupy_device
from migx.targets.gpu.devices.interpreter import InterpreterDevice
from migx.targets.gpu.operations import CodeObject
from migx.targets.gpu.tuning import CANDIDATES, Tuner, candidates
from tests.targets.gpu.on_interpreter import DEVICE, inputs_for

DOT = "module main(x: f32[n, 96], y: f32[96, 80]) {\n %0 = dot(x, y)\n return %0\n}"
EVERY = list(ARCHITECTURES.values())


@pytest.mark.parametrize("gpu", EVERY, ids=lambda a: str(a.name))
@pytest.mark.parametrize("rank", range(CANDIDATES))
def test_a_tile_fits_the_gpu_it_is_for(gpu: Architecture, rank: int) -> None:
    with around(gpu.name), choosing(replace(chosen(), rank=rank)):
        for rows, columns, depth, bits in (
            (4096, 4096, 4096, 16),
            (1, 1, 1, 32),
            (37, 2000, 65, 32),
        ):
            tile = tiles.product(rows, columns, depth, 1, bits)
            ahead = tile.stages if gpu.backend == "cuda" else 1
            held = (tile.rows + tile.columns) * tile.depth * bits // 8 * ahead
            assert max(held, 4 * tile.rows * tile.columns) <= gpu.shared
            threads = tile.warps * gpu.warp
            assert threads <= 1024
            assert tile.rows * tile.columns <= 128 * threads
            assert all(_power(n) for n in (tile.rows, tile.columns, tile.depth, tile.warps))
            assert min(tile.rows, tile.columns) >= 16
        tile = tiles.attention(77, 1000, 12, 64, 64, 16)
        assert tile.rows * (tile.columns + 64) <= 128 * tile.warps * gpu.warp
        tile = tiles.row(4096, 4096, 1, 4)
        assert tile.columns * tile.depth <= 64 * tile.warps * gpu.warp
        tile = tiles.words(4096, 4096, 1, 32)
        assert tile.columns // 32 * tile.depth // 32 <= tile.warps * gpu.warp <= 512
        assert 4096 % tile.depth == 0
        for tile in (tiles.line(10, 8), tiles.fold(5, 7, 16384, 32, 1, along_rows=False)):
            assert _power(tile.columns)


def _power(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def test_large_products_have_large_tiles_and_small_ones_enough_programs() -> None:
    with around("sm_90"):
        large, small = (tiles.product(n, n, n, 1, 16) for n in (8192, 512))
        assert large.rows * large.columns >= 128 * 128
        assert -(-512 // small.rows) * -(-512 // small.columns) >= 64
        assert "programs" in large.why
        assert "limited by" in large.why


def test_a_row_is_cut_so_that_all_units_read_wide() -> None:
    with around("sm_90"):
        tile = tiles.row(4096, 4096, 1, 4)
        programs = 4096 // tile.columns
        at_once = programs * tile.columns * tile.depth / 2  # bytes that are asked for together
        assert at_once >= 0.5 * LATENCY * ARCHITECTURES["sm_90"].bandwidth
        assert 1000 % tiles.row(4096, 1000, 1, 16).depth != 0  # nothing divides it: least is lost
        assert tiles.row(4096, 1536, 1, 16).depth <= 512  # divides 1536


def test_one_column_is_read_once_by_many_programs() -> None:
    with around("sm_90"):
        tile = tiles.row(1, 1_000_000, 1, 32)
    assert (tile.columns, tile.parts) == (1, 16)
    assert tile.depth >= 2048


def test_short_rows_share_a_program_where_there_are_many() -> None:
    with around("sm_90"):
        assert tiles.fold(100_000, 10, 16384, 32, 1, along_rows=False).rows == 64
        assert tiles.fold(200, 10, 16384, 32, 1, along_rows=False).rows < 64
        assert tiles.fold(100, 4096, 16384, 32, 1, along_rows=False) == Tile(1, 4096, 1, 16)
        assert tiles.fold(1000, 4096, 16384, 32, 1, along_rows=False) == Tile(1, 4096, 1, 4)
        assert tiles.fold(100, 1 << 20, 16384, 32, 1, along_rows=True).rows == 128
        assert tiles.fold(1, 10**7, 16384, 32, 1, along_rows=False).parts >= 128
        assert tiles.fold(1, 20_000, 16384, 32, 1, along_rows=False).parts == 1
        assert tiles.fold(1000, 10**7, 16384, 32, 1, along_rows=False).parts == 1


def test_rows_side_by_side_are_read_a_memory_transaction_at_a_time() -> None:
    with around("sm_90"):
        for length in (2, 30, 100, 512, 1000, 1024):
            assert tiles.fold(10_000, length, 1024, 16, 1, along_rows=True).rows >= 16
        assert tiles.fold(4096, 8192, 1024, 32, 1, along_rows=True).rows >= 16


def test_attention_with_a_bias_takes_fewer_scores_at_a_time() -> None:
    """A bias of f32 takes as many registers as a sum of scores."""
    with around("sm_80"):
        plain, biased = (
            tiles.attention(500, 500, 64, 32, 32, 32, beside=beside) for beside in (0, 32)
        )
    assert biased.rows * biased.columns < plain.rows * plain.columns


def test_of_very_many_operands_a_thread_takes_few_elements() -> None:
    """All are loaded early: 100 operands of 16 elements each would not fit in its registers."""
    with around("sm_90"):
        for operands in (1, 8, 100, 1000):
            each = max(1, 256 // operands)
            fold = tiles.fold(10_000, 16, 16384, 32 * operands, 1, along_rows=False)
            assert fold.rows * fold.columns <= each * fold.warps * 32
            line = tiles.line(10**6, 32, 32 * operands)
            assert line.columns <= each * line.warps * 32
        assert tiles.line(10**6, 32, 8 * 32) == tiles.line(10**6, 32)


def test_sizes_that_are_not_known_count_as_many_but_no_more_than_they_may_be() -> None:
    some = Dim("n", 1, 12)
    assert many(some) == 12
    assert many(Dim("m")) == MANY


class Clock(InterpreterDevice):
    """A device on which a kernel takes as long as a test says; it counts what it measures."""

    def __init__(self, seconds: Callable[[str], float]) -> None:
        super().__init__()
        self.seconds, self.measured, self.last = seconds, 0, ""

    def launch(self, function: Any, grid: int, arguments: Any) -> None:
        self.last = function[2]
        super().launch(function, grid, arguments)

    def elapsed(self, enqueue: Callable[[], None], host: float = 0.0) -> float:
        self.measured += 1
        return self.seconds(self.last)


@pytest.fixture
def _kept_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("_kept_apart")
@pytest.mark.parametrize("wanted", [0, 2, -1])
def test_the_fastest_is_picked_kept_and_found_again(
    wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (at,) = migx.parse(DOT).main.outputs
    every = candidates(at)
    assert len({k.op.source for k in every}) > 2
    fast = every[wanted].op.source
    clock = Clock(lambda source: 1.0 if source == fast else 2.0)
    monkeypatch.setattr(cupy_device, "found", lambda: (clock, ""))
    program = migx.parse(DOT)
    made = program.compile(Gpu(device=clock, tune=True)).compiled
    (kernel,) = (i.op for i in made.program.main if isinstance(i.op, CodeObject))
    assert kernel.source == fast
    assert clock.measured > 2
    given = inputs_for(program, {"n": 5}, {})
    (found,) = program.eval(given)
    (expected,) = migx.parse(DOT).compile("ref").eval(given)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    again = Clock(lambda source: 3.0)  # a later process
    chosen = Tuner(again).kernel(at)
    assert chosen is not None
    assert (chosen.op.source, again.measured) == (fast, 0)


def test_what_is_measured_suits_all_architectures() -> None:
    (at,) = migx.parse(DOT).main.outputs
    for other, rounds in (("sm_80", True), ("gfx90a", False)):
        with around("sm_90", other, fast_math=True):
            assert all(("tf32" in kernel.op.source) == rounds for kernel in candidates(at))


@pytest.mark.usefixtures("_kept_apart")
def test_a_tile_that_the_device_refuses_is_passed_over() -> None:
    (at,) = migx.parse(DOT).main.outputs
    first, *_ = candidates(at)

    class Narrow(Clock):
        least = False

        def launch(self, function: Any, grid: int, arguments: Any) -> None:
            if function[2] == first.op.source or self.least:
                raise TargetError("out of resources")
            super().launch(function, grid, arguments)

    device = Narrow(lambda source: 1.0)
    chosen = Tuner(device).kernel(at)
    assert chosen is not None
    assert chosen.op.source != first.op.source
    device.least = True
    (other,) = migx.parse(DOT.replace("96", "64")).main.outputs
    with pytest.raises(TargetError, match="out of resources"):
        Tuner(device).kernel(other)


def test_without_a_device_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_device, "found", lambda: (None, "there is no GPU"))
    with pytest.raises(TargetError, match="there is no GPU. tune measures kernels on a device"):
        migx.parse(DOT).compile(Gpu("sm_90", tune=True))


def test_the_pass_says_what_its_tiles_are_for() -> None:
    target = Gpu(("sm_80", "gfx942"), device=DEVICE, tune=True)
    said = str(target.get_passes(target.get_context(), migx.target.CompileOptions()))
    assert said.endswith("gpu::lower{arch=(sm_80,gfx942),tune=true}")


def test_one_text_fits_all_it_is_compiled_for() -> None:
    with around("sm_90"):
        alone = tiles.product(128, 65_536, 1152, 1, 16)
    with around("sm_90", "gfx942"):
        both = tiles.product(128, 65_536, 1152, 1, 16)
    least = ARCHITECTURES["gfx942"].shared
    assert 4 * both.rows * both.columns <= least < 4 * alone.rows * alone.columns
