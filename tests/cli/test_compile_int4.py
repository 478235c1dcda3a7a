"""``migx compile --int4-weights``: what it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

import migx as api
from tests.cli.conftest import Migx


@pytest.mark.parametrize(("options", "bits"), [((), 32 + 4), (("--symmetric",), 32)])
def test_weights_are_squeezed_and_the_file_runs(
    migx: Migx, model: Path, tmp_path: Path, options: tuple[str, ...], bits: int
) -> None:
    """Four bits for each of 8 by 16, a scale and half a byte for each of 16 blocks."""
    small = tmp_path / "small.mxr"
    command = ("compile", model, "--int4-weights", "--block", 32, *options, "-o", small)
    found = migx(*command, "--target", "ref", "--json").json["int4"]
    assert found["weights"] == 1
    assert found["before"] - found["after"] == (32 * 8 * 16 - (4 * 8 * 16 + 16 * bits)) // 8
    assert "in four bits: 1 weight; constants of" in migx(*command).out
    program = api.load(small)
    assert (8, 16) in [at.shape.dims for at in program.literals if at.shape.dtype.is_packed]
    assert migx("run", small, "--dim-param", "batch=2").code == 0


def test_activations_are_rounded_where_it_is_asked_for(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    """What that costs is within the bounds, which are the wider for it."""
    small = tmp_path / "small.mxr"
    assert migx("compile", model, "--int4-weights", "--block", 32, "-o", small).code == 0
    tolerances = []
    for activations in ("float", "int8"):
        asked = ("--target", "cpu", "--activations", activations, "--dim-param", "batch=2")
        found = migx("verify", small, *asked, "--json").json
        assert found["passed"]
        tolerances.append(found["outputs"][0]["tolerance"])
        assert migx("run", small, *asked).code == 0
    assert tolerances[1] > 100 * tolerances[0]


def test_layers_are_skipped_by_name(migx: Migx, model: Path) -> None:
    result = migx("compile", model, "--int4-weights", "--skip", "den*, w", "--json")
    assert result.json["int4"]["weights"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--block", 32), "--block, --clip, --symmetric and --skip are for"),
        (("--int4-weights", "--skip", "v"), "no weight is named 'v'; there are: dense, w"),
        (("--int4-weights", "--block", 0), "--block 0: give 1 or more"),
        (("--activations", "int4"), "activations is 'float' or 'int8', not 'int4'"),
        (
            ("--activations", "int8", "--passes", "fuse_int4"),
            "put quantize_activations after fuse_int4",
        ),
        (("--fast-math", "--passes", "fuse_int4"), "gpu::lower{fast_math=true}"),
    ],
)
def test_what_means_nothing_is_refused(
    migx: Migx, model: Path, options: tuple[object, ...], message: str
) -> None:
    result = migx("compile", model, *options)
    assert (result.code, message in result.err) == (2, True)
    assert "Traceback" not in result.err


PLAIN = {"activations": "float", "fast_math": False}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ((), {}),
        (("--target", "cpu", "--dim-param", "batch=2"), {}),
        (("--activations", "float"), {"activations": "float"}),
        (("--threads", 1, "--no-fast-math"), {"num_threads": 1, "fast_math": False}),
        (("--passes", "optimize_module"), {"passes": "optimize_module", **PLAIN}),
        (("--target", "ref"), {"num_threads": None, **PLAIN}),
    ],
)
def test_a_file_keeps_the_options_it_was_compiled_with(
    migx: Migx, model: Path, tmp_path: Path, options: tuple[object, ...], changed: dict[str, object]
) -> None:
    """For its target, and where no others are given; passes replace those the options are for."""
    first, again = tmp_path / "first.mxr", tmp_path / "again.mxr"
    asked = ("--int4-weights", "--activations", "int8", "--threads", 2, "--fast-math")
    assert migx("compile", model, "--target", "cpu", *asked, "-o", first).code == 0
    result = migx("compile", first, *options, "-o", again)
    assert (result.code, result.err) == (0, "")
    wanted = {"passes": None, "num_threads": 2, "activations": "int8", "fast_math": True}
    assert api.load(again).compiled.context.options.plain() == wanted | changed


@pytest.mark.parametrize(("asked", "again"), [("int8", False), ("float", True)])
def test_a_file_is_compiled_again_only_if_something_else_is_asked_for(
    migx: Migx, model: Path, tmp_path: Path, asked: str, again: bool
) -> None:
    small = tmp_path / "small.mxr"
    options = ("--int4-weights", "--activations", "int8", "--target", "cpu")
    assert migx("compile", model, *options, "-o", small).code == 0
    command = ("verify", small, "--activations", asked, "--dim-param", "batch=2")
    assert ("as the file holds it" in migx(*command).out) == (not again)
