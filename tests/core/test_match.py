"""Patterns: what they match, what they catch, what they may know, and how they say no."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from migx import ops
from migx.argument import Argument
from migx.ir import Instruction, Module
from migx.match import (
    Match,
    Pattern,
    attr,
    constant,
    find,
    having,
    member,
    on,
    skip,
    value,
    var,
    varying,
)
from migx.ops.builtin import OnnxExternalWeights, Slot
from migx.program import Program
from migx.rewrite import rule
from migx.shape import F32, Shape

PAIR = Shape(F32, (2, 3))


@pytest.fixture
def main() -> Module:
    """A module with two parameters of two by three."""
    module = Program().main
    module.add_parameter("a", PAIR)
    module.add_parameter("b", PAIR)
    return module


def caught(pattern: Pattern, at: Instruction) -> dict[str, Any] | None:
    """What a pattern catches; None where it does not match, and then it leaves nothing behind."""
    m = Match()
    found = find(pattern, at, m)
    if found is None:
        assert (m.caught, m.instructions, m.values) == ({}, [], [])
    else:
        assert pattern.plausible(at.name, [value.name for value in at.inputs])
    return None if found is None else found.caught


def test_operations_by_class_name_and_several(main: Module) -> None:
    a, b = main.parameters.values()
    add, relu = main.add_instruction(ops.Add(), a, b), main.add_instruction(ops.Relu(), a)
    assert caught(on(ops.Relu), relu) == caught(on("relu"), relu) == {}
    assert caught(on(ops.Relu), add) is None
    both = on((ops.Add, "relu"), name="either")
    assert caught(both, add) == {"either": add}
    assert caught(both, relu) == {"either": relu}
    assert both.roots() == frozenset({"add", "relu"})
    # Without inputs in the pattern any will do; with inputs their number counts.
    joined = main.add_instruction(ops.Concat(0), a, b)
    assert caught(on(ops.Concat, var("x")), joined) is None
    assert caught(on(ops.Concat, var("x"), var("y")), joined) == {"x": a, "y": b}
    assert caught(on(ops.Add, var("x"), var("y")), add) == {"x": a, "y": b}


def test_operations_by_trait(main: Module) -> None:
    a, b = main.parameters.values()
    add, total = main.add_instruction(ops.Add(), a, b), main.add_instruction(ops.ReduceSum((0,)), a)
    found = having("pointwise", on(ops.ReduceSum), var("y"), name="p")
    assert found.roots() is None
    assert caught(found, add) is None
    wide = main.add_instruction(ops.Multibroadcast((2, 3)), total)
    assert caught(having("reduction", var("x")), total) == {"x": a}
    mixed = main.add_instruction(ops.Mul(), b, wide)
    turned = having("pointwise", on(ops.Multibroadcast), var("y"), name="p")
    assert caught(turned, mixed) == {"p": mixed, "y": b}
    assert caught(having("pointwise"), wide) is None


def test_attributes_are_tested_caught_and_compared_bit_for_bit(main: Module) -> None:
    a = main.parameters["a"]
    flat = main.add_instruction(ops.Transpose((1, 0)), a)
    elu = main.add_instruction(ops.Elu(-0.0), a)
    assert caught(on(ops.Transpose, permutation=(1, 0)), flat) == {}
    assert caught(on(ops.Transpose, permutation=[1, 0]), flat) == {}
    assert caught(on(ops.Transpose, permutation=(0, 1)), flat) is None
    assert caught(on(ops.Transpose, permutation=attr("p")), flat) == {"p": (1, 0)}
    assert caught(on(ops.Transpose, permutation=attr("p", lambda p: p[0] == 0)), flat) is None
    assert caught(on(ops.Elu, alpha=-0.0), elu) == {}
    assert caught(on(ops.Elu, alpha=0.0), elu) is None
    # Of several operations one may lack the attribute.
    some = on((ops.Elu, ops.Transpose), alpha=attr("alpha"))
    assert caught(some, flat) is None
    assert caught(some, elu) == {"alpha": -0.0}


def test_an_attribute_caught_twice_must_be_the_same(main: Module) -> None:
    a = main.parameters["a"]
    one = main.add_instruction(ops.Unsqueeze((0,)), a)
    same, other = (main.add_instruction(ops.Unsqueeze(axes), one) for axes in ((0,), (1,)))
    twice = on(ops.Unsqueeze, on(ops.Unsqueeze, var("x"), axes=attr("axes")), axes=attr("axes"))
    assert caught(twice, same) == {"axes": (0,), "x": a}
    assert caught(twice, other) is None
    zero = main.add_instruction(ops.Elu(0.0), main.add_instruction(ops.Elu(-0.0), a))
    alphas = on(ops.Elu, on(ops.Elu, alpha=attr("alpha")), alpha=attr("alpha"))
    assert caught(alphas, zero) is None


def test_the_same_variable_twice_is_the_same_value(main: Module) -> None:
    a, b = main.parameters.values()
    square = on(ops.Mul, var("x"), var("x"))
    assert caught(square, main.add_instruction(ops.Mul(), a, a)) == {"x": a}
    assert caught(square, main.add_instruction(ops.Mul(), a, b)) is None


def test_commutative_operands_match_in_either_order(main: Module) -> None:
    a, b = main.parameters.values()
    relu, neg = main.add_instruction(ops.Relu(), a), main.add_instruction(ops.Neg(), b)
    pattern = on(ops.Add, on(ops.Neg, var("n")), var("y"))
    for inputs in ((relu, neg), (neg, relu)):
        assert caught(pattern, main.add_instruction(ops.Add(), *inputs)) == {"n": b, "y": relu}
    ordered = on(ops.Sub, on(ops.Neg, var("n")), var("y"))
    assert caught(ordered, main.add_instruction(ops.Sub(), relu, neg)) is None
    assert caught(ordered, main.add_instruction(ops.Sub(), neg, relu)) == {"n": b, "y": relu}


def test_a_choice_that_leads_nowhere_is_taken_back(main: Module) -> None:
    """The order that fits the inner sums first leaves ``x`` with the wrong value further right."""
    a, b = main.parameters.values()
    inner = main.add_instruction(ops.Add(), a, b)
    pattern = on(ops.Sub, on(ops.Add, var("x"), var("y"), name="sum"), var("x"))
    for last, other in ((a, b), (b, a)):
        outer = main.add_instruction(ops.Sub(), inner, last)
        assert caught(pattern, outer) == {"x": last, "y": other, "sum": inner}
    assert caught(pattern, main.add_instruction(ops.Sub(), inner, inner)) is None
    # Two levels: both sums must be turned.
    left, right = (main.add_instruction(ops.Add(), *pair) for pair in ((a, b), (inner, a)))
    product = main.add_instruction(ops.Mul(), left, right)
    deep = on(
        ops.Mul, on(ops.Add, var("p"), var("q")), on(ops.Add, var("q"), var("r"), name="second")
    )
    found = caught(deep, product)
    assert found == {"p": b, "q": a, "r": inner, "second": right}


def test_every_or_some_of_any_number_of_inputs(main: Module) -> None:
    a, b = main.parameters.values()
    relu, neg, late = (
        main.add_instruction(op, v) for op, v in ((ops.Relu(), a), (ops.Neg(), b), (ops.Relu(), b))
    )
    relus, mixed, one, none = (
        main.add_instruction(ops.Concat(0), *values)
        for values in ((relu, late, relu), (neg, relu, late), (neg,), (a, b))
    )
    every = on(ops.Concat, name="root").every(on(ops.Relu, var()))
    some = on(ops.Concat, axis=attr("axis")).some(on(ops.Relu, var("x")))
    assert caught(every, relus) == {"root": relus}
    assert all(caught(every, at) is None for at in (mixed, one, none, relu))
    assert caught(some, relus) == {"axis": 0, "x": a}
    assert caught(some, mixed) == {"axis": 0, "x": a}
    assert all(caught(some, at) is None for at in (one, none, neg))
    # An input that fits is left for another where what follows does not.
    both = on(ops.Sub, some, on(ops.Concat, var("x"), var()))
    pair, turned = (main.add_instruction(ops.Concat(0), *vs) for vs in ((relu, late), (b, a)))
    assert caught(both, main.add_instruction(ops.Sub(), pair, turned)) == {"axis": 0, "x": b}
    for pattern in (on("@param").every(var()), on("@param").some(var())):
        assert caught(pattern, a) is None  # it has no input
    assert str(every) == "concat(every relu(_))"
    assert str(some) == "concat(some relu(x)) {axis}"
    with pytest.raises(TypeError, match="cannot match every input"):
        on(ops.Concat).every(var("x"))


def test_one_of_several_patterns(main: Module) -> None:
    a = main.parameters["a"]
    relu, neg = main.add_instruction(ops.Relu(), a), main.add_instruction(ops.Neg(), a)
    either = on(ops.Relu, var("x"), name="r") | on(ops.Neg, var("x"))
    assert caught(either, relu) == {"r": relu, "x": a}
    assert caught(either, neg) == {"x": a}
    assert caught(either, main.add_instruction(ops.Exp(), a)) is None
    assert either.names() == {"x"}
    assert either.roots() == frozenset({"relu", "neg"})
    assert (either | var("z")).roots() is None
    # The second choice is tried when the first fits but what follows does not.
    both = on(ops.Sub, on(ops.Add, var("x"), var()) | on(ops.Add, var(), var("x")), var("x"))
    b = main.parameters["b"]
    total = main.add_instruction(ops.Add(), a, b)
    assert caught(both, main.add_instruction(ops.Sub(), total, b)) == {"x": b}


def test_wrappers_are_skipped_however_many(main: Module) -> None:
    a = main.parameters["a"]
    wrapped = a
    for _ in range(5):
        wrapped = main.add_instruction(ops.Unsqueeze((0,)), wrapped)
        wrapped = main.add_instruction(ops.Transpose(tuple(range(wrapped.shape.rank))), wrapped)
    pattern = skip(ops.Unsqueeze, "transpose")(on(ops.Relu, var("x"), name="relu"))
    assert caught(pattern, wrapped) is None
    relu = main.add_instruction(ops.Relu(), a)
    assert caught(pattern, relu) == {"relu": relu, "x": a}
    outer = main.add_instruction(ops.Unsqueeze((0,)), relu)
    assert caught(pattern, outer) == {"relu": relu, "x": a}
    assert caught(skip(ops.Transpose)(on(ops.Relu)), outer) is None
    found = find(pattern, outer)
    assert found is not None
    assert found.instructions == [outer, relu]
    assert pattern.roots() == frozenset({"unsqueeze", "transpose", "relu"})
    # A variable inside catches what lies behind all of them, or a wrapper if the rest asks for it.
    assert caught(skip(ops.Unsqueeze, ops.Relu)(var("x")), outer) == {"x": a}
    both = on(ops.Sub, skip(ops.Relu)(var("x")), var("x"))
    assert caught(both, main.add_instruction(ops.Sub(), relu, a)) == {"x": a}
    assert caught(both, main.add_instruction(ops.Sub(), relu, relu)) == {"x": relu}


def test_used_once_counts_every_read(main: Module) -> None:
    a = main.parameters["a"]
    relu = main.add_instruction(ops.Relu(), a)
    pattern = on(ops.Neg, on(ops.Relu, var("x")).once())
    neg = main.add_instruction(ops.Neg(), relu)
    assert caught(pattern, neg) == {"x": a}
    twice = main.add_instruction(ops.Mul(), relu, relu)
    assert caught(pattern, neg) is None
    main.remove_instruction(twice)
    assert caught(pattern, neg) == {"x": a}


def test_one_of_several_results(main: Module) -> None:
    both = main.add_instruction(ops.Topk(1, 0), main.parameters["a"])
    values, indices = (main.add_instruction(ops.GetTupleElem(i), both) for i in (0, 1))
    pattern = member(1, on(ops.Topk, var("x"), name="topk"))
    assert caught(pattern, values) is None
    assert caught(pattern, indices) == {"topk": both, "x": main.parameters["a"]}


def test_a_test_of_the_value_may_refuse(main: Module) -> None:
    a = main.parameters["a"]
    pattern = on(ops.Relu, var("x", lambda x: x.shape.rank == 3))
    assert caught(pattern, main.add_instruction(ops.Relu(), a)) is None
    cube = main.add_instruction(ops.Unsqueeze((0,)), a)
    assert caught(pattern, main.add_instruction(ops.Relu(), cube)) == {"x": cube}


def weights(main: Module) -> dict[str, Instruction]:
    """A constant of each kind, all ones where they have values."""
    ones = np.ones((2, 3), np.float32)
    return {
        "fixed": main.add_literal(ones),
        "replaceable": main.add_literal(ones, name="w", replaceable=True),
        "external": main.add_instruction(OnnxExternalWeights("e", "e.bin", 0, 24, PAIR)),
        "slot": main.add_instruction(Slot("s", PAIR)),
    }


def test_constants_are_weights_of_every_kind_and_what_is_computed_from_them(main: Module) -> None:
    a = main.parameters["a"]
    for kind, weight in weights(main).items():
        assert caught(constant("w"), weight) == {"w": weight}, kind
        relu = main.add_instruction(ops.Relu(), weight)
        assert caught(constant("w"), relu) == {"w": relu}, kind
        assert caught(constant("w"), main.add_instruction(ops.Add(), relu, a)) is None
    assert caught(constant("w"), a) is None
    assert caught(varying("x"), a) == {"x": a}
    assert caught(varying("x"), main.add_literal(1.0)) is None
    # What is drawn is none, though it reads nothing.
    seed = main.add_literal(np.int64(3))
    uniform = main.add_instruction(ops.RandomUniform(3, (2, 3)))
    assert caught(constant(), uniform) is None
    assert caught(constant(test=lambda at: at.shape.rank == 1), seed) is None


def test_values_are_granted_for_fixed_literals_alone(main: Module) -> None:
    found = weights(main)
    assert caught(value(name="c"), found["fixed"]) == {"c": found["fixed"]}
    assert caught(value(1.0), found["fixed"]) == {}
    assert caught(value(2.0), found["fixed"]) is None
    for kind in ("replaceable", "external", "slot"):
        assert caught(value(name="c"), found[kind]) is None
    relu = main.add_instruction(ops.Relu(), found["fixed"])
    assert caught(value(name="c"), relu) is None
    assert main.program.assumptions == ()


def test_a_replaceable_weight_may_be_read_by_a_pass_with_a_name(main: Module) -> None:
    number = main.add_literal(np.ones(1, np.float32), name="n", replaceable=True)
    weight = weights(main)["replaceable"]
    for literal, several in ((number, False), (number, True), (weight, True)):
        m = find(value(1.0, "c", several=several), literal, Match(relied_on_by="some_pass"))
        assert m is not None
        assert m.values == [literal]
        twice = value(2.0, "c", several=several)
        assert find(twice, literal, Match(relied_on_by="some_pass")) is None
    # Only a rule that fires has relied on it.
    assert main.program.assumptions == ()
    # A rewrite that fits one value of several elements would rule out all other weights.
    assert find(value(1.0, "c"), weight, Match(relied_on_by="some_pass")) is None


@pytest.mark.parametrize(
    ("literal", "number", "holds"),
    [
        (np.array([1, 1], np.float32), 1, True),
        (np.array([1, 2], np.float32), 1, False),
        (np.array([[2, 1]], np.float32), 1, False),
        (np.float64(0.1), 0.1, True),
        (np.float32(0.1), 0.1, True),
        (np.float64(np.float32(0.1)), 0.1, False),
        (np.float16(0.5), 0.5, True),
        (np.array([2, 2], ml_dtypes.bfloat16), 2.0, True),
        (np.array([2, 2], ml_dtypes.float8_e4m3fn), 2.0, True),
        (np.array([3], np.int64), 3.0, True),
        (np.uint8(3), 3, True),
        (np.array([True, True]), 1, True),
        (np.float32("nan"), float("nan"), False),
        (np.float32("inf"), float("inf"), True),
        (np.zeros((0,), np.float32), 0.0, False),
        (np.array([0.0, -0.0], np.float32), 0.0, False),
        (np.array([-0.0], np.float32), -0.0, True),
        (np.array([-0.0], ml_dtypes.bfloat16), 0.0, False),
        (np.array([0], np.int64), -0.0, True),
    ],
)
def test_a_number_throughout(main: Module, literal: Any, number: Any, holds: bool) -> None:
    assert (caught(value(number), main.add_literal(literal)) is not None) == holds


def test_packed_and_text_literals_hold_no_number(main: Module) -> None:
    packed = main.add_literal(Argument.packed(Shape("i4", (2,)), bytes([0x11])))
    words = np.empty(1, object)
    words[:] = ["1"]
    text = main.add_literal(Argument(Shape("str", (1,)), words))
    assert caught(value(1), packed) is None
    assert caught(value(1), text) is None


def test_what_is_never_caught_is_an_error_when_the_rule_is_made() -> None:
    pattern = on(ops.Add, var("x") | on(ops.Neg, var("y")), skip("relu")(var("z")), name="add")
    assert pattern.names() == {"add", "z"}
    message = r"f asks for w, x, which .* catch; it catches add, z, and options of the pass"
    with pytest.raises(TypeError, match=message):

        @rule(pattern)
        def f(at: Any, z: Any, x: Any, w: Any) -> None:
            """Never made."""

    with pytest.raises(TypeError, match="g asks for x, .* it catches nothing"):

        @rule(on(ops.Add))
        def g(x: Any) -> None:
            """Never made."""


@pytest.mark.parametrize("make", [on, skip])
def test_an_operation_with_its_attributes_is_no_pattern(make: Any) -> None:
    with pytest.raises(
        TypeError, match=r"not Transpose\(permutation=\(1, 0\)\); attributes are key"
    ):
        make(ops.Transpose((1, 0)))


def test_whoever_asks_is_told_why_not(main: Module) -> None:
    a, b = main.parameters.values()
    told: list[str] = []

    def reasons(pattern: Pattern, at: Instruction) -> list[str]:
        told.clear()
        m = Match(refused=lambda _, where, reason: told.append(f"{where.name} {reason}"))
        assert find(pattern, at, m) is None
        return list(told)

    relu = main.add_instruction(ops.Relu(), a)
    add = main.add_instruction(ops.Add(), relu, b)
    assert reasons(on(ops.Neg), relu) == ["relu is not neg"]
    joined = main.add_instruction(ops.Concat(0), relu)
    assert reasons(on(ops.Concat, var(), var()), joined) == ["concat has 1 inputs, not 2"]
    main.remove_instruction(joined)
    assert reasons(on(ops.Relu, constant("c")), relu) == ["@param is not constant"]
    assert reasons(on(ops.Relu, value(name="c")), relu) == ["@param has no value that may be read"]
    assert reasons(on(ops.Add, on(ops.Neg), var()), add) == [
        "relu is not neg",
        "@param is not neg",
    ]
    flat = main.add_instruction(ops.Transpose((1, 0)), relu)
    assert reasons(on(ops.Transpose, permutation=(0, 1)), flat) == [
        "transpose has permutation (1, 0), not (0, 1)"
    ]
    assert reasons(on(ops.Transpose, on(ops.Relu).once()), flat) == [
        "relu is used 2 times, not once"
    ]
