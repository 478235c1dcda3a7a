"""Patterns that would never match are refused when they are made."""

from __future__ import annotations

from typing import Any

import pytest

import migx
from migx import ops
from migx.errors import FieldError, MigxError, UnknownName
from migx.match import attr, constant, having, member, on, skip, value, var, varying
from migx.op import Op, Shape, Shapes, Traits
from migx.rewrite import RuleSet, rewrite, rule

x: Any = var("x")
word: Any = "x"

WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: on("reluu"), UnknownName, "no operation named 'reluu'; similar: relu"),
    (lambda: skip("convrt")(x), UnknownName, "no operation named 'convrt'; similar: convert"),
    (lambda: having("pointwse"), UnknownName, "no trait named 'pointwse'; similar: pointwise"),
    (
        lambda: on(ops.Transpose, x, permutaton=(1, 0)),
        UnknownName,
        "transpose has no attribute 'permutaton'; there are: permutation",
    ),
    (
        lambda: on("transpose", permutaton=attr("p")),
        UnknownName,
        "transpose has no attribute 'permutaton'",
    ),
    (
        lambda: on((ops.Relu, ops.Softmax), axs=1),
        UnknownName,
        "relu or softmax has no attribute 'axs'; there are: axis",
    ),
    (lambda: on(ops.Softmax, axis=1.0), FieldError, r"a pattern of softmax: axis is int, not 1\.0"),
    (
        lambda: on(ops.Relu, x, x),
        TypeError,
        "^relu takes 1 input; a pattern of 2 never matches",
    ),
    (
        lambda: on((ops.Relu, ops.Pad), x, x, x),
        TypeError,
        "relu takes 1 input or pad takes 1 to 2 inputs; a pattern of 3",
    ),
    (
        lambda: on(ops.QuantizeLinear, x),
        TypeError,
        "quantizelinear takes 2 inputs or more; a pattern of 1",
    ),
    (lambda: on(ops.Relu, ops.Neg), TypeError, r"Neg'> is no pattern; one is made as in on\(Neg\)"),
    (lambda: on(ops.Relu, word), TypeError, r"'x' is no pattern; one is made as in var\('x'\)"),
    (lambda: having("pointwise", word), TypeError, "'x' is no pattern"),
    (lambda: skip(ops.Convert)(ops.Relu), TypeError, "is no pattern"),
    (lambda: x | ops.Relu, TypeError, "is no pattern"),
    (lambda: rule(ops.Relu), TypeError, "is no pattern"),
    (
        lambda: on(ops.Relu, on(ops.Relu, name="a"), name="a"),
        TypeError,
        "a names an instruction and something it reads, which never matches",
    ),
    (
        lambda: on(ops.Concat, name="x").some(on(ops.Relu, x)),
        TypeError,
        "x names an instruction and something",
    ),
    (
        lambda: on(ops.Reshape, x, dims=attr("x")),
        TypeError,
        "x names an attribute and an instruction, which never matches",
    ),
    (
        lambda: on(ops.Add, skip(ops.Convert)(x), on(ops.Softmax, axis=attr("x"))),
        TypeError,
        "x names an attribute and an instruction",
    ),
    (lambda: var("at"), TypeError, "the name 'at' is reserved for the cursor of a rule"),
    (lambda: on(ops.Softmax, axis=attr("at")), TypeError, "the name 'at' is reserved"),
    (lambda: on(()), TypeError, "a pattern needs an operation"),
    (skip, TypeError, "a pattern needs an operation"),
    (
        lambda: on(Shape),
        TypeError,
        "a pattern takes a class of operations or its name, not .*Shape",
    ),
    (lambda: value(word), TypeError, "a value is a number or a test of the array, not 'x'"),
    (lambda: member(-1, on(ops.Topk)), TypeError, "the index of a member is 0 or greater, not -1"),
    (lambda: var("x", word), TypeError, "the test of x must be a function of it, not 'x'"),
    *(
        (lambda made=made: made(1), TypeError, "catches by a name, a string, not 1")
        for made in (var, constant, varying, attr)
    ),
    (lambda: on(ops.Relu, name=ops.Relu), TypeError, "catches by a name, a string, not .*"),
    (lambda: value(1.0, 2), TypeError, "catches by a name, a string, not 2"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG)
def test_what_never_matches_is_refused(wrong: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        wrong()
    assert isinstance(caught.value, MigxError) == (kind is not TypeError)


class OutsideRelu(Op):
    """An operation that stands in no package that operations are looked for in."""

    traits = Traits(pointwise=True)
    slope: float = 0.0

    def compute_shape(self, shapes: Shapes, modules: Any = ()) -> Shape:
        return shapes[0]


class Foreign:
    """Only follows the protocol; its attributes are known to its instances alone."""

    name = "foreign"

    def __init__(self, ways: int) -> None:
        self.ways = ways

    def compute_shape(self, shapes: Shapes, modules: Any) -> Shape:
        return shapes[0]


def test_what_stands_elsewhere_is_found_and_what_cannot_be_known_is_taken() -> None:
    on("outside_relu", x, slope=0)
    on(OutsideRelu, x, x)  # it has no meaning that says how many it takes
    on(Foreign, x, x, ways=2)
    on("gpu::allocate")
    on(ops.Concat, x, x, x)
    on((ops.Relu, ops.Softmax), axis=1)
    member(0, on(ops.Topk))
    with pytest.raises(UnknownName, match="there are: slope"):
        on("outside_relu", by=1)


def test_a_choice_may_catch_by_a_name_what_another_does_not() -> None:
    either = on(ops.Relu, var("n")) | on(ops.Softmax, axis=attr("n"))
    assert either.names() == set()
    on(ops.Add, either, on(ops.Softmax, axis=attr("n")))
    on(ops.Add, on(ops.Relu, x) | var(), var(), name="x")


def test_values_are_brought_to_the_forms_of_attributes() -> None:
    assert on(ops.Transpose, permutation=[1, 0]) == on(ops.Transpose, permutation=(1, 0))
    assert on(ops.Convert, to="f16") == on(ops.Convert, to=migx.DType.of("f16"))


@rule(on(ops.Relu, on(ops.Relu, x, name="inner")))
def drop(inner: Any) -> Any:
    """relu(relu(x)) is relu(x)."""
    return inner


def test_one_rule_is_a_set_of_rules() -> None:
    assert RuleSet(drop).rules == RuleSet(drop).rules == (drop,)
    text = "module main(x: f32[2]) { %0 = relu(x) %1 = relu(%0) return %1 }"
    program = migx.parse(text)
    assert rewrite(program.main, drop)
    assert len(program.main) == 3
