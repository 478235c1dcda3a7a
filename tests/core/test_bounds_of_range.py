"""Bounds where numbers leave the range of their type, and where roundings grow step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx import ops
from migx.argument import Argument
from migx.compiler import compiled
from migx.op import Op
from migx.testing.bounds import TensorBounds, compare
from migx.testing.oracles import run_on_ref

Array = NDArray[Any]
INF, NAN = np.inf, np.nan


def verdict(lines: str, result: str, got: Array, **inputs: Array) -> str:
    """What is wrong with a result of some instructions on vectors; "" if nothing is."""
    given = ", ".join(f"{n}: {migx.DType.of(a.dtype)}{list(a.shape)}" for n, a in inputs.items())
    program = migx.parse(f"module main({given}) {{\n{lines}\n  return {result}\n}}\n")
    arguments = {name: Argument.of(array) for name, array in inputs.items()}
    ((wanted, error),) = run_on_ref(program, arguments, program)
    return compare("y", got.astype(wanted.array.dtype), wanted.array, error, error).problem


def vector(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


ROOT = """  %0 = mul(x, x) : f32[2]
  %1 = sqrt(%0) : f32[2]"""


def test_what_is_out_of_range_stays_so() -> None:
    x = vector(1e30, -2)
    assert not verdict(ROOT, "%1", vector(INF, 2), x=x)
    assert "1e+30 instead of inf" in verdict(ROOT, "%1", np.abs(x), x=x)
    assert "inf instead of 2" in verdict(ROOT, "%1", vector(INF, INF), x=x)


def test_near_the_end_of_the_range_nothing_is_said() -> None:
    """Of x * a * b, and x * (a * b), one may overflow."""
    product = "  %0 = mul(x, y) : f32[2]"
    x, y = vector(1e30, 1e30), vector(1e10, 1e20)
    assert not verdict(product, "%0", vector(1, INF), x=x, y=y)
    assert verdict(product, "%0", vector(INF, 1), x=x, y=y)
    assert not verdict(product, "%0", vector(INF, INF), x=x, y=vector(1e6, 1e20))


@pytest.mark.parametrize("op", ["max", "min", "add", "mul", "pow"])
def test_nan_must_meet_nan(op: str) -> None:
    x, y = vector(NAN, 2), vector(2, 2)
    lines = f"  %0 = {op}(x, y) : f32[2]"
    wanted = vector(NAN, 4 if op in ("add", "mul", "pow") else 2)
    assert not verdict(lines, "%0", wanted, x=x, y=y)
    assert "2 instead of nan" in verdict(lines, "%0", vector(2, wanted[1]), x=x, y=y)


def test_the_sign_of_zero_shows() -> None:
    lines = """  %0 = add(x, y) : f32[2]
  %1 = recip(%0) : f32[2]"""
    x, y = vector(-0.0, -0.0), vector(0.0, -0.0)
    assert not verdict(lines, "%1", vector(INF, -INF), x=x, y=y)
    assert verdict(lines, "%1", vector(-INF, -INF), x=x, y=y)


def test_a_bound_of_what_there_is_excuses_no_infinity() -> None:
    """Only that of what is expected does."""
    y, near, far = vector(2, 2), np.array([1e-6, np.inf]), np.array([np.inf, np.inf])
    assert compare("y", vector(2, INF), y, near, far).passed
    assert "inf instead of 2" in compare("y", vector(INF, 2), y, near, far).problem
    assert "inf instead of 2" in compare("y", vector(INF, 2), y, None, far).problem
    assert compare("y", vector(7, 2), y, near, far).passed
    assert compare("y", vector(7, INF), y, vector(NAN, NAN), far).passed  # as inf * 0 makes it


@pytest.mark.parametrize(("op", "either"), [("add", False), ("max", True)])
def test_the_sign_of_zero_shows_where_it_is_exact(op: str, either: bool) -> None:
    """Of the largest of 0.0 and -0.0, which it is is not said."""
    lines = f"  %0 = {op}(x, y) : f32[2]"
    x, y = vector(-0.0, 1), vector(0.0, -3)
    wanted = 1 if op == "max" else -2
    assert not verdict(lines, "%0", vector(0.0, wanted), x=x, y=y)
    found = verdict(lines, "%0", vector(-0.0, wanted), x=x, y=y)
    assert found == "" if either else "-0 instead of 0" in found


def test_of_infinities_a_transform_may_be_anything() -> None:
    """They meet the zeros of its sines, which a fast one leaves out."""
    lines = "  %0 = dft(x) {axis=0, length=1} : f32[1, 2]"
    for sine in (0, NAN):
        made = vector(INF, sine).reshape(1, 2)
        assert not verdict(lines, "%0", made, x=vector(INF).reshape(1, 1))
    assert verdict(lines, "%0", vector(2, NAN).reshape(1, 2), x=vector(2).reshape(1, 1))


def test_a_clip_at_the_ends_of_the_range_loses_nothing() -> None:
    """Its limits may be off by much, but are far away."""
    made = """  %0 = mul(y, z) : f32[2]
  %1 = neg(%0) : f32[2]
  %2 = clip(x, %1, %0) : f32[2]"""
    x, y, z = vector(1, 2), vector(3e38, 3e38), vector(1.1, 1.1)
    assert not verdict(made, "%2", x, x=x, y=y, z=z)
    y, z = vector(1e31, 1e31), vector(1.1, 1.1)
    assert not verdict(made, "%2", x, x=x, y=y, z=z)
    assert verdict(made, "%2", vector(1, 2.001), x=x, y=y, z=z)


def test_an_infinity_that_hangs_on_a_rounding_may_be_anything() -> None:
    """Of 0 that comes of roundings, the reciprocal is any number; of 1, it is not."""
    lines = """  %0 = mul(x, y) : f32[2]
  %1 = sub(%0, x) : f32[2]
  %2 = recip(%1) : f32[2]"""
    x, y = vector(3, 1), vector(1, 2)
    assert not verdict(lines, "%2", vector(-4e6, 1), x=x, y=y)
    assert verdict(lines, "%2", vector(INF, 1.1), x=x, y=y)


def test_integers_of_what_is_out_of_range_may_be_any() -> None:
    lines = "  %0 = convert(x) {to=i32} : i32[3]"
    assert not verdict(lines, "%0", np.array([7, -7, 2]), x=vector(INF, 3e9, 2.5))
    assert verdict(lines, "%0", np.array([7, -7, 3]), x=vector(INF, 3e9, 2.5))


def test_padding_may_be_left_out_or_multiplied_by_an_infinite_weight() -> None:
    lines = (
        """  %0 = convolution(x, w) {padding=(1, 1), stride=(1,), dilation=(1,)} : f32[1, 1, 2]"""
    )
    x, w = np.ones((1, 1, 2), np.float32), vector(INF, 1, 1).reshape(1, 1, 3)
    for first in (NAN, 2):
        assert not verdict(lines, "%0", vector(first, INF).reshape(1, 1, 2), x=x, w=w)
    w[0, 0, 0], x[0, 0, 0] = 1, INF
    assert not verdict(lines, "%0", vector(INF, INF).reshape(1, 1, 2), x=x, w=w)
    assert verdict(lines, "%0", vector(NAN, INF).reshape(1, 1, 2), x=x, w=w)


def test_what_is_nearly_equal_may_be() -> None:
    """A value may have been rounded, and then meets another between the ends of its bound."""
    lines = """  %0 = convert(x) {to=f16} : f16[2]
  %1 = convert(%0) {to=f32} : f32[2]
  %2 = equal(%1, x) : bool[2]"""
    x = vector(1.0001, 2)
    assert not verdict(lines, "%2", np.array([True, True]), x=x)
    y = vector(1.01, 2)
    assert verdict("  %0 = equal(x, y) : bool[2]", "%0", np.array([True, True]), x=x, y=y)


# Recurrent layers

UNITS, STEPS = 96, 16


def layer(op: Op, gates: int) -> migx.Program:
    """The states of a layer after each step."""
    program = migx.Program()
    dims = (STEPS, 1, 8), (1, gates * UNITS, 8), (1, gates * UNITS, UNITS)
    inputs = [
        program.main.add_parameter(name, migx.Shape("f32", d))
        for name, d in zip("xwr", dims, strict=True)
    ]
    made = program.main.add_instruction(op, *inputs)
    program.main.add_return(program.main.add_instruction(ops.GetTupleElem(0), made))
    return program


def passes(program: migx.Program, given: dict[str, Array], other: dict[str, Array]) -> list[bool]:
    """Whether what other inputs give is within the bounds of those given: for each element, and
    for the tensor.
    """
    inputs = {name: Argument.of(array) for name, array in given.items()}
    ((wanted, each),) = run_on_ref(program, inputs, program)
    made = compiled(program, "ref")
    whole = TensorBounds(made.program, inputs)
    made.executable.trace(inputs, whole)  # type: ignore[attr-defined]
    bounds = each, whole.of(made.program.main.outputs[0])
    (got,) = program.copy().compile("ref", passes="").eval(other)
    return [compare("y", got, wanted.array, bound).passed for bound in bounds]


LAYERS = [(ops.LSTM(UNITS), 4), (ops.GRU(UNITS), 3), (ops.RNN(UNITS), 1)]


@pytest.mark.parametrize(("op", "gates"), LAYERS, ids=["lstm", "gru", "rnn"])
@pytest.mark.parametrize("width", [0.05, 0.5, 1.0])
def test_roundings_that_grow_with_the_steps_of_a_layer(op: Op, gates: int, width: float) -> None:
    """The same sums in another order pass, whether weights are narrow or wide."""
    program, rng = layer(op, gates), np.random.default_rng(3)
    x, w, r = (
        rng.standard_normal([int(d) for d in p.shape.dims], np.float32) * factor
        for p, factor in zip(program.main.parameters.values(), (1, width, width), strict=True)
    )
    order, wrong = rng.permutation(8), r.copy()
    wrong[0, 0] *= 2
    given = {"x": x, "w": w, "r": r}
    assert all(passes(program, given, {"x": x[..., order], "w": w[..., order], "r": r}))
    if width < 0.1:
        assert not any(passes(program, given, {**given, "r": wrong}))


def test_halves_may_be_wider_between_operations() -> None:
    """A kernel that keeps the square in f32 does not overflow where f16 does."""
    lines = """  %0 = mul(x, x) : f16[2]
  %1 = div(%0, %0) : f16[2]"""
    x = np.array([7e3, 2], np.float16)
    assert not verdict(lines, "%1", vector(1, 1), x=x)
    assert not verdict(lines, "%1", vector(NAN, 1), x=x)
    assert verdict(lines, "%1", vector(1, NAN), x=x)


def test_what_no_integer_holds_becomes_any() -> None:
    lines = """  %0 = convert(x) {to=i64} : i64[2]
  %1 = convert(%0) {to=f32} : f32[2]"""
    for made in (2.0**63, -(2.0**63)):
        assert not verdict(lines, "%1", vector(made, 3), x=vector(6e30, 3.5))
    assert verdict(lines, "%1", vector(0, 4), x=vector(6e30, 3.5))


def test_what_may_be_too_large_for_an_integer_becomes_any() -> None:
    lines = """  %0 = convert(x) {to=u8} : u8[2]
  %1 = dequantizelinear(%0, y) {axis=0} : f32[2]
  %2 = convert(%1) {to=u8} : u8[2]"""
    x, y = vector(INF, 3), vector(6e30, 2)
    assert not verdict(lines, "%2", np.array([255, 6]), x=x, y=y)
    assert verdict(lines, "%2", np.array([0, 0]), x=x, y=y)


def test_what_is_the_largest_of_any_numbers_is_any() -> None:
    lines = """  %0 = convert(x) {to=i32} : i32[2]
  %1 = topk(%0) {k=1, axis=0} : tuple(i32[1], i64[1])
  %2 = get_tuple_elem(%1) : i32[1]"""
    assert not verdict(lines, "%2", np.array([2**31 - 1]), x=vector(INF, 3))
    assert verdict(lines, "%2", np.array([2]), x=vector(2.5, 3.5))


def test_any_integer_is_any_of_another_type() -> None:
    lines = """  %0 = convert(x) {to=i64} : i64[2]
  %1 = convert(%0) {to=i8} : i8[2]"""
    assert not verdict(lines, "%1", np.array([77, 3]), x=vector(INF, 3))
    assert verdict(lines, "%1", np.array([77, 4]), x=vector(INF, 3))


def test_a_number_whose_bound_goes_beyond_the_range_may_be_lost() -> None:
    """What two large products leave may be 0, or large enough to overflow when it is multiplied."""
    program = migx.parse(
        """module main(x: f32[1], y: f32[1], z: f32[1]) {
  %0 = mul(x, y) : f32[1]
  %1 = mul(y, x) : f32[1]
  %2 = sub(%0, %1) : f32[1]
  %3 = mul(%2, z) : f32[1]
  return %3
}
"""
    )
    for large, lost in ((1e10, False), (1e30, True)):
        numbers = {"x": large, "y": 1.1, "z": large}
        inputs = {name: Argument.of(vector(n)) for name, n in numbers.items()}
        ((result, bound),) = run_on_ref(program, inputs, program)
        assert np.asarray(result) == 0
        assert isinstance(bound, np.ndarray)
        assert np.isinf(bound) == lost


@pytest.mark.parametrize(("large", "sure"), [(1e100, True), (1e200, False)])
def test_an_infinity_beside_a_product_that_overflows_may_be_nan(large: float, sure: bool) -> None:
    """Where products and sums are rounded together, such a product is finite yet."""
    program = migx.parse(
        "module main(x: f64[1, 2], y: f64[2, 1]) {\n  %0 = dot(x, y) : f64[1, 1]\n  return %0\n}\n"
    )
    inputs = {
        "x": Argument.of(np.array([[-INF, large]])),
        "y": Argument.of(np.array([[1.0], [large]])),
    }
    ((_, bound),) = run_on_ref(program, inputs, program)
    assert isinstance(bound, np.ndarray)
    assert np.isinf(bound) != sure
