"""``migx compile --int8-weights`` and ``--calibration``: what they write, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import migx as api
from tests.cli.conftest import Migx


def test_weights_are_squeezed_and_the_file_runs(migx: Migx, model: Path, tmp_path: Path) -> None:
    """A byte for each of 8 by 16, and a scale for each of 16 columns."""
    small = tmp_path / "small.mxr"
    command = ("compile", model, "--int8-weights", "-o", small)
    found = migx(*command, "--target", "ref", "--json").json["int8"]
    assert found["weights"] == 1
    assert found["before"] - found["after"] == 3 * 8 * 16 - 4 * 16
    assert "in eight bits: 1 weight; constants of" in migx(*command).out
    held = [at.shape.dims for at in api.load(small).literals if at.shape.dtype.name == "i8"]
    assert (8, 16) in held
    assert migx("run", small, "--dim-param", "batch=2").code == 0


@pytest.mark.parametrize("several", [False, True])
def test_products_are_calibrated(migx: Migx, model: Path, tmp_path: Path, several: bool) -> None:
    small, samples = tmp_path / "small.mxr", tmp_path / "samples"
    samples.mkdir()
    for i in range(1 + several):
        np.savez(samples / f"{i}.npz", x=np.full((3, 8), i + 1, np.float32))
    given = samples if several else samples / "0.npz"
    command = ("compile", model, "--int8-weights", "--calibration", given, "-o", small)
    result = migx(*command)
    assert "products of bytes: 1" in result.out
    assert migx(*command, "--json").json["calibrated"] == 1
    names = [at.name for at in api.load(small).main]
    assert names.count("quantizelinear") == 1
    assert migx("verify", small, "--target", "cpu", "--dim-param", "batch=2").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--int8-weights", "--int4-weights"), "--int4-weights and --int8-weights: choose one"),
        (("--int8-weights", "--symmetric"), "--symmetric is for --int4-weights"),
        (("--int4-weights", "--calibration", "x.npz"), "is for weights of eight bits"),
        (("--int8-weights", "--calibration", "x.npz"), "cannot read x.npz"),
        (("--int8-weights", "--calibration", "."), "there is no .npz file in it"),
        (("--calibration", "x.npz"), "there are 1 by weights of floats, of which the pass quant"),
        (("--int8-weights", "--block", 32, "--calibration", "x.npz"), "a scale for each block"),
    ],
)
def test_what_means_nothing_is_refused(
    migx: Migx,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = migx("compile", model, *options)
    assert (result.code, message in result.err) == (2, True), result.err
    assert "Traceback" not in result.err


def test_what_kernels_read_is_told_as_well(migx: Migx, model: Path, tmp_path: Path) -> None:
    """Columns may be filled up, and a table lie in two layouts: it is asked of the target. What
    became of the constants is told of the program, on any target alike.
    """
    small = tmp_path / "small.mxr"
    command = ("compile", model, "--int8-weights", "--target", "cpu", "-o", small)
    found = migx(*command, "--json").json["int8"]
    listed = migx("params", small, "--layouts", "--json").json["weights"]
    assert found["read"] == sum(row["bytes"] for row in listed)
    plain = migx(*command[:-1], tmp_path / "ref.mxr", "--target", "ref", "--json").json["int8"]
    assert [plain[k] for k in ("before", "after")] == [found[k] for k in ("before", "after")]
    assert found["left"] == {}
    assert "in floats" not in migx(*command).out


def test_weights_of_four_bits_are_not_calibrated(migx: Migx, model: Path, tmp_path: Path) -> None:
    small, inputs = tmp_path / "small.mxr", tmp_path / "x.npz"
    assert migx("compile", model, "--int4-weights", "--target", "ref", "-o", small).code == 0
    np.savez(inputs, x=np.ones((2, 8), np.float32))
    result = migx("compile", small, "--int8-weights", "--calibration", inputs)
    assert (result.code, "there are 1 by weights of four bits" in result.err) == (2, True)


def test_deferred_weights_are_counted_as_those_there(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.onnx"
    onnx.save(onnx.load(model), outside, save_as_external_data=True, size_threshold=0)
    found = [
        migx("compile", outside, "--int4-weights", *options, "--json").json["int4"]
        for options in ((), ("--defer-external-weights",))
    ]
    assert found[0]["before"] == found[1]["before"]
    assert found[0]["after"] <= found[1]["after"] < found[0]["before"]


def test_what_is_left_in_floats_is_told(migx: Migx, model: Path) -> None:
    result = migx("compile", model, "--int8-weights", "--skip", "dense")
    assert "in eight bits: 0 weights; constants of" in result.out
    assert "in floats: 1 weight of 512 bytes: 'w'" in result.out


def test_scales_are_chosen_and_threads_counted_as_asked(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "plain.mxr", tmp_path / "mse.mxr"]
    for file, options in zip(files, [("--threads", 2), ("--clip", "mse")], strict=True):
        assert migx("compile", model, "--int4-weights", *options, "-o", file).code == 0
    plain, mse = map(api.load, files)
    assert plain.compiled.context.options.num_threads == 2
    assert mse.compiled.context.options.num_threads is None
    assert plain != mse
    result = migx("compile", model, "--threads", 0)
    assert (result.code, "num_threads is 0; it must be a whole number from 1" in result.err) == (
        2,
        True,
    )
