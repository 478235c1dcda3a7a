"""Shape arithmetic over symbols: integer values known while a model is read, as numbers and dims.

An instruction's contents are known if it is a small integer literal or a ``dim_literal``. An
operation on known contents is evaluated by its own meaning, on arrays whose elements may be
``Dim``s; so chains of Shape, Gather, Concat and Reshape become dims, and leave nothing in the
program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from migx import op as operations
from migx import ops
from migx.argument import Argument
from migx.dim import Dim, Extent
from migx.dims.arithmetic import ON_EXTENTS, own, quotient
from migx.errors import DimError
from migx.ir import Instruction
from migx.op import Array, Operation
from migx.ops.builtin import Literal
from migx.shape import BOOL, I32, I64, Shape
from migx.weights.constants import tree
from migx.weights.evaluation import evaluated as evaluated_now
from migx.weights.marking import KNOWN_INTEGERS

T = TypeVar("T")
LIMIT = KNOWN_INTEGERS
"""Tensors with more elements than this are data, not shapes."""


def contents(value: Instruction) -> Array | None:
    """The integers or bools that an instruction is known to hold, as a numpy array; of objects if
    some are ``Dim``s.
    """
    op = value.op
    if type(op) is Literal:
        if not op.replaceable and may_be_contents(value.shape):
            return op.value.array
    elif op.name == "dim_literal":
        given = operations.attributes(op)
        held = np.empty(len(given["values"]), object)
        held[:] = given["values"]
        return held.reshape(given["lens"])
    return None


def may_be_contents(shape: Shape) -> bool:
    """Whether values of a shape may be sizes, axes or indices, and small enough to look at."""
    return shape.dtype in (I64, I32, BOOL) and int(shape.elements) <= LIMIT


def whole_numbers(value: Instruction) -> Array | None:
    """``contents``, also of integral floats: converted from known integers, or literals."""
    if value.op.name == "convert":
        return whole_numbers(value.inputs[0])
    if type(value.op) is Literal and value.shape.dtype.is_float:
        held = constant_value(value)
        whole = held is not None and held.size <= LIMIT and bool(np.all(held == np.rint(held)))
        return held.astype(np.int64) if held is not None and whole else None
    return contents(value)


def evaluated(op: Operation, inputs: Sequence[Instruction]) -> Array | None:
    """The result of an operation on known contents; None if these or sizes are unknown."""
    if not inputs or not operations.traits(op).foldable or not operations.can_evaluate(op):
        return None
    if op.name == "convert" and inputs[0].shape.dtype.is_float:
        return _truncated(op, inputs[0])
    arrays = _all(map(contents, inputs))
    if arrays is None:
        return None
    symbolic = any(array.dtype == object for array in arrays)
    if not symbolic and any(True for _ in operations.symbols(op)):
        return None
    shape = op.compute_shape([v.shape for v in inputs], ())
    if not shape.static or shape.dtype not in (I64, I32, BOOL) or int(shape.elements) > LIMIT:
        return None
    if not symbolic:
        arguments = [Argument(v.shape, a) for v, a in zip(inputs, arrays, strict=True)]
        return operations.result_of(op, shape, arguments).array
    function = ON_EXTENTS.get(op.name)
    if function is None:
        return None
    try:
        return np.asarray(function(op, *arrays), object)
    except DimError:
        return None


def part(op: Operation, given: Sequence[Extent | None]) -> Extent | None:
    """One element of a pointwise operation's result, from those of its inputs, None for what is
    known only at run time: a condition that is known picks one of the others.
    """
    if op.name == "where" and given[0] is not None:
        return given[1] if given[0] else given[2]
    known, function = _all(given), ON_EXTENTS.get(op.name)
    if known is None or function is None:
        return None
    try:
        (found,) = function(op, *(np.array([x], object) for x in known))
    except DimError:
        return None
    return found if isinstance(found, Dim) else int(found)


def _all(values: Iterable[T | None]) -> list[T] | None:
    """The values, if all are known; otherwise None."""
    every = list(values)
    known = [value for value in every if value is not None]
    return known if len(known) == len(every) else None


def _truncated(op: Any, value: Instruction) -> Array | None:
    """The integers that known fractional numbers are truncated to; None if unknown."""
    if op.to not in (I64, I32) or not _is_small(value, LIMIT):
        return None
    if (held := constant_value(value, most=LIMIT)) is not None:
        whole: Array = op.compute(held)
        return whole
    if (found := _fractions(value)) is None:
        return None
    above, below = found
    try:
        return np.asarray(np.frompyfunc(quotient, 2, 1)(above, below), object)
    except DimError:
        return None


Fractions: TypeAlias = tuple[Array, int]
"""Numbers as numerators with one positive denominator."""
MOST_PARTS = 1 << 10
"""A float is taken for a fraction if its denominator is a power of two up to this: products with
sizes are then exact.
"""


def _fractions(value: Instruction) -> Fractions | None:
    """Floats as fractions, if they follow from known integers by exact arithmetic, except for one
    rounded division; no integer is near enough to its result to be mistaken for it.
    """
    found: dict[Instruction, Fractions] = {}
    for at in tree(value, _before_fractions):
        if (made := _as_fractions(at, [found[v] for v in _before_fractions(at)])) is None:
            return None
        found[at] = made
    return found[value]


def _before_fractions(value: Instruction) -> Sequence[Instruction]:
    """What the fractions of a value are computed from; nothing if they are known, or cannot be."""
    computed = value.op.name in (*_ON_FRACTIONS, *_MOVES) and _converted(value) is None
    return value.inputs if computed and _is_small(value, LIMIT) else ()


def _converted(value: Instruction) -> Array | None:
    """The known integers that a value is converted from."""
    return contents(value.inputs[0]) if value.op.name == "convert" else None


def _as_fractions(value: Instruction, given: Sequence[Fractions]) -> Fractions | None:
    """A value as fractions, from those it is computed from."""
    if not _is_small(value, LIMIT):
        return None
    if type(value.op) is Literal:
        return None if value.op.replaceable else _of_floats(value.op.value.array)
    if (held := _converted(value)) is not None:
        return np.asarray(held, object), 1
    if (function := _ON_FRACTIONS.get(value.op.name)) is not None:
        return function(*given)
    if not given:
        return None
    ((above, below),) = given
    return (above if value.op.name == "convert" else own(value.op, above)), below


def _of_floats(held: Array) -> Fractions | None:
    if held.dtype.kind != "f" or not np.all(np.isfinite(held)):
        return None
    ratios = [float(x).as_integer_ratio() for x in held.reshape(-1)]
    below = max((b for _, b in ratios), default=1)
    if below > MOST_PARTS:
        return None
    above = np.empty(len(ratios), object)
    above[:] = [a * (below // b) for a, b in ratios]
    return above.reshape(held.shape), below


def _sum(a: Fractions, b: Fractions, sign: int = 1) -> Fractions | None:
    return a[0] * b[1] + sign * b[0] * a[1], a[1] * b[1]


def _times(a: Fractions, b: Fractions) -> Fractions | None:
    below = a[1] * b[1]
    return None if below & (below - 1) else (a[0] * b[0], below)


def _over(a: Fractions, b: Fractions) -> Fractions | None:
    divisors = set(b[0].reshape(-1))
    by = divisors.pop() if len(divisors) == 1 else 0
    if a[1] & (a[1] - 1) or isinstance(by, Dim) or by <= 0:
        return None
    return a[0] * b[1], a[1] * by


_ON_FRACTIONS: dict[str, Callable[..., Fractions | None]] = {
    "add": _sum,
    "sub": lambda a, b: _sum(a, b, -1),
    "mul": _times,
    "div": _over,
    "neg": lambda a: (-a[0], a[1]),
    "floor": lambda a: (a[0] // a[1], 1),
    "ceil": lambda a: ((a[0] + (a[1] - 1)) // a[1], 1),
}


_MOVES = ("broadcast", "convert", "multibroadcast", "reshape", "squeeze")
"""Operations on fractions that leave them as they are."""


def literal_or_dims(value: Array, like: operations.DType) -> Operation:
    """The operation for known contents: a literal if all are numbers, or a ``dim_literal``."""
    if value.dtype != object or not any(isinstance(x, Dim) for x in value.reshape(-1)):
        return Literal(
            Argument.of(np.ascontiguousarray(value.astype(like.numpy)).reshape(value.shape))
        )
    made: Operation = ops.DimLiteral(tuple(_plain(x) for x in value.reshape(-1)), value.shape, like)
    return made


def _plain(x: Any) -> Any:
    return x if isinstance(x, Dim) else int(x)


def constant_value(value: Instruction, most: int | None = None) -> Array | None:
    """The value of an instruction that depends only on fixed literals, evaluated now; otherwise
    None, also if a value on the way has more than ``most`` elements.

    For operands that an importer must know, such as the scales of a Resize.
    """
    whole = tree(value) if value.constant else []
    if not whole or not all(_is_fixed(at) and _is_small(at, most) for at in whole):
        return None
    return evaluated_now([value])[value].array


def _is_fixed(at: Instruction) -> bool:
    """Whether an instruction is a fixed literal, or may be evaluated."""
    if type(at.op) is Literal:
        return not at.op.replaceable
    return bool(at.inputs) and operations.can_evaluate(at.op)


def _is_small(at: Instruction, most: int | None) -> bool:
    """Whether a value has known dims, and at most so many elements."""
    return at.shape.static and (most is None or int(at.shape.elements) <= most)
