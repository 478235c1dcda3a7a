"""Which literals are weights that may be replaced, and making them so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from migx.errors import WeightError, first_few, there_are
from migx.ir import Instruction
from migx.ops.builtin import Literal
from migx.program import Program
from migx.shape import I64, STR, Shape
from migx.weights.hoisting import weights_of

KNOWN_INTEGERS = 1024
"""A tensor of i64 of rank 0 or 1 and at most this many elements holds dims or axes, not weights."""


def must_be_known(shape: Shape) -> bool:
    """Whether a compiler needs the values of tensors like this: dims, axes, and single numbers such
    as epsilons and scales.
    """
    if int(shape.elements) == 1:
        return True
    return shape.dtype is I64 and shape.rank < 2 and int(shape.elements) <= KNOWN_INTEGERS


def fixed_weights(program: Program) -> list[str]:
    """The names of the floats of several elements that a program has as they were read: those that
    ``make_replaceable`` would take, and a checkpoint is likely to have others of.
    """
    ops = (at.op for at in program.literals)
    named = [op for op in ops if type(op) is Literal and op.label and not op.replaceable]
    held = (op for op in named if op.value.shape.dtype.is_float and not _is_read(op.value.shape))
    return [*dict.fromkeys(op.label for op in held)]


def make_replaceable(program: Program, names: Iterable[str] | None = None) -> None:
    """Marks literals as weights that may be replaced: those of some names, or all that have names,
    but for strings and what ``must_be_known``. ``WeightError`` where that leaves none, or one that
    is named is not there or must be known.
    """
    if isinstance(names, str):
        raise WeightError(f"make_replaceable takes a list of names, such as [{names!r}]")
    fixed: dict[str, list[tuple[Instruction, Literal]]] = {}
    for at in program.literals:
        if type(at.op) is Literal and at.op.label and not at.op.replaceable:
            fixed.setdefault(at.op.label, []).append((at, at.op))
    known = {name for name, held in fixed.items() if any(_is_read(at.shape) for at, _ in held)}
    weights = weights_of(program)
    chosen = [name for name in fixed if name not in known] if names is None else list(names)
    for name in chosen:
        if name in known:
            raise WeightError(
                f"literal {name!r}, {fixed[name][0][0].shape}, cannot be made replaceable: dims, "
                "axes and single numbers are read with the model, and the program's form may "
                "depend on them; change it in the model"
            )
        if name not in fixed and name not in weights:
            raise WeightError(f"there is no literal {name!r}; {there_are(name, [*fixed])}")
    if not chosen and not weights:
        said = f" but {first_few(list(known), 5)}, which must be known" if known else ""
        raise WeightError(f"the program has no literals with names{said}")
    for at, op in (each for name in chosen for each in fixed.get(name, ())):
        assert at.module is not None
        at.module.replace_operation(at, replace(op, replaceable=True))


def _is_read(shape: Shape) -> bool:
    return shape.dtype is STR or must_be_known(shape)
