"""``migx perf`` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import migx as api
from migx import interpreter
from migx.argument import Argument
from migx.cli import perf
from migx.profile import Cost, Profile
from migx.targets.ref import Ref
from tests.cli.conftest import Migx


def test_kernels_the_host_and_peers_are_measured(migx: Migx, model: Path) -> None:
    words = ("--repeat", "3", "--threads", "1", "--against", "onnxruntime", "--json")
    found = json.loads(migx("perf", model, *words).out)
    assert found["runs"].keys() == {"migx", "onnxruntime"}
    taken = found["runs"]["migx"]
    assert 0 < taken["p50"] <= taken["p90"] <= taken["p99"]
    kernels = {e["name"]: e for e in found["kernels"]}
    assert any(e["flops"] > 0 and e["bytes"] > 0 and e["seconds"] > 0 for e in kernels.values())
    assert found["bytes"]["weights"] > 0
    assert found["peak"]["flops"] > 1e9


def test_no_run_finds_the_threads_of_another_awake(
    migx: Migx, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[float] = []
    monkeypatch.setattr("time.sleep", done.append)
    words = ("perf", model, "--repeat", "3")
    assert (migx(*words).code, done) == (0, [])
    assert migx(*words, "--against", "onnxruntime").code == 0
    assert done == [perf.PAUSE] * 6


def test_weights_are_counted_whether_fixed_or_replaceable(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    words, file = ("--repeat", "1", "--json"), tmp_path / "w.npz"
    np.savez(file, w=np.ones((8, 16), np.float32), b=np.ones(16, np.float32))
    fixed = json.loads(migx("perf", model, *words).out)
    replaced = json.loads(migx("perf", model, *words, "--weights", file).out)
    assert fixed["bytes"]["weights"] == replaced["bytes"]["weights"]


def test_it_is_readable(migx: Migx, model: Path) -> None:
    result = migx("perf", model, "--repeat", "1", "--each")
    assert result.code == 0
    for said in ("instruction", "kernel", "GFLOP/s", "% of peak", "ms: median", "arena", "copies"):
        assert said in result.out


def test_each_instruction_is_found_in_the_text_and_the_model(migx: Migx, model: Path) -> None:
    entries = migx("perf", model, "--repeat", "1", "--each", "--json").json["each"]
    program = api.parse_onnx(model).compile("cpu").compiled.program
    text = str(program.main).splitlines()
    for entry in entries:
        operation = entry["name"].split(" = ")[1].split()[0]
        assert any(f"{entry['value']} = {operation}(" in line for line in text)
    nodes = {node for entry in entries for node in entry["origins"]}
    assert {"dense", "soft", "pick"} <= nodes <= {"dense", "active", "soft", "pick"}
    assert all(entry["kernel"] for entry in entries)
    table = migx("perf", model, "--repeat", "1", "--each").out
    assert re.search(r"^instruction +times .*from ONNX$", table, re.MULTILINE)
    assert re.search(r"'pick'$", table, re.MULTILINE)


def test_a_target_that_knows_no_peaks_says_what_it_knows(
    migx: Migx, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(interpreter.Interpreter):
        def profile(self, *_: Mapping[str, Argument]) -> Profile:
            at = self.program.main.outputs[0]
            return Profile((Cost(at, "mine", 0.5, flops=10**9), Cost(at, "", 0.5, nbytes=10**9)))

    monkeypatch.setattr(interpreter, "Interpreter", Told)
    said = migx("perf", model, "--repeat", "1", "--target", "ref").out
    assert re.search(r"^mine +1 +500.000 +50.0 +2.0$", said, re.MULTILINE)
    assert re.search(r"^softmax +1 +500.000 +50.0 +2.0$", said, re.MULTILINE)
    assert "at best" not in said


def test_a_target_that_shows_its_results_is_timed_by_these(
    migx: Migx, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ref, "supports", lambda self, at: at.name != "softmax")
    words = ("perf", model, "--target", "ref", "--repeat", "1", "--json", "--each")
    found = migx(*words).json
    assert [entry["name"] for entry in found["host"]] == ["softmax"]
    kernels = {entry["name"]: entry for entry in found["kernels"]}
    assert kernels["dot"]["flops"] > 0
    assert all(entry["seconds"] > 0 for entry in [*kernels.values(), *found["each"]])


def test_a_target_that_does_not_profile_is_timed_whole(
    migx: Migx, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def __init__(self, *given: Any) -> None:
            self.run = told(*given).run

    told = interpreter.Interpreter
    monkeypatch.setattr(interpreter, "Interpreter", Silent)
    words = ("perf", model, "--target", "ref", "--repeat", "1", "--against", "onnxruntime")
    result = migx(*words)
    assert (result.code, "arena" in result.out) == (0, False)
    assert re.search(r"^onnxruntime +[0-9.]+", result.out, re.MULTILINE)
    assert "target ref does not say what its kernels take: its executable has" in result.err
    assert "neither profile(arguments, slots) nor trace(arguments, seen, slots); 0 " in result.err
    monkeypatch.setattr(Ref, "supports", lambda self, at: at.name != "softmax")
    assert "1 instructions run on the host: 1 softmax" in migx(*words).err
    found = json.loads(migx(*words, "--json").out)
    assert (found["kernels"], found["host"]) == ([], [])
    assert found["runs"].keys() == {"migx", "onnxruntime"}


def test_other_models_are_timed_beside_it(migx: Migx, model: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.mxr"
    assert migx("compile", model, "--int8-weights", "--target", "cpu", "-o", small).code == 0
    words = ("perf", small, "--repeat", "1", "--json", "--against")
    found = migx(*words, f"{model},{small}", "--dim-param", "batch=3").json
    assert [*found["runs"]] == ["migx", str(model), str(small)]
    refused = migx(*words, "onnxruntime")
    assert (refused.code, "--against onnxruntime needs an ONNX file" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repeat", "0"], "give 1 or more"),
        (["--threads", "0"], "num_threads is 0; it must be a whole number from 1 to 1024"),
        (["--against", "abacus"], "there are onnxruntime and openvino, and no such file"),
    ],
)
def test_a_mistake_is_one_message(words: list[str], message: str, migx: Migx, model: Path) -> None:
    result = migx("perf", model, *words)
    assert (result.code, "Traceback" in result.err) == (2, False)
    assert message in result.err


def test_a_peer_that_refuses_a_model_is_one_message(migx: Migx, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, [4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18)]
    path = tmp_path / "narrow.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    words = ("--target", "ref", "--repeat", "1", "--against", "onnxruntime")
    result = migx("perf", path, *words)
    assert (result.code, "Traceback" in result.err) == (2, False)
    assert f"error: onnxruntime cannot run {path}: [ONNXRuntimeError]" in result.err
