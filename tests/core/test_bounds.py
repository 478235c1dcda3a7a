"""Derived bounds: right kernels pass, wrong but plausible ones do not."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.argument import Argument
from migx.testing.bounds import compare
from migx.testing.oracles import run_on_ref
from tests.core.budgets import Kernel, drawn, verdict

Array = NDArray[Any]

DOT = """
module main(x: {t}[4, 256], w: {t}[256, 3]) {
  %0 = dot(x, w) : {t}[4, 3]
  return %0
}
"""
NORM = """
module main(x: f32[4, 64]) {
  %0 = reduce_mean(x) {axes=(1,)} : f32[4, 1]
  %1 = multibroadcast(%0) {out_lens=(4, 64)} : f32[4, 64]
  %2 = sub(x, %1) : f32[4, 64]
  %3 = mul(%2, %2) : f32[4, 64]
  %4 = reduce_mean(%3) {axes=(1,)} : f32[4, 1]
  %5 = @literal() {value=[1e-5]} : f32[1]
  %6 = multibroadcast(%5) {out_lens=(4, 1)} : f32[4, 1]
  %7 = add(%4, %6) : f32[4, 1]
  %8 = rsqrt(%7) : f32[4, 1]
  %9 = multibroadcast(%8) {out_lens=(4, 64)} : f32[4, 64]
  %10 = mul(%2, %9) : f32[4, 64]
  return %10
}
"""
CONVOLUTION = """
module main(x: f32[1, 2, 6], w: f32[3, 2, 3]) {
  %0 = convolution(x, w) {padding=(1, 1), stride=(1,), dilation=(1,)} : f32[1, 3, 6]
  return %0
}
"""
SOFTMAX = """
module main(x: f32[4, 32]) {
  %0 = softmax(x) {axis=1} : f32[4, 32]
  return %0
}
"""


def in_turn(x: Array, w: Array, dtype: Any) -> Array:
    """A product summed term after term, rounded to a type each time."""
    total = np.zeros((x.shape[0], w.shape[1]), dtype)
    for k in range(x.shape[1]):
        total = (total + x[:, k : k + 1].astype(dtype) * w[k].astype(dtype)).astype(dtype)
    return total


RIGHT_DOTS: dict[str, Kernel] = {
    "in f32, in turn": lambda x, w: in_turn(x, w, np.float32),
    "in f64": lambda x, w: in_turn(x, w, np.float64),
    "backwards": lambda x, w: in_turn(x[:, ::-1], w[::-1], np.float32),
}


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("kernel", RIGHT_DOTS.values(), ids=RIGHT_DOTS)
def test_a_right_product_is_accepted(kernel: Kernel, dtype: str) -> None:
    of = {"f16": "f2", "f32": "f4"}[dtype]
    for seed in range(5):
        arrays = drawn(4, 256, dtype=of, seed=seed), drawn(256, 3, dtype=of, seed=seed + 50)
        assert not verdict(DOT.replace("{t}", dtype), kernel, *arrays)


def stale(x: Array, w: Array) -> Array:
    """The weights of before an update that changed one a little."""
    w = w.copy()
    w[7, 1] *= 1.01
    return x.astype(np.float64) @ w


WRONG_DOTS: dict[str, tuple[str, Kernel]] = {
    "sums in f16": ("f16", lambda x, w: in_turn(x, w, np.float16)),
    "a term left out": ("f32", lambda x, w: x[:, :-1].astype(np.float64) @ w[:-1]),
    "a term left out of f16": ("f16", lambda x, w: x[:, :-1].astype(np.float32) @ w[:-1]),
    "a stale weight": ("f32", stale),
    "inputs rounded to f16": ("f32", lambda x, w: x.astype("f2").astype("f4") @ w),
}


@pytest.mark.parametrize(("dtype", "kernel"), WRONG_DOTS.values(), ids=WRONG_DOTS)
def test_a_wrong_product_is_refused(kernel: Kernel, dtype: str) -> None:
    of = {"f16": "f2", "f32": "f4"}[dtype]
    arrays = drawn(4, 256, dtype=of), drawn(256, 3, dtype=of, seed=1)
    assert "is allowed" in verdict(DOT.replace("{t}", dtype), kernel, *arrays)


def normalised(epsilon: float, dtype: Any) -> Kernel:
    def kernel(x: Array) -> Array:
        x = x.astype(dtype)
        centred = x - x.mean(1, keepdims=True)
        spread = (centred**2).mean(1, keepdims=True) + dtype(epsilon)
        return np.asarray(centred / np.sqrt(spread))

    return kernel


def test_another_epsilon_is_refused() -> None:
    x = drawn(4, 64) * np.float32(0.1)
    assert not verdict(NORM, normalised(1e-5, np.float64), x)
    assert not verdict(NORM, normalised(1e-5, np.float32), x)
    assert verdict(NORM, normalised(1e-6, np.float64), x)
    assert verdict(NORM, normalised(1e-12, np.float64), x)


def convolved(before: int, after: int) -> Kernel:
    def kernel(x: Array, w: Array) -> Array:
        x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (before, after)))
        windows = np.lib.stride_tricks.sliding_window_view(x, 3, 2)
        return np.asarray(np.einsum("nclk,ock->nol", windows, w.astype(np.float64)))

    return kernel


def test_padding_on_the_wrong_side_is_refused() -> None:
    arrays = drawn(1, 2, 6), drawn(3, 2, 3, seed=1)
    assert not verdict(CONVOLUTION, convolved(1, 1), *arrays)
    assert verdict(CONVOLUTION, convolved(2, 0), *arrays)


def test_a_softmax_needs_no_maximum_but_its_whole_sum() -> None:
    x = drawn(4, 32)
    shares = np.exp(x.astype(np.float64))
    assert not verdict(SOFTMAX, lambda x: shares / shares.sum(1, keepdims=True), x)
    assert verdict(SOFTMAX, lambda x: shares / shares[:, 1:].sum(1, keepdims=True), x)


UNSURE = """
module main(x: f32[3], w: f32[3]) {
  %0 = mul(x, w) : f32[3]
  %1 = floor(%0) : f32[3]
  return %1
}
"""


def test_a_value_beside_a_whole_number_may_fall_on_either_side() -> None:
    x = np.array([1 / 3, 1.3, -0.2], np.float32)
    w = np.array([3.0, 1.0, 1.0], np.float32)
    assert not verdict(UNSURE, lambda x, w: np.array([0.0, 1.0, -1.0]), x, w)
    assert "[1]" in verdict(UNSURE, lambda x, w: np.array([1.0, 2.0, -1.0]), x, w)


def test_what_an_earlier_sum_in_f64_was_off_is_allowed_where_the_next_one_cancels() -> None:
    text = """
    module main(x: f64[4], y: f64[4], z: f64[4]) {
      %0 = add(x, y) : f64[4]
      %1 = add(%0, z) : f64[4]
      return %1
    }
    """
    x, y = np.array([0.3, 0.1, 1e-9, 7.7]), np.array([1.0, 1.0, 1.0, 0.1])
    z = np.array([-1.3, -1.1, -1.0, -7.8])
    assert not verdict(text, lambda x, y, z: x + (y + z), x, y, z)
    assert verdict(text, lambda x, y, z: x + (y + z) + 1e-14, x, y, z)


def test_integers_and_moved_elements_are_exact() -> None:
    text = """
    module main(x: f32[2, 3], i: i32[2]) {
      %0 = transpose(x) {permutation=(1, 0)} : f32[3, 2]
      %1 = add(i, i) : i32[2]
      return %0, %1
    }
    """
    program = migx.parse(text)
    inputs = {"x": Argument.of(drawn(2, 3)), "i": Argument.of(np.array([3, 4], np.int32))}
    for wanted, error in run_on_ref(program, inputs, program):
        assert error is None
        assert compare("y", wanted, wanted, error).passed
        other = Argument.of(wanted.array + wanted.array.dtype.type(1))
        assert "0 is allowed" in compare("y", other, wanted, error).problem


POOLS: dict[str, Kernel] = {
    "average": lambda pairs: pairs.mean(-1),
    "max": lambda pairs: pairs.max(-1),
    "lpnorm": lambda pairs: np.sqrt(np.square(pairs).sum(-1)),
}


@pytest.mark.parametrize(("mode", "pool"), POOLS.items())
def test_what_is_pooled_is_as_far_off_as_its_elements(mode: str, pool: Kernel) -> None:
    text = f"""
module main(x: f64[1, 1, 64, 1]) {{
  %0 = convert(x) {{to=f16}} : f16[1, 1, 64, 1]
  %1 = convert(%0) {{to=f64}} : f64[1, 1, 64, 1]
  %2 = pooling(%1) {{mode="{mode}", lengths=(2, 1), stride=(2, 1)}} : f64[1, 1, 32, 1]
  return %2
}}
"""
    pairs = drawn(1, 1, 32, 1, 2, dtype="f8")
    pairs[..., 1] = -pairs[..., 0] * 1.001  # of which a mean leaves little but the errors

    def verdict_of(off: float) -> str:
        moved = pool(pairs + off * (pairs if mode == "lpnorm" else np.abs(pairs)))
        return verdict(text, lambda _: moved, pairs.reshape(1, 1, 64, 1))

    assert not verdict_of(0.0)
    assert not verdict_of(2.0**-11)
    assert verdict_of(2.0**-8)


def test_nothing_is_claimed_of_scales_whose_products_overflow() -> None:
    """As a product of codes may be scaled by both at once: 0 times infinity."""
    program = migx.parse(
        """module main(x: u8[2], s: f32[]) {
  %0 = dequantizelinear(x, s) : f32[2]
  return %0
}
"""
    )
    for scale, open_ in ((1e18, False), (1e20, True)):
        given = {"x": Argument.of(np.zeros(2, np.uint8)), "s": Argument.of(np.float32(scale))}
        ((_, error),) = run_on_ref(program, given, program)
        assert np.isinf(np.asarray(error, float)).all() == open_


def test_the_sign_of_a_zero_is_open_in_a_packed_byte() -> None:
    program = migx.parse(
        """module main(x: f32[4]) {
  %0 = pack_fp4(x) {axis=0} : u8[2]
  return %0
}
"""
    )
    x = np.array([0, 1, -0.0, -0.0], np.float32)
    ((_, error),) = run_on_ref(program, {"x": Argument.of(x)}, program)
    np.testing.assert_array_equal(error, [8, 136])


def test_what_is_packed_of_inexact_values_may_be_anything() -> None:
    text = """
    module main(x: f32[4]) {
      %0 = exp(x) : f32[4]
      %1 = pack_fp4(%0) : f4[4]
      %2 = pack_fp4(x) : f4[4]
      %3 = unpack_fp4(%1) : f32[4]
      return %1, %2, %3
    }
    """
    program = migx.parse(text)
    inexact, exact, unpacked = run_on_ref(program, {"x": Argument.of(drawn(4))}, program)
    other = Argument.packed(exact[0].shape, np.zeros(2, np.uint8))
    assert compare("y", other, *inexact).passed
    assert not compare("y", other, *exact).passed
    assert np.isinf(np.asarray(unpacked[1])).all()


def test_what_comes_back_is_bounded_between_the_ends_of_its_input() -> None:
    text = """
    module main(x: f32[2]) {{
      %0 = {steep}(x) : f32[2]
      %1 = {wave}(%0) : f32[2]
      return %1
    }}
    """
    near = np.array([1.5707963, 1.5], np.float32)  # where tan is 1e7 and its error several turns
    for wave, wrong in (("sin", 0.5), ("tan", 100.0)):
        chain = text.format(steep="tan", wave=wave)
        (made,) = migx.parse(chain).compile("ref").eval({"x": near})
        made[0] += wrong
        assert verdict(chain, lambda _, made=made: made, near) == ""
        made[1] += wrong
        assert verdict(chain, lambda _, made=made: made, near) != ""


def test_a_traced_run_is_as_quiet_as_any() -> None:
    """NumPy says of some element types that a NaN was met."""
    program = migx.parse(
        "module main(x: bf16[2]) {\n  %0 = clip(x, x, x) : bf16[2]\n  return %0\n}\n"
    )
    nan = Argument.of(np.array([np.nan, 1], ml_dtypes.bfloat16))
    ((got, _),) = run_on_ref(program, {"x": nan}, program)
    assert np.isnan(np.asarray(got.array, np.float32)).tolist() == [True, False]


@pytest.mark.parametrize("form", ["resize(%1)", "dynamic_resize(%1, sizes, scales)"])
def test_a_linear_resize_hands_on_the_mean_of_errors(form: str) -> None:
    """However their signs fall."""
    program = migx.parse(
        f"""module main(x: f32[64, 2], sizes: i64[2], scales: f64[2]) {{
  %0 = convert(x) {{to=f16}} : f16[64, 2]
  %1 = convert(%0) {{to=f32}} : f32[64, 2]
  %2 = {form} {{sizes=(64, 3), mode="linear"}} : f32[64, 3]
  return %1, %2
}}
"""
    )
    given = {
        "x": np.full((64, 2), 1.7, np.float32),
        "sizes": np.array([64, 3]),
        "scales": np.array([1.0, 1.5]),
    }
    inputs = {name: Argument.of(array) for name, array in given.items()}
    (_, before), (_, after) = run_on_ref(program, inputs, program)
    assert np.min(np.asarray(after)) >= np.min(np.asarray(before))


BITS = """
module main(x: f32[n]) {
  %0 = exp(x) : f32[n]
  %1 = bit_cast(%0) {to=i32} : i32[n]
  %2 = @literal() {value=[2139095040]} : i32[]
  %3 = multibroadcast(%2) {out_lens=(n,)} : i32[n]
  %4 = bitwise_and(%1, %3) : i32[n]
  %5 = bit_cast(%4) {to=f32} : f32[n]
  return %5
}
"""


def test_bits_are_as_uncertain_as_the_value_read() -> None:
    """A power of two within a value is certain unless the value is near the next."""

    def powers(x: Array, less: float = 0) -> Array:
        made: Array = 2 ** np.floor(np.log2(np.exp(x.astype(np.float64)) - less))
        return made

    apart_, near = np.array([1.0, 2, 3], np.float32), np.log(np.array([4, 8], np.float32))
    assert not verdict(BITS, powers, apart_)
    assert verdict(BITS, lambda x: 2 * powers(x), apart_)
    assert not verdict(BITS, lambda x: powers(x, 1e-6), near)
    assert not verdict(BITS, lambda x: powers(x, -1e-6), near)


RECURRENT = """
module main(x: f32[64, 1, 1], w: f32[1, 32, 1], r: f32[1, 32, 32]) {
  %0 = convert(x) {to=TYPE} : TYPE[64, 1, 1]
  %1 = convert(%0) {to=f32} : f32[64, 1, 1]
  %2 = rnn(%1, w, r) {hidden_size=32, direction="WAY"} : tuple(f32[64, 1, 1, 32], f32[1, 1, 32])
  %3 = get_tuple_elem(%2) {index=INDEX} : MADE
  return %3
}
"""


@pytest.mark.parametrize("way", ["forward", "reverse"])
@pytest.mark.parametrize(("index", "made"), [(0, "f32[64, 1, 1, 32]"), (1, "f32[1, 1, 32]")])
@pytest.mark.parametrize("chaotic", [True, False])
def test_a_recurrent_layer_grows_what_a_rounding_changes_if_its_weights_are_wide(
    way: str, index: int, made: str, chaotic: bool
) -> None:
    text = RECURRENT.replace("WAY", way).replace("INDEX", str(index)).replace("MADE", made)
    rounded, plain = (migx.parse(text.replace("TYPE", t)) for t in ("bf16", "f32"))
    wide = 1.0 if chaotic else 0.05
    for seed in range(4):
        arrays = drawn(64, 1, 1), 8 * wide * drawn(1, 32, 1), wide * drawn(1, 32, 32, seed=seed)
        inputs = {n: Argument.of(a) for n, a in zip("xwr", arrays, strict=True)}
        (x, error), (y, other) = (run_on_ref(p, inputs, p)[0] for p in (plain, rounded))
        assert compare("y", y.array, x.array, error, other).passed
        lost = y.array * (np.arange(32) != 3)
        assert chaotic or not compare("y", lost, x.array, error, other).passed


def test_a_sum_of_nothing_may_have_either_sign() -> None:
    """A negative factor on it may move into the weights, of which there are none."""
    text = """module main(x: f32[2, 0]) {
      %0 = @literal() {value=[]} : f32[0, 2]
      %1 = dot(x, %0) : f32[2, 2]
      %2 = @literal() {value=[-1.5, -2.5, -3.5, -4.5]} : f32[2, 2]
      %3 = mul(%1, %2) : f32[2, 2]
      return %3
    }"""
    program = migx.parse(text)
    inputs = {"x": Argument.of(np.zeros((2, 0), np.float32))}
    ((y, error),) = run_on_ref(program, inputs, program)
    assert np.signbit(y.array).all()
    assert compare("y", -y.array, y.array, error).passed
    assert not compare("y", y.array + np.float32(1e-6), y.array, error).passed


@pytest.mark.parametrize("name", ["fmod", "mod"])
def test_a_remainder_of_rounded_divisors_may_be_any(name: str) -> None:
    text = f"""module main(x: f32[10]) {{
  %0 = log(x) : f32[10]
  %1 = {name}(x, %0) : f32[10]
  return %1
}}"""
    x = np.array([*range(10**30, 10**31, 10**30), 3.0])  # but for the last, quotients are huge
    last = np.fmod(3.0, np.log(3.0))
    for other, wrong in itertools.product((0, 20, 40, 60), (0.0, 0.1)):
        made = np.array([*[other] * 9, last + wrong])
        assert bool(verdict(text, lambda _, made=made: made, x.astype(np.float32))) == bool(wrong)


@pytest.mark.parametrize("largest", ["true", "false"])
def test_what_is_sorted_is_bounded_whatever_the_order_becomes(largest: str) -> None:
    """Some elements are far off, others exact; where two may change places, so may indices."""
    text = f"""
module main(x: f32[3, 8], y: f32[3, 8]) {{
  %0 = erf(x)
  %1 = concat(%0, y) {{axis=1}}
  %2 = topk(%1) {{k=10, axis=1, largest={largest}}}
  %3 = get_tuple_elem(%2)
  %4 = get_tuple_elem(%2) {{index=1}}
  return %1, %3, %4
}}
"""
    program, off = migx.parse(text), 0.1
    swaps = 0
    for seed in range(20):
        inputs = {n: Argument.of(drawn(3, 8, seed=10 * seed + i)) for i, n in enumerate("xy")}
        joined, values, places = run_on_ref(program, inputs, program, {"erf": [off]})
        shift = np.zeros((3, 16), np.float32)
        shift[:, :8] = off * np.random.default_rng(seed).uniform(-1, 1, (3, 8))
        moved = joined[0].array + shift
        sign = -1 if largest == "true" else 1
        order = np.argsort(sign * moved, 1, kind="stable")[:, :10]
        got = np.take_along_axis(moved, order, 1)
        for (wanted, bound), found in ((values, got), (places, order)):
            assert isinstance(bound, np.ndarray)
            assert (np.abs(found - wanted.array) <= bound).all()
        assert np.isfinite(np.asarray(values[1], float)).all()
        assert np.isfinite(np.asarray(places[1], float)).any()
        swaps += int((order != places[0].array).sum())
    assert swaps


def test_a_convolution_has_the_same_bound_in_any_layout() -> None:
    x, w = drawn(3, 8, 9), drawn(3, 8, 9, seed=1)
    line = "%0 = convolution{}(x, w) {{padding=(0, 0), stride=(1,), dilation=(1,)}}"
    bounds: list[Array] = []
    for name, axes in ("", (0, 1, 2)), ("_channels_last", (0, 2, 1)):
        given = {"x": x.transpose(axes), "w": w.transpose(axes)}
        inputs = {each: Argument.of(value.copy()) for each, value in given.items()}
        shape = f"f32{[*given['x'].shape]}"
        text = f"module main(x: {shape}, w: {shape}) {{ {line.format(name)} return %0 }}"
        program = migx.parse(text)
        ((_, bound),) = run_on_ref(program, inputs, program)
        bounds.append(np.asarray(bound).transpose(axes))
    np.testing.assert_allclose(bounds[0], bounds[1], rtol=1e-3)
