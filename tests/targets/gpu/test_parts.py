"""Products whose depth is cut into parts: two turns, right whatever the sizes, always the same."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.targets.gpu import tiles
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.kernels import kernel_for
from migx.targets.gpu.operations import CodeObject
from tests.targets.gpu.on_interpreter import gpu, holds


def dot(dims: str, weights: str, dtype: str, result: str) -> str:
    return f"""module main(x: {dtype}[{dims}], w: {dtype}[{weights}], b: {dtype}[{result}]) {{
  %0 = dot(x, w)
  %1 = add(%0, b)
  %2 = relu(%1)
  return %2
}}"""


def convolution(dims: str, weights: str, dtype: str, result: str, group: int = 1) -> str:
    how = f"{{padding=(1, 1, 1, 1), stride=(1, 1), dilation=(1, 1), group={group}}}"
    return f"""module main(x: {dtype}[{dims}], w: {dtype}[{weights}], b: {dtype}[{result}]) {{
  %0 = convolution(x, w) {how}
  %1 = add(%0, b)
  return %1
}}"""


INT4 = """module main(x: f16[1, 8192], w: u4[8192, 24], s: f16[256, 24]) {
  %0 = unpack_int4(w)
  %1 = dequantizelinear(%0, s) {axis=0, block=32}
  %2 = dot(x, %1)
  return %2
}"""
ALONG_DEPTH = """module main(x: f16[1, 32768], w: u4[40, 32768], s: f16[40, 1024]) {
  %0 = unpack_int4(w)
  %1 = dequantizelinear(%0, s) {axis=1, block=32}
  %2 = transpose(%1) {permutation=(1, 0)}
  %3 = dot(x, %2)
  return %3
}"""
CASES = {
    "tiles": dot("17, 1024", "1024, 24", "f16", "17, 24"),
    "one row": dot("1, 4096", "4096, 40", "f16", "1, 40"),
    "a few rows, a depth that nothing divides": dot("3, 2050", "2050, 33", "bf16", "3, 33"),
    "a column": dot("1, 20001", "20001, 1", "f32", "1, 1"),
    "items": dot("2, 5, 1000", "2, 1000, 9", "f32", "2, 5, 9"),
    "wide": dot("5, 500", "500, 9", "f64", "5, 9"),
    "integers": dot("5, 500", "500, 9", "i32", "5, 9"),
    "pixels": convolution("1, 100, 3, 5", "19, 100, 3, 3", "f32", "1, 19, 3, 5"),
    "groups": convolution("1, 256, 3, 3", "32, 128, 3, 3", "f16", "1, 32, 3, 3", 2),
    "int4": INT4,
    "int4 along the depth": ALONG_DEPTH,
}


def kernel_of(text: str) -> CodeObject:
    program = migx.parse(text)
    migx.run_passes(program, "fuse_int4,fuse_pointwise_reduce,fuse_epilogue")
    (at,) = program.main.outputs
    kernel = kernel_for(at)
    assert kernel is not None
    return kernel.op


@pytest.mark.parametrize("case", CASES)
def test_sums_of_parts_are_right(case: str) -> None:
    kernel = kernel_of(CASES[case])
    assert kernel.turns == 2
    assert kernel.scratch == 1
    holds(CASES[case])


@pytest.mark.parametrize("parts", [2, 3, 7, 12])
def test_any_number_of_parts_shares_the_sums(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = Tile(16, 32, 32, 4, 2, parts)
    monkeypatch.setattr(tiles, "product", lambda *args, **more: tile)
    every = (CASES["tiles"], CASES["pixels"].replace("100", "50"))
    for text in every:
        assert f"elif v2 < {1 << parts.bit_length() - 1}:" in kernel_of(text).source or parts == 2
        holds(text)


def test_sizes_of_a_run_share_the_kernel() -> None:
    text = dot("n, 3072", "3072, 16", "f16", "n, 16")
    assert kernel_of(text).turns == 0  # sums might take any amount of memory
    few = f"dim n = 5..64\n{text}"
    assert kernel_of(few).turns == 2
    holds(few, {"n": 37})


def test_parts_are_for_few_tiles() -> None:
    assert tiles.product(4096, 4096, 4096, 1, 16).parts == 1
    assert tiles.product(128, 768, 64, 1, 16).parts == 1
    assert tiles.product(64, 512, 8192, 1, 16).parts > 1
    assert tiles.row(32_000, 4096, 1, 16).parts == 1
    cut = tiles.row(256, 8192, 1, 16)
    assert cut.parts > 1
    assert cut.why.endswith(f"after which {cut.parts} parts are added up")


def test_no_part_is_empty() -> None:
    for depth in (96, 384, 768, 1000, 3072):
        tile = tiles.product(128, 768, depth, 1, 32)
        steps = -(-depth // tile.depth)
        each = -(-steps // tile.parts)
        assert (tile.parts - 1) * each < steps


def test_the_bits_are_those_of_the_parts_in_their_order() -> None:
    dice = np.random.default_rng(0)
    x, w = (dice.standard_normal(d).astype(np.float32) for d in ((1, 4096), (4096, 16)))
    text = "module main(x: f32[1, 4096], w: f32[4096, 16]) {\n %0 = dot(x, w)\n return %0\n}"
    program = migx.parse(text).compile(gpu())
    first = program.eval({"x": x, "w": w})[0]
    assert kernel_of(text).turns == 2
    for _ in range(3):
        np.testing.assert_array_equal(program.eval({"x": x, "w": w})[0], first)
