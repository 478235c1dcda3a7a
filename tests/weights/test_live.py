"""Weights swapped while a program lives: what is checked, computed and kept, and who sees what."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import migx
from migx import compiler
from migx.errors import WeightError
from migx.onnx import replace_onnx_external_weights
from migx.program import Program
from migx.shape import I4, U4, UNPACKED
from migx.weights import overwriting
from tests.weights.build import MLP, MLP_DIMS, Array, drawn, model_of, write_weights

PASSES = "optimize_module,hoist_weights,fuse_pointwise_reduce"
X = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)}
A, B = drawn(MLP_DIMS, 1), drawn(MLP_DIMS, 2)


@pytest.fixture
def template(tmp_path: Path) -> Program:
    """A compiled program whose weights are left out."""
    (tmp_path / "model.onnx").write_bytes(model_of(MLP, A).SerializeToString())
    program = migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=True)
    return program.compile("ref", passes=PASSES)


def given(program: Program, weights: dict[str, Array]) -> Array:
    """The result with some weights."""
    with program.update_weights() as new:
        new.update(weights)
    result: Array = program.eval(X)[0]
    return result


def baked(program: Program, weights: dict[str, Array]) -> Array:
    result: Array = replace_onnx_external_weights(program, weights).finalize("ref").eval(X)[0]
    return result


def test_a_then_b_then_a_gives_the_bits_of_a(template: Program) -> None:
    first, second, third = (given(template, w) for w in (A, B, A))
    assert first.tobytes() == third.tobytes() == baked(template, A).tobytes()
    assert second.tobytes() == baked(template, B).tobytes() != first.tobytes()


def test_nothing_is_compiled_by_a_swap(template: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    given(template, A)
    executable, count = template.executable, []
    for name in ("compiled", "assembled", "ready"):
        monkeypatch.setattr(compiler, name, lambda *_, **__: count.append(1))
    given(template, B)
    assert not count
    assert template.executable is executable


def test_only_the_slots_of_what_changed_are_computed(template: Program) -> None:
    given(template, A)
    before = template.compiled.weights.current
    given(template, {"b1": B["b1"]})
    after = template.compiled.weights.current
    changed = {n for n in after.slots if after.slots[n] is not before.slots[n]}
    assert changed == {"b1"}
    assert {n for n in after.weights if after.weights[n] is not before.weights[n]} == {"b1"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("w11", A["w1"], r"no replaceable weight 'w11'; there are: w1"),
        ("zebra", A["w1"], r"no replaceable weight 'zebra'; there are: w1, b1, w2, b2"),
        ("w1", A["w1"].T, r"weight 'w1' is f32\[8, 16\], not f32\[16, 8\]"),
        ("w1", A["w1"].astype(np.float64), r"weight 'w1' is f32\[8, 16\], not f64\[8, 16\]"),
        ("w1", object(), "weight 'w1' is f32"),
        ("b1", np.full(16, np.nan, np.float32), "'b1' has 16 elements not finite"),
    ],
)
def test_what_is_refused_changes_nothing(
    name: str, value: object, message: str, template: Program
) -> None:
    wanted, epoch = given(template, A), template.compiled.weights.current
    with (
        pytest.raises(WeightError, match=message),
        template.update_weights(check_finite=True) as new,
    ):
        new["w2"] = B["w2"]
        new[name] = value  # type: ignore[assignment]
    assert template.compiled.weights.current is epoch
    assert template.eval(X)[0].tobytes() == wanted.tobytes()


def test_an_exception_in_the_block_changes_nothing(template: Program) -> None:
    wanted = given(template, A)
    with pytest.raises(KeyError), template.update_weights() as new:
        new.update(B)
        raise KeyError
    assert template.eval(X)[0].tobytes() == wanted.tobytes()


def test_an_update_has_one_block(template: Program) -> None:
    wanted = given(template, A)
    new = template.update_weights()
    with pytest.raises(WeightError, match="this update has not begun: weights are given in the b"):
        new["b1"] = B["b1"]
    with new:
        new["b1"] = A["b1"]
    ended = "this update has ended: .* a block for each update"
    with pytest.raises(WeightError, match=ended):
        new.update(B)
    with pytest.raises(WeightError, match=ended):
        new["b1"] = B["b1"]
    with pytest.raises(WeightError, match="an update has one block"), new:
        pass
    assert template.eval(X)[0].tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("dtype", "right", "wrong", "message"),
    [
        ("i4", np.array([-8, 7, 3], np.int8), np.array([0, 50, 0], np.int8), "50 is no element"),
        ("i4", np.array([-8, 7, 3]), np.array([0, -9, 0]), "-9 is no element of i4: it holds who"),
        ("u2", np.array([0, 3, 1], np.uint8), np.array([0, 4, 0], np.uint8), "4 is no element"),
        ("f4", np.array([0.5, -6, 3]), np.array([0, 0.3, 0]), "0.3 is no element of f4: it would"),
        ("i4", np.array([-8, 7, 3], UNPACKED[I4]), np.ones(3), r"f64\[3\] is neither its 2 bytes"),
        (
            "i4",
            np.array([-8, 7, 3]),
            np.array([1, 0, 3], UNPACKED[U4]),
            r"is i4\[3\], not u4\[3\]$",
        ),
    ],
)
def test_elements_of_a_packed_weight_fit(
    dtype: str, right: Array, wrong: Array, message: str
) -> None:
    bits = {"i4": "int4", "u2": "int2", "f4": "fp4"}[dtype]
    program = migx.parse(
        f"""module main() {{
          %0 = @literal() {{value=sha256("00"), label="w", replaceable=true}} : {dtype}[3]
          %1 = unpack_{bits}(%0)
          return %1
        }}""",
        draw_missing=1,
    ).compile("ref")
    with program.update_weights() as new:
        new["w"] = right
    assert program.eval({})[0].tolist() == right.tolist()
    with pytest.raises(WeightError, match=message), program.update_weights() as new:
        new["w"] = wrong
    assert program.eval({})[0].tolist() == right.tolist()


def test_rolled_back_the_epoch_before_is_there(template: Program) -> None:
    wanted = given(template, A)
    with template.update_weights() as new:
        new.update(B)
    assert template.eval(X)[0].tobytes() != wanted.tobytes()
    new.rollback()
    assert template.eval(X)[0].tobytes() == wanted.tobytes()
    with pytest.raises(WeightError, match="cannot be rolled back: it has been already"):
        new.rollback()


def test_what_others_have_committed_is_not_rolled_back(template: Program) -> None:
    given(template, A)
    with template.update_weights() as first:
        first.update(B)
    wanted = given(template, {"b2": A["b2"]})
    with pytest.raises(WeightError, match="has been committed since"):
        first.rollback()
    assert template.eval(X)[0].tobytes() == wanted.tobytes()


def test_what_was_given_may_change_afterwards(template: Program) -> None:
    weights = {name: value.copy() for name, value in A.items()}
    wanted = given(template, weights)
    for value in weights.values():
        value[...] = 0
    assert template.eval(X)[0].tobytes() == wanted.tobytes()


def test_in_place_the_memory_is_the_same(template: Program) -> None:
    given(template, A)
    before = template.compiled.weights.current.slots["b1"].array
    with template.update_weights(in_place=True) as new:
        new.update(B)
    after = template.compiled.weights.current.slots["b1"].array
    assert after is before
    assert after.tolist() == B["b1"].tolist()
    assert template.eval(X)[0].tobytes() == baked(template, B).tobytes()
    with pytest.raises(WeightError, match="it was made in place"):
        new.rollback()


def test_in_place_never_writes_to_what_the_program_holds(template: Program) -> None:
    program = replace_onnx_external_weights(template, A).finalize("ref")
    text = program.fingerprint()
    with program.update_weights(in_place=True) as new:
        new.update(B)
    assert program.fingerprint() == text
    assert program.eval(X)[0].tobytes() == baked(template, B).tobytes()


def test_a_signal_while_memory_is_written_leaves_no_half(
    template: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(template, A)

    def interrupted(pairs: list[tuple[Array, Array]]) -> None:
        np.copyto(*pairs[0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(overwriting, "copy", interrupted)
        with pytest.raises(KeyboardInterrupt), template.update_weights(in_place=True) as new:
            new.update(B)
    with pytest.raises(WeightError, match=f"{len(B)} weights have no value"):
        template.eval(X)
    assert given(template, B).tobytes() == baked(template, B).tobytes()


@pytest.mark.parametrize("how", ["finalize", "compile", "save"])
def test_what_a_signal_has_taken_is_not_brought_back(
    how: str, template: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own value would stand beside those that updates have given."""
    program = replace_onnx_external_weights(template, A).finalize("ref")
    wanted = given(program, B)

    def interrupted(pairs: list[tuple[Array, Array]]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(overwriting, "copy", interrupted)
        with pytest.raises(KeyboardInterrupt), program.update_weights(in_place=True) as new:
            new["w1"] = A["w1"]
    lost = "1 weight has no value, 'w1': an update in place was interrupted; give them again"
    if how == "finalize":
        program.finalize("ref")
    with pytest.raises(WeightError, match=lost):
        if how == "compile":
            program.compile("ref", passes=PASSES)
        elif how == "save":
            migx.save(program, tmp_path / "p.mxr")
        else:
            program.eval(X)
    with pytest.raises(WeightError, match=lost), program.update_weights() as new:
        new["w1"]
    assert given(program, {"w1": B["w1"]}).tobytes() == wanted.tobytes()


def test_what_is_not_finite_when_the_block_ends_is_refused(template: Program) -> None:
    wanted, value = given(template, A), B["b1"].copy()
    with (
        pytest.raises(WeightError, match="'b1' has 1 element not finite"),
        template.update_weights(check_finite=True) as new,
    ):
        new["b1"] = value
        value[3] = np.inf
    assert template.eval(X)[0].tobytes() == wanted.tobytes()


@pytest.mark.parametrize("in_place", [False, True])
def test_every_answer_belongs_to_one_epoch(in_place: bool, template: Program) -> None:
    answers = {given(template, w).tobytes() for w in (A, B)}
    seen: set[bytes] = set()
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            seen.add(template.eval(X)[0].tobytes())

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(1000):
        with template.update_weights(in_place=in_place) as new:
            new.update(A if i % 2 else B)
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= answers


def test_a_baked_program_is_swapped_as_a_template_is(template: Program) -> None:
    program = replace_onnx_external_weights(template, A).finalize("ref")
    assert given(program, {}).tobytes() == baked(template, A).tobytes()
    assert given(program, B).tobytes() == baked(template, B).tobytes()
    again = replace_onnx_external_weights(program, A).finalize("ref")
    assert again.eval(X)[0].tobytes() == baked(template, A).tobytes()


def test_a_folder_is_taken_as_it_is(template: Program, tmp_path: Path) -> None:
    folder = write_weights(model_of(MLP, B), B, tmp_path / "b")
    with template.update_weights() as new:
        new.update(folder)
    assert template.eval(X)[0].tobytes() == baked(template, B).tobytes()


def test_an_update_is_read_like_a_dict(template: Program) -> None:
    given(template, A)
    with template.update_weights() as new:
        new["b1"] = B["b1"]
        assert len(new) == len(A)
        assert "b1" in new
        assert "b3" not in new
        held = dict(new)
    assert held.keys() == A.keys()
    for name, value in held.items():
        np.testing.assert_array_equal(value, (B if name == "b1" else A)[name])
