"""Programs and their edits: users, order, submodules, and what an edit costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import migx
from migx import op as operations
from migx import ops
from migx.base import order
from migx.dim import Dim
from migx.errors import IRError, ShapeError, UnknownName
from migx.ir import Instruction, Module, merged
from migx.op import Op, Shapes
from migx.ops.builtin import Literal, Param
from migx.program import Program
from migx.shape import BOOL, F32, I64, Shape
from migx.verify import verify
from tests.core.chains import VECTOR, chain


class Flat(Op):
    """A foreign operation that refuses strides and hands them on: what replacing must respect."""

    def compute_shape(self, shapes: Shapes, modules: Any = ()) -> Shape:
        if any(s.strides for s in shapes):
            raise ShapeError("flat refuses strides")
        return shapes[0]


class Keep(Op):
    """The layout of the first input, whatever it is."""

    def compute_shape(self, shapes: Shapes, modules: Any = ()) -> Shape:
        return shapes[0]


def test_iteration_survives_any_change_on_the_way() -> None:
    program, made = chain(6)
    main = program.main
    seen: list[Instruction] = []
    early = late = made[0]
    for at in main:
        seen.append(at)
        if at is made[2]:  # inserts before and after, and removes the next and itself
            early = main.insert_instruction(made[1], ops.Neg(), made[0])
            late = main.insert_instruction(made[4], ops.Neg(), made[0])
            main.replace_instruction(made[3], made[1])
            main.remove_instruction(made[3])
            main.remove_instruction(made[2])
    assert seen == [made[0], made[1], made[2], late, *made[4:], main.last]
    assert list(main) == [made[0], early, made[1], late, *made[4:], main.last]
    back = []
    for at in reversed(main):
        back.append(at)
        if at is late:
            main.remove_instruction(early)
            main.remove_instruction(late)
    assert back == [main.last, *made[:3:-1], late, made[1], made[0]]
    verify(program)


def test_users_are_counted_as_often_as_they_read() -> None:
    program, (x, y) = chain(1)
    twice = program.main.add_instruction(ops.Add(), y, y)
    assert list(y.users) == [program.main.returned, twice]
    assert y.use_count == 3
    program.main.replace_input(twice, 0, x)
    assert (x.use_count, y.use_count) == (2, 2)
    assert twice.inputs == (x, y)
    program.main.replace_instruction(y, x)
    assert twice.inputs == (x, x)
    assert (x.use_count, y.use_count) == (4, 0)
    verify(program)


def test_what_is_constant_follows_every_edit() -> None:
    program = Program()
    main = program.main
    x, c = main.add_parameter("x", VECTOR), main.add_parameter("c", Shape(BOOL))
    one, two = (main.add_literal(np.full(3, k, np.float32)) for k in (1, 2))
    both = main.add_instruction(ops.Add(), one, two)
    after = main.add_instruction(ops.Exp(), main.add_instruction(ops.Neg(), both))
    yes, no = program.create_module("yes"), program.create_module("no")
    inside = yes.add_instruction(ops.Relu(), after)
    yes.add_return(inside)
    no.add_return(x)
    choice = main.add_instruction(ops.If(), c, modules=[yes, no])
    main.add_return(after, choice)

    def constant() -> list[bool]:
        verify(program)
        return [at.constant for at in (both, after, inside)]

    assert constant() == [True] * 3
    assert not x.constant
    assert not choice.constant
    main.replace_input(both, 1, x)
    assert constant() == [False] * 3
    main.replace_instruction(x, two)
    assert constant() == [True] * 3


def test_replace_refuses_other_types_and_dims() -> None:
    program, (_, y) = chain(1)
    main, text = program.main, str(program)
    for shape in (Shape(F32, (4,)), Shape(I64, (3,)), Shape(F32, (3, 1)), Shape(F32, (Dim("n"),))):
        other = main.add_parameter(str(shape), shape)
        with pytest.raises(IRError, match=r"cannot replace a value of f32\[3\] by one of"):
            main.replace_instruction(y, other)
        main.remove_instruction(other)
    assert str(program) == text


def strided() -> tuple[Program, Instruction, Instruction]:
    """A standard value, and the same dims in another layout."""
    program = Program()
    x = program.main.add_parameter("x", Shape(F32, (2, 3)))
    t = program.main.add_parameter("t", Shape(F32, (3, 2)))
    return program, x, program.main.add_instruction(ops.Transpose((1, 0)), t)


def test_replace_infers_strides_again_as_far_as_they_change() -> None:
    program, x, view = strided()
    main = program.main
    kept = main.add_instruction(Keep(), x)
    again = main.add_instruction(Keep(), kept)
    end = main.add_instruction(ops.Contiguous(), again)
    main.add_return(end, kept)
    main.replace_instruction(x, view)
    assert kept.shape == again.shape == view.shape == Shape(F32, (2, 3), (1, 2))
    assert end.shape.standard
    verify(program)


@pytest.mark.parametrize("edit", ["replace", "replace_input"])
def test_a_reader_that_refuses_strides_leaves_all_as_it_was(edit: str) -> None:
    program, x, view = strided()
    main = program.main
    kept = main.add_instruction(Keep(), x)
    other = main.add_instruction(Keep(), x)
    flat = main.add_instruction(Flat(), kept)
    both = main.add_instruction(ops.Add(), x, view)  # reads the new value as well
    main.add_return(flat, other, both)
    before = [(at, at.inputs, at.shape, list(at.users), at.origins) for at in main]
    with pytest.raises((IRError, ShapeError), match="flat refuses strides"):
        if edit == "replace":
            main.replace_instruction(x, view)
        else:
            main.replace_input(kept, 0, view)
    assert [(at, at.inputs, at.shape, list(at.users), at.origins) for at in main] == before
    verify(program)


def test_replace_input_keeps_type_and_dims() -> None:
    program, (x, y) = chain(1)
    other = program.main.add_parameter("other", Shape(F32, (4,)))
    before = y.shape
    with pytest.raises(IRError, match=r"cannot make .* would become f32\[4\]"):
        program.main.replace_input(y, 0, other)
    assert y.inputs == (x,)
    assert y.shape == before
    verify(program)


def test_replace_merges_origins() -> None:
    program, (x, a, b) = chain(2)
    a.origins, b.origins = ("conv", "bias"), ("bias", "relu")
    program.main.replace_instruction(b, a)
    assert [at.origins for at in (a, b)] == [("conv", "bias", "relu"), ("bias", "relu")]
    assert merged(("a", "b"), (), ("b", "c", "a")) == ("a", "b", "c")
    assert x.origins == ()


def nested() -> tuple[Program, dict[str, Instruction]]:
    """An ``if`` within an ``if``; each module reads a value of every one around it."""
    program = Program()
    main = program.main
    c = main.add_parameter("c", Shape(BOOL))
    x = main.add_parameter("x", VECTOR)
    a = main.add_instruction(ops.Relu(), x)
    outer, other = program.create_module("outer"), program.create_module("other")
    inner, last = program.create_module("inner"), program.create_module("last")
    b = outer.add_instruction(ops.Neg(), a)
    inner_value = inner.add_instruction(ops.Add(), a, b)
    inner.add_return(inner_value)
    last.add_return(b)
    choice = outer.add_instruction(ops.If(), c, modules=[inner, last])
    outer.add_return(outer.add_instruction(ops.GetTupleElem(0), choice))
    other.add_return(x)
    top = main.add_instruction(ops.If(), c, modules=[outer, other])
    z = main.add_instruction(ops.GetTupleElem(0), top)
    main.add_return(z)
    verify(program)
    return program, {"x": x, "a": a, "b": b, "i": inner_value, "if": choice, "top": top, "z": z}


def test_before_looks_through_submodules() -> None:
    _, at = nested()
    chain = ["x", "a", "b", "i"]
    for i, first in enumerate(chain):
        for second in chain[i + 1 :]:
            assert at[first].before(at[second])
            assert not at[second].before(at[first])
    assert at["b"].before(at["if"])
    for inside in ("b", "i", "if"):
        # What holds it, and what comes after that, is not before it; nor it before them.
        assert not at["top"].before(at[inside])
        assert not at["z"].before(at[inside])
        assert not at[inside].before(at["z"])
    assert not at["if"].before(at["i"])


def test_captured_values_have_users_and_can_be_replaced() -> None:
    program, at = nested()
    main = program.main
    assert set(at["a"].users) == {at["b"], at["i"]}
    earlier = main.insert_instruction(at["a"], ops.Exp(), at["x"])
    main.replace_instruction(at["a"], earlier)
    assert at["i"].inputs == (earlier, at["b"])
    main.remove_instruction(at["a"])
    verify(program)
    late = main.insert_instruction(at["z"], ops.Exp(), at["x"])
    with pytest.raises(IRError, match="which does not come before its user"):
        main.replace_instruction(earlier, late)
    with pytest.raises(IRError, match="cannot move .* it would cross"):
        main.move_instruction(earlier, late)


def test_modules_know_their_parents() -> None:
    program, at = nested()
    outer, inner = program.modules["outer"], program.modules["inner"]
    assert outer.parent is at["top"]
    assert inner.parent is at["if"]
    assert program.main.parent is None
    assert [m.name for m in inner.enclosing()] == ["inner", "outer", "main"]
    names = [m.name for m in program.submodules(program.main)]
    assert names == ["inner", "last", "outer", "other", "main"]
    with pytest.raises(IRError, match="cannot remove module inner: it is in use"):
        program.remove_module(inner)
    with pytest.raises(IRError, match="cannot remove module main"):
        program.remove_module(program.main)
    shared = program.create_module("shared")
    shared.add_return(shared.add_literal(1.0))
    c = program.main.parameters["c"]
    made = program.main.add_instruction(ops.If(), c, modules=[shared, shared])
    assert shared.parents == {made: 2}
    again = program.main.add_instruction(ops.If(), c, modules=[shared, shared])
    assert shared.parent is None
    verify(program)
    for user in (made, again):
        program.main.remove_instruction(user)
    program.remove_module(shared)
    assert "shared" not in program.modules
    verify(program)


def test_a_name_that_is_taken_gets_a_number() -> None:
    program = Program()
    made = [program.add_module("main") for _ in range(3)]
    assert [module.name for module in made] == ["main_1", "main_2", "main_3"]
    program.rename_module(made[0], "other")
    assert program.modules["other"] is made[0]


def test_a_module_cannot_hold_itself() -> None:
    program, at = nested()
    inner, c = program.modules["inner"], program.main.parameters["c"]
    for module in (inner, program.modules["outer"], program.main):
        with pytest.raises(IRError, match=f"module {module.name} cannot be an argument"):
            inner.insert_instruction(at["i"], ops.If(), c, modules=[module, inner])
    stranger = Program().create_module("stranger")
    with pytest.raises(
        IRError, match="module stranger cannot be an argument .*: it is of another p"
    ):
        program.main.add_instruction(ops.If(), c, modules=[stranger, stranger])
    verify(program)


def test_a_return_ends_its_module() -> None:
    program = Program()
    main = program.main
    assert main.returned is main.last is None
    assert main.outputs == ()
    x = main.add_parameter("x", VECTOR)
    main.add_return(x, x, names=["first", "second"])
    assert main.output_names == ("first", "second")
    late = main.add_instruction(ops.Relu(), x)
    assert list(main) == [x, late, main.returned]
    main.add_return(late)
    assert list(main.outputs) == [late]
    assert list(main.output_names) == ["output_0"]
    assert len(main) == 3
    with pytest.raises(ShapeError, match="1 names for 2 results"):
        main.add_return(x, late, names=["one"])


def test_parameters_stand_in_front_in_their_order() -> None:
    program = Program()
    main = program.main
    a = main.add_literal(1.0)
    x = main.add_parameter("x", VECTOR)
    y = main.add_parameter("y", VECTOR)
    main.add_return(a)
    assert list(main)[:3] == [x, y, a]
    main.remove_instruction(x)
    z = main.add_parameter("z", VECTOR)
    assert list(main)[:2] == [y, z]
    assert list(main.parameters) == ["y", "z"]
    verify(program)


def test_an_input_changes_its_name_its_place_and_its_type() -> None:
    program = migx.parse(
        "module main(x: f32[2], y: f32[2], z: f32[2]) { %0 = sub(x, y) return %0 }"
    )
    main = program.main
    x, y, z = main.parameters.values()
    main.rename_parameter(y, "y.was")
    half = main.add_parameter("y", Shape("f16", (2,)), before=y)
    assert list(main.parameters.values()) == [x, half, y, z]
    assert list(main.parameters) == ["x", "y", "y.was", "z"]
    body = next(main.following(z))
    main.replace_instruction(y, main.insert_instruction(body, ops.Convert(F32), half))
    main.remove_instruction(y)
    main.remove_instruction(z)
    main.add_parameter("z", VECTOR, before=x)
    verify(program)
    assert program == migx.parse("""
    module main(z: f32[3], x: f32[2], y: f16[2]) {
      %0 = convert(y) {to=f32}
      %1 = sub(x, %0)
      return %1
    }""")
    a, b = np.ones(2, np.float32), np.full(2, 3, np.float16)
    (found,) = program.compile("ref").eval({"x": a, "y": b, "z": np.zeros(3, np.float32)})
    assert found.tolist() == [-2.0, -2.0]


def test_literals_are_not_written_to_by_those_who_read_results() -> None:
    program = Program()
    mine = np.ones(3, np.float32)
    program.main.add_return(program.main.add_literal(mine))
    (result,) = program.compile("ref").eval({})
    result[0] = 5
    assert mine.flags.writeable
    assert mine.tolist() == [1, 1, 1]
    assert program.eval({})[0].tolist() == [1, 1, 1]


class Counted:
    """How many instructions and labels were touched while a block ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        label = vars(order.Ordered)["_label"]

        def read(at: Any) -> int:
            self.count += 1
            found: int = label.__get__(at, type(at))
            return found

        def write(at: Any, value: int) -> None:
            self.count += 1
            label.__set__(at, value)

        monkeypatch.setattr(order.Ordered, "_label", property(read, write))
        monkeypatch.setattr(Module, "__iter__", self.forbidden)
        monkeypatch.setattr(operations, "attributes", self.forbidden)

    @staticmethod
    def forbidden(*_: Any) -> Iterator[Any]:
        raise AssertionError("an edit walked over the module")


def edits(main: Module, made: list[Instruction]) -> None:
    """One of each, in the middle of a chain."""
    middle = len(made) // 2
    at, user = made[middle], made[middle + 1]
    new = main.insert_instruction(user, ops.Neg(), made[middle - 1])
    main.replace_input(user, 0, new)
    main.replace_instruction(new, at)
    main.move_instruction(new, at)
    main.remove_instruction(new)
    assert at.before(user)
    last = main.add_instruction(ops.Relu(), made[-1])
    main.remove_instruction(last)
    main.add_return(made[-1])


def test_an_edit_costs_the_same_in_a_large_module(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = []
    for size in (10, 30_000):
        program, made = chain(size)
        with monkeypatch.context() as patched:
            counted = Counted(patched)
            edits(program.main, made)
            costs.append(counted.count)
    assert costs[0] == costs[1]
    assert costs[0] > 10


def test_instructions_are_found_by_their_names() -> None:
    text = """module main(x: f32[2], c: bool[]) {
  %0 = @literal() {value=[1.0, 2.0], label="w"} : f32[2]
  %1 = add(x, %0) from "node"
  %2 = if(c) [yes, no] from "node"
  %3 = get_tuple_elem(%2)
  return %3
}
module yes() { %0 = relu(main:%1) return %0 }
module no() { return main:%1 }
"""
    program = migx.parse(text)
    found = {name: [at.name for at in program.named(name)] for name in ("%1", "yes:%0", "x", "w")}
    assert found == {"%1": ["add"], "yes:%0": ["relu"], "x": ["@param"], "w": ["@literal"]}
    assert [at.name for at in program.named("node")] == ["add", "if"]
    assert program.named("relu") == program.named("yes:%0")
    with pytest.raises(UnknownName, match="is named 'nod', comes from it or is one; similar: node"):
        program.named("nod")


def test_an_operation_is_of_the_class_that_is_asked_for_or_an_error() -> None:
    program, (x, y) = chain(1)
    literal = program.main.add_literal([1.0, 2.0])
    assert literal.op_as(Literal).value.tolist() == [1.0, 2.0]
    assert x.op_as(Param).parameter == "x"
    with pytest.raises(IRError, match=r"<relu f32\[3\]> is no Literal"):
        y.op_as(Literal)
