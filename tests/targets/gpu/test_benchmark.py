"""The benchmark of the gpu target goes through to its end, and drops what there is no time for."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from tests.targets.gpu.on_interpreter import DEVICE

WORDS = ["--device", "interpreter", "--quick"]


@pytest.fixture(autouse=True)
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_device", lambda kind: DEVICE)


def lines(to: Path) -> dict[str, dict[str, object]]:
    return {line["name"]: line for line in json.loads(to.read_text())["lines"]}


def test_all_of_it_runs_and_says_who_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([*WORDS, "--to", str(tmp_path / "results" / "gpu.json")]) == 0
    found = lines(tmp_path / "results" / "gpu.json")
    for name in (*gpu.BARS, "copy on the device", "link to the device", *gpu.QUICK):
        assert found[name]["seconds"], f"{name}: {found[name]['notes']}"
    assert found["qonnx_mnist_conv"]["notes"][0] == "right"  # type: ignore[index]
    said = capsys.readouterr().out
    assert "torch is not installed: " in said
    assert "onnxruntime has no CUDA provider: qonnx_mnist_conv" in said
    assert "transformers against torch.compile: not measured" in said


def test_what_there_is_no_time_for_is_dropped_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([*WORDS, "--budget", "-1", "--to", str(tmp_path / "gpu.json")]) == 0
    assert all(line["seconds"] is None for line in lines(tmp_path / "gpu.json").values())
    assert "dropped: the time is over: copy on the device" in capsys.readouterr().out


def test_a_wrong_answer_is_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.Bench, "measure_kernels", lambda bench: None)
    monkeypatch.setattr(gpu, "drawn", lambda shape: None)
    bench = gpu.Bench(DEVICE, quick=True)

    class Wrong(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            answers = gpu.on_ref("qonnx_mnist_conv", "")
            answers[0][0].data[...] += 1e3
            return answers

    with bench.line("qonnx_mnist_conv") as line:
        bench._check("qonnx_mnist_conv", line, Wrong())
    assert "wrong: output 0" in line.notes[-1]
    assert not bench.programs
