"""``migx.weights.naming``: weights found in a checkpoint by their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import migx
from migx.errors import DataWarning, WeightError
from migx.program import Program
from migx.weights.naming import Naming, Tensor
from tests.weights.build import MLP, MLP_DIMS, Array, drawn, model_of, safetensors, write_weights

A = drawn(MLP_DIMS, 1)
NAMES = {"w1": "up.weight", "b1": "up.bias", "w2": "down.weight", "b2": "down.bias"}


def exported(weights: dict[str, Array]) -> dict[str, Array]:
    """Weights as a framework names them, with matrices transposed."""
    return {NAMES[n]: np.ascontiguousarray(v.T) for n, v in weights.items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = model_of(MLP, A)
    folder = write_weights(made, A, tmp_path)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder / "model.onnx"


def test_weights_are_found_as_they_are_or_transposed(model: Path, tmp_path: Path) -> None:
    base = exported(A) | {"step": np.array([3], np.float32), "other": np.ones((16, 8), np.float32)}
    naming = Naming.by_value(migx.parse_onnx(model), safetensors(base, tmp_path / "a.safetensors"))
    assert naming.tensors == {n: (Tensor(NAMES[n], n[0] == "w"),) for n in A}
    assert [str(t) for t in naming.tensors["w1"]] == ["up.weight, transposed"]
    assert naming.unknown == ()
    tuned = {name: value + 1 for name, value in A.items()}
    program = migx.parse_onnx(model, defer_external_weights=True).compile("ref")
    x = {"x": np.ones((2, 8), np.float32)}
    found = []
    for given in (tuned, naming.of(exported(tuned))):
        with program.update_weights() as new:
            new.update(given)
        found.append(program.eval(x)[0].tobytes())
    assert found[0] == found[1]


def test_a_checkpoint_may_be_of_a_wider_type_and_other_dims(model: Path) -> None:
    wide = {name: value.astype(np.float64) for name, value in exported(A).items()}
    wide["up.bias"] = wide["up.bias"].reshape(1, 16)
    naming = Naming.by_value(migx.parse_onnx(model), wide)
    assert [t.name for (t,) in naming.tensors.values()] == [*NAMES.values()]
    assert naming.of(wide)["b1"].shape == migx.Shape("f64", (16,))


def test_a_square_matrix_is_not_taken_for_its_transpose() -> None:
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    program = Program()
    program.main.add_return(program.main.add_literal(square, name="w"))
    (kept,) = Naming.by_value(program, {"a": square}).tensors["w"]
    (turned,) = Naming.by_value(program, {"a": square.T.copy()}).tensors["w"]
    assert (kept.transposed, turned.transposed) == (False, True)


def test_weights_of_equal_values_are_told_apart_by_name_or_not_at_all() -> None:
    ones = np.ones(4, np.float32)
    program = Program()
    for name in ("n1", "mystery"):
        program.main.add_literal(ones, name=name)
    program.main.add_return(*program.main)
    naming = Naming.by_value(program, {"n1": ones, "n2": ones})
    same = naming.of({"n1": 2 * ones, "n2": 2 * ones})
    assert [value.array.tolist() for value in same.values()] == [[2.0] * 4] * 2
    with pytest.raises(WeightError, match=r"'mystery' may be 'n1', 'n2': these were equal where"):
        naming.of({"n1": ones, "n2": 2 * ones})


def test_equal_weights_may_have_different_types_and_large_values() -> None:
    w = np.array([1, 2, np.nan, np.inf], np.float16)
    program = Program()
    program.main.add_return(program.main.add_literal(w, name="w"))
    base = {"a": w, "b": w.astype(np.float64), "large": np.full(4, 1e300)}
    naming = Naming.by_value(program, base)
    assert naming.tensors == {"w": (Tensor("a"), Tensor("b"))}
    np.testing.assert_array_equal(naming.of(base)["w"].array, w)
    with pytest.raises(WeightError, match="'w' may be 'a', 'b': these were equal where"):
        naming.of(base | {"b": np.ones(4)})


def test_a_symmetric_matrix_may_be_transposed() -> None:
    program = Program()
    program.main.add_return(program.main.add_literal(np.eye(3, dtype=np.float32), name="w"))
    naming = Naming.by_value(program, {"a": np.eye(3)})
    np.testing.assert_array_equal(naming.of({"a": 2 * np.eye(3)})["w"].array, 2 * np.eye(3))
    with pytest.raises(WeightError, match="'w' may be 'a', 'a, transposed': these were equal"):
        naming.of({"a": np.arange(9).reshape(3, 3)})


def test_what_is_not_found_is_said(model: Path) -> None:
    program, base = migx.parse_onnx(model), exported(A)
    del base["up.bias"]
    with pytest.warns(DataWarning, match=r"no tensor of the checkpoint is 1 weight, 'b1': const"):
        naming = Naming.by_value(program, base)
    assert naming.unknown == ("b1",)
    with pytest.raises(WeightError, match=r"the checkpoint lacks 2 tensors: 'down.bias', 'up.we"):
        naming.of({"down.weight": base["down.weight"]})
    with pytest.raises(WeightError, match=r"has dims \(3,\), which do not fit f32\[16, 4\]"):
        naming.of(base | {"down.weight": np.ones(3)})
    with pytest.raises(WeightError, match="has none of the 4 weights of the program, by value"):
        Naming.by_value(program, {"a": np.zeros((16, 8))})
    with pytest.raises(WeightError, match="is a folder, in which weights are found by their pl"):
        Naming.by_value(program, model.parent)
    deferred = migx.parse_onnx(model, defer_external_weights=True)
    with pytest.raises(WeightError, match="'w1' has no value yet, by which its name could be"):
        Naming.by_value(deferred, base)
