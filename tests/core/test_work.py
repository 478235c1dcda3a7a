"""What instructions have to do is known from their shapes, and fusing saves bytes alone."""

from __future__ import annotations

import pytest

import migx
from migx import Dim, dim
from migx.profile import total, work

N = Dim("n")


def of(line: str, parameters: str = "x: f32[n, 6], w: f32[6, 4], i: i64[3]") -> tuple[object, ...]:
    """The work of one instruction."""
    program = migx.parse(f"module main({parameters}) {{ %0 = {line} return %0 }}")
    return work(program.main.outputs[0])


@pytest.mark.parametrize(
    ("line", "flops", "nbytes"),
    [
        ("dot(x, w)", 2 * N * 4 * 6, 24 * N + 96 + 16 * N),
        ("mul(x, x)", 6 * N, 48 * N),
        ("reduce_sum(x) {axes=(1,)}", 6 * N, 28 * N),
        ("transpose(x) {permutation=(1, 0)}", 0, 0),
        ("gather(x, i) {axis=0}", 18, dim.minimum(24 * N, 72) + 24 + 72),
        ("topk(x) {k=2, axis=1}", 4 * N, 24 * N + 8 * N + 16 * N),
    ],
)
def test_work_is_known_with_symbols(line: str, flops: object, nbytes: object) -> None:
    assert of(line) == (flops, nbytes)


def test_windows_and_layers() -> None:
    images = "x: f32[2, 4, 8, 8], w: f32[6, 2, 3, 3]"
    assert of("convolution(x, w) {group=2}", images)[0] == 2 * (2 * 6 * 6 * 6) * 2 * 9
    back = "x: f32[2, 6, 8, 8], w: f32[6, 2, 3, 3]"
    assert of("convolution_backwards(x, w)", back)[0] == 2 * (2 * 6 * 8 * 8) * 2 * 9
    pooled = 'pooling(x) {mode="max", lengths=(2, 2)}'
    assert of(pooled, images)[0] == 2 * 4 * 7 * 7 * 4
    layer = "x: f32[5, 2, 3], w: f32[1, 16, 3], r: f32[1, 16, 4]"
    assert of("lstm(x, w, r) {hidden_size=4}", layer)[0] == 2 * 5 * 2 * (16 * 3 + 16 * 4)


def test_what_is_fused_does_as_much_and_moves_less() -> None:
    text = """module main(x: f32[n, 6], y: f32[6], c: bool[]) {
  %0 = broadcast(y) {axis=1, out_lens=(n, 6)}
  %1 = add(x, %0)
  %2 = tanh(%1)
  %3 = if(c) [one, two]
  %4 = get_tuple_elem(%3) {index=0}
  return %2, %4
}
module one() { %0 = exp(main:x) return %0 }
module two() { %0 = neg(main:x) return %0 }
"""
    program = migx.parse(text)
    fused = program.copy()
    assert migx.run_passes(fused, "fuse_pointwise")
    assert total(program).flops == total(fused).flops == 6 * N * (2 + 2)
    assert total(program).nbytes == (24 * N + 24 + 24 * N) + 48 * N + 2 * 48 * N
    assert total(fused).nbytes == (24 * N + 24 + 24 * N) + 2 * 48 * N
