"""eliminate_convert: every value of every small type, through every type that a rule leaves out."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.op import Array
from migx.ops.pointwise import Convert
from migx.passes.eliminate_convert import holds
from migx.program import Program
from migx.shape import F8E8M0, DType, Shape

TYPES = [t for t in DType.known.values() if t.kind in ("bool", "int", "uint", "float")]
TYPES = [t for t in TYPES if not t.is_packed]
SMALL = [t for t in TYPES if t.bits <= 16 and t is not F8E8M0]


def every_value(dtype: DType) -> Array:
    """All values of a type of at most 16 bits."""
    if dtype.kind == "bool":
        return np.array([False, True])
    codes = np.arange(2**dtype.bits, dtype=np.uint8 if dtype.bits == 8 else np.uint16)
    return codes.view(dtype.numpy)


def converted(x: Array, *types: DType) -> Array:
    for dtype in types:
        x = Convert(dtype, saturate=False).compute(x)
    return x


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("given", SMALL, ids=str)
def test_what_is_left_out_loses_nothing(given: DType) -> None:
    values = every_value(given)
    for between in TYPES:
        if between is given or not holds(between, given):
            continue
        back = converted(values, between, given)
        nan = np.isnan(values.astype(np.float64))
        assert (back[~nan].view(np.uint8) == values[~nan].view(np.uint8)).all(), between
        assert np.isnan(back[nan].astype(np.float64)).all(), between


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("given", SMALL, ids=str)
def test_one_convert_gives_what_two_gave(given: DType) -> None:
    # Out of the range of integers the result is the machine's: finite small values only.
    values = every_value(given)
    wide = values.astype(np.float64)
    values = values[np.isfinite(wide) & (np.abs(wide) < 100)]
    for between in TYPES:
        for to in TYPES:
            program = Program()
            x = program.main.add_parameter("x", Shape(given, (len(values),)))
            once = program.main.add_instruction(Convert(between, saturate=False), x)
            twice = program.main.add_instruction(Convert(to, saturate=False), once)
            program.main.add_return(twice)
            if given is to or not migx.run_passes(program, "eliminate_convert"):
                continue
            types = [i.op.to for i in program.main if isinstance(i.op, Convert)]
            old, new = converted(values, between, to), converted(values, *types)
            assert old.tobytes() == new.tobytes(), (between, to, types)


def test_an_infinity_that_f8_would_make_its_largest_number_is_not_left_out() -> None:
    program = migx.parse(
        """module main(x: f8e5m2[1]) {
  %0 = convert(x) {to=f16}
  %1 = convert(%0) {to=f8e5m2}
  return %1
}
"""
    )
    assert not migx.run_passes(program, "eliminate_convert")
