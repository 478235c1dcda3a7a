"""Arithmetic on elements on the gpu: each operation, each element type."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.shape import DType
from migx.targets.gpu.kernels import kernel_for
from tests.targets.gpu.on_interpreter import gpu, holds

FLOATS = ("f16", "bf16", "f32", "f64")
INTEGERS = ("i8", "u8", "i32", "i64")
UNARY = (
    *(
        "abs",
        "atan",
        "ceil",
        "cos",
        "erf",
        "exp",
        "floor",
        "nearbyint",
        "neg",
        "recip",
        "relu",
        "sigmoid",
    ),
    *("sign", "sin", "tanh"),
)
BINARY = ("add", "div", "greater", "less_or_equal", "max", "min", "mul", "sqdiff", "sub")
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -0.5, -2.5, 1e-30, 80, -80, 1e-40, 3e38]
)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_float(name: str, dtype: str) -> None:
    holds(f"module main(x: {dtype}[n, 37]) {{\n %0 = {name}(x)\n return %0\n}}", {"n": 31})


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["asin", "asinh", "atan", "atanh", "sinh"])
def test_odd_functions_keep_their_digits_near_0(name: str, dtype: str) -> None:
    least = {"f16": -7, "f64": -300}.get(dtype, -37)
    sizes = np.concatenate([np.logspace(least, -0.1, 150), np.logspace(-5, -0.001, 150)])
    x = np.concatenate([sizes, -sizes]).astype(migx.Shape(dtype, ()).dtype.numpy)
    holds(f"module main(x: {dtype}[600]) {{\n %0 = {name}(x)\n return %0\n}}", x=x)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("acos", [*np.linspace(-1, 1, 99), 1.1, -1.1, np.nan]),
        ("asin", [*np.linspace(-1, 1, 99), 1.1, -1.1, np.nan]),
        ("atan", [*np.linspace(-3, 3, 99), 1e-300, 1e300, np.inf, -np.inf, np.nan]),
        ("acosh", [*(1 + 10.0 ** np.arange(-15, 9)), 1e154, 1e160, 1.7e308, np.inf]),
        ("acosh", [1.0, 0.999, 0.0, -1.0, -2.0, -1e10, -np.inf, np.nan]),
        ("asinh", [1e7, 1e9, -1e154, 1e160, -1.7e308, np.inf, np.nan]),
        ("cosh", [0.0, 1e-9, 699.0, -701.0, 709.9, -710.4, np.inf, -np.inf, np.nan]),
        ("sinh", [0.0, 1e-9, 699.0, -701.0, 709.9, -710.4, np.inf, -np.inf, np.nan]),
    ],
)
def test_f64_is_exact_to_the_ends_of_its_range(name: str, x: list[float]) -> None:
    given = np.array(x)
    text = f"module main(x: f64[{len(x)}]) {{\n %0 = {name}(x)\n return %0\n}}"
    (found,) = migx.parse(text).compile(gpu()).eval({"x": given})
    with np.errstate(invalid="ignore"):
        wanted = getattr(np, name.replace("a", "arc", 1))(given)
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


SPECIAL_OF = ("abs", "elu", "exp", "isnan", "nearbyint", "relu", "rsqrt", "sigmoid", "sign", "tanh")
INFINITE = ("isinf", "isinf {detect_negative=false}", "isinf {detect_positive=false}")


@pytest.mark.parametrize("name", SPECIAL_OF + INFINITE)
def test_zeros_infinities_and_nan(name: str) -> None:
    name, _, attributes = name.partition(" ")
    text = f"module main(x: f32[15]) {{\n %0 = {name}(x) {attributes}\n return %0\n}}"
    holds(text, x=SPECIAL.astype(np.float32))


def test_powers_of_zeros_infinities_and_nan() -> None:
    bases = [*SPECIAL, 1.0, -1.0, 2.0, -2.0]
    exponents = [*bases, 3.0, -3.0, -1.5, 2.0**30 + 1]
    x, y = (np.ravel(a).astype("f") for a in np.meshgrid(bases, exponents))
    text = "module main(x: f32[n], y: f32[n]) {\n %0 = pow(x, y)\n return %0\n}"
    holds(text, {"n": x.size}, x=x, y=y)


def test_powers_of_e_are_as_near_where_exponents_are_great() -> None:
    holds(
        "module main(x: f32[3001]) {\n %0 = exp(x)\n return %0\n}",
        x=np.linspace(-104, 89, 3001, dtype=np.float32),
    )


@pytest.mark.parametrize("dtype", ["f16", "f32", "i8", "u8", "i64"])
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two(name: str, dtype: str) -> None:
    text = f"module main(x: {dtype}[n, 1, 9], y: {dtype}[5, 9]) {{\n"
    text += " %0 = multibroadcast(x) {out_lens=(n, 5, 9)}\n"
    text += f" %1 = multibroadcast(y) {{out_lens=(n, 5, 9)}}\n %2 = {name}(%0, %1)\n return %2\n}}"
    holds(text, {"n": 3})


@pytest.mark.parametrize("name", ["fmod", "mod", "shift_left", "shift_right", "bitwise_xor"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers(name: str, dtype: str) -> None:
    text = f"module main(x: {dtype}[n], y: {dtype}[n]) {{\n %0 = {name}(x, y)\n return %0\n}}"
    holds(text, {"n": 130})


@pytest.mark.parametrize("name", ["div", "fmod", "mod"])
@pytest.mark.parametrize("dtype", ["i8", "i16", "i32", "i64"])
def test_the_least_integer_is_divided(name: str, dtype: str) -> None:
    low, high = np.iinfo(f"int{dtype[1:]}").min, np.iinfo(f"int{dtype[1:]}").max
    every = np.array([low, low + 1, -29, -1, 0, 1, 7, high], f"int{dtype[1:]}")
    text = f"module main(x: {dtype}[8, 1], y: {dtype}[800]) {{\n"
    text += " %0 = multibroadcast(x) {out_lens=(8, 800)}\n"
    text += " %1 = multibroadcast(y) {out_lens=(8, 800)}\n"
    text += f" %2 = {name}(%0, %1)\n return %2\n}}"
    holds(text, x=every.reshape(8, 1), y=np.tile(every, 100))


@pytest.mark.parametrize("name", ["fmod", "mod"])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_remainders_of_floats_are_exact(name: str, dtype: str) -> None:
    kind, low, high = DType.of(dtype).numpy, *((-24, 15) if dtype == "f16" else (-149, 127))
    few = [0.0, 1.0, 3.0, 0.1, 5.5, 1e-7, 6e4, 2.0**high, 2.0**low, np.inf, np.nan]
    every = np.array([*few, *(-x for x in few)])
    powers = np.exp2(np.random.default_rng(4).uniform(low, high, (2, 500)))
    x, y = (
        np.concatenate([pairs.ravel(), drawn]).astype(kind)
        for pairs, drawn in zip(np.meshgrid(every, every), powers, strict=True)
    )
    text = f"module main(x: {dtype}[n], y: {dtype}[n]) {{\n %0 = {name}(x, y)\n return %0\n}}"
    holds(text, {"n": len(x)}, x=x, y=y)
    found, wanted = (
        migx.parse(text).compile(target).eval({"x": x, "y": y})[0].astype(np.float64)
        for target in (gpu(), "ref")
    )
    np.testing.assert_array_equal(found, wanted)
    some = ~np.isnan(wanted)
    assert np.array_equal(np.signbit(found[some]), np.signbit(wanted[some]))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("sign", "u8"), ("bitwise_not", "u8"), ("bitwise_not", "i32"), ("not", "bool")],
)
def test_functions_of_one_integer(name: str, dtype: str) -> None:
    holds(f"module main(x: {dtype}[n]) {{\n %0 = {name}(x)\n return %0\n}}", {"n": 130})


@pytest.mark.parametrize("given", ["f32", "f64", "i8", "i64", "bool"])
@pytest.mark.parametrize("to", ["f16", "bf16", "f32", "u8", "i32", "bool"])
def test_conversions(given: str, to: str) -> None:
    if given == to:
        return
    text = f"module main(x: {given}[67]) {{\n %0 = convert(x) {{to={to}}}\n return %0\n}}"
    holds(text)


FAR = [
    *(np.nan, np.inf, -np.inf, -2.5, -0.5, 300.0, -129.0, 70000.0, 3e9, -3e9, 5e9, -5e9, 1e30),
    *(2.0**31, 2.0**31 - 128, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 1.5e19, 2.0**64, -1e19),
]


@pytest.mark.parametrize("to", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
@pytest.mark.parametrize("given", FLOATS)
def test_floats_that_no_integer_of_a_type_is(given: str, to: str) -> None:
    with np.errstate(over="ignore"):
        x = np.array(FAR).astype(migx.DType.of(given).numpy)
    text = f"module main(x: {given}[n]) {{\n %0 = convert(x) {{to={to}}}\n return %0\n}}"
    holds(text, {"n": x.size}, x=x)


@pytest.mark.parametrize("zero", ["", ", z"])
def test_levels_are_rounded_and_clipped(zero: str) -> None:
    text = "module main(x: f32[n, 3], s: f32[3], z: u8[3]) {\n"
    text += f" %0 = quantizelinear(x, s{zero}) {{axis=1, to=u8}}\n"
    text += f" %1 = dequantizelinear(%0, s{zero}) {{axis=1}}\n return %0, %1\n}}"
    holds(text, {"n": 50}, s=np.array([0.1, 0.25, 0.01], np.float32))


STEP_SIZES = (0.1, 3e-3, 7.0, 1e-40, 2.0**-149, 1e-30, 3e38, 2.0**64, np.inf, 0.0, np.nan)


@pytest.mark.parametrize("to", ["i8", "u16"])
@pytest.mark.parametrize("size", STEP_SIZES)
def test_levels_are_those_of_quotients_rounded_correctly(size: float, to: str) -> None:
    """Between two levels, and at the floats beside that."""
    step, halves = np.float32(size), np.arange(-700, 700) / 2
    with np.errstate(all="ignore"):
        middle = (halves * np.float64(step)).astype(np.float32)
        beside = [np.nextafter(middle, np.float32(end)) for end in (-np.inf, np.inf)]
    x = np.concatenate([middle, *beside, np.array(SPECIAL, np.float32)])
    text = f"module main(x: f32[n], s: f32[], z: {to}[]) {{\n"
    text += f" %0 = quantizelinear(x, s, z) {{to={to}}}\n"
    program = migx.parse(text + f" %1 = quantizelinear(x, s) {{to={to}}}\n return %0, %1\n}}")
    given = {"x": x, "s": np.array(step), "z": np.array(3, migx.DType.of(to).numpy)}
    mine, right = (program.copy().compile(target).eval(given) for target in (gpu(), "ref"))
    for a, b in zip(mine, right, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_transposed_operand_and_a_power() -> None:
    text = "module main(x: f32[7, n], y: f32[n, 7]) {\n %0 = transpose(x) {permutation=(1, 0)}\n"
    text += " %1 = abs(%0)\n %2 = pow(%1, y)\n %3 = greater(x, x)\n return %2, %3\n}"
    holds(text, {"n": 33})


def test_sizes_that_only_a_run_shows_to_be_equal() -> None:
    text = (
        "module main(x: f32[n, 9], y: f32[m, 9]) {\n %0 = add(x, y)\n %1 = tanh(%0)\n return %1\n}"
    )
    holds(text, {"n": 40, "m": 40})


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_scales_of_blocks(dtype: str) -> None:
    text = f"module main(x: u8[3, 6, n], s: {dtype}[3, 2, n], z: u8[3, 2, n], t: {dtype}[3, 1, n])"
    text += " {\n %0 = dequantizelinear(x, s, z) {block=3}\n %1 = multibroadcast(t) "
    text += "{out_lens=(3, 6, n)}\n %2 = mul(%0, %1)\n return %2\n}"
    holds(text, {"n": 5})


@pytest.mark.parametrize(("short", "wide"), [(1 << 17, False), (4096, True)])
def test_places_beyond_the_end_of_very_many_elements_do_not_wrap(short: int, wide: bool) -> None:
    (at,) = migx.parse(
        f"module main(x: i8[{2**31 - short}]) {{\n %0 = abs(x)\n return %0\n}}"
    ).main.outputs
    kernel = kernel_for(at)
    assert kernel is not None
    assert ("tl.program_id(0).to(tl.int64)" in kernel.op.source) == wide
