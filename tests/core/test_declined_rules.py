"""Rules that decline, or are wrong, leave nothing behind, and are named."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import migx
from migx import ops
from migx.errors import IRError, ShapeError
from migx.ir import Instruction
from migx.match import on
from migx.op import Modules, Op, Shapes
from migx.program import Program
from migx.rewrite import Cursor, Declined, RuleSet, rewrite, rule
from migx.shape import F32, Shape
from migx.verify import verify
from tests.core.rules import chain, x


def test_a_rule_that_declines_leaves_nothing() -> None:
    program = chain(4, "neg", "exp")

    @rule(on(ops.Exp, on(ops.Neg, x)))
    def hesitate(at: Cursor, x: Instruction) -> Instruction | None:
        """Makes some, then thinks better of it."""
        at(ops.Add(), at(ops.Relu(), x), at(ops.Relu(), x))
        at.literal([1.0])
        return None

    @rule(on(ops.Exp, x))
    def refuse(at: Cursor, x: Instruction) -> Declined:
        """Says why."""
        at(ops.Relu(), x)
        return Declined("of no use")

    @rule(on(ops.Exp, x, name="same"))
    def same(at: Cursor, same: Instruction, x: Instruction) -> Instruction:
        """Answers with what was there."""
        at(ops.Relu(), x)
        return same

    before = program.copy()
    assert not rewrite(program.main, hesitate + refuse + same)
    verify(program)
    assert program == before


@pytest.mark.parametrize("wrong", [3, [None], "x"])
def test_what_a_rule_cannot_return_is_an_error_that_names_it(wrong: Any) -> None:
    @rule(on(ops.Neg))
    def odd() -> Any:
        """Returns what is no instruction."""
        return wrong

    with pytest.raises(TypeError, match="None to decline; this one returned") as caught:
        rewrite(chain(1, "neg").main, RuleSet(odd))
    assert caught.value.__notes__[0].startswith(f"in rule odd, {__file__}:")


def test_an_error_in_a_rule_names_it() -> None:
    @rule(on(ops.Relu, x))
    def wrong(at: Cursor, x: Instruction) -> Instruction:
        """Makes another type."""
        return at(ops.Convert(migx.DType.of("f16")), x)

    program = chain(1, "relu")
    program.main.outputs[0].origins = ("encoder/Relu_7",)
    with pytest.raises(migx.MigxError, match="cannot replace a value of") as caught:
        rewrite(program.main, RuleSet(wrong), "bad_pass")
    line = inspect.getsourcelines(wrong.function)[1]
    (note,) = caught.value.__notes__
    first, drawn, *_, place = note.splitlines()
    assert first == f"in rule wrong of bad_pass, {__file__}:{line}, at"
    assert (drawn, place) == ("  relu(x)", "  in module main, from ONNX 'encoder/Relu_7'")


def test_a_rule_that_edits_and_then_declines_is_an_error_that_names_it() -> None:
    program = chain(2, "relu", "neg")

    @rule(on(ops.Relu, x, name="relu"))
    def half(at: Cursor, x: Instruction, relu: Instruction) -> Declined:
        """Does it by hand, and says that it does not."""
        at.module.replace_instruction(relu, at(ops.Abs(), x))
        return Declined("no")

    with pytest.raises(IRError, match="rule half replaced nothing, but edited the program"):
        rewrite(program.main, half)


def test_what_a_rule_that_declines_has_moved_goes_back() -> None:
    program = migx.parse(
        "module main(x: f32[2]) { %0 = relu(x) %1 = @literal() {value=[1.0, 2.0]} : f32[2]"
        " %2 = add(%0, %1) return %2 }"
    )

    @rule(on(ops.Relu, x, name="relu"))
    def early(at: Cursor, x: Instruction, relu: Instruction) -> Declined:
        """Brings a constant, and reads it for nothing."""
        (reader,) = relu.users
        at(ops.Add(), x, at.bring(reader.inputs[1]))
        return Declined("of no use")

    before, revision = program.copy(), program.revision
    assert not rewrite(program.main, early)
    assert (program == before, program.revision) == (True, revision)
    verify(program)


def test_several_replacements_happen_all_or_none() -> None:
    program = Program()
    main = program.main
    turned = main.add_instruction(
        ops.Transpose((1, 0)), main.add_parameter("x", Shape(F32, (2, 3)))
    )
    copies = [main.add_instruction(ops.Contiguous(), turned) for _ in range(2)]
    main.add_return(
        main.add_instruction(ops.Relu(), copies[0]), main.add_instruction(InOrder(), copies[1])
    )

    @rule(on(ops.Contiguous, x))
    def both(x: Instruction) -> dict[Instruction, Instruction]:
        """The second of them is needed."""
        return dict.fromkeys(copies, x)

    before = program.copy()
    assert not rewrite(main, both)
    assert program == before
    assert [len(at.users) for at in (turned, *copies)] == [2, 1, 1]
    verify(program)


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_results_as_there_are(count: int) -> None:
    program = migx.parse(
        "module main(x: f32[2]) { %0 = topk(x) {k=1, axis=0} %1 = get_tuple_elem(%0) {index=1}"
        " return %1 }"
    )

    @rule(on(ops.Topk, x))
    def short(at: Cursor, x: Instruction) -> tuple[Instruction, ...]:
        """Too few, or too many."""
        return (at(ops.ReduceMax((0,)), x),) * count

    with pytest.raises(IRError, match=f"topk has results: 2; the rule returned {count}"):
        rewrite(program.main, short)
    assert str(short) == "short: topk(x)"


class InOrder(Op):
    """Takes elements in order alone."""

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        if not shapes[0].standard:
            raise ShapeError("must be standard")
        return shapes[0]


def test_a_layout_that_the_readers_refuse_leaves_the_module_as_it_was() -> None:
    program = Program()
    main = program.main
    turned = main.add_instruction(
        ops.Transpose((1, 0)), main.add_parameter("x", Shape(F32, (2, 3)))
    )
    main.add_return(main.add_instruction(InOrder(), main.add_instruction(ops.Contiguous(), turned)))

    @rule(on(ops.Contiguous, x))
    def drop(x: Instruction) -> Instruction:
        """Needs a copy where the layout matters."""
        return x

    before = program.copy()
    assert not rewrite(program.main, RuleSet(drop))
    assert program == before
    verify(program)
