"""Products of bytes, by scales that runs have shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import migx
from migx import ops
from migx.calibration import calibrate
from migx.errors import InputError, WeightError
from migx.program import Program
from migx.shape import Shape
from migx.weights.live import leave_out
from tests.passes.test_int4_making import floats, network

SAMPLES = [{"x": floats(n, 3, 4, 4)} for n in (1, 2, 7)]
INPUT = {"x": floats(5, 3, 4, 4)}


def calibrated(program: Program, samples: Any = SAMPLES, target: str = "cpu") -> Program:
    migx.run_passes(program, "quantize_int8")
    assert calibrate(program, samples, target=target) == 3
    return program


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_all_products_are_of_bytes_and_results_move_by_the_levels(target: str) -> None:
    """A value of variance 1, to 255 levels over a range of some 6, moves by 0.007 in the root mean
    square, and its weights by 0.0055: three in a row that makes 0.015 of the result.
    """
    (wanted,) = network().compile("ref", passes="").eval(INPUT)
    program = calibrated(network(), target=target)
    names = [at.name for at in program.main]
    assert (names.count("quantizelinear"), names.count("dequantizelinear")) == (6, 6)
    (got,) = program.compile(target).eval(INPUT)
    error = np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2))
    assert 0.015 / 2 < error < 0.015 * 2
    if target == "cpu":
        made = program.compiled.program.modules.values()
        assert not {at.name for m in made for at in m} & {"dot", "convolution"}


def test_levels_reach_over_zero_and_all_that_was_seen() -> None:
    for low, high, zero in [(0.0, 5.1, 0), (1.0, 5.1, 0), (-5.1, -1.0, 255), (-1.0, 4.1, 50)]:
        program = one_product()
        x = np.array([[low, high, low, high]], np.float32)
        calibrate(program, [{"x": x}], target="ref")
        (levels,) = [
            at
            for at in program.main
            if at.name == "quantizelinear" and at.inputs[0].name == "@param"
        ]
        scale, *given = [v.op.value.array.item() for v in levels.inputs[1:]]  # type: ignore[attr-defined]
        assert scale == pytest.approx((max(high, 0) - min(low, 0)) / 255)
        assert given == ([zero] if zero else [])


def test_a_value_that_is_always_zero_stays_so() -> None:
    program = one_product()
    calibrate(program, [{"x": np.zeros((1, 4), np.float32)}], target="ref")
    (y,) = program.compile("ref").eval({"x": np.zeros((1, 4), np.float32)})
    assert not y.any()


def one_product() -> Program:
    program = Program()
    x = program.main.add_parameter("x", Shape("f32", (1, 4)))
    w = program.main.add_literal(floats(4, 8), name="w")
    program.main.add_return(program.main.add_instruction(ops.Dot(), x, w))
    migx.run_passes(program, "quantize_int8")
    return program


def test_weights_of_a_calibrated_program_are_swapped() -> None:
    live, baked = calibrated(network(replaceable=True)), calibrated(network())
    live.compile("cpu")
    assert np.array_equal(live.eval(INPUT)[0], baked.compile("cpu").eval(INPUT)[0])
    with live.update_weights() as new:
        new["second"] = np.zeros((48, 32), np.float32)
    assert not live.eval(INPUT)[0].any()


@pytest.mark.parametrize("left_out", [False, True])
def test_scales_are_those_of_the_weights_there_are_now(left_out: bool) -> None:
    """Also of a model whose weights came by an update alone."""
    new = {"first": floats(64, 48)[::-1] * 100}
    live, baked = network(replaceable=True, file="weights.bin"), network()
    if left_out:
        leave_out(live)
    migx.run_passes(live, "quantize_int8")
    live.compile("cpu")
    with live.update_weights() as update:
        update.update({"kernel": floats(4, 3, 3, 3), "second": floats(48, 32)} | new)
    assert calibrate(live, SAMPLES) == 3
    (old,) = [at for at in baked.literals if getattr(at.op, "label", "") == "first"]
    baked.main.replace_instruction(old, baked.main.add_literal(new["first"], before=old))
    calibrated(baked)
    for program in (live, baked):
        program.compile("cpu")
    assert np.array_equal(live.eval(INPUT)[0], baked.eval(INPUT)[0])


def test_what_cannot_be_calibrated_is_refused() -> None:
    program = network()
    with pytest.raises(WeightError, match="; there are 3 by weights of floats"):
        calibrate(program, SAMPLES)
    migx.run_passes(program, "quantize_int8")
    before = program.copy()
    with pytest.raises(InputError, match="there are no inputs to calibrate with"):
        calibrate(program, [])
    bad = [*SAMPLES, {"x": np.full((1, 3, 4, 4), np.nan, np.float32)}]
    with pytest.raises(InputError, match="inputs number 4, a value ranges from nan to nan"):
        calibrate(program, bad)
    assert program == before
    calibrate(program, SAMPLES)
    with pytest.raises(WeightError, match="multiplies floats by weights of bytes"):
        calibrate(program, SAMPLES)
