"""Sequences and optionals: host values that hold tensors. No kernel reads them.

The data of such a value is a tuple of arguments; an optional's has one member or none. Its shape
says what is known of the members: ``sequence(f32[varies, 3])``, or ``sequence()`` where not even
a type or rank is. What a tensor taken out of one looks like is therefore the attribute ``output``
of the operation that takes it; dims that only the run decides are symbols of their own there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import EvaluationError, ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes, Traits
from migx.ops._rules import expect, expect_axis
from migx.shape import BOOL, I32, I64, OPTIONAL, SEQUENCE, DType, Shape

HOST = Traits(foldable=False)
VARIES = Dim("varies")
"""The symbol, in the shape of a sequence, for a dim that differs between its members."""


def common(shapes: Shapes) -> Shape:
    """The shape of a sequence of members of these shapes."""
    if not shapes or len({(s.dtype, s.rank) for s in shapes}) > 1:
        return Shape.opaque(SEQUENCE)
    if shapes[0].dtype.kind == "opaque":
        same = all(s.same_type(shapes[0]) for s in shapes)
        return Shape.opaque(SEQUENCE, *shapes[:1] if same else ())
    columns = zip(*(s.dims for s in shapes), strict=True)
    dims = [c[0] if isinstance(c[0], int) and len(set(c)) == 1 else VARIES for c in columns]
    return Shape.opaque(SEQUENCE, shapes[0].with_dims(dims))


def joined(a: Shape, b: Shape) -> Shape:
    """The shape of a host value that is one of two of the same kind."""
    if a.same_type(b):
        return a
    if len(a.parts) != 1 or len(b.parts) != 1:
        return Shape.opaque(a.dtype)
    if a.parts[0].dtype.is_tensor:
        return Shape.opaque(a.dtype, *common([a.parts[0], b.parts[0]]).parts)
    return Shape.opaque(a.dtype, joined(a.parts[0], b.parts[0]))


class SequenceConstruct(Op):
    """A sequence of the inputs (ONNX SequenceConstruct-11), empty if there are none."""

    traits = HOST

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        if len({s.dtype for s in shapes}) > 1:
            texts = ", ".join(s.text for s in shapes)
            raise ShapeError(f"{self.name}: the members of a sequence are of one type, not {texts}")
        return common([s.as_standard() for s in shapes])

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        return Argument(shape, tuple(arguments))


class SequenceInsert(Op):
    """The first input, a sequence, with the second inserted before the position of the third, or at
    the end (ONNX SequenceInsert-11).
    """

    traits = HOST

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2, 3)
        expect_sequence(self, shapes[0])
        expect_positions(self, shapes[2:])
        if not shapes[0].parts:
            return shapes[0]
        return common([shapes[0].parts[0], shapes[1].as_standard()])

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        members = list(arguments[0].data)
        members.insert(place(arguments[2:], len(members), ends=True), arguments[1])
        return Argument(shape, tuple(members))


class SequenceErase(Op):
    """The first input, a sequence, without the member at the position of the second, or the last
    (ONNX SequenceErase-11).
    """

    traits = HOST

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1, 2)
        expect_sequence(self, shapes[0])
        expect_positions(self, shapes[1:])
        return shapes[0]

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        members = list(arguments[0].data)
        del members[place(arguments[1:], len(members))]
        return Argument(shape, tuple(members))


class SequenceAt(Op):
    """The member of a sequence at the position of the second input (ONNX SequenceAt-11)."""

    traits = HOST
    output: Shape

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        expect_sequence(self, shapes[0])
        expect_positions(self, shapes[1:])
        return expect_member(self, shapes[0], self.output)

    def compute(self, arguments: Arguments) -> Argument:
        members = arguments[0].parts
        return members[place(arguments[1:], len(members))]


class SequenceLength(Op):
    """The number of members of a sequence, an i64 scalar (ONNX SequenceLength-11)."""

    traits = HOST

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_sequence(self, shapes[0])
        return Shape(I64)

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        return Argument(shape, np.array(len(arguments[0].parts)))


class ConcatFromSequence(Op):
    """The members of a sequence concatenated along ``axis``; with ``new_axis``, stacked along a new
    one (ONNX ConcatFromSequence-11).
    """

    traits = HOST
    output: Shape
    axis: int
    new_axis: bool = False

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_sequence(self, shapes[0])
        expect_axis(self, self.axis, self.output.rank)
        return self.output

    def compute(self, arguments: Arguments) -> Argument:
        arrays = [member.array for member in arguments[0].parts]
        if not arrays:
            raise EvaluationError("an empty sequence has nothing to concatenate")
        join = np.stack if self.new_axis else np.concatenate
        return Argument.of(join(arrays, self.axis))


class SplitToSequence(Op):
    """A tensor split along ``axis`` into a sequence (ONNX SplitToSequence-24).

    The second input gives the lengths of the pieces: a scalar, with a possibly shorter last piece,
    or one length for each. Without it they have length 1, and drop the axis unless ``keepdims``.
    """

    traits = HOST
    axis: int = 0
    keepdims: bool = True

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1, 2)
        axis = expect_axis(self, self.axis, shapes[0].rank)
        dims = [VARIES if i == axis else d for i, d in enumerate(shapes[0].dims)]
        if len(shapes) == 1:
            dims[axis : axis + 1] = [1] if self.keepdims else []
        return common([shapes[0].with_dims(dims)])

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        x = arguments[0].array
        length = x.shape[self.axis]
        if len(arguments) == 1:
            pieces = np.split(x, length, self.axis) if length else []
            if not self.keepdims:
                pieces = [piece.squeeze(self.axis) for piece in pieces]
        else:
            pieces = np.split(x, cuts(arguments[1].array, length), self.axis)
        return Argument(shape, tuple(map(Argument.of, pieces)))


class MakeOptional(Op):
    """An optional that holds the input, or is an empty one of a ``kind`` if there is none (ONNX
    Optional-15).
    """

    traits = HOST
    kind: Shape = Shape.opaque(OPTIONAL)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 0, 1)
        expect_kind(self, self.kind, OPTIONAL)
        if not shapes:
            return self.kind
        (held,) = shapes
        held = common([held.as_standard()]).parts[0] if held.dtype.is_tensor else held
        return Shape.opaque(OPTIONAL, held)

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        return Argument(shape, tuple(arguments))


class OptionalHasElement(Op):
    """Whether an optional has a value, a bool scalar (ONNX OptionalHasElement-18)."""

    traits = HOST

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_kind(self, shapes[0], OPTIONAL)
        return Shape(BOOL)

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        return Argument(shape, np.array(bool(arguments[0].data)))


class OptionalGetElement(Op):
    """The value of an optional; an error if it is empty (ONNX OptionalGetElement-18)."""

    traits = HOST
    output: Shape

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_kind(self, shapes[0], OPTIONAL)
        return expect_member(self, shapes[0], self.output)

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        if not arguments[0].data:
            raise EvaluationError("the optional holds nothing")
        held = arguments[0].parts[0]
        return held if held.shape.dtype.is_tensor else Argument(shape, held.data)


def expect_kind(op: Op, shape: Shape, kind: DType) -> None:
    """Raises ``ShapeError`` unless a value is a sequence, or an optional."""
    if shape.dtype is not kind:
        raise ShapeError(f"{op.name} takes a value of the kind {kind}, got {shape.text}")


def expect_sequence(op: Op, shape: Shape) -> None:
    """Raises ``ShapeError`` unless a value is a sequence."""
    expect_kind(op, shape, SEQUENCE)


def expect_positions(op: Op, shapes: Shapes) -> None:
    """Raises ``ShapeError`` unless each is a position in a sequence: one integer."""
    for shape in shapes:
        if shape.dtype not in (I32, I64) or shape.rank > 1:
            raise ShapeError(f"{op.name}: a position is one i64 or i32, not {shape.text}")


def expect_member(op: Op, whole: Shape, member: Shape) -> Shape:
    """The shape of a member; ``ShapeError`` if the sequence is known to hold others."""
    if whole.parts and whole.parts[0].dtype is not member.dtype:
        raise ShapeError(f"{op.name}: {whole.text} holds no {member.text}")
    return member


def place(position: Sequence[Argument], count: int, *, ends: bool = False) -> int:
    """A position counted from the front; by default that of the last member, or the end."""
    last = count if ends else count - 1
    at = int(position[0].array.item()) if position else last
    if not -count <= at <= last:
        raise EvaluationError(f"position {at} is out of range for a sequence of {count}")
    return at + count if at < 0 else at


def cuts(split: Array, length: int) -> list[int]:
    """Where to cut an axis: every so many elements, or after each of lengths that add up to it."""
    if split.ndim == 0:
        if (step := int(split)) <= 0:
            raise EvaluationError(f"pieces of the length {step}")
        return list(range(step, length, step))
    if int(split.sum()) != length or (split < 0).any():
        raise EvaluationError(f"the lengths {split.tolist()} do not make up {length}")
    return [int(end) for end in np.cumsum(split)[:-1]]
