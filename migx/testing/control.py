"""Draws of operations with modules: branches, whose arms may do the same, and loops, which may pass
carried values on unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from migx import ops
from migx.argument import Argument
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal
from migx.shape import BOOL, I64, Shape
from migx.testing.draws import Want

if TYPE_CHECKING:
    from migx.testing.programs import Author

SAME = 0.3
"""The share of branches whose arms do mostly the same."""

HANDED_ON = 0.25
"""The share of carried values that a loop passes on unchanged."""


def choice(author: Author, like: Shape, depth: int) -> Instruction | None:
    """One result of an ``if``."""
    author.left -= 1
    other = [like] if author.dice.chance(0.7) else [like, author.shape()]
    condition = author.value(Want(Shape(BOOL, ())), 1)
    wants = [Want(s.as_standard()) for s in other]
    first = author.arm(wants, depth - 1)
    if author.dice.chance(SAME):
        second = author.inside("arm", lambda _: _again(author, first, wants))
    else:
        second = author.arm(wants, depth - 1)
    made = author.apply(ops.If(), [condition], [first, second])
    return None if made is None else author.apply(ops.GetTupleElem(0), [made])


def _again(author: Author, arm: Module, wants: Sequence[Want]) -> list[Instruction]:
    """Repeats an arm's instructions in another arm, occasionally with another value. Instructions
    with modules, and refused ones, are drawn anew.
    """
    made = dict[Instruction, Instruction | None]()
    for at in arm:
        inputs = [made.get(v) if v.module is arm else _alike(author, v) for v in at.inputs]
        if isinstance(at.op, Literal):
            made[at] = author.literal(Argument(at.shape, at.op.value.data))
        elif at is not arm.returned and not at.modules:
            given = [v for v in inputs if v is not None]
            made[at] = author.apply(at.op, given) if len(given) == len(inputs) else None
    found = [made.get(v) if v.module is arm else v for v in arm.outputs]
    return [
        author.standard(author.value(want, 0) if v is None else v)
        for v, want in zip(found, wants, strict=True)
    ]


def _alike(author: Author, value: Instruction) -> Instruction:
    """A value, or occasionally another of its shape."""
    there = author.known.get(value.shape.text, ())
    return author.dice.one_of(there) if there and author.dice.chance(0.15) else value


def repetition(author: Author, like: Shape, depth: int) -> Instruction | None:
    """A ``loop`` that carries one or two values. Its trip count is a constant, or known only at run
    time.
    """
    author.left -= 1
    dice = author.dice
    trip = author.leaf(Want(Shape(I64, ()), below=4, constant=dice.chance(0.6)))
    sure = dice.chance(0.8)
    going = author.literal(Argument.of(np.array(True))) if sure else author.leaf(CONDITION)
    shapes = [like.as_standard()]
    if dice.chance(0.4):
        shapes.insert(dice.some(0, 1), (like if dice.chance(0.5) else author.shape()).as_standard())
    carried = [author.value(Want(shape), depth - 1) for shape in shapes]

    def write(body: Module) -> list[Instruction]:
        author.keep(body.add_parameter("i", Shape(I64, ())), Argument.of(np.array(0, np.int64)))
        again = author.keep(body.add_parameter("again", Shape(BOOL, ())), author.data[going])
        came = [
            author.keep(body.add_parameter(f"x{i}", v.shape.as_standard()), author.data[v])
            for i, v in enumerate(carried)
        ]
        return [again, *(_handed_on(author, value, depth) for value in came)]

    body = author.inside("body", write)
    made = author.apply(ops.Loop(), [trip, going, *carried], [body])
    index = dice.one_of([i for i, s in enumerate(shapes) if s.same_type(like)])
    return None if made is None else author.apply(ops.GetTupleElem(index), [made])


def _handed_on(author: Author, came: Instruction, depth: int) -> Instruction:
    """The next value of a carried one in a body; occasionally the same."""
    if author.dice.chance(HANDED_ON):
        return came
    return author.standard(author.value(Want(came.shape), depth - 1))


def scanning(author: Author, like: Shape, depth: int) -> Instruction | None:
    """The last state, or the stacked results, of a ``scan`` over the rows of a value."""
    author.left -= 1
    dice = author.dice
    stacks = like.rank > 0 and dice.chance(0.5)
    length = like.dims[0] if stacks else dice.size(1, 3)
    state = author.shape().as_standard() if stacks else like.as_standard()
    row = author.shape().as_standard()
    first = author.value(Want(state), depth - 1)
    rows = author.value(Want(row.with_dims((length, *row.dims))), depth - 1)
    if not len(author.data[rows].array):
        return None  # there is no row to compute with while drawing

    def write(body: Module) -> list[Instruction]:
        came = author.keep(body.add_parameter("state", state), author.data[first])
        of_row = Argument.of(author.data[rows].array[0])
        author.keep(body.add_parameter("row", row), of_row)
        made = like.with_dims(like.dims[1:]) if stacks else row
        wanted = author.standard(author.value(Want(made.as_standard()), depth - 1))
        return [_handed_on(author, came, depth), wanted]

    body = author.inside("body", write)
    made = author.apply(ops.Scan(1), [first, rows], [body])
    return None if made is None else author.apply(ops.GetTupleElem(int(stacks)), [made])


CONDITION = Want(Shape(BOOL, ()))

CONTROL = {"if": choice, "loop": repetition, "scan": scanning}
"""The draws by operation name."""
