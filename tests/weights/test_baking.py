"""Literals put in the place of deferred weights: sources, errors, targets with literals of their
own, programs compiled and not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx import plugins
from migx.argument import Argument
from migx.errors import DataError, WeightError
from migx.manager import Pipeline
from migx.onnx import replace_onnx_external_weights
from migx.ops.builtin import Literal
from migx.program import Program
from migx.target import NO_SLOTS, CompileOptions, Context, Executable
from migx.targets.ref import Ref
from tests.weights.build import (
    LOOP,
    LOOP_DIMS,
    LOOP_HEAD,
    MLP,
    MLP_DIMS,
    Array,
    drawn,
    model_of,
    safetensors,
    write_weights,
)

X = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)}
A, B = drawn(MLP_DIMS, 1), drawn(MLP_DIMS, 2)


@pytest.fixture
def template(tmp_path: Path) -> Program:
    (tmp_path / "model.onnx").write_bytes(model_of(MLP, A).SerializeToString())
    return migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=True)


def plain(weights: Mapping[str, Array], folder: Path) -> Array:
    """What the model gives that is read with its weights."""
    write_weights(model_of(MLP, weights), weights, folder)
    result: Array = migx.parse_onnx(folder / "model.onnx").compile("ref").eval(X)[0]
    return result


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["folder", "arrays", "arguments", "safetensors", "unmapped"])
def test_every_source_gives_the_same(
    kind: str, compiled: bool, template: Program, tmp_path: Path
) -> None:
    if compiled:
        template.compile("ref", passes="optimize_module,hoist_weights")
    before = str(template)
    folder = write_weights(model_of(MLP, B), B, tmp_path / "b")
    source = {
        "folder": folder,
        "unmapped": folder,
        "arrays": B,
        "arguments": {name: Argument.of(value) for name, value in B.items()},
        "safetensors": safetensors(B, tmp_path / "b.safetensors"),
    }[kind]
    made = replace_onnx_external_weights(template, source, "ref", mmap=kind != "unmapped")
    assert str(template) == before
    np.testing.assert_allclose(
        made.finalize("ref").eval(X)[0], plain(B, tmp_path), rtol=1e-5, atol=1e-6
    )
    if kind == "unmapped":
        (folder / "weights.bin").write_bytes(bytes(4096))
        assert np.any(made.eval(X)[0] != plain(A, tmp_path))


def test_nothing_is_finalized_before_it_is_asked_for(template: Program) -> None:
    template.compile("ref", passes="hoist_weights")
    made = replace_onnx_external_weights(template, A, "ref")
    with pytest.raises(WeightError, match=r"nothing is computed .* call program.finalize\('ref'\)"):
        made.eval(X)
    with pytest.raises(WeightError, match="4 weights have no value yet"):
        template.eval(X)
    made.finalize("ref").eval(X)


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_fixed_weights_of_a_compiled_program_leave_what_is_made_of_them(
    target: str, template: Program, tmp_path: Path
) -> None:
    """So the file of a squeezed program is not larger than that of one read with its weights."""
    template.compile(target, passes=f"quantize_int8,{target},hoist_weights")
    made = {
        fixed: replace_onnx_external_weights(template, B, replaceable=not fixed)
        for fixed in (False, True)
    }
    assert made[True].compiled.program.weights is None
    assert not made[True].weight_shapes
    sizes, results = [], []
    for fixed, program in made.items():
        file = tmp_path / f"{fixed}.mxr"
        migx.save(program, file, original=False)
        sizes.append(sum(int(at.shape.nbytes) for at in migx.load(file).literals))
        results.append(migx.load(file).eval(X)[0])
    assert sizes[1] < sizes[0]
    assert np.array_equal(*results)
    with template.update_weights() as new:
        new.update(B)
    assert np.array_equal(results[1], template.eval(X)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w1": None}, "the values given lack 1 weight: 'w1'"),
        (
            {"w9": A["w1"]},
            "1 weight the program does not have: 'w9'; for 'w9' there are: w1, b1, w2, b2; strict",
        ),
        ({"w1": A["w1"][:7]}, r"weight 'w1' is f32\[8, 16\], not f32\[7, 16\]"),
        ({"w1": A["w1"].astype(np.int8)}, r"weight 'w1' is f32\[8, 16\], not i8\[8, 16\]"),
        ({"b1": np.full(16, np.inf, np.float32)}, "'b1' has 16 elements not finite"),
    ],
)
def test_arrays_that_do_not_fit(change: dict[str, Any], message: str, template: Program) -> None:
    values = {name: value for name, value in (A | change).items() if value is not None}
    with pytest.raises(WeightError, match=message):
        replace_onnx_external_weights(template, values, check_finite=True)


def test_folders_that_do_not_fit(template: Program, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="external data of 'w1': there is no file .*weights.bin"):
        replace_onnx_external_weights(template, tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match="has 100 bytes, the tensor is at bytes 576 to 1088"):
        replace_onnx_external_weights(template, tmp_path)
    with pytest.raises(WeightError, match=r"weights.bin is no folder .* \.safetensors"):
        replace_onnx_external_weights(template, tmp_path / "weights.bin")
    with pytest.raises(WeightError, match="a dict of arrays by name, a folder .* not as list"):
        replace_onnx_external_weights(template, [1])


class OwnLiteral(Literal):
    """A literal as the target below wants it."""

    name = "own::literal"


class Own(Ref):
    """A target with a literal operation of its own, which runs no other."""

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        return self.get_lower_literals_passes(context)

    def get_lower_literals_passes(self, context: Context) -> Pipeline:
        return Pipeline.parse('lower_baked_literals{to="own::literal"}')

    def make_executable(self, program: Program, context: Context) -> Executable:
        return _Strict(super().make_executable(program, context), program)


class _Strict:
    """Runs nothing that has a literal which is not lowered, in whatever module."""

    def __init__(self, inner: Executable, program: Program) -> None:
        self.inner, self.program = inner, program

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        for module in self.program.modules.values():
            left = [at for at in module if at.name == "@literal" and not module.bypass]
            assert not left, f"{left} in {module.name}"
        return self.inner.run(arguments, slots)


@pytest.mark.parametrize("how", ["compiled", "lowered by hand"])
def test_literals_are_lowered_in_the_bodies_of_loops(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = plugins.operations() | {"own::literal": OwnLiteral}
    monkeypatch.setattr(plugins, "_operations", lambda: (table, {}, []))
    values = drawn(LOOP_DIMS, 3)
    model = model_of(LOOP, values, LOOP_HEAD)
    write_weights(model, values, tmp_path)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    inputs = {"x": np.ones(4, np.float32), "trips": np.array(3)}
    expected = migx.parse_onnx(tmp_path / "model.onnx").compile("ref").eval(inputs)[0]
    program, own = migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=True), Own()
    if how == "compiled":
        program.compile(own)
    else:
        migx.run_passes(program, own.get_passes(own.get_context(), CompileOptions()))
    for _ in range(2):  # twice in a row
        program = replace_onnx_external_weights(program, tmp_path, own)
        if how != "compiled":
            form = program if program._compiled is None else program.compiled.program
            body = form.modules["main.loop.body"]
            assert [at.name for at in body].count("own::literal") == 1
        program.finalize(own)
        assert np.array_equal(program.eval(inputs)[0], expected)
