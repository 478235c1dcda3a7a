"""Copies to standard layout: made where an operation asks for them, dropped where none does."""

from __future__ import annotations

import migx
from migx import ops
from migx.op import Array, Modules, Op, Shapes, Traits
from migx.program import Program
from migx.shape import F32, Shape


class Plain(Op):
    """An operation that reads standard layout only."""

    name = "test::plain"
    traits = Traits(standard_inputs=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return shapes[0].as_standard()

    def compute(self, x: Array, y: Array) -> Array:
        return x + y


class Foreign:
    """An operation that declares nothing."""

    name = "test::foreign"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return shapes[0].as_standard()


class Picky(Foreign):
    """An operation that refuses strides."""

    name = "test::picky"
    traits = Traits()

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        if not shapes[0].standard:
            raise migx.errors.ShapeError("standard layout only")
        return shapes[0]


def program_of(*after: object) -> Program:
    """A transposed value, and operations on it, or on copies of it where they are given a copy."""
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape(F32, (2, 3)))
    turned = main.add_instruction(ops.Transpose((1, 0)), x)
    copy = main.add_instruction(ops.Contiguous(), turned)
    main.add_return(*(main.add_instruction(op, copy) for op in after))  # type: ignore[arg-type]
    return program


def names(program: Program) -> list[str]:
    return [at.name for at in program.main]


def test_one_copy_serves_all_who_need_it() -> None:
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape(F32, (2, 3)))
    turned = main.add_instruction(ops.Transpose((1, 0)), x)
    free = main.add_instruction(ops.Relu(), turned)
    first = main.add_instruction(Plain(), turned, turned)
    second = main.add_instruction(Plain(), turned, free)
    main.add_return(first, second)
    assert migx.run_passes(program, "auto_contiguous")
    assert names(program).count("contiguous") == 1
    assert first.inputs[0] is first.inputs[1] is second.inputs[0] is not turned
    assert free.inputs == (turned,)
    assert not migx.run_passes(program, "auto_contiguous")
    assert not migx.run_passes(program, "eliminate_contiguous")


def test_copies_stay_for_those_that_need_or_may_need_them() -> None:
    for op in (Foreign(), Picky()):
        program = program_of(ops.Relu(), op)
        assert not migx.run_passes(program, "eliminate_contiguous")
    assert migx.run_passes(program_of(ops.Relu(), ops.Neg()), "eliminate_contiguous")
