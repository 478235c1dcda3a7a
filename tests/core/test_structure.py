"""Equality of programs: a copy equals, and one changed bit, edge, name or order does not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import migx
from migx import ops
from migx.argument import Argument
from migx.dim import Dim
from migx.ops.builtin import Literal
from migx.program import Program
from migx.shape import F32, I64, Shape
from tests.core.strategies import programs

N = Dim("n")


def same(a: Program, b: Program) -> bool:
    """Whether two programs are equal; fails where the fingerprints do not agree with that."""
    equal = a == b
    assert equal == (b == a)
    assert equal != (a != b)
    assert (a.fingerprint() == b.fingerprint()) == equal
    return equal


@settings(max_examples=100)
@given(programs())
def test_a_copy_is_equal_and_its_own(program: Program) -> None:
    text = str(program)
    copy = program.copy()
    assert same(program, copy)
    assert str(copy) == text
    for name, module in copy.modules.items():
        for at, original in zip(module, program.modules[name], strict=True):
            assert at is not original
            assert (at.origins, at.op) == (original.origins, original.op)
    copy.main.bypass = not copy.main.bypass
    copy.main.add_literal(1.0)
    assert not same(program, copy)
    assert str(program) == text


@settings(max_examples=100)
@given(programs(), programs())
def test_programs_that_print_alike_are_alike(a: Program, b: Program) -> None:
    assert same(a, b) == (str(a) == str(b))


def program_of(
    *literals: Any,
    op: Any = ops.Add,
    dim: Any = 3,
    parameter: str = "x",
    result: tuple[str, ...] = ("y",),
    reads: tuple[int, int] = (0, 1),
    module: str = "body",
    label: str = "w",
) -> Program:
    """A program in which one thing at a time can be changed."""
    program = Program()
    main = program.main
    x = main.add_parameter(parameter, Shape(F32, (dim,)))
    values = [main.add_instruction(kind(), x) for kind in (ops.Relu, ops.Neg)]
    main.add_instruction(op(), *(values[i] for i in reads))
    for value in literals or (np.float32([1, 2]),):  # type: ignore[arg-type]
        main.add_literal(value, name=label)
    body = program.create_module(module)
    body.add_return(values[0])
    chosen = main.add_instruction(ops.If(), main.add_literal(True), modules=[body, body])
    main.add_return(main.add_instruction(ops.GetTupleElem(0), chosen), names=result)
    return program


CHANGES: dict[str, Callable[[], Program]] = {
    "operation": lambda: program_of(op=ops.Sub),
    "edge": lambda: program_of(reads=(0, 0)),
    "order of inputs": lambda: program_of(reads=(1, 0)),
    "dim": lambda: program_of(dim=4),
    "symbol": lambda: program_of(dim=N),
    "bounds of a symbol": lambda: program_of(dim=Dim("n", 1, 8)),
    "optimal sizes of a symbol": lambda: program_of(dim=Dim("n", 1, 8, (2,))),
    "name of a parameter": lambda: program_of(parameter="z"),
    "name of a result": lambda: program_of(result=("z",)),
    "no name of a result": lambda: program_of(result=()),
    "name of a module": lambda: program_of(module="block"),
    "name of a literal": lambda: program_of(label="v"),
    "one bit": lambda: program_of(np.array([1, np.nextafter(np.float32(2), np.float32(3))], "f4")),
    "-0.0": lambda: program_of(np.array([-0.0], np.float32)),
    "0.0": lambda: program_of(np.array([0.0], np.float32)),
    "nan": lambda: program_of(np.array([0x7FC00000], np.uint32).view(np.float32)),
    "payload of a nan": lambda: program_of(np.array([0x7FC00001], np.uint32).view(np.float32)),
    "sign of a nan": lambda: program_of(np.array([0xFFC00000], np.uint32).view(np.float32)),
    "1": lambda: program_of(1),
    "1.0": lambda: program_of(1.0),
    "1.0 as f64": lambda: program_of(np.array(1.0)),
    "True": lambda: program_of(True),
    "dims of a literal": lambda: program_of(np.array([[1, 2]], np.float32)),
    "type of a literal": lambda: program_of(np.array([1, 2], np.float32).view(np.int32)),
    "packed": lambda: program_of(Argument.packed(Shape("i4", (4,)), b"\x12\x34")),
    "packed otherwise": lambda: program_of(Argument.packed(Shape("u4", (4,)), b"\x12\x34")),
    "one more": lambda: program_of(np.array([1, 2], np.float32), 1),
    "nothing": program_of,
}


def test_one_change_makes_programs_unequal() -> None:
    made = {name: make() for name, make in CHANGES.items()}
    for a, one in made.items():
        for b, other in made.items():
            assert same(one, other) == (a == b), (a, b)
        assert same(one, CHANGES[a]())


PAYLOAD = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]


@pytest.mark.parametrize("values", [(0.0, -0.0, float("nan"), PAYLOAD, -float("nan"), 1e-324, 1.0)])
def test_attributes_are_compared_bit_for_bit(values: tuple[float, ...]) -> None:
    made = [migx.Program() for _ in values]
    distinct = {struct.pack("<d", value) for value in values}
    for program, value in zip(made, values, strict=True):
        x = program.main.add_parameter("x", Shape(F32))
        program.main.add_return(program.main.add_instruction(ops.Elu(value), x))
    keys = {program.fingerprint() for program in made}
    assert len(keys) == len(distinct)
    for program, value in zip(made, values, strict=True):
        for other, b in zip(made, values, strict=True):
            assert same(program, other) == (struct.pack("<d", value) == struct.pack("<d", b))


def test_a_number_is_not_a_bool_nor_a_float() -> None:
    class Foreign:
        """An operation of plain attributes, without a base of ours."""

        name = "foreign"

        def __init__(self, value: object) -> None:
            self.value = value

        def compute_shape(self, shapes: Any, modules: Any) -> Shape:
            return Shape(I64)

    made = []
    for value in (1, True, 1.0, "1", (1,), (True,), (1.0,), ((1,),), None, np.array([1]), Dim("n")):
        program = Program()
        program.main.add_return(program.main.add_instruction(Foreign(value)))
        made.append(program)
    for i, a in enumerate(made):
        for j, b in enumerate(made):
            assert same(a, b) == (i == j)


def test_order_and_bypass_and_origins() -> None:
    a, b, c, d = (program_of() for _ in range(4))
    first = next(at for at in b.main if at.name == "neg")
    b.main.move_instruction(first, list(b.main)[1])
    assert not same(a, b)
    c.modules["body"].bypass = True
    assert not same(a, c)
    for at in d.main:
        at.origins = ("elsewhere",)
    assert same(a, d)
    other = program_of()
    other.rename_module(other.main, "x")
    other.rename_module(other.main, "main")
    assert list(other.modules) == ["body", "main"]
    assert not same(a, other)


def test_the_order_of_modules_counts() -> None:
    made = []
    for order in ((0, 1), (1, 0)):
        program = Program()
        ways = [program.create_module(name) for name in ("yes", "no")]
        for way, value in zip(ways, (1.0, 2.0), strict=True):
            way.add_return(way.add_literal(value))
        condition = program.main.add_literal(True)
        both = [ways[i] for i in order]
        program.main.add_return(program.main.add_instruction(ops.If(), condition, modules=both))
        made.append(program)
    assert not same(*made)


def test_replaceable_literals_differ_from_fixed_ones() -> None:
    made = []
    for replaceable in (False, True):
        program = Program()
        program.main.add_return(program.main.add_literal(1.0, replaceable=replaceable))
        made.append(program)
    assert not same(*made)


def test_strides_of_a_parameter_count() -> None:
    made = []
    for shape in (Shape(F32, (2, 3)), Shape(F32, (2, 3), (1, 2)), Shape(F32, (2, 3), (0, 1))):
        program = Program()
        program.main.add_return(program.main.add_parameter("x", shape))
        made.append(program)
    assert [[same(a, b) for b in made] for a in made] == np.eye(3, dtype=bool).tolist()


def test_programs_have_no_hash_and_equal_nothing_else() -> None:
    program = program_of()
    with pytest.raises(TypeError, match="unhashable"):
        hash(program)
    assert program != "program"


def test_a_copy_shares_the_data_of_literals() -> None:
    program = program_of()
    pairs = zip(program.main, program.copy().main, strict=True)
    assert all(a.op is b.op for a, b in pairs if isinstance(a.op, Literal))
