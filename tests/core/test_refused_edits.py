"""Edits that are refused say why, where they are made, and leave the module as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import migx
from migx import ops
from migx.dim import Dim
from migx.errors import IRError, MigxError, ParseError
from migx.ir import Instruction, Module
from migx.op import Op, Shapes
from migx.program import Program
from migx.shape import F32, Shape
from migx.verify import verify
from tests.core.chains import VECTOR, chain

TEXT = """module main(c: bool[], x: f32[2]) {
  %0 = if(c) [yes, no]
  %1 = get_tuple_elem(%0) {index=0}
  return %1
}
module yes() {
  %0 = relu(main:x)
  return %0
}
module no() {
  %0 = tanh(main:x)
  return %0
}
"""


@pytest.mark.parametrize("values", ["names", "a list", "an array"])
def test_a_refused_return_leaves_the_one_that_was_there(values: str) -> None:
    program: Any = Program()
    x = program.main.add_parameter("x", Shape("f32", (2,)))
    was = program.main.add_return(x, names=("y",))
    before = str(program)
    with pytest.raises(MigxError):
        if values == "names":
            program.main.add_return(x, names=("y", "z"))
        else:
            program.main.add_return([x] if values == "a list" else "x")
    assert program.main.returned is was
    assert str(program) == before
    made = program.main.add_return(x, x, names=("y", "z"))
    assert program.main.returned is made
    assert len(program.main) == 2


def test_values_of_modules_that_are_not_around_are_not_read() -> None:
    program = migx.parse(TEXT)
    main, yes, no = (program.modules[name] for name in ("main", "yes", "no"))
    inside = yes.outputs[0]
    for module in (main, no):
        with pytest.raises(IRError, match="of module yes, which does not enclose it"):
            module.add_instruction(ops.Relu(), inside)
    late = main.outputs[0]
    with pytest.raises(IRError, match="does not come before it"):
        yes.add_instruction(ops.Relu(), late)
    loose = program.create_module("loose")
    loose.add_instruction(ops.Relu(), main.parameters["x"])
    with pytest.raises(IRError, match="does not enclose it"):
        main.add_instruction(ops.Relu(), next(iter(loose)))
    yes.add_instruction(ops.Relu(), main.parameters["x"])
    with pytest.raises(ParseError, match="of module yes, which does not enclose it"):
        migx.parse(TEXT.replace("return %1", "%2 = relu(yes:%0)\n  return %2"))


def test_what_is_no_instruction_is_said() -> None:
    program: Any = migx.parse(TEXT)
    main, (y,) = program.main, program.main.outputs
    for old, new in ((y, "x"), ("x", y)):
        with pytest.raises(IRError, match="is of type str, not an instruction"):
            main.replace_instruction(old, new)
    gone = main.add_instruction(ops.Tanh(), main.parameters["x"])
    main.remove_instruction(gone)
    with pytest.raises(IRError, match=r"cannot replace <tanh f32\[2\]>: it has been removed"):
        main.replace_instruction(gone, y)
    with pytest.raises(
        IRError, match="before is of type Relu, not an instruction; None inserts at the end"
    ):
        main.insert_instruction(ops.Relu(), main.parameters["x"])


class Shapeless(Op):
    """An operation whose author gave dims where a shape is due."""

    def compute_shape(self, shapes: Shapes, modules: Any = ()) -> Shape:
        return shapes[0].dims  # type: ignore[return-value]


def elsewhere() -> Instruction:
    return Program().main.add_parameter("x", VECTOR)


REFUSED: dict[str, tuple[Callable[[Module, list[Instruction]], Any], str]] = {
    "read another program": (lambda m, v: m.add_instruction(ops.Relu(), elsewhere()),
                             "which is not in this program"),
    "read a later value": (lambda m, v: m.insert_instruction(v[1], ops.Relu(), v[2]),
                           "which does not come before it"),
    "read itself": (lambda m, v: m.insert_instruction(v[2], ops.Relu(), v[2]),
                    "which does not come before it"),
    "before one elsewhere": (lambda m, v: m.insert_instruction(elsewhere(), ops.Relu(), v[0]),
                             "is not in module main, so nothing can be added before it"),
    "same parameter": (lambda m, v: m.add_parameter("x", VECTOR),
                       "module main already has a parameter 'x'"),
    "same module": (lambda m, v: m.program.create_module("main"), "already a module 'main'"),
    "rename to one": (lambda m, v: m.program.rename_module(m, "main"), "already a module 'main'"),
    "move elsewhere": (lambda m, v: m.move_instruction(v[1], elsewhere()), "must be in module"),
    "move past a user": (lambda m, v: m.move_instruction(v[1], v[3]), "it would cross"),
    "move before an input": (lambda m, v: m.move_instruction(v[2], v[1]), "it would cross"),
    "move a parameter": (lambda m, v: m.move_instruction(v[0], v[2]),
                         "parameters stand in front, in the order of the inputs"),
    "move before a parameter": (lambda m, v: m.move_instruction(v[2], v[0]),
                                "parameters stand in front, in the order of the inputs"),
    "parameter before another": (lambda m, v: m.add_parameter("z", VECTOR, before=v[2]),
                                 "is not a parameter of module main, which has 'x'"),
    "parameter of a taken name": (lambda m, v: m.rename_parameter(v[0], "x"),
                                  "module main already has a parameter 'x'"),
    "rename no parameter": (lambda m, v: m.rename_parameter(v[1], "z"),
                            "is not a parameter of module main, which has 'x'"),
    "remove what is read": (lambda m, v: m.remove_instruction(v[1]), "read by 1 instruction"),
    "replace by a later one": (lambda m, v: m.replace_instruction(v[1], v[3]),
                               "which does not come before its user"),
    "replace by one elsewhere": (lambda m, v: m.replace_instruction(v[1], elsewhere()),
                                 "which does not come before its user"),
    "run before compiling": (lambda m, v: m.program.eval({}), "call program.compile"),
    "two bounds": (lambda m, v: [m.add_parameter(f"p{i}", Shape(F32, (Dim("n", i),)))
                                 for i in (1, 2)] and m.program.symbols(), "dim n is declared as"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_edit_says_why_and_changes_nothing(name: str) -> None:
    program, made = chain(3)
    before = program.copy()
    edit, message = REFUSED[name]
    with pytest.raises(IRError, match=message):
        edit(program.main, made)
    if name != "two bounds":
        assert program == before
        verify(program)


def test_removed_values_cannot_be_read() -> None:
    program, (x, y) = chain(1)
    gone = program.main.add_instruction(ops.Neg(), x)
    program.main.remove_instruction(gone)
    with pytest.raises(IRError, match="which is not in this program"):
        program.main.add_instruction(ops.Relu(), gone)
    with pytest.raises(IRError, match="is not in module main"):
        program.main.remove_instruction(gone)
    with pytest.raises(IRError, match="which does not come before its user"):
        program.main.replace_instruction(y, gone)


def test_what_is_no_operation_or_no_instruction_is_said() -> None:
    program = Program()
    x = program.main.add_parameter("x", VECTOR)
    add: Any = program.main.add_instruction
    wrongs: dict[tuple[Any, ...], str] = {
        (ops.Relu, x): r"Relu.* is no operation; one is made first, as in Relu\(\)",
        ("relu", x): r"'relu' is no operation",
        (ops.Relu(), "x"): "input 0 of relu is of type str, not an instruction",
        (ops.Add(), x, VECTOR): "input 1 of add is of type Shape, .*add_literal makes one",
        (ops.Add(), x, 1.0): "input 1 of add is of type float, .*Arithmetic takes numbers",
        (ops.Add(), (x, x)): r"input 0 of add is of type tuple, .*one by one, as add_instr",
        (Shapeless(), x): r"shape rule of shapeless gave \(3,\), which is no Shape",
    }
    for wrong, message in wrongs.items():
        with pytest.raises(IRError, match=message):
            add(*wrong)
    assert repr(program) == "<Program of 1 instruction>"
