"""simplify_algebra: random programs keep their values, and weights change only where it pays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migx
from migx.dim import Dim
from migx.ir import Instruction
from migx.op import Array, Op
from migx.ops.builtin import OnnxExternalWeights
from migx.ops.layout import Broadcast, Concat, Multibroadcast, Slice
from migx.ops.linear import Dot
from migx.ops.pointwise import Abs, Add, Clip, Convert, Div, Max, Min, Mul, Neg, Relu, Sub, Tanh
from migx.ops.reduce import ReduceMax, ReduceSum
from migx.program import Program
from migx.shape import F64, I32, DType, Shape
from migx.verify import verify

N = Dim("n", 1)
DIMS = (N, 2, 3)


class Drawn:
    """A random program of values of dims [n, 2, 3], and constants that meet them."""

    def __init__(self, draw: st.DrawFn, dtype: DType) -> None:
        self.draw, self.dtype, self.program = draw, dtype, Program()
        self.main = self.program.main
        self.values = [self.main.add_parameter(name, Shape(dtype, DIMS)) for name in "xy"]
        for _ in range(draw(st.integers(1, 12))):
            self.values.append(draw(st.sampled_from(self.forms()))())
        self.main.add_return(*draw(st.lists(st.sampled_from(self.values[2:]), min_size=1)))

    def forms(self) -> list[Callable[[], Instruction]]:
        return [self.with_constant] * 4 + [self.unary, self.binary, self.dot, self.clip, self.parts]

    def pick(self) -> Instruction:
        # The last ones, so that chains are long.
        return self.draw(st.sampled_from(self.values[-3:]))

    def literal(self, *dims: int) -> Instruction:
        numbers = self.draw(st.lists(st.integers(-3, 3), min_size=18, max_size=18))
        array = np.resize(np.array(numbers), dims)
        return self.main.add_literal(np.where(array == 0, 1, array).astype(self.dtype.numpy))

    def constant(self) -> Instruction:
        """A number, a vector along one of the last axes, or both axes, repeated."""
        dims = self.draw(st.sampled_from([(), (1,), (3,), (2, 1), (2, 3), (1, 1, 3)]))
        if self.draw(st.integers(0, 4)) == 0:
            return self.main.add_instruction(Broadcast(1, DIMS), self.literal(2))
        return self.main.add_instruction(Multibroadcast(DIMS), self.literal(*dims))

    def with_constant(self) -> Instruction:
        ops = [Add(), Mul(), Sub(), Max(), Min(), *([Div()] if self.dtype.is_float else [])]
        pair = [self.pick(), self.constant()]
        op = self.draw(st.sampled_from(ops))
        swap = self.draw(st.booleans()) and not isinstance(op, Div)
        return self.main.add_instruction(op, *(reversed(pair) if swap else pair))

    def unary(self) -> Instruction:
        ops = [Neg(), Relu(), Abs(), *([Tanh()] if self.dtype.is_float else [])]
        return self.main.add_instruction(self.draw(st.sampled_from(ops)), self.pick())

    def binary(self) -> Instruction:
        op = self.draw(st.sampled_from([Add(), Mul(), Sub(), Max()]))
        return self.main.add_instruction(op, self.pick(), self.pick())

    def dot(self) -> Instruction:
        weights = self.main.add_instruction(Multibroadcast((N, 3, 3)), self.literal(3, 3))
        return self.main.add_instruction(Dot(), self.pick(), weights)

    def clip(self) -> Instruction:
        return self.main.add_instruction(Clip(), self.pick(), self.constant(), self.constant())

    def parts(self) -> Instruction:
        """Work on the slices of a value, joined again; or a sum or the greatest, repeated."""
        x, add = self.pick(), self.main.add_instruction
        if self.draw(st.booleans()):
            inner = add(self.draw(st.sampled_from([ReduceSum((1,)), ReduceMax((1,))])), x)
            return add(Multibroadcast(DIMS), add(ReduceSum((2,)), inner))
        cuts = [add(Slice((2,), (a,), (b,)), x) for a, b in ((0, 1), (1, 3))]
        worked = [add(Mul(), c, add(Relu(), c)) for c in cuts]
        return add(Concat(2), *worked)


@st.composite
def algebra(draw: st.DrawFn, dtype: DType) -> Program:
    return Drawn(draw, dtype).program


def outcome(program: Program, dtype: DType) -> list[Array]:
    """The results on small whole numbers, without any pass."""
    grid = np.arange(12).reshape(2, 2, 3)
    inputs = {"x": (grid % 5 - 2).astype(dtype.numpy), "y": (grid % 7 - 3).astype(dtype.numpy)}
    with np.errstate(all="ignore"):
        return list(program.compile("ref", passes="").eval(inputs))


@given(algebra(I32))
def test_integers_stay_exactly_as_they_are(program: Program) -> None:
    after = program.copy()
    migx.run_passes(after, "dead_code_elimination,simplify_algebra")
    verify(after)
    for old, new in zip(outcome(program, I32), outcome(after, I32), strict=True):
        np.testing.assert_array_equal(new, old)
    assert not migx.run_passes(after, "simplify_algebra")


@given(algebra(F64))
def test_floats_stay_but_for_rounding(program: Program) -> None:
    after = program.copy()
    migx.run_passes(after, "dead_code_elimination,simplify_algebra")
    verify(after)
    for old, new in zip(outcome(program, F64), outcome(after, F64), strict=True):
        scale = max(1.0, float(np.max(np.abs(old), initial=0, where=np.isfinite(old))))
        np.testing.assert_allclose(new, old, rtol=1e-9, atol=1e-9 * scale)
    assert not migx.run_passes(after, "simplify_algebra")


def scaled_dot(weights: Callable[[Program], Instruction], depth: int = 2048) -> Program:
    """dot(x, w) * 3 for weights f32[depth, 2]."""
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape("f32", (N, depth)))
    dot = main.add_instruction(Dot(), x, weights(program))
    number = main.add_literal(np.float32(3))
    scaled = main.add_instruction(Mul(), dot, main.add_instruction(Multibroadcast((N, 2)), number))
    main.add_return(scaled)
    return program


def scales_weights(program: Program) -> bool:
    """Whether the factor goes into the weights."""
    migx.run_passes(program, "simplify_algebra")
    (result,) = program.main.outputs
    return result.op == Dot()


def test_deferred_weights_take_a_factor_in() -> None:
    deferred = OnnxExternalWeights("w", "weights.bin", 0, 16384, Shape("f32", (2048, 2)))
    assert scales_weights(scaled_dot(lambda p: p.main.add_instruction(deferred)))


def test_a_replaceable_weight_takes_a_factor_in_and_is_not_relied_on() -> None:
    ones = np.ones((2048, 2), np.float32)
    program = scaled_dot(lambda p: p.main.add_literal(ones, name="w", replaceable=True))
    assert scales_weights(program)
    assert not program.assumptions


def test_weights_that_others_read_stay() -> None:
    program = scaled_dot(lambda p: p.main.add_literal(np.ones((2048, 2), np.float32)))
    (weights,) = (i for i in program.main if i.shape.dims == (2048, 2))
    program.main.add_return(*program.main.outputs, weights)
    migx.run_passes(program, "simplify_algebra")
    assert program.main.outputs[0].op == Mul()


def test_large_weights_stay_as_they_are_in_memory() -> None:
    deferred = OnnxExternalWeights("w", "weights.bin", 0, 1 << 23, Shape("f32", (1 << 20, 2)))
    program = scaled_dot(lambda p: p.main.add_instruction(deferred), 1 << 20)
    assert not scales_weights(program)


def test_a_few_numbers_that_others_read_may_be_had_twice() -> None:
    text = """module main(x: f32[n, 2], y: f32[n, 2]) {
  %0 = @literal() {value=[1.0, 2.0]} : f32[2]
  %1 = multibroadcast(%0) {out_lens=(n, 2)}
  %2 = mul(x, %1)
  %3 = mul(%2, %1)
  %4 = mul(y, %1)
  return %3, %4
}
"""
    program = migx.parse(text)
    migx.run_passes(program, "simplify_algebra")
    products = [i for i in program.main if i.op == Mul()]
    assert sum(i.shape.dims != (2,) for i in products) == 2


def test_f8_is_not_reassociated() -> None:
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape("f8e4m3fn", (2,)))
    two = main.add_instruction(
        Convert(DType.of("f8e4m3fn")), main.add_literal(np.full(2, 3, np.float32))
    )
    inner = main.add_instruction(Mul(), x, two)
    main.add_return(main.add_instruction(Mul(), inner, two))
    assert not migx.run_passes(program, "simplify_algebra")


@pytest.mark.parametrize(
    ("op", "dtype", "a", "b", "meet"),
    [
        (Mul(), "f32", [2, 3], [5, 7], True),
        (Mul(), "f32", [2, 1e30], [5, 1e30], False),  # one is infinite
        (Mul(), "f32", [2, 1e30], [1e30, 5], True),  # those that meet are not
        (Mul(), "f32", [2, 1e-20], [5, 1e-19], False),  # 1e-39 has lost digits
        (Mul(), "f32", [2, 1e-39], [5, 1e-39], True),  # they had lost theirs
        (Mul(), "f32", [np.inf, np.nan], [5, 0], True),
        (Mul(), "f32", [0, 1e30], [1e30, 0], True),
        (Mul(), "f16", [0.005, 1], [0.005, 1], False),
        (Mul(), "i32", [1 << 20, 1], [1 << 20, 1], True),  # integers wrap around
        (Add(), "f32", [3e38, 1], [3e38, 1], False),
        (Add(), "f32", [1.2e-38, 1], [-1.3e-38, 1], True),  # a small sum is exact
        (Div(), "f32", [1e-20, 1], [1e-20, 1], False),  # divided by their product
        (Max(), "f32", [3e38, 1], [1e-38, 1], True),
    ],
)
def test_constants_meet_where_the_result_is_as_good(
    op: Op, dtype: str, a: list[float], b: list[float], meet: bool
) -> None:
    program = migx.Program()
    main = program.main
    x = main.add_parameter("x", Shape(dtype, (2,)))
    for values in (a, b):
        x = main.add_instruction(op, x, main.add_literal(np.array(values), dtype))
    main.add_return(x)
    migx.run_passes(program, "simplify_algebra")
    readers = [i for i in main if main.parameters["x"] in i.inputs]
    assert (main.outputs == tuple(readers)) is meet


@pytest.mark.parametrize(
    ("factor", "meet"), [(2.5, True), (0.0, False), (-0.0, False), (np.inf, False)]
)
def test_a_factor_is_distributed_unless_signs_would_differ(factor: float, meet: bool) -> None:
    program = migx.Program()
    main = program.main
    x = main.add_parameter("x", Shape("f32", (2,)))
    for op, values in ((Mul(), [-1.5, 3.0]), (Add(), [1.0, 2.0]), (Mul(), [3.0, factor])):
        x = main.add_instruction(op, x, main.add_literal(np.array(values), "f32"))
    main.add_return(x)
    migx.run_passes(program, "simplify_algebra")
    assert (main.outputs[0].op == Add()) is meet


@pytest.mark.parametrize(("second", "meet"), [(1e-30, False), (1e-15, True)])
def test_factors_beside_a_weight_keep_their_range(second: float, meet: bool) -> None:
    text = f"""module main(x: f32[n, 2]) {{
  %0 = @literal() {{value=[1e-15, 1.0]}} : f32[2]
  %1 = @literal() {{value=[{second}, 3.0]}} : f32[2]
  %2 = @literal() {{value=[2.0, 2.0], label="w", replaceable=true}} : f32[2]
  %3 = multibroadcast(%0) {{out_lens=(n, 2)}}
  %4 = multibroadcast(%1) {{out_lens=(n, 2)}}
  %5 = multibroadcast(%2) {{out_lens=(n, 2)}}
  %6 = mul(x, %3)
  %7 = mul(%6, %4)
  %8 = mul(%7, %5)
  return %8
}}
"""
    program = migx.parse(text)
    migx.run_passes(program, "simplify_algebra")
    products = [at for at in program.main if at.op == Mul() and not at.constant]
    assert len(products) == (1 if meet else 2)
    x = np.array([[1e31, 1.0]], np.float32)
    (found,) = program.compile("ref").eval({"x": x})
    np.testing.assert_allclose(found, x * [1e-15 * second * 2, 6.0], rtol=1e-6)


def test_factors_of_two_products_are_merged_whether_they_are_known_or_not() -> None:
    def merged(replaceable: str) -> list[str]:
        program = migx.parse(
            f"""module main(x: f32[n, 4], y: f32[n, 4]) {{
  %0 = @literal() {{value=[3.1, 0.3, 1.7, 2.9], label="a", replaceable={replaceable}}} : f32[4]
  %1 = @literal() {{value=[1.1, 0.7, 3.3, 5.9], label="b", replaceable={replaceable}}} : f32[4]
  %2 = broadcast(%0) {{axis=1, out_lens=(n, 4)}}
  %3 = broadcast(%1) {{axis=1, out_lens=(n, 4)}}
  %4 = mul(x, %2)
  %5 = mul(y, %3)
  %6 = mul(%4, %5)
  return %6
}}"""
        )
        assert migx.run_passes(program, "simplify_algebra")
        return [at.name for at in program.main]

    assert merged("true") == merged("false")
