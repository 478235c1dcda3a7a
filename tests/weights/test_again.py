"""What updates have given the weights, where the program is written, saved or compiled again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import migx
from migx import ops
from migx.errors import AssumptionError, OnnxError, WeightError
from migx.ir import Module
from migx.manager import Pass, PassManager, Pipeline
from migx.onnx import replace_onnx_external_weights, write
from migx.ops.builtin import Literal
from migx.program import Program
from tests.weights.build import MLP, MLP_DIMS, drawn, model_of, write_weights

X = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)}
A, B = drawn(MLP_DIMS, 1), drawn(MLP_DIMS, 2)


@pytest.fixture
def template(tmp_path: Path) -> Program:
    """A program whose weights are left out."""
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of(MLP, A).SerializeToString())
    return migx.parse_onnx(path, defer_external_weights=True)


@pytest.fixture
def program(template: Program) -> Program:
    """A compiled program that has the weights ``A``."""
    return replace_onnx_external_weights(template, A).compile("ref")


def bits(program: Program) -> bytes:
    found: bytes = program.eval(X)[0].tobytes()
    return found


def test_weights_that_are_live_are_written(
    program: Program, template: Program, tmp_path: Path
) -> None:
    template.compile("ref")
    for each in (program, template):
        with each.update_weights() as new:
            new.update(B)
        write(each, tmp_path / "live.onnx")
        again = migx.parse_onnx(tmp_path / "live.onnx").compile("ref")
        assert bits(again) == bits(each)


def test_what_is_not_live_cannot_be_written(template: Program, tmp_path: Path) -> None:
    template.compile("ref")
    with template.update_weights() as new:
        new["w1"] = A["w1"]
    with pytest.raises(OnnxError, match="replace_onnx_external_weights") as caught:
        write(template, tmp_path / "live.onnx")
    assert "w1" not in str(caught.value)
    assert not (tmp_path / "live.onnx").exists()


@pytest.mark.parametrize("options", ["block=8", "block=8,symmetric=true,clip=mse"])
def test_a_squeezed_template_is_written_in_four_bits(
    options: str, template: Program, tmp_path: Path
) -> None:
    path = tmp_path / "squeezed.onnx"
    migx.run_passes(template, f"quantize_int4{{{options}}},propagate_constant,hoist_weights")
    says = r"its bytes are in weights.bin, which is not in the folder of the new file: .* at 'w1', "
    with pytest.raises(OnnxError, match=says):
        write(template, path)
    baked = replace_onnx_external_weights(template, A)
    text = str(baked)
    write(baked, path)
    assert str(baked) == text
    graph = onnx.load(path).graph
    assert [node.op_type for node in graph.node].count("DequantizeLinear") == 2
    packed = TensorProto.INT4 if "symmetric" in options else TensorProto.UINT4
    dims = [tuple(t.dims) for t in graph.initializer if t.data_type == packed]
    assert {(8, 16), (16, 4)} <= set(dims)
    floats = [tuple(t.dims) for t in graph.initializer if t.data_type != packed]
    assert sorted(floats) == [(1, 16), (2, 4), (4,), (16,)]
    again, there = migx.parse_onnx(path).compile("ref"), onnxruntime.InferenceSession(path)
    assert bits(again) == bits(baked.compile("ref"))
    np.testing.assert_allclose(there.run(None, X)[0], again.eval(X)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "passes"),
    [
        (np.float32, "quantize_int4{block=8}"),
        (np.float32, "quantize_int4{block=6,clip=mse}"),
        (np.float16, "quantize_int4{block=6,symmetric=true,clip=mse}"),
        (np.float32, "quantize_int8{clip=mse}"),
        (np.float16, "quantize_int8{block=8}"),
    ],
)
def test_a_squeezed_template_is_squeezed_where_its_file_is_loaded(
    dtype: type[np.floating[Any]], passes: str, tmp_path: Path
) -> None:
    """A block of which all is 0, and one that is cut short, included."""
    weights = {name: value.astype(dtype) for name, value in A.items()}
    weights["w1"][:6] = 0
    kind = "float" if dtype is np.float32 else "float16"
    model = model_of(MLP.replace("float", kind), weights)
    folder = write_weights(model, weights, tmp_path)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    template = migx.parse_onnx(folder / "model.onnx", defer_external_weights=True)
    migx.run_passes(template, passes)
    write(template, folder / "squeezed.onnx")
    assert (folder / "squeezed.onnx").stat().st_size < 32_000
    baked = replace_onnx_external_weights(template, weights).compile("ref")
    x = {"x": X["x"].astype(dtype)}
    again = migx.parse_onnx(folder / "squeezed.onnx").compile("ref")
    assert np.array_equal(again.eval(x)[0], baked.eval(x)[0])
    options = onnxruntime.SessionOptions()  # onnxruntime's own optimisations round to bytes
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(folder / "squeezed.onnx", options)
    accuracy = 8 * float(np.finfo(dtype).eps)
    there, wanted = session.run(None, x)[0], baked.eval(x)[0]
    np.testing.assert_allclose(there, wanted, rtol=accuracy, atol=8 * accuracy)


def test_compiling_again_carries_live_values_over(program: Program, tmp_path: Path) -> None:
    before, was = program.copy(), bits(program)
    value = B["w1"]
    with program.update_weights(copy=False) as new:
        new["w1"] = value
    updated = bits(program)
    assert updated != was
    for target, passes in (("ref", "hoist_weights"), ("ref", ""), ("cpu", None)):
        program.compile(target, passes=passes)
        assert np.shares_memory(program.compiled.weights.current.weights["w1"].array, value)
        np.testing.assert_allclose(
            program.eval(X)[0], np.frombuffer(updated, "f4").reshape(3, 4), rtol=1e-5, atol=1e-5
        )
    assert program == before, "compiling changed the program"
    program.compile("ref")
    assert bits(program) == updated
    migx.save(program, tmp_path / "again.mxr")
    assert bits(migx.load(tmp_path / "again.mxr")) == updated
    assert bits(migx.load(tmp_path / "again.mxr", compiled=False).compile("ref")) == updated


def test_a_literal_that_was_never_updated_is_the_program_s(program: Program) -> None:
    at = next(at for at in program.literals if at.op_as(Literal).label == "w1")
    with program.update_weights() as new:
        new["b1"] = B["b1"]
    literal = at.op_as(Literal)
    program.main.replace_operation(
        at, Literal(migx.Argument.of(B["w1"]), "w1", True, literal.file, literal.offset)
    )
    program.compile("ref")
    weights = program.compiled.weights.current.weights
    np.testing.assert_array_equal(weights["w1"].array, B["w1"])
    np.testing.assert_array_equal(weights["b1"].array, B["b1"])


def test_a_weight_that_no_slot_reads_is_carried_over() -> None:
    program = Program()
    x = program.main.add_parameter("x", migx.Shape("f32", (1,)))
    program.main.add_literal(np.zeros(1, np.float32), name="unread", replaceable=True)
    program.main.add_return(x)
    program.compile("ref")
    with program.update_weights() as new:
        new["unread"] = np.ones(1, np.float32)
    for _ in range(2):
        program.compile("ref")
    assert program.compiled.weights.given["unread"].tolist() == [1.0]


def test_rolled_back_values_are_not_carried_over(program: Program) -> None:
    was = bits(program)
    with program.update_weights() as new:
        new["w1"] = B["w1"]
    new.rollback()
    assert bits(program.compile("ref")) == was


def test_an_update_of_what_was_replaced_is_an_error(program: Program) -> None:
    with program.update_weights() as done:
        done["w1"] = B["w1"]
    held = program.compiled.weights
    now = bits(program)
    with (
        pytest.raises(WeightError, match="compiled again since this update began"),
        program.update_weights() as new,
    ):
        new["b1"] = B["b1"]
        program.compile("ref")
    with (
        pytest.raises(WeightError, match="compiled again since this update began"),
        program.update_weights() as new,
    ):
        program.compile("ref")
        new["b1"] = B["b1"]
    with pytest.raises(WeightError, match="compiled again since this update began"):
        done.rollback()
    assert bits(program) == now
    with held.update(in_place=True) as mine:  # whoever holds what was replaced may go on with it
        mine["w1"] = A["w1"]
    assert bits(program) == now


def test_finalizing_keeps_what_has_been_given(template: Program) -> None:
    template.compile("ref")
    with template.update_weights() as new:
        new["w1"] = A["w1"]
    template.finalize("ref")
    with template.update_weights() as new:
        new.update({name: value for name, value in A.items() if name != "w1"})
    assert template.eval(X)[0].shape == (3, 4)


def scaled() -> Program:
    """A number times a weight that is 1."""
    program = Program()
    x = program.main.add_parameter("x", migx.Shape("f32"))
    one = program.main.add_literal(1.0, name="scale", replaceable=True)
    program.main.add_return(program.main.add_instruction(ops.Mul(), x, one))
    return program


def test_what_a_pass_relied_on_is_given_as_the_message_says() -> None:
    program = scaled().compile("ref", passes="simplify_algebra")
    values = {"scale": np.float32(3)}
    says = r"replace_onnx_external_weights\(program.copy\(\), values\).compile\(target\)"
    with pytest.raises(AssumptionError, match=says), program.update_weights() as new:
        new.update(values)
    other = replace_onnx_external_weights(program.copy(), values).compile("ref")
    assert other.eval({"x": np.float32(1)})[0].tolist() == 3


def compiled_while(act: Callable[[], None], program: Program, passes: str = "") -> None:
    """Compiles a program again; another thread acts while the last pass runs."""
    inside, done = threading.Event(), threading.Event()

    class Waits(Pass):
        def apply(self, module: Module, manager: PassManager) -> bool:
            inside.set()
            assert done.wait(60)
            return False

    def other() -> None:
        try:
            assert inside.wait(60)
            act()
        finally:
            done.set()

    thread = threading.Thread(target=other)
    thread.start()
    program.compile("ref", passes=Pipeline((*Pipeline.parse(passes), Waits())))
    thread.join()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("passes", ["", "hoist_weights"])
def test_what_is_given_while_a_program_is_compiled_is_in_it(
    passes: str, in_place: bool, program: Program
) -> None:
    with program.update_weights() as new:
        new["w1"], new["b1"] = drawn(MLP_DIMS, 3)["w1"], B["b1"]

    def act() -> None:
        for value in (A["w1"], B["w1"]):
            with program.update_weights(in_place=in_place) as new:
                new["w1"] = value

    compiled_while(act, program, passes)
    one = bits(program)
    assert sorted(program.compiled.weights.given) == ["b1", "w1"]
    wanted = replace_onnx_external_weights(program.copy(), {"w1": B["w1"], "b1": B["b1"]})
    assert one == bits(wanted.compile("ref", passes=passes))
    assert bits(program.compile("ref", passes=passes)) == one


def test_what_is_rolled_back_while_a_program_is_compiled_is_not_in_it(program: Program) -> None:
    was = bits(program)
    with program.update_weights() as new:
        new["w1"] = B["w1"]
    compiled_while(new.rollback, program)
    assert bits(program) == was


def test_a_pass_that_relied_on_what_was_given_meanwhile_runs_again() -> None:
    program = scaled().compile("ref", passes="")

    def act() -> None:
        with program.update_weights() as new:
            new["scale"] = np.float32(3)

    compiled_while(act, program, "simplify_algebra")
    assert program.eval({"x": np.float32(1)})[0].tolist() == 3
