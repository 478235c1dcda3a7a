"""What a field of an operation or a pass is given: brought to its form, or refused by name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import migx
from migx import op as operations
from migx import ops, run_passes
from migx.dim import Dim, Extent
from migx.errors import FieldError, ShapeError
from migx.fields import text_of
from migx.ir import Module
from migx.manager import Pass, PassManager
from migx.op import Op, Traits
from migx.program import Program
from migx.shape import BOOL, F32, I64, DType, Shape
from migx.target import Target

MADE: list[tuple[Any, Op]] = [
    (lambda: ops.Transpose([1, 0]), ops.Transpose((1, 0))),
    (lambda: ops.Transpose(np.array([1, 0])), ops.Transpose((1, 0))),
    (lambda: ops.Transpose(range(2)), ops.Transpose((0, 1))),
    (lambda: ops.Softmax(axis=np.int64(1)), ops.Softmax(axis=1)),
    (lambda: ops.ReduceSum(axes=(np.int32(0), 1)), ops.ReduceSum(axes=(0, 1))),
    (lambda: ops.LeakyRelu(alpha=1), ops.LeakyRelu(alpha=1.0)),
    (lambda: ops.LeakyRelu(alpha=np.float32(0.5)), ops.LeakyRelu(alpha=0.5)),
    (lambda: ops.Multibroadcast([np.int64(2), 3]), ops.Multibroadcast((2, 3))),
]


@pytest.mark.parametrize(("made", "wanted"), MADE)
def test_attributes_are_brought_to_their_forms(made: Any, wanted: Op) -> None:
    op = made()
    assert operations.key(op) == operations.key(wanted)
    program = migx.Program()
    x = program.main.add_parameter("x", Shape("f32", (2, 3) if op.name != "multibroadcast" else ()))
    program.main.add_return(program.main.add_instruction(op, x))
    assert migx.parse(str(program)) == program
    program.compile("ref")


REFUSED: list[tuple[Any, str]] = [
    (lambda: ops.Softmax(axis=1.0), r"softmax: axis is int, not 1\.0"),
    (lambda: ops.Softmax(axis=True), "softmax: axis is int, not True"),
    (lambda: ops.Softmax(axis=np.array(1)), r"softmax: axis is int, not array\(1\)"),
    (lambda: ops.ReduceSum(axes=1), r"reduce_sum: axes is tuple\[int, \.\.\.\], not 1"),
    (lambda: ops.ReduceSum(axes=(1, "0")), "reduce_sum: axes is .*, not '0'"),
    (lambda: ops.ReduceSum(axes=(Dim("n"),)), "reduce_sum: axes is .*, not "),
    (lambda: ops.LeakyRelu(alpha="1"), "leaky_relu: alpha is float, not '1'"),
    (lambda: ops.Convert(to=3), "convert: to is DType, not 3"),
    (lambda: operations.with_attributes(ops.Softmax(1), axis=None), "softmax: axis is int"),
    (lambda: ops.RoiAlign(dims=(1, 2, 3)), r"dims is tuple\[int, int\], not \(1, 2, 3\)"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_what_does_not_fit_is_refused_where_it_is_made(wrong: Any, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        wrong()


def test_an_unknown_element_type_is_said_with_the_field() -> None:
    with pytest.raises(ShapeError, match="convert: to: no element type 'f33'; there are bool"):
        ops.Convert("f33")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (int, "int"),
        (DType, "DType"),
        (Extent, "Extent"),
        (tuple[Extent, ...], "tuple[Extent, ...]"),
        (tuple[Shape, int], "tuple[Shape, int]"),
        ("migx.Shape", "Shape"),
        ("tuple[np.int64, ...]", "tuple[int64, ...]"),
    ],
)
def test_annotations_read_alike_as_texts_and_as_types(kind: Any, said: str) -> None:
    assert text_of(kind) == said


def test_a_reduction_without_axes_is_refused_where_it_is_declared() -> None:
    with pytest.raises(FieldError, match=r"Along declares .* reduction, so it needs .* axes"):

        class Along(Op):
            traits = Traits(reduction=True)
            axis: int


class Scaled(Op):
    """An operation that looks at an attribute when it is made."""

    by: tuple[float, ...]
    kinds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if 0.0 in self.by:
            raise ShapeError("scaled by nothing")


class Turned(Scaled):
    """One that derives from it, with an attribute of its own and one of a kind of its own."""

    around: int = 0
    what: object = None


def test_derived_operations_bring_what_they_inherit_and_check_it() -> None:
    made: Any = Turned
    assert made([1, 2], np.int8(3), [4]) == Turned((1.0, 2.0), 3, [4])
    with pytest.raises(ShapeError, match="scaled by nothing"):
        made([0])
    with pytest.raises(FieldError, match="turned: around is int, not 'x'"):
        made([1], "x")


class Numbered(Pass):
    """Has options."""

    count: int = 1
    skip: tuple[str, ...] = ()


def test_options_of_passes_are_held_to_the_same() -> None:
    made: Any = Numbered
    assert str(made(count=np.int64(2), skip=["a"])) == "numbered{count=2,skip=(a)}"
    with pytest.raises(FieldError, match="pass numbered: count is int, not 'x'"):
        made(count="x")
    with pytest.raises(FieldError, match=r"pass numbered: skip is tuple\[str, \.\.\.\], not 'a'"):
        made(skip="a")


def test_a_field_that_is_not_there_is_named_with_those_that_are() -> None:
    made: Any = ops.Transpose
    with pytest.raises(FieldError, match="transpose has no attribute 'perm'; there are: permutat"):
        made(perm=(1, 0))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'permutation'"):
        made()
    with pytest.raises(FieldError, match="permutation is tuple"):
        made(permutation="x")


def test_a_class_may_say_itself_that_it_is_a_frozen_dataclass() -> None:
    @dataclass(frozen=True)
    class Scaled(Op):
        axes: tuple[int, ...] = ()

    @dataclass(frozen=True)
    class Halved(Pass):
        least: int = 8

    @dataclass(frozen=True)
    class Remote(Target):
        port: int = 80

    assert Scaled([1]).axes == (1,)  # type: ignore[arg-type]
    assert str(Halved(4)) == "halved{least=4}"
    with pytest.raises(FieldError, match="pass halved has no option 'most'"):
        Halved(most=4)  # type: ignore[call-arg]
    for value, name in ((Scaled(), "axes"), (Halved(), "least"), (Remote(), "port")):
        with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(value, name, 1)
        with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
            delattr(value, name)


def test_a_pass_or_target_with_an_init_of_its_own_has_state() -> None:
    class Counting(Pass):
        """Counts its runs."""

        def __init__(self, start: int) -> None:
            self.runs = start

        def apply(self, module: Module, manager: PassManager) -> bool:
            self.runs += 1
            return False

    class Pooled(Target):
        def __init__(self) -> None:
            self.pool: list[int] = []

    counting, pooled = Counting(2), Pooled()
    assert not run_passes(Program(), [counting])
    pooled.pool = [1]
    assert (counting.runs, str(counting), pooled.pool) == (3, "counting", [1])


def test_an_operation_has_no_state() -> None:
    class Counter(Op):
        def __init__(self) -> None:
            self.runs = 0

    with pytest.raises(FrozenInstanceError, match="'runs' of Counter: what it is made of are ann"):
        Counter()


class Typed(Op):
    """An operation with an element type, which checks another attribute when it is made."""

    to: DType
    saturate: bool = True

    def __post_init__(self) -> None:
        if self.to is BOOL and self.saturate:
            raise ShapeError("a bool does not saturate")


@pytest.mark.parametrize("made", [ops.Convert, ops.BitCast, ops.UnpackFp4, Typed])
def test_element_types_go_by_their_names(made: Any) -> None:
    assert made(to="f32").to is F32
    assert made(to="f32") == made(to=F32)
    assert operations.with_attributes(made(to=F32), to="i64") == made(to=I64)
    with pytest.raises(ShapeError, match="no element type 'f33'; there are bool"):
        made(to="f33")


def test_names_of_element_types_are_known_to_what_an_operation_checks_itself() -> None:
    made: Any = Typed
    assert made("bool", False).to is BOOL
    with pytest.raises(ShapeError, match="does not saturate"):
        made("bool")
