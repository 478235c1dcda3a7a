"""Quantisation to any number of bits: the results are those of the package qonnx 1.0.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
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
        ("FloatQuant", [1, 0, 3, 7, 448], {}, "input 2 is 0.0: a number of bits is 1 or more"),
        ("FloatQuant", [1, 4, 2.5, 7, 448], {}, "input 3 is 2.5: a number of bits is 0 or more"),
        ("FloatQuant", [1, 4, 3, 7, 448], {"saturation": 0}, "has_inf or has_nan must say what"),
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


FORMATS: dict[str, tuple[Any, list[float]]] = {
    "e4m3": (ml_dtypes.float8_e4m3fn, [4, 3, 7, 448]),
    "e5m2": (ml_dtypes.float8_e5m2, [5, 2, 15, 57344]),
    "e3m2": (ml_dtypes.float6_e3m2fn, [3, 2, 3, 28]),
    "e2m3": (ml_dtypes.float6_e2m3fn, [2, 3, 1, 1000]),
    "e2m1": (ml_dtypes.float4_e2m1fn, [2, 1, 1, 6]),
    "f16": (np.float16, [5, 10, 15, 65504]),
    "bf16": (ml_dtypes.bfloat16, [8, 7, 127, 3.3895314e38]),
}


def spread(most: float) -> Array:
    """Values of all magnitudes up to a greatest one, ties, zeros and subnormals of the format."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(500) * 10.0 ** rng.uniform(-8, 5, 500)
    ties = (np.arange(1, 64) / 16)[:, None] * 2.0 ** np.arange(-20, 12)
    every = np.concatenate([drawn, ties.ravel(), -ties.ravel(), [0.0, -0.0, most, -most]])
    found: Array = every[np.abs(every) <= most].astype(np.float32)
    return found


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("name", FORMATS)
def test_floats_of_a_format_are_those_of_its_type(name: str, target: str, tmp_path: Path) -> None:
    """The types are another implementation of the same formats."""
    dtype, operands = FORMATS[name]
    x = spread(7.5 if name == "e2m3" else operands[3])
    model, fed = given("FloatQuant", [1, *operands], x=x, has_nan=1)
    (found,) = read(model, tmp_path).compile(target).eval(fed)
    np.testing.assert_array_equal(found, x.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("given_as", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_are_rounded_as_well(given_as: Any, tmp_path: Path) -> None:
    dtype, operands = FORMATS["e4m3"]
    x = spread(operands[3]).astype(given_as)
    model, fed = given("FloatQuant", [1, *operands], x=x)
    for target in ("ref", "cpu"):
        (found,) = read(model, tmp_path).compile(target).eval(fed)
        np.testing.assert_array_equal(found, x.astype(dtype).astype(given_as))


def test_floats_of_few_bits_are_not_quantised(tmp_path: Path) -> None:
    model, _ = given("FloatQuant", [1, 4, 3, 7, 448], x=X.astype(ml_dtypes.float8_e5m2))
    with pytest.raises(OnnxError, match="input 0 is f8e5m2: give floats of 16 bits or more"):
        read(model, tmp_path)


def in_format(x: Array, exponent: int, mantissa: int, bias: int, rounding: Any) -> Array:
    """The values of a format next to others, however great: computed in double precision."""
    leading = np.frexp(np.abs(x.astype(np.float64)))[1] - 1
    step = 2.0 ** (np.maximum(leading, 1 - bias) - mantissa)
    found: Array = rounding(x / step) * step
    return found


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize(
    ("mode", "rounding"),
    [("ROUND", np.rint), ("ceil", np.ceil), ("FLOOR", np.floor), ("DOWN", np.trunc)],
)
@pytest.mark.parametrize(
    ("flags", "beyond"),
    [
        ({}, 1.0),
        ({"saturation": 1, "has_inf": 1, "has_nan": 1}, 1.0),
        ({"saturation": 0, "has_inf": 1, "has_nan": 1}, np.inf),
        ({"saturation": 0, "has_nan": 1}, np.nan),
    ],
)
def test_floats_by_rounding_and_range(
    flags: dict[str, int], beyond: float, mode: str, rounding: Any, target: str, tmp_path: Path
) -> None:
    """A scale for each row; the greatest value is the format's, or the one given if it is less."""
    x = np.stack([spread(1e5), spread(1e5)[::-1]])
    scale, most = np.array([[0.5], [4]], np.float32), np.array([[240], [1e9]], np.float32)
    wanted = in_format(x / scale, 3, 4, -1, rounding)
    top = np.minimum(most, (2 - 2.0**-4) * 2.0 ** (7 + 1))
    over = np.abs(wanted) > top
    assert over.any(1).all()
    wanted = np.where(over, np.copysign(top * beyond, wanted), wanted) * scale
    strange = np.full((2, 3), [np.nan, np.inf, -np.inf], np.float32)
    x, wanted = np.hstack([x, strange]), np.hstack([wanted, np.full((2, 3), np.nan)])
    model, fed = given("FloatQuant", [scale, 3, 4, -1, most], x=x, rounding_mode=mode, **flags)
    (found,) = read(model, tmp_path).compile(target).eval(fed)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
