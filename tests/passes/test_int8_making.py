"""What quantize_int8 makes of weights, how far they move, and that no pass undoes it."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import ShapeError
from migx.program import Program
from tests.passes.test_int4_making import WEIGHTS, floats, held, network, settled

COLUMNS = 4 + 48 + 32


def made(options: str = "") -> Program:
    """The network with weights of bytes."""
    return settled(network(), f"quantize_int8{options},propagate_constant")


@pytest.mark.parametrize("clip", ["minmax", "mse"])
def test_what_is_left_is_bytes_and_scales(clip: str) -> None:
    assert held(made(f'{{clip="{clip}"}}')) == {"f32": 4 * COLUMNS, "i8": WEIGHTS}
    blocks = 4 * -(-27 // 16) + 48 * 64 // 16 + 32 * 48 // 16
    assert held(made(f'{{block=16,clip="{clip}"}}')) == {"f32": 4 * blocks, "i8": WEIGHTS}


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_what_a_target_makes_of_them_are_bytes_still(target: str) -> None:
    kept = held(made().compile(target).compiled.program)
    assert kept["f32"] < WEIGHTS <= kept["i8"] < 2 * WEIGHTS  # columns may be filled up


def test_results_move_by_what_the_levels_are_apart() -> None:
    """A weight of variance 1, to 127 levels up to a greatest of about 2.4, moves by 0.0055 in the
    root mean square; three in a row that makes 0.0094 of the result.
    """
    x = {"x": floats(5, 3, 4, 4)}
    (wanted,) = network().compile("ref", passes="").eval(x)
    for options in ("", "{block=16}"):
        (got,) = made(options).compile("ref", passes="").eval(x)
        error = np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2))
        assert 0.0094 / 2 < error < 0.0094 * 2


def test_new_weights_of_a_live_program_are_quantised_as_they_arrive() -> None:
    x, new = {"x": floats(5, 3, 4, 4)}, floats(64, 48)[::-1] * 2
    live = network(replaceable=True)
    migx.run_passes(live, "quantize_int8")
    live.compile("cpu")
    with live.update_weights() as update:
        update["first"] = new
    baked = network()
    (old,) = [at for at in baked.literals if getattr(at.op, "label", "") == "first"]
    baked.main.replace_instruction(old, baked.main.add_literal(new, before=old))
    migx.run_passes(baked, "quantize_int8")
    (wanted,) = baked.compile("cpu").eval(x)
    assert np.array_equal(live.eval(x)[0], wanted)


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ShapeError, match="blocks of 1 or more, or 0 for a scale for each column"):
        migx.run_passes(network(), "quantize_int8{block=-1}")
