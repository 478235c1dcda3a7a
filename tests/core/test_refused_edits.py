"""Edits that are refused say why, where they are made, and leave the module as it was."""

from __future__ import annotations

from typing import Any

import pytest

import migx
from migx import ops
from migx.errors import IRError, MigxError, ParseError
from migx.program import Program
from migx.shape import Shape

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
