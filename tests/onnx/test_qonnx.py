"""Quantisation to any number of bits: the results are those of the package qonnx 1.0.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, read
from tests.onnx.one_node import node_model

X = np.array([[-9, -2.6, -1.5, -0.75, -0.25], [0, 0.25, 0.75, 1.3, 9]], np.float32)
DOMAIN = "qonnx.custom_op.general"
CASES: dict[str, tuple[str, list[Any], dict[str, Any], list[list[float]]]] = {
    "round": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"},
        [[-4.0, -2.5, -1.5, -1.0, 0.0], [0.0, 0.0, 1.0, 1.5, 3.5]],
    ),
    "ceil": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 0, "rounding_mode": "CEIL"},
        [[-4.0, -2.5, -1.5, -0.5, 0.0], [0.0, 0.5, 1.0, 1.5, 3.5]],
    ),
    "floor": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 0, "rounding_mode": "FLOOR"},
        [[-4.0, -3.0, -1.5, -1.0, -0.5], [0.0, 0.0, 0.5, 1.0, 3.5]],
    ),
    "up": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 0, "rounding_mode": "UP"},
        [[-4.0, -3.0, -1.5, -1.0, -0.5], [0.0, 0.5, 1.0, 1.5, 3.5]],
    ),
    "down": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 0, "rounding_mode": "DOWN"},
        [[-4.0, -2.5, -1.5, -0.5, 0.0], [0.0, 0.0, 0.5, 1.0, 3.5]],
    ),
    "half_up": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 0, "rounding_mode": "HALF_UP"},
        [[-4.0, -2.5, -1.5, -1.0, -0.5], [0.0, 0.5, 1.0, 1.5, 3.5]],
    ),
    "half_down": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 0, "rounding_mode": "HALF_DOWN"},
        [[-4.0, -2.5, -1.5, -0.5, 0.0], [0.0, 0.0, 0.5, 1.5, 3.5]],
    ),
    "half_even": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 0, "rounding_mode": "half_even"},
        [[-4.0, -2.5, -1.5, -1.0, 0.0], [0.0, 0.0, 1.0, 1.5, 3.5]],
    ),
    "narrow": (
        "Quant",
        [0.5, 0.0, 4],
        {"signed": 1, "narrow": 1},
        [[-3.5, -2.5, -1.5, -1.0, 0.0], [0.0, 0.0, 1.0, 1.5, 3.5]],
    ),
    "unsigned": (
        "Quant",
        [0.5, 3.0, 3],
        {"signed": 0, "narrow": 0},
        [[-1.5, -1.5, -1.5, -0.5, -0.5], [0.0, 0.5, 0.5, 1.5, 2.0]],
    ),
    "unsigned_narrow": (
        "Quant",
        [0.5, 3.0, 3],
        {"signed": 0, "narrow": 1},
        [[-1.5, -1.5, -1.5, -0.5, -0.5], [0.0, 0.5, 0.5, 1.5, 1.5]],
    ),
    "one_bit": (
        "Quant",
        [0.5, 0.0, 1],
        {"signed": 1, "narrow": 0},
        [[-0.5, -0.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, 0.5, 0.5]],
    ),
    "by_channel": (
        "Quant",
        [[[0.25], [2.0]], [[0.0], [1.0]], 3],
        {"signed": 1, "narrow": 0},
        [[-1.0, -1.0, -1.0, -0.75, -0.25], [0.0, 0.0, 0.0, 2.0, 4.0]],
    ),
    "new_name": (
        "IntQuant",
        [0.5, 0.0, 2],
        {"signed": 1, "narrow": 0},
        [[-1.0, -1.0, -1.0, -1.0, 0.0], [0.0, 0.0, 0.5, 0.5, 0.5]],
    ),
    "bipolar": (
        "BipolarQuant",
        [[[0.5], [2.0]]],
        {},
        [[-0.5, -0.5, -0.5, -0.5, -0.5], [2.0, 2.0, 2.0, 2.0, 2.0]],
    ),
    "trunc": (
        "Trunc",
        [0.25, 0.0, 8, 6],
        {"rounding_mode": "FLOOR"},
        [[-2.25, -0.75, -0.5, -0.25, -0.25], [0.0, 0.0, 0.0, 0.25, 2.25]],
    ),
    "trunc_to_nearest": (
        "Trunc",
        [0.25, 1.0, 8, 6],
        {"rounding_mode": "ROUND"},
        [[-2.5, -0.75, -0.5, -0.25, -0.25], [-0.25, -0.25, 0.0, 0.25, 2.0]],
    ),
    "trunc_to_scale": (
        "Trunc",
        [0.25, 0.0, 8, 1.0, 3],
        {"signed": 1, "narrow": 0, "rounding_mode": "FLOOR", "version": 2},
        [[-4.0, -3.0, -2.0, -1.0, -1.0], [0.0, 0.0, 0.0, 1.0, 3.0]],
    ),
    "trunc_unsigned": (
        "Trunc",
        [[[0.25], [0.5]], 2.0, 8, [[0.5], [2.0]], 3],
        {"signed": 0, "narrow": 1, "rounding_mode": "HALF_UP", "version": 2},
        [[-0.5, -0.5, -0.5, -0.5, 0.0], [1.0, 1.0, 1.0, 1.0, 9.0]],
    ),
}


def given(
    kind: str, operands: list[Any], x: Array = X, **options: Any
) -> tuple[Any, dict[str, Array]]:
    inputs = [x, *(np.array(v, np.float32) for v in operands)]
    constant = range(1, len(inputs))
    return node_model(kind, inputs, constant=constant, **{"domain": DOMAIN, **options})


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_as_the_reference(case: str, target: str, tmp_path: Path) -> None:
    kind, operands, options, wanted = CASES[case]
    model, fed = given(kind, operands, **options)
    (found,) = read(model, tmp_path).compile(target).eval(fed)
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))


def test_a_version_that_is_not_said(tmp_path: Path) -> None:
    kind, operands, options, wanted = CASES["trunc_to_scale"]
    model, fed = given(kind, operands, **{**options, "version": 1})
    np.testing.assert_array_equal(read(model, tmp_path).compile("ref").eval(fed)[0], wanted)


@pytest.mark.parametrize("domain", ["onnx.brevitas", "finn.custom_op.general"])
def test_domains_of_before(domain: str, tmp_path: Path) -> None:
    kind, operands, options, wanted = CASES["narrow"]
    model, fed = given(kind, operands, domain=domain, **options)
    np.testing.assert_array_equal(read(model, tmp_path).compile("ref").eval(fed)[0], wanted)


@pytest.mark.parametrize(
    ("kind", "operands", "options", "said"),
    [
        (
            "Quant",
            [0.5, 0, 4],
            {"rounding_mode": "AWAY"},
            "no rounding_mode 'AWAY'; there are ROUN",
        ),
        ("Quant", [0.5, 0, 0], {}, "input 3 is 0.0: a number of bits is 1 or more"),
        ("Trunc", [0.5, 0, 8, 2.5], {}, "input 4 is 2.5: a number of bits is 1 or more"),
        ("Quant", [0.5, 0, [[1], [2]]], {}, "is 1 for some only"),
        ("Trunc", [0.5, 0, 8, 0, 4], {}, "scales are above 0, not 0.5 and 0.0"),
    ],
)
def test_refused(
    kind: str, operands: list[Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError, match=said):
        read(given(kind, operands, **options)[0], tmp_path)


@pytest.mark.parametrize("bits", [17, 32, 2000])
def test_more_bits_than_a_type_has_cut_nothing_off(bits: int, tmp_path: Path) -> None:
    model, fed = given("Quant", [1, 0, bits], x=X.astype(np.float16))
    for target in ("ref", "cpu"):
        (found,) = read(model, tmp_path).compile(target).eval(fed)
        np.testing.assert_array_equal(found, np.rint(X))
