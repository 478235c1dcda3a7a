"""``--weights`` of several verbs: a source of other names or element types, and what allows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

import migx as api
from tests.cli.conftest import Migx
from tests.weights.build import MLP, MLP_DIMS, Array, drawn, model_of, safetensors, write_weights

A, B = drawn(MLP_DIMS, 1), drawn(MLP_DIMS, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "have: 'step'; for 'step' there are: w1, b1, w2, b2; --no-strict takes the 4 that"),
        (("--no-strict",), "convert it to f32, or give --convert"),
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
    result = migx("compile", model, "--target", "ref", "--weights", file, *options)
    assert result.code == (2 if message else 0)
    assert message in result.err


def written(folder: Path, inside: Collection[str] = ()) -> Path:
    """The model with the values ``A``, some of them in its own file and the others beside it."""
    model = model_of(MLP, A)
    write_weights(model, A, folder)
    for tensor in model.graph.initializer:
        if tensor.name in inside:
            tensor.CopyFrom(numpy_helper.from_array(A[tensor.name], tensor.name))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def perceptron(w: Mapping[str, Array], x: Array) -> Array:
    """What the model computes."""
    y: Array = np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]
    return y


@pytest.mark.parametrize("inside", [(), ("b1", "b2"), ("w1", "b1", "w2", "b2")])
def test_weights_are_put_in_wherever_the_model_has_them(
    inside: tuple[str, ...], migx: Migx, tmp_path: Path
) -> None:
    """Nothing need be deferred for that. A part of them may be given of those in its own file."""
    model, made = written(tmp_path, inside), tmp_path / "made.mxr"
    x = np.ones((3, 8), np.float32)
    for names in (MLP_DIMS, [*MLP_DIMS] if len(inside) < 4 else ["b1", "w2"]):
        given = {name: B[name] for name in names}
        file = safetensors(given, tmp_path / "w.safetensors")
        result = migx("compile", model, "--weights", file, "-o", made, "--target", "ref")
        assert (result.code, result.err) == (0, "")
        (y,) = api.load(made).eval({"x": x})
        assert np.allclose(y, perceptron(A | given, x), rtol=1e-5)


@pytest.mark.filterwarnings("default")
def test_a_folder_has_what_lies_outside_the_models_own_file(migx: Migx, tmp_path: Path) -> None:
    folder, made = write_weights(model_of(MLP, A), B, tmp_path / "b"), tmp_path / "made.mxr"
    command = ("compile", written(tmp_path), "--weights", folder, "-o", made, "--target", "ref")
    result = migx(*command)
    assert (result.code, result.err) == (0, "")
    x = np.ones((3, 8), np.float32)
    (y,) = api.load(made).eval({"x": x})
    assert np.allclose(y, perceptron(B, x), rtol=1e-5)
    written(tmp_path, ("b1", "b2"))
    result = migx(*command)
    assert (result.code, "which stay as they were read, 'b" in result.err) == (0, True)
    written(tmp_path, MLP_DIMS)
    made.unlink()
    result = migx(*command)
    assert (result.code, made.exists()) == (2, False)
    assert "model.onnx has no weight in a file of its own, as a folder has; give" in result.err


def test_a_source_that_has_nothing_for_a_model(migx: Migx, tmp_path: Path) -> None:
    file = safetensors({"w": A["w1"]}, tmp_path / "w.safetensors")
    result = migx("compile", written(tmp_path, MLP_DIMS), "--weights", file)
    assert result.code == 2
    assert "model.onnx has no weight 'w'; there are: b1, b2, w1, w2; --names-from" in result.err


def test_a_file_without_weights_says_which_have_to_be_given(migx: Migx, tmp_path: Path) -> None:
    path, baked, bare = written(tmp_path), tmp_path / "baked.mxr", tmp_path / "bare.mxr"
    assert migx("compile", path, "--weights", tmp_path, "-o", baked).code == 0
    result = migx("compile", baked, "--without-weights", "-o", bare)
    assert "left out: 4 weights, to be given by --weights or at run time" in result.out
    assert migx("run", bare).code == 2
    assert migx("run", bare, "--weights", tmp_path).code == 0
    fixed = migx("compile", path, "--without-weights", "-o", bare)
    assert "left out" not in fixed.out
    assert migx("run", bare).code == 0
    refused = migx("run", bare, "--weights", tmp_path)
    assert "bare.mxr has no weight to replace: it was compiled with its weights" in refused.err


def test_weights_are_put_in_for_good(migx: Migx, tmp_path: Path) -> None:
    template, fixed = tmp_path / "template.mxr", tmp_path / "fixed.mxr"
    squeeze = ("--defer-external-weights", "--int8-weights", "-o", template)
    assert migx("compile", written(tmp_path), *squeeze).code == 0
    into = ("--fix-weights", "--without-original", "-o", fixed)
    result = migx("compile", template, "--weights", tmp_path, *into)
    assert (result.code, "slots" in result.out, "left out" in result.out) == (0, False, False)
    run = migx("run", fixed, "--json").json["outputs"]
    assert run == migx("run", template, "--weights", tmp_path, "--json").json["outputs"]
    assert migx("params", fixed, "--json").json["weights"] == []
    missing = migx("compile", template, *into)
    assert (missing.code, missing.err.strip()) == (2, "error: --fix-weights is for --weights")


def test_a_model_without_weights_says_what_gives_them(migx: Migx, tmp_path: Path) -> None:
    model, template, whole = (tmp_path / name for name in ("model.onnx", "a.mxr", "b.mxr"))
    model.write_bytes(model_of(MLP, A).SerializeToString())
    command = ("compile", model, "--target", "ref", "--defer-external-weights")
    assert migx(*command, "-o", template).code == 0
    result = migx("run", template)
    assert (result.code, "by --weights SOURCE, which `migx run`" in result.err) == (2, True)
    file = safetensors(A, tmp_path / "w.safetensors")
    assert migx("compile", template, "--weights", file, "-o", whole).code == 0
    assert migx("run", whole).code == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("options", [(), ("--defer-external-weights",)])
def test_a_run_with_other_weights(
    compiled: bool, options: tuple[str, ...], migx: Migx, tmp_path: Path
) -> None:
    """Of a model, and of what was compiled with its own weights, or without any."""
    model, made = written(tmp_path), tmp_path / "made.mxr"
    assert migx("compile", model, "--target", "ref", *options, "-o", made).code == 0
    file, x, out = (tmp_path / name for name in ("w.safetensors", "x.npz", "out.npz"))
    safetensors(B, file)
    np.savez(x, x=np.ones((3, 8), np.float32))
    asked = (made,) if compiled else (model, "--target", "ref")
    result = migx("run", *asked, "--weights", file, "--inputs", x, "--save", out)
    assert (result.code, result.err) == (0, "")
    (y,) = np.load(out).values()
    assert np.allclose(y, perceptron(B, np.ones((3, 8), np.float32)), rtol=1e-5)


def test_options_that_are_for_weights(migx: Migx, model: Path) -> None:
    for verb in ("compile", "run", "perf"):
        result = migx(verb, model, "--no-strict")
        assert result.code == 2
        assert "--no-strict, --convert and --names-from are for --weights" in result.err


def test_a_checkpoint_of_other_names(migx: Migx, tmp_path: Path) -> None:
    model = written(tmp_path)
    files = []
    for i, weights in enumerate((A, B)):
        named = {f"layer.{n}": np.ascontiguousarray(v.T) for n, v in weights.items()}
        files.append(safetensors(named, tmp_path / f"{i}.safetensors"))
    base, tuned = files
    told = migx("params", model, "--names-from", base)
    assert "layer.w1, transposed" in told.out
    by_name = safetensors(B, tmp_path / "b.safetensors")
    wanted = migx("run", model, "--weights", by_name, "--json").json["outputs"]
    given = ("--weights", tuned, "--names-from", base)
    assert migx("run", model, *given, "--json").json["outputs"] == wanted
    assert migx("compile", model, *given, "-o", tmp_path / "tuned.mxr").code == 0
    assert migx("run", tmp_path / "tuned.mxr", "--json").json["outputs"] == wanted


def test_layouts_are_those_of_the_target_that_is_asked_for(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cpu.mxr"
    assert migx("compile", model, "-o", file).code == 0
    layouts = ("--layouts", "--target", "ref", "--json")
    wanted = migx("params", model, *layouts).json
    assert migx("params", file, *layouts).json == wanted
    assert migx("params", file, "--layouts", "--json").json != wanted


def test_a_template_is_verified_with_weights(migx: Migx, tmp_path: Path) -> None:
    """Against ``ref`` with the same weights, or a model with its own."""
    model, template = written(tmp_path), tmp_path / "template.mxr"
    other = safetensors(B, tmp_path / "b.safetensors")
    assert migx("compile", model, "--defer-external-weights", "-o", template).code == 0
    found = migx("verify", template, "--weights", other, "--json").json
    assert (found["passed"], found["held"], found["against"]) == (True, True, "ref")
    for source, same in ((tmp_path, True), (other, False)):
        words = ("verify", template, "--weights", source, "--against", model, "--json")
        (output,) = migx(*words).json["outputs"]
        assert (output["unequal"] == 0) is same
    refused = migx("verify", model, "--weights", other)
    assert (refused.code, "compare --against ref" in refused.err) == (2, True)
    assert migx("verify", model, "--weights", other, "--against", "ref").code == 0
