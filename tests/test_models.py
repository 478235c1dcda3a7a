"""The model tool: drawn weights lie where the graph says, inputs fit, failures are named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import models
from benchmarks.models import tool

SMALL = "script_loop_rnn"


def test_there_are_26_models_each_with_a_source() -> None:
    graphs = {path.stem for path in tool.HERE.glob("graphs/*.onnx")}
    assert len(models.names()) == 26
    for name in models.names():
        assert ("package" in tool._entry(name)) != (name in graphs), name


def test_a_drawn_model_runs_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (models.make(SMALL, tmp_path / folder) for folder in ("a", "b"))
    assert first == tmp_path / "a" / SMALL / "model.onnx"
    assert {path.name for path in first.parent.iterdir()} == {"model.onnx", "weights.bin"}
    weights = [path.with_name("weights.bin").read_bytes() for path in (first, second)]
    assert weights[0] == weights[1]
    assert np.std(np.frombuffer(weights[0], np.float32)) > 0
    assert all(t.raw_data for t in onnx.load(first).graph.initializer)


def test_a_model_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    path = models.make(SMALL, tmp_path)
    before = path.stat()
    assert models.make(SMALL, tmp_path).stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("name", models.names())
def test_inputs_fit_the_catalogue_and_follow_the_seed(name: str) -> None:
    first, again, other = (models.inputs(name, seed) for seed in (0, 0, 1))
    for key, spec in tool._entry(name)["inputs"].items():
        assert (first[key].dtype, first[key].shape) == (spec["dtype"], tuple(spec["dims"]))
        assert np.array_equal(first[key], again[key])
        assert np.array_equal(first[key], other[key]) == ("constant" in spec)


def test_four_bit_values_are_packed_low_half_first() -> None:
    assert tool._packed(np.array([1, -1, 7], np.int8)) == bytes([0xF1, 0x07])


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(models.UnknownModel, match=r"no model named 'resnet'; .*resnet50"):
        models.make("resnet")


NO_INDEX = """WARNING: Retrying after connection broken by 'NewConnectionError(...)'
ERROR: No matching distribution found for silero-vad==6.2.3"""
NO_SUCH = """ERROR: Could not find a version (from versions: 6.2.1, 6.2.2)
ERROR: No matching distribution found for silero-vad==6.2.3"""


@pytest.mark.parametrize(
    ("stderr", "error"), [(NO_INDEX, models.NoNetwork), (NO_SUCH, models.FetchError)]
)
def test_no_network_is_told_from_no_such_package(
    stderr: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess[str]([], 1, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(models.FetchError, match="silero-vad==6.2.3") as caught:
        models.make("silero_vad", tmp_path)
    assert type(caught.value) is error
    assert not list((tmp_path / "silero_vad").iterdir())


def test_a_broken_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tool._whole(tmp_path / "model.onnx") as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_the_tool_says_a_mistake_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["make", "resnet"]) == 2
    assert capsys.readouterr().err.startswith("error: no model named 'resnet'")
    assert tool.main(["list", SMALL]) == 0
    assert capsys.readouterr().out.startswith(SMALL)
