"""``migx compile --weights``: a source of other names or element types, and what allows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Migx
from tests.weights.build import MLP, MLP_DIMS, drawn, model_of, safetensors

A = drawn(MLP_DIMS, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "has 1 weights the program has not: 'step'"),
        (("--no-strict",), "convert it to f32, or say convert=True"),
        (("--no-strict", "--convert"), ""),
    ],
)
def test_a_source_of_other_names_and_types(
    migx: Migx, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(model_of(MLP, A).SerializeToString())
    halves = {name: value.astype(np.float16) for name, value in {**A, "step": A["b1"]}.items()}
    file = safetensors(halves, tmp_path / "w.safetensors")
    command = ("compile", model, "--target", "ref", "--defer-external-weights")
    result = migx(*command, "--weights", file, *options)
    assert result.code == (2 if message else 0)
    assert message in result.err


def test_a_model_without_weights_says_what_gives_them(migx: Migx, tmp_path: Path) -> None:
    model, template, whole = (tmp_path / name for name in ("model.onnx", "a.mxr", "b.mxr"))
    model.write_bytes(model_of(MLP, A).SerializeToString())
    command = ("compile", model, "--target", "ref", "--defer-external-weights")
    assert migx(*command, "-o", template).code == 0
    result = migx("run", template)
    assert (result.code, "`migx compile MODEL --weights SOURCE -o" in result.err) == (2, True)
    file = safetensors(A, tmp_path / "w.safetensors")
    assert migx("compile", template, "--weights", file, "-o", whole).code == 0
    assert migx("run", whole).code == 0


def test_options_that_are_for_weights(migx: Migx, model: Path) -> None:
    result = migx("compile", model, "--no-strict")
    assert result.code == 2
    assert "--no-strict and --convert are for --weights" in result.err


def test_layouts_are_those_of_the_target_that_is_asked_for(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cpu.mxr"
    assert migx("compile", model, "-o", file).code == 0
    layouts = ("--layouts", "--target", "ref", "--json")
    wanted = migx("params", model, *layouts).json
    assert migx("params", file, *layouts).json == wanted
    assert migx("params", file, "--layouts", "--json").json != wanted
