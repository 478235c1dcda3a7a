"""Operators of ``ai.onnx.ml``, by onnxruntime's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import migx
import migx.onnx
from migx import Dim, ops
from migx.errors import EvaluationError, OnnxError
from migx.ops.trees import COMPARISONS, GREATER, LESS, UNORDERED
from migx.shape import F32
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import assert_as_peer, node_model, results

RNG = np.random.default_rng(4)
X = RNG.standard_normal((5, 3), np.float32)
HOLES = np.where(np.abs(X) > 1, np.nan, X).astype(np.float32)
COEFFICIENTS = RNG.standard_normal(9).tolist()

CASES: dict[str, tuple[str, list[Any], int, dict[str, Any]]] = {
    "encode_numbers": (
        "LabelEncoder",
        [np.array([3, 1, 7])],
        1,
        {"keys_int64s": [1, 3], "values_floats": [0.5, 1.5], "default_float": 9.0, "version": 2},
    ),
    "encode_nan": (
        "LabelEncoder",
        [np.array([np.nan, 1, 2], np.float32)],
        1,
        {"keys_floats": [1.0, np.nan], "values_int64s": [4, 5], "version": 4},
    ),
    "one_hot": ("OneHotEncoder", [np.array([[3], [1], [8]])], 1, {"cats_int64s": [1, 3, 5]}),
    "binarizer": ("Binarizer", [X], 1, {"threshold": 0.3}),
    "scaler": ("Scaler", [X], 1, {"offset": [1.0, 2.0, 3.0], "scale": [2.0, 1.0, 0.5]}),
    "imputer": (
        "Imputer",
        [HOLES],
        1,
        {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": np.nan},
    ),
    "imputer_of_numbers": (
        "Imputer",
        [np.array([[1, 0, 3]])],
        1,
        {"imputed_value_int64s": [9], "replaced_value_int64": 0},
    ),
    "columns": ("ArrayFeatureExtractor", [X, np.array([2, 0])], 1, {}),
    "features": ("FeatureVectorizer", [X, X[:, :2]], 1, {"inputdimensions": [3, 2]}),
    "regressor": (
        "LinearRegressor",
        [X],
        1,
        {"coefficients": COEFFICIENTS[:6], "intercepts": [0.5, -0.5], "targets": 2},
    ),
    **{
        f"normalizer_{norm}": ("Normalizer", [np.abs(X)], 1, {"norm": norm})
        for norm in ("MAX", "L1", "L2")
    },
    **{
        f"classifier_{transform}": (
            "LinearClassifier",
            [X],
            2,
            {
                "coefficients": COEFFICIENTS,
                "intercepts": [0.1, 0.2, 0.3],
                "classlabels_ints": [7, 8, 9],
                "post_transform": transform,
            },
        )
        for transform in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
    },
    **{
        f"one_score_{transform}": (
            "LinearClassifier",
            [X],
            2,
            {
                "coefficients": COEFFICIENTS[:3],
                "intercepts": [0.1],
                "classlabels_strings": ["no", "yes"],
                "post_transform": transform,
            },
        )
        for transform in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
    },
    **{
        f"{kind}_of_{'words' if given.dtype == object else 'numbers'}": (kind, [given], 1, options)
        for kind, options in {
            "LabelEncoder": {"version": 1, "classes_strings": ["a", "b"]},
            "CategoryMapper": {"cats_int64s": [1, 2], "cats_strings": ["a", "b"]},
        }.items()
        for given in (np.array(["b", "z"], object), np.array([0, 1, 5]))
    },
    "names": (
        "LabelEncoder",
        [np.array([1, 9])],
        1,
        {"version": 2, "keys_int64s": [1, 2], "values_strings": ["a", "b"]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    kind, inputs, outputs, options = CASES[case]
    assert_as_peer(tmp_path, kind, inputs, outputs, domain="ai.onnx.ml", **options)


def test_a_classifier_without_intercepts(tmp_path: Path) -> None:
    label, scores = results(
        tmp_path,
        "LinearClassifier",
        [X],
        2,
        domain="ai.onnx.ml",
        coefficients=COEFFICIENTS,
        classlabels_ints=[7, 8, 9],
    )
    wanted = X @ np.asarray(COEFFICIENTS, np.float32).reshape(3, -1).T
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)
    np.testing.assert_array_equal(label, wanted.argmax(1) + 7)


@pytest.mark.parametrize("count", [8, 12])
def test_coefficients_of_other_features(count: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"domain": "ai.onnx.ml", "coefficients": [1.0] * count}
    options |= {"intercepts": [0.1, 0.2, 0.3], "classlabels_ints": [7, 8, 9]}
    with pytest.raises(OnnxError, match=f"{count} coefficients do not fit 3 targets of 2 features"):
        results(tmp_path, "LinearClassifier", [X[:, :2]], 2, **options)


def test_strings_as_numbers_and_back(tmp_path: Path) -> None:
    options: dict[str, Any] = {"domain": "ai.onnx.ml", "version": 2}
    words = np.array(["b", "?", "a"], object)
    to: dict[str, Any] = {"keys_strings": ["a", "b"], "values_int64s": [1, 2], "default_int64": 7}
    (found,) = results(tmp_path, "LabelEncoder", [words], **options, **to)
    assert found.tolist() == [2, 7, 1]
    back: dict[str, Any] = {"cats_strings": ["a", "b"], "cats_int64s": [1, 2]}
    (found,) = results(tmp_path, "CategoryMapper", [found], **options, **back)
    assert found.tolist() == ["b", "_Unused", "a"]


# Two trees of three leaves: node 0 asks, node 2 asks again.
TREES: dict[str, Any] = {
    "nodes_treeids": [0] * 5 + [1] * 5,
    "nodes_nodeids": [*range(5)] * 2,
    "nodes_featureids": [0, 0, 1, 0, 0, 2, 0, 0, 0, 0],
    "nodes_values": [0.1, 0.0, -0.2, 0.0, 0.0, 0.3, 0.0, 0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 3, 0, 0, 1, 0, 3, 0, 0],
    "nodes_falsenodeids": [2, 0, 4, 0, 0, 2, 0, 4, 0, 0],
    "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 0, 0, 1, 0, 0],
}
LEAVES = ([0, 0, 0, 1, 1, 1], [1, 3, 4, 1, 3, 4])


def modes(name: str) -> list[str]:
    return [name, "LEAF", name, "LEAF", "LEAF"] * 2


def assert_estimates(folder: Path, mode: str, **options: Any) -> None:
    assert_as_peer(
        folder,
        "TreeEnsembleRegressor",
        [HOLES],
        domain="ai.onnx.ml",
        nodes_modes=modes(f"BRANCH_{mode}"),
        **TREES | options,
    )


@pytest.mark.parametrize("mode", ["LEQ", "LT", "GTE", "GT", "EQ", "NEQ"])
def test_trees_that_compare_with_nan(mode: str, tmp_path: Path) -> None:
    splits = [np.nan if i in (0, 7) else v for i, v in enumerate(TREES["nodes_values"])]
    assert_estimates(
        tmp_path,
        mode,
        n_targets=1,
        target_treeids=LEAVES[0],
        target_nodeids=LEAVES[1],
        target_ids=[0] * 6,
        target_weights=[1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
        nodes_values=splits,
    )


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_leaves_with_several_votes(aggregate: str, targets: int, tmp_path: Path) -> None:
    assert_estimates(
        tmp_path,
        "LEQ",
        n_targets=targets,
        aggregate_function=aggregate,
        target_treeids=LEAVES[0] * 2,
        target_nodeids=LEAVES[1] * 2,
        target_ids=[0] * 12,
        target_weights=[float(v) for v in (5, 2, 4, 8, 16, 32, 1, 3, 5, 7, 9, 64)],
    )


@pytest.mark.parametrize("mode", ["LEQ", "LT", "GTE", "GT"])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_trees_that_estimate(aggregate: str, mode: str, tmp_path: Path) -> None:
    assert_estimates(
        tmp_path,
        mode,
        n_targets=2,
        target_treeids=LEAVES[0] * 2,
        target_nodeids=LEAVES[1] * 2,
        target_ids=[0] * 6 + [1] * 6,
        target_weights=[1.5, -2.0, 0.5, 3.0, 4.0, -1.0, 2.5, 1.0, -0.5, -3.0, 6.0, 0.25],
        aggregate_function=aggregate,
        base_values=[0.25, 0.5],
    )


def test_a_target_without_votes_is_its_base_value(tmp_path: Path) -> None:
    """As in ONNX's reference: onnxruntime gives 0."""
    model, fed = node_model(
        "TreeEnsembleRegressor",
        [X],
        domain="ai.onnx.ml",
        n_targets=3,
        nodes_modes=modes("BRANCH_LEQ"),
        target_treeids=LEAVES[0],
        target_nodeids=LEAVES[1],
        target_ids=[1] * 6,
        target_weights=[1.5, -2.0, 0.5, 3.0, 4.0, -1.0],
        base_values=[0.25, 0.5, -3.0],
        **TREES,
    )
    for target in ("ref", "cpu"):
        (y,) = read(model, tmp_path).compile(target).eval(fed)
        assert (y[:, [0, 2]] == [0.25, -3.0]).all()
        assert (y[:, 1] != 0.5).any()


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_trees_that_classify(transform: str, tmp_path: Path) -> None:
    assert_as_peer(
        tmp_path,
        "TreeEnsembleClassifier",
        [X],
        2,
        domain="ai.onnx.ml",
        nodes_modes=modes("BRANCH_LEQ"),
        class_treeids=LEAVES[0],
        class_nodeids=LEAVES[1],
        class_ids=[0, 1, 2, 1, 2, 0],
        class_weights=[0.5, 0.2, 0.5, 0.3, 0.4, 0.1],
        classlabels_int64s=[5, 6, 7],
        post_transform=transform,
        **TREES,
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("base", [{}, {"base_values": [-0.7]}])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("label", [0, 1])
def test_trees_that_decide_between_two(
    label: int, sign: int, base: dict[str, Any], transform: str, tmp_path: Path
) -> None:
    assert_as_peer(
        tmp_path,
        "TreeEnsembleClassifier",
        [X],
        2,
        domain="ai.onnx.ml",
        nodes_modes=modes("BRANCH_LEQ"),
        class_treeids=LEAVES[0],
        class_nodeids=LEAVES[1],
        class_ids=[label] * 6,
        class_weights=[0.1, 0.4 * sign, 0.5, 0.3, 0.4, 0.1 * sign],
        classlabels_int64s=[5, 6],
        post_transform=transform,
        **base,
        **TREES,
    )


def ensemble(folder: Path, x: Array, ways: list[int], **options: Any) -> Array:
    tensors: dict[str, tuple[list[float], int]] = {
        "nodes_splits": ([0.0, 0.0], TensorProto.FLOAT),
        "nodes_modes": ([6, 0], TensorProto.UINT8),
        "membership_values": ([1.0, 4.0, float("nan")], TensorProto.FLOAT),
        "leaf_weights": ([10.0, 20.0, 30.0], TensorProto.FLOAT),
    }
    made = {n: helper.make_tensor(n, t, [len(v)], v) for n, (v, t) in tensors.items()}
    (found,) = results(
        folder,
        "TreeEnsemble",
        [x],
        domain="ai.onnx.ml",
        version=5,
        nodes_featureids=[0, 1],
        nodes_truenodeids=[0, 1],
        nodes_trueleafs=[1, 1],
        nodes_falsenodeids=ways,
        nodes_falseleafs=[0, 1],
        leaf_targetids=[0, 0, 0],
        tree_roots=[0],
        n_targets=1,
        **made,
        **options,
    )
    return found


@pytest.mark.parametrize("mode", range(6))
@pytest.mark.parametrize("missing", [(0, 0), (1, 1), (1, 0)])
def test_trees_are_written_as_they_were_read(
    mode: int, missing: tuple[int, int], tmp_path: Path
) -> None:
    forest = ops.TreeEnsemble()
    tests = np.array([COMPARISONS[mode] | UNORDERED * m for m in missing], np.uint8)
    program = migx.Program()
    main = program.main
    x = main.add_parameter("x", migx.Shape("f32", (Dim("n"), 2)))
    held: list[Array] = [
        np.array([0, 1], np.int32),
        tests,
        np.array([0.5, 0.0], np.float32),
        np.array([[1, -1], [-2, -3]], np.int32),
        np.array([[1.0], [2.0], [4.0]], np.float32),
        np.array([0], np.int32),
    ]
    literals = [main.add_literal(v) for v in held]
    main.add_return(main.add_instruction(forest, x, *literals))
    migx.onnx.write(program, tmp_path / "trees.onnx")
    back = migx.parse_onnx(tmp_path / "trees.onnx")
    migx.onnx.write(back, tmp_path / "again.onnx")
    rows = np.array([[a, b] for a in (0.5, 1, 0, np.nan) for b in (0, 1, -1, np.nan)], np.float32)
    found = [
        p.compile("ref").eval({"x": rows})[0].tolist()
        for p in (program, back, migx.parse_onnx(tmp_path / "again.onnx"))
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("aggregate", ["sum", "average", "min", "max"])
def test_trees_of_one_leaf_and_of_several_targets_are_written(
    aggregate: str, tmp_path: Path
) -> None:
    program, silent = migx.Program(), {"min": np.inf, "max": -np.inf}.get(aggregate, 0.0)
    main = program.main
    x = main.add_parameter("x", migx.Shape("f32", (Dim("n"), 2)))
    held: list[Array] = [
        np.array([0, 1], np.int32),
        np.full(2, COMPARISONS[0], np.uint8),
        np.array([0.5, 0.0], np.float32),
        np.array([[1, -1], [-2, -3]], np.int32),
        np.array([[1, 2, 3], [4, silent, 5], [6, 7, silent], [8, 9, 2]], np.float32),
        np.array([0, -4, 0], np.int32),
    ]
    literals = [main.add_literal(v) for v in held]
    main.add_return(main.add_instruction(ops.TreeEnsemble(aggregate), x, *literals))
    migx.onnx.write(program, tmp_path / "trees.onnx")
    rows = np.array([[a, b] for a in (0, 1) for b in (-1, 1)], np.float32)
    (wanted,) = program.compile("ref").eval({"x": rows})
    (back,) = migx.parse_onnx(tmp_path / "trees.onnx").compile("ref").eval({"x": rows})
    (there,) = peer(tmp_path / "trees.onnx", {"x": rows})
    for found in (back, there):
        np.testing.assert_allclose(found, wanted, rtol=2 * F32.roundoff)


def test_a_test_that_is_no_comparison_is_not_written(tmp_path: Path) -> None:
    program = migx.Program()
    main = program.main
    x = main.add_parameter("x", migx.Shape("f32", (Dim("n"), 1)))
    one = np.zeros(1, np.int32)
    ways, weights = np.array([[-1, -2]], np.int32), np.array([[1.0], [2.0]], np.float32)
    held = (one, np.array([LESS | GREATER], np.uint8), np.zeros(1, np.float32), ways, weights, one)
    literals = [main.add_literal(v) for v in held]
    main.add_return(main.add_instruction(ops.TreeEnsemble(), x, *literals))
    with pytest.raises(OnnxError, match="it has a test that is no comparison"):
        migx.onnx.write(program, tmp_path / "trees.onnx")


def test_membership(tmp_path: Path) -> None:
    x = np.array([[1, 0], [4, 0], [2, -1], [2, 1]], np.float32)
    assert ensemble(tmp_path, x, [1, 2]).tolist() == [[10], [10], [20], [30]]


def test_a_tree_that_is_a_circle(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="has a cycle"):
        ensemble(tmp_path, np.array([[2, 1]], np.float32), [0, 2])
