"""Unique values, running products, determinants, caches and summation, by onnxruntime or numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx.errors import OnnxError
from tests.onnx.build import Array, saved
from tests.onnx.one_node import assert_as_peer, node_model, results

RNG = np.random.default_rng(8)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


SMALL = RNG.integers(0, 3, (4, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("x", [SMALL, SMALL.astype(np.int64)], ids=["f32", "i64"])
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": -1}, {"axis": 1}], ids=str)
@pytest.mark.parametrize("ordered", [0, 1])
def test_unique(ordered: int, options: dict[str, Any], x: Array, tmp_path: Path) -> None:
    assert_as_peer(tmp_path, "Unique", [x], 4, domain="", sorted=ordered, **options)


@pytest.mark.parametrize(
    ("dims", "axis", "wanted"),
    [
        ((0,), None, (0,)),
        ((0, 3), None, (0,)),
        ((0, 3), 0, (0, 3)),
        ((0, 3), 1, (0, 1)),
        ((3, 0), 0, (1, 0)),
        ((0, 0), 0, (0, 0)),
    ],
)
def test_unique_of_nothing(
    dims: tuple[int, ...], axis: int | None, wanted: tuple[int, ...], tmp_path: Path
) -> None:
    """Slices of no elements are equal."""
    options: dict[str, Any] = {} if axis is None else {"axis": axis}
    values, first, inverse, counts = results(
        tmp_path, "Unique", [floats(*dims)], 4, domain="", **options
    )
    count = wanted[axis or 0]
    assert (values.shape, first.tolist()) == (wanted, [0] * count)
    assert inverse.tolist() == [0] * (0 if axis is None else dims[axis])
    assert counts.tolist() == [len(inverse)] * count


def test_unique_of_strings(tmp_path: Path) -> None:
    x = np.array(["b", "a", "b", "c", "a"], object)
    values, first, inverse, counts = results(tmp_path, "Unique", [x], 4, domain="")
    assert values.tolist() == ["a", "b", "c"]
    assert (first.tolist(), inverse.tolist()) == ([1, 0, 3], [1, 0, 1, 2, 0])
    assert counts.tolist() == [2, 2, 1]


@pytest.mark.parametrize("version", [11, 13])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_hardmax(axis: int, version: int, tmp_path: Path) -> None:
    assert_as_peer(tmp_path, "Hardmax", [SMALL], domain="", version=version, axis=axis)


def test_determinant(tmp_path: Path) -> None:
    assert_as_peer(tmp_path, "Det", [floats(2, 3, 4, 4)], domain="")


@pytest.mark.parametrize("held", [(), (1,)])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_product(reverse: int, held: tuple[int, ...], tmp_path: Path) -> None:
    x = floats(3, 4)
    inputs = [x, np.array(-1)]
    options: dict[str, Any] = {"domain": "", "version": 26, "constant": held, "reverse": reverse}
    turn = slice(None, None, -1 if reverse else 1)
    wanted = np.cumprod(x[:, turn], 1)
    (found,) = results(tmp_path, "CumProd", inputs, **options)
    np.testing.assert_allclose(found, wanted[:, turn], 1e-6)
    (found,) = results(tmp_path, "CumProd", inputs, exclusive=1, **options)
    without = np.concatenate([np.ones((3, 1), np.float32), wanted[:, :-1]], 1)
    np.testing.assert_allclose(found, without[:, turn], 1e-6)


def test_bits_read_as_another_type(tmp_path: Path) -> None:
    x = floats(2, 3)
    (found,) = results(tmp_path, "BitCast", [x], domain="", version=26, to=6)
    np.testing.assert_array_equal(found, x.view(np.int32))


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_cache_that_is_filled(mode: str, tmp_path: Path) -> None:
    cache, update = floats(2, 3, 6, 4), floats(2, 3, 2, 4)
    starts = np.array([1, 5 if mode == "circular" else 4])
    inputs = [cache, update, starts]
    (found,) = results(tmp_path, "TensorScatter", inputs, domain="", version=24, mode=mode)
    wanted = cache.copy()
    for member, start in enumerate(starts):
        for i in range(2):
            wanted[member, :, (start + i) % 6] = update[member, :, i]
    np.testing.assert_array_equal(found, wanted)


EQUATIONS: dict[str, list[tuple[int, ...]]] = {
    "ij,jk->ik": [(2, 3), (3, 4)],
    "ij,jk": [(2, 3), (3, 4)],
    "bhid,bhjd->bhij": [(2, 3, 4, 5), (2, 3, 6, 5)],
    "...ij,...jk->...ik": [(2, 1, 3, 4), (5, 4, 2)],
    "i,j->ji": [(3,), (4,)],
    "ij->": [(3, 4)],
    "ij->ji": [(3, 4)],
    "ii->i": [(3, 3)],
    "iij,jkk->ik": [(3, 3, 4), (4, 2, 2)],
    "ijk,ijk->k": [(2, 3, 4), (2, 3, 4)],
    "a,ab,bc->c": [(2,), (2, 3), (3, 4)],
    "abc,abd->acd": [(2, 3, 4), (2, 3, 5)],
    "i...->...": [(2, 3, 4)],
    "bij,bjk": [(2, 3, 4), (2, 4, 5)],
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation: str, tmp_path: Path) -> None:
    operands = [floats(*dims) for dims in EQUATIONS[equation]]
    (found,) = results(tmp_path, "Einsum", operands, domain="", equation=equation)
    wanted = np.einsum(equation, *operands)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)


def test_einsum_of_any_size(tmp_path: Path) -> None:
    operands = [floats(2, 3, 3), floats(2, 3, 4)]
    names: dict[int, list[str | int]] = {0: ["b", "n", "n"], 1: ["b", "n", "m"]}
    assert_as_peer(tmp_path, "Einsum", operands, domain="", equation="bii,bim->bm", symbolic=names)


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        ("ij,jk->ik", "is not for 1 input"),
        ("ijk->i", "does not label the axes of"),
        ("i1->i", "does not label the axes of"),
        ("ij->ii", "has a label twice"),
        ("ij->k", "no input has the label 'k'"),
    ],
)
def test_equations_that_say_nothing(equation: str, message: str, tmp_path: Path) -> None:
    model, _ = node_model("Einsum", [floats(2, 3)], domain="", equation=equation)
    with pytest.raises(OnnxError, match=message):
        migx.parse_onnx(saved(model, tmp_path))
