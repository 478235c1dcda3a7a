"""Which literals are replaceable weights, and making them so."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from migx.errors import WeightError, first_few, there_are
from migx.ir import Instruction
from migx.ops.builtin import READER, AssumeEqual, Literal
from migx.program import Program
from migx.shape import I64, STR, Shape
from migx.weights import assume
from migx.weights.hoisting import weights_of

KNOWN_INTEGERS = 1024
"""A tensor of i64 of rank 0 or 1 and at most this many elements holds dims or axes, not weights."""


def must_be_known(shape: Shape) -> bool:
    """Whether a compiler needs the values of tensors with this shape: dims, axes, and single
    numbers such as epsilons and scales.
    """
    if int(shape.elements) == 1:
        return True
    return shape.dtype is I64 and shape.rank < 2 and int(shape.elements) <= KNOWN_INTEGERS


def fixed_weights(program: Program) -> list[str]:
    """The names of the fixed float literals with several elements: those that ``make_replaceable``
    would take, and for which a checkpoint is likely to have other values.
    """
    return [
        name
        for name, held in _fixed(program).items()
        if any(at.shape.dtype.is_float and not _is_read(at.shape) for at, _ in held)
    ]


def _fixed(program: Program) -> dict[str, list[tuple[Instruction, Literal]]]:
    """The fixed literals that have names, by name."""
    found: dict[str, list[tuple[Instruction, Literal]]] = {}
    for at in program.literals:
        if type(at.op) is Literal and at.op.label and not at.op.replaceable:
            found.setdefault(at.op.label, []).append((at, at.op))
    return found


def is_number(shape: Shape) -> bool:
    """Whether a shape is that of one float. It may be a weight, such as the bias of one channel,
    but counts as a number unless it is named.
    """
    return shape.dtype.is_float and int(shape.elements) == 1


def make_replaceable(program: Program, names: Iterable[str] | None = None) -> None:
    """Marks literals as replaceable weights: those with given names, single floats included, or all
    that have names, except strings and what ``must_be_known``. That the reader relied on the value
    of one is then assumed. ``WeightError`` if that leaves none, or a named one does not exist, must
    be known, or was left out and had to be read.
    """
    if isinstance(names, str):
        raise WeightError(f"make_replaceable takes a list of names, such as [{names!r}]")
    fixed, weights = _fixed(program), weights_of(program)
    known = [name for name, held in fixed.items() if any(_is_read(at.shape) for at, _ in held)]
    if names is None:
        settled = {a.label for a in program.assumptions if a.relied_on_by != READER}
        chosen = [name for name in fixed if name not in known and name not in settled]
    else:
        chosen = list(names)
        for name in chosen:
            if name not in weights or name in fixed:
                _expect_free(name, fixed, weights)
    if not chosen and not weights:
        said = f" but {first_few(known, 5)}, which must be known" if known else ""
        raise WeightError(f"the program has no literals with names{said}")
    places = {name: _place(program, name) for name in chosen}
    _forget_readings(program, places)
    for name, at, op in ((n, *each) for n in places for each in fixed.get(n, ())):
        made = replace(op, replaceable=True, relied_on_by="", **places[name])
        at.owner.replace_operation(at, made)
        if op.relied_on_by:
            assume(program, made, made.value, op.relied_on_by)


def _expect_free(
    name: str, fixed: Mapping[str, list[tuple[Instruction, Literal]]], weights: Iterable[str]
) -> None:
    """``WeightError`` if there is no fixed literal of a name, or it must be known."""
    if name not in fixed:
        raise WeightError(f"there is no literal {name!r}; {there_are(name, [*fixed, *weights])}")
    shapes = [at.shape for at, _ in fixed[name]]
    if any(map(_is_read, shapes)) and not all(map(is_number, shapes)):
        raise WeightError(
            f"literal {name!r}, {shapes[0]}, cannot be made replaceable: dims, axes and single "
            "integers are read with the model, and the program's form may depend on them; change "
            "it in the model"
        )


def _place(program: Program, name: str) -> dict[str, Any]:
    """The place in a file of a literal that was read although it was left out; empty for others.
    ``WeightError`` if something relied on its value.
    """
    checks = [at for at in program.weights or () if type(at.op) is AssumeEqual]
    checks = [at for at in checks if at.op_as(AssumeEqual).label == name]
    if relied := [by for at in checks if (by := at.op_as(AssumeEqual).relied_on_by) != READER]:
        raise WeightError(
            f"literal {name!r} cannot be made replaceable: {first_few(relied)} relied on its value "
            "when the model was read; change it in the model"
        )
    source: Any = checks[0].inputs[0].op if checks else None
    return {"file": source.file, "offset": source.offset} if source is not None else {}


def _forget_readings(program: Program, names: Container[str]) -> None:
    """Removes the assumptions that the reader recorded about some weights."""
    for at in program.weights or ():
        if type(at.op) is AssumeEqual and at.op.label in names:
            (weight,) = at.inputs
            at.owner.remove_instruction(at)
            if not weight.users:
                weight.owner.remove_instruction(weight)


def _is_read(shape: Shape) -> bool:
    return shape.dtype is STR or must_be_known(shape)
