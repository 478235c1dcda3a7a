"""What counts as work that is left."""

from __future__ import annotations

import migx
from benchmarks import left

PROGRAM = """\
module main(x: f32[2, 2], c: bool[]) {
  %0 = @literal() {value=[1.0]} : f32[]
  %1 = multibroadcast(%0) {out_lens=(2, 2)} : f32[2, 2]
  %2 = pointwise(x, %1) [arithmetic] : f32[2, 2]
  %3 = transpose(%2) {permutation=(1, 0)} : f32[2, 2]
  %4 = group(%3) {tag="TAG"} [inner] : f32[2, 2]
  %5 = if(c) [yes, no] : tuple(f32[2, 2])
  %6 = get_tuple_elem(%5) : f32[2, 2]
  return %4, %6
}

module arithmetic(x0: f32[2, 2], x1: f32[2, 2]) bypass {
  %0 = add(x0, x1) : f32[2, 2]
  %1 = relu(%0) : f32[2, 2]
  return %1
}

module inner(x0: f32[2, 2]) bypass {
  %0 = dot(x0, x0) : f32[2, 2]
  %1 = softmax(%0) {axis=1} : f32[2, 2]
  %2 = dot(%1, x0) : f32[2, 2]
  return %2
}

module yes() {
  %0 = neg(main:x) : f32[2, 2]
  return %0
}

module no() {
  return main:x
}
"""


def test_views_and_constants_are_no_work_and_a_group_of_two_products_is_what_it_holds() -> None:
    # pointwise, the choice and the neg in it; then the group as one, or as two dots and a softmax.
    assert left.count(migx.parse(PROGRAM.replace("TAG", "attention"))) == 3 + 1
    assert left.count(migx.parse(PROGRAM.replace("TAG", "gemm_epilogue"))) == 3 + 3
