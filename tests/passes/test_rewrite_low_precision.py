"""What a square that is divided first gives where it would have overflowed."""

from __future__ import annotations

import numpy as np

import migx

TEXT = """
module main(x: f16[n]) {
  %0 = mul(x, x)
  %1 = @literal() {value=[9.0]} : f16[]
  %2 = multibroadcast(%1) {out_lens=(n,)}
  %3 = div(%0, %2)
  return %3
}
"""


def test_squares_beyond_the_range_are_found_where_their_quotients_are_not() -> None:
    given = np.array([451.5, -653.0, 3.0, 0.125, np.inf, np.nan], np.float16)
    program = migx.parse(TEXT)
    program.compile("ref")
    (before,) = program.eval({"x": given})
    assert np.isinf(before[:2]).all()
    assert migx.run_passes(program, "rewrite_low_precision")
    program.compile("ref")
    (found,) = program.eval({"x": given})
    wanted = given.astype(np.float64) ** 2 / 9
    # Two roundings, of the quotient twice and the square once, each 2**-11.
    assert np.allclose(found, wanted, rtol=3 * 2.0**-11, equal_nan=True)
