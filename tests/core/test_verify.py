"""Each check of the verifier: broken alone, reached into from below, and reported by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given

from migx import ops
from migx.argument import Argument
from migx.base.order import insert_before, unlink
from migx.dim import Dim
from migx.errors import VerifyError
from migx.ir import Instruction
from migx.op import Modules, Op, Shapes
from migx.ops.builtin import OnnxExternalWeights, Slot
from migx.ops.fused import Fused
from migx.program import Program
from migx.shape import BOOL, F32, I64, Shape
from migx.verify import CHECKS, captures, findings, verify
from migx.weights import weights_module
from tests.core.strategies import programs

VECTOR = Shape(F32, (3,))


class Pointwise(Fused):
    """A fused operation, which never captures, that takes any module."""

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return shapes[0]


class Weightless(Op):
    """A foreign operation that reads what it should not."""

    name = "weightless"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return VECTOR


@dataclass
class Parts:
    """A program with something of everything, and its instructions by name."""

    program: Program
    x: Instruction
    n: Instruction
    a: Instruction
    b: Instruction
    choice: Instruction
    z: Instruction


def parts() -> Parts:
    program = Program()
    main = program.main
    c = main.add_parameter("c", Shape(BOOL))
    x = main.add_parameter("x", VECTOR)
    n = main.add_parameter("n", Shape(F32, (Dim("n"), 3)))
    a = main.add_instruction(ops.Relu(), x)
    b = main.add_instruction(ops.Neg(), x)
    yes, no = program.create_module("yes"), program.create_module("no")
    yes.add_return(yes.add_instruction(ops.Exp(), a))
    no.add_return(b)
    choice = main.add_instruction(ops.If(), c, modules=[yes, no])
    z = main.add_instruction(ops.GetTupleElem(0), choice)
    main.add_return(main.add_instruction(ops.Add(), z, z), n)
    verify(program)
    return Parts(program, x, n, a, b, choice, z)


def label(p: Parts) -> None:
    p.a._label, p.b._label = p.b._label, p.a._label


def back_link(p: Parts) -> None:
    p.b._previous = p.x


def last_link(p: Parts) -> None:
    p.program.main._ends._previous = p.z


def owner(p: Parts) -> None:
    spare = p.program.main.add_literal(1.0)
    spare.module = p.program.modules["yes"]


def length(p: Parts) -> None:
    p.program.main._size += 1


def later_input(p: Parts) -> None:
    p.a.inputs = (p.b,)
    p.b._users[p.a] = 1
    del p.x._users[p.a]


def removed_input(p: Parts) -> None:
    gone = p.program.main.insert_instruction(p.b, ops.Relu(), p.x)
    p.program.main.replace_input(p.b, 0, gone)
    unlink(gone)
    p.program.main._size -= 1
    gone.module = None
    del p.x._users[gone]


def foreign_capture(p: Parts) -> None:
    yes, no = p.program.modules["yes"], p.program.modules["no"]
    inside = next(iter(yes))
    no.replace_input(next(iter(no)), 0, p.a)
    returned = next(iter(no))
    returned.inputs = (inside,)
    inside._users[returned] = 1
    del p.a._users[returned]


def late_capture(p: Parts) -> None:
    unlink(p.a)
    insert_before(p.a, p.z)


def uncounted(p: Parts) -> None:
    del p.x._users[p.a]


def miscounted(p: Parts) -> None:
    adder = next(iter(p.z.users))
    p.z._users[adder] = 1


def invented(p: Parts) -> None:
    p.a._users[p.b] = 1


def wrong_shape(p: Parts) -> None:
    p.a.shape = Shape(F32, (3,), (2,))


def refused_shape(p: Parts) -> None:
    adder = next(iter(p.z.users))
    adder.op = ops.Concat(4)


def late_parameter(p: Parts) -> None:
    unlink(p.n)
    insert_before(p.n, p.a)
    unlink(p.b)
    insert_before(p.b, p.n)


def unknown_parameter(p: Parts) -> None:
    p.program.main.parameters["x"] = p.program.main.parameters["c"]


def no_constant(p: Parts) -> None:
    p.a.constant = p.program.modules["yes"].outputs[0].constant = True


def lost_parameter(p: Parts) -> None:
    spare = p.program.main.add_parameter("spare", VECTOR)
    known = dict(p.program.main.parameters)
    p.program.main.remove_instruction(spare)
    p.program.main.parameters = known


def swapped_parameters(p: Parts) -> None:
    known = p.program.main.parameters
    p.program.main.parameters = dict(reversed(known.items()))


def no_return(p: Parts) -> None:
    program = p.program.create_module("empty")
    program.add_literal(1.0)


def two_returns(p: Parts) -> None:
    p.program.main.insert_instruction(p.z, ops.GetTupleElem(0), p.choice)
    returned = p.program.main.returned
    assert returned is not None
    p.program.main.insert_instruction(returned, type(returned.op)(), p.a)


def unlisted(p: Parts) -> None:
    p.program.modules.pop("yes")


def no_parent(p: Parts) -> None:
    shared = p.program.create_module("shared")
    shared.add_return(shared.add_literal(1.0))
    both = p.program.main.add_instruction(
        ops.If(), p.program.main.parameters["c"], modules=[shared, shared]
    )
    shared.parents[both] = 1


def two_parents(p: Parts) -> None:
    yes = p.program.modules["yes"]
    inside = next(iter(yes))
    again = p.program.create_module("again")
    again.add_return(again.add_literal(1.0))
    c = p.program.main.parameters["c"]
    for at in (inside, yes.returned):
        assert at is not None
    p.program.main.add_instruction(ops.If(), c, modules=[yes, yes])


def capturing_pointwise(p: Parts) -> None:
    body = p.program.create_module("body")
    body.add_return(p.x)
    p.program.main.add_instruction(Pointwise(), p.x, modules=[body])


def packed_read(p: Parts) -> None:
    value = Argument.packed(Shape("i4", (4,)), b"\x12\x34")
    p.program.main.add_instruction(Weightless(), p.program.main.add_literal(value))


def free_symbol(p: Parts) -> None:
    shape = Shape(F32, (2 * Dim("m"),))
    p.program.main.add_instruction(OnnxExternalWeights("w", "f", 0, 8 * Dim("m"), shape))  # type: ignore[arg-type]


def free_attribute(p: Parts) -> None:
    p.program.main.add_instruction(ops.DimLiteral((Dim("m"),), (1,)))


def inner_symbol(p: Parts) -> None:
    """What only one way of a choice binds is not known outside."""
    yes = p.program.modules["yes"]
    yes.insert_instruction(yes.returned, ops.Nonzero(Dim("found")), p.x)
    p.program.main.add_instruction(ops.DimLiteral((Dim("found"),), (1,)))


def clash(p: Parts) -> None:
    p.program.main.add_parameter("again", Shape(F32, (Dim("n", 1, 4),)))


def unknown_slot(p: Parts) -> None:
    p.program.main.insert_instruction(p.program.main.returned, Slot("s", Shape(F32, (3,))))


def impure_in_weights(p: Parts) -> None:
    module = weights_module(p.program)
    module.add_instruction(ops.RandomUniform(3, (2, 3)))


def two_of_one_name(p: Parts) -> None:
    for dims in ((3,), (4,)):
        weight = OnnxExternalWeights("w", "w.bin", 0, 4 * dims[0], Shape(F32, dims))
        p.program.main.insert_instruction(p.program.main.returned, weight)


BREAKS: dict[str, list[tuple[Callable[[Parts], None], str]]] = {
    "links": [
        (label, "its order label is not above"),
        (back_link, "does not lead back from it"),
        (owner, "does not know that it is in this module"),
        (length, "says it has 10 instructions, and 9 are linked"),
    ],
    "inputs_before_users": [
        (later_input, "it reads <neg f32[3]>, which does not come before it"),
        (removed_input, "it reads <relu f32[3]>, which has been removed"),
        (foreign_capture, "of module yes, which does not enclose it"),
        (late_capture, "of module main, which does not enclose it"),
    ],
    "users": [
        (uncounted, "counts its uses here wrongly"),
        (miscounted, "counts its uses here wrongly"),
        (invented, "is recorded as a user, but does not read it"),
    ],
    "shapes": [
        (wrong_shape, "its shape is f32[3]{2}, its operation infers f32[3]"),
        (refused_shape, "concat: axis 4 is not one of the 1 axes"),
    ],
    "constants": [(no_constant, "it says that it is constant")],
    "parameters": [
        (late_parameter, "a parameter comes after other instructions"),
        (unknown_parameter, "the module does not record its parameter 'x'"),
        (lost_parameter, "a parameter the module records is not in it"),
        (swapped_parameters, "its parameters are in another order than the module records"),
    ],
    "returns": [
        (no_return, "the module does not end with a return"),
        (two_returns, "a return is not the last instruction"),
    ],
    "submodules": [
        (unlisted, "its module yes is not one of the program's"),
        (no_parent, "module shared does not know it as its parent"),
        (capturing_pointwise, "pointwise cannot capture, but module body reads"),
    ],
    "packed_storage": [(packed_read, "it reads packed i4[4]; only an unpack operation can")],
    "symbols": [
        (free_attribute, "no parameter or earlier instruction gives dim m a size"),
        (inner_symbol, "no parameter or earlier instruction gives dim found a size"),
        (clash, "dim n is declared as"),
    ],
    "weights": [
        (unknown_slot, "there is no slot 's'; the slots are none"),
        (impure_in_weights, "random_uniform is not computed from literals and weights alone"),
        (two_of_one_name, "two weights are named 'w', the other is f32[3]"),
    ],
}


def test_every_check_is_broken_here() -> None:
    assert list(BREAKS) == [check.__name__ for check in CHECKS]


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [(name, *case) for name, cases in BREAKS.items() for case in cases],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_one_break_is_reported_by_the_name_of_its_check(
    name: str, broken: Callable[[Parts], None], message: str
) -> None:
    made = parts()
    broken(made)
    found = findings(made.program)
    assert {finding.check for finding in found} == {name}
    assert any(message in finding.message for finding in found), found
    with pytest.raises(
        VerifyError, match=f"(?s)the program is not well formed\n{name}: in module "
    ):
        verify(made.program)


def test_a_list_that_does_not_run_back_has_no_end() -> None:
    made = parts()
    last_link(made)
    found = {f.check: f.message for f in findings(made.program)}
    assert list(found) == ["links", "returns"]
    assert "does not lead back to it from its end" in found["links"]


def test_a_module_of_two_parents_cannot_capture() -> None:
    made = parts()
    two_parents(made)
    found = {f.check: f.message for f in findings(made.program)}
    assert "module yes captures <relu f32[3]> and has several parents" in found["submodules"]


def test_a_finding_draws_the_instruction_and_its_origin() -> None:
    made = parts()
    made.a.origins = ("layer/Relu",)
    wrong_shape(made)
    (found,) = findings(made.program)
    assert str(found).splitlines() == [
        "shapes: in module main: its shape is f32[3]{2}, its operation infers f32[3]",
        "  relu(x)",
        "  ^^^^",
        "  x : f32[3]",
        "  in module main, from ONNX 'layer/Relu'",
    ]


def test_all_findings_are_in_the_error_up_to_ten() -> None:
    program = Program()
    for i in range(12):
        program.create_module(f"m{i}")
    with pytest.raises(VerifyError) as caught:
        verify(program)
    assert str(caught.value).count("returns: ") == 10
    assert str(caught.value).endswith("... and 3 more")


@given(programs())
def test_well_formed_programs_have_no_findings(program: Program) -> None:
    assert findings(program) == []
    verify(program)


def test_captures_are_what_a_module_and_those_in_it_read_outside() -> None:
    made = parts()
    assert list(captures(made.program.modules["yes"])) == [made.a]
    assert list(captures(made.program.modules["no"])) == [made.b]
    assert list(captures(made.program.main)) == []


def test_packed_values_may_be_passed_on_and_unpacked() -> None:
    program = Program()
    main = program.main
    value = main.add_literal(Argument.packed(Shape("i4", (4,)), b"\x12\x34"))
    condition = main.add_literal(True)
    ways = [program.create_module(name) for name in ("yes", "no")]
    for way in ways:
        way.add_return(value)
    chosen = main.add_instruction(ops.If(), condition, modules=ways)
    passed = main.add_instruction(ops.GetTupleElem(0), chosen)
    main.add_return(main.add_instruction(ops.UnpackInt4(), passed), passed)
    verify(program)


def test_symbols_may_be_bound_by_data_and_in_outer_modules() -> None:
    program = Program()
    main = program.main
    x = main.add_parameter("x", VECTOR)
    found = main.add_instruction(ops.Nonzero(Dim("found")), x)
    body, other = program.create_module("body"), program.create_module("other")
    for module in (body, other):
        module.add_return(module.add_instruction(ops.DimLiteral((Dim("found"),), (1,))))
    chosen = main.add_instruction(ops.If(), main.add_literal(True), modules=[body, other])
    main.add_return(chosen, found)
    verify(program)
    assert body.outputs[0].shape == Shape(I64, (1,))
