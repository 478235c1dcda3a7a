"""Default sizes for a program's symbols when inputs are drawn: small ones that it accepts."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np

from migx import dim
from migx import op as operations
from migx.argument import Argument
from migx.dims.symbol import Symbol
from migx.errors import EvaluationError, InputError
from migx.ir import Instruction
from migx.meaning import by_meaning
from migx.ops.builtin import Param
from migx.ops.control import Assume
from migx.ops.indexing import Gather, GatherElements, Gathernd, Scatter
from migx.program import Program
from migx.shape import Shape
from migx.sizes import asked_again, check_sizes, read_symbols
from migx.target import get_target

Sizes = dict[str, int]
STEPS = tuple(2**n for n in range(1, 13))
"""The sizes that are tried if 1 is refused."""
MULTIPLES = (2, 3, 5, 7, 11)
"""The factors by which symbols are raised to be apart."""
INDEXING = (Gather, Gathernd, GatherElements, Scatter)
"""Operations that refuse an index, their second input, by the dims of what it is applied to."""
LIMIT = 1 << 16
"""Larger tensors of integers are data: computations on them are not tried."""
ROOM = 1 << 20
"""Larger values are not made only to see whether indices fit."""


def chosen(
    program: Program,
    known: Mapping[str, int],
    draw: Callable[[Sizes], Mapping[str, Any]],
    *,
    apart: bool = False,
) -> Sizes:
    """A size for every symbol of the inputs that is not known: the first candidate refused neither
    by a shape rule nor by an index computed from the inputs that ``draw`` makes. The least
    candidate if all are refused: a run will say why.

    Sizes are then raised to be ``apart``, if asked, because some errors show only then.
    """
    shapes = (p.shape for p in program.main.parameters.values())
    symbols = {s.name: s for shape in shapes for s in shape.symbols() if s.name not in known}
    checks = asked_again(chain(*program.modules.values()))

    def fits(sizes: Sizes) -> bool:
        return _refused(checks, sizes) is None and _indices_fit(program, sizes, draw(sizes))

    least, *more = [{**known, **sizes} for sizes in candidates(symbols.values())]
    wanted = named(checks, least, symbols)
    others = [symbol for name, symbol in symbols.items() if wanted[name] == least[name]]
    tried = ({**wanted, **sizes} for sizes in candidates(others))
    for sizes in (least, *tried, *more) if symbols else ():
        if fits(sizes):
            return raised(sizes, symbols, fits) if apart else sizes
    return least


def named(checks: list[Instruction], sizes: Sizes, symbols: Mapping[str, Symbol]) -> Sizes:
    """Sizes found one by one such that no rule refuses them: a symbol of a refused instruction gets
    a number from the dims of its operands, such as those of weights, or a factor in one.
    """
    for _ in symbols:
        at = _refused(checks, sizes)
        if at is None:
            break
        dims = [d for v in at.inputs for d in v.shape.dims]
        factors = {n for d in dims for monomial, n in dim.terms(d) if monomial and n > 1}
        numbers = factors | {d for d in dims if isinstance(d, int)}
        names = sorted(read_symbols(at) & symbols.keys())
        ways = ({**sizes, name: n} for name in names for n in sorted(numbers))
        sizes = next((way for way in ways if _refused([at], way) is None), sizes)
    return sizes


def raised(sizes: Sizes, symbols: Mapping[str, Symbol], fits: Callable[[Sizes], bool]) -> Sizes:
    """Sizes at which each symbol that is 1, or equal to another, is raised to a small multiple that
    no other has, if that still fits.
    """
    for name in symbols:
        sizes = next(filter(fits, _raises(name, sizes, symbols)), sizes)
    return sizes


def _raises(name: str, sizes: Sizes, symbols: Mapping[str, Symbol]) -> Iterator[Sizes]:
    """Sizes with one symbol raised. For a symbol that is 1, also with another raised by the same
    amount: one may be the dim that both denote, or their sum.
    """
    size, others = sizes[name], [other for other in symbols if other != name]
    taken = {sizes[other] for other in sizes if other != name}
    if size != 1 and size not in taken:
        return
    for along in [(), *((other,) for other in others if size == 1)]:
        for more in ((n - 1) * size for n in MULTIPLES if n * size not in taken):
            made = {each: sizes[each] + more for each in (name, *along)}
            if all(made[each] <= symbols[each].bounds[1] for each in made):
                yield sizes | made


def candidates(symbols: Iterable[Symbol]) -> Iterator[Sizes]:
    """The least sizes, but 1 rather than 0; then, for each step, with one, two or all symbols
    raised to it.
    """
    least = {s.name: max(s.low, 1) for s in symbols}
    highs = {s.name: s.bounds[1] for s in symbols}
    yield least
    for step in STEPS:
        for count in sorted({1, 2, len(least)}):
            for raised in combinations(least, count):
                sizes = least | {name: max(step, least[name]) for name in raised}
                if all(sizes[name] <= highs[name] for name in raised):
                    yield sizes


def _refused(checks: list[Instruction], sizes: Sizes) -> Instruction | None:
    """An instruction whose shape rule refuses the sizes, if any; tried first the next time."""
    for at in checks:
        if read_symbols(at) <= sizes.keys():
            try:
                check_sizes(at, sizes)
            except InputError:
                checks.remove(at)
                checks.insert(0, at)
                return at
    return None


def _indices_fit(program: Program, sizes: Sizes, inputs: Mapping[str, Any]) -> bool:
    """Whether everything computed from small integers alone (masks, positions, indices) is valid,
    satisfies what is assumed of it, and is within what it indexes.
    """
    context = get_target("ref").get_context()
    values: dict[Instruction, Argument] = {}
    for at in program.main:
        if not read_symbols(at) <= sizes.keys() or at.modules:
            continue
        condition = values.get(at.inputs[1]) if type(at.op) is Assume else None
        if condition is not None and bool(condition.array) is not at.op_as(Assume).expected:
            return False
        shape = at.shape.bind(sizes)
        if type(at.op) is Param and _small(shape):
            values[at] = Argument.of(inputs[at.op.parameter])
        known = _small(shape) and values.keys() >= set(at.inputs)
        read = [v.shape.bind(sizes) for v in at.inputs]
        if operations.can_evaluate(at.op) and (known or _indexes(at, [shape, *read], values)):
            pairs = zip(at.inputs, read, strict=True)
            given = [values[v] if v in values else _zeros(s) for v, s in pairs]
            try:
                with np.errstate(all="ignore"):
                    made = by_meaning(at, operations.bind(at.op, sizes), context, shape, given)
            except EvaluationError:
                return False
            if known:
                values[at] = made
    return True


def _indexes(at: Instruction, shapes: Sequence[Shape], values: Container[Instruction]) -> bool:
    """Whether an instruction may refuse indices that are known, whatever they are applied to."""
    if not isinstance(at.op, INDEXING) or at.inputs[1] not in values:
        return False
    return all(int(s.elements) <= ROOM and not s.dtype.is_packed for s in shapes)


def _zeros(shape: Shape) -> Argument:
    return Argument.of(np.zeros([int(d) for d in shape.dims], shape.dtype.numpy))


def _small(shape: Shape) -> bool:
    """Whether a value is a small tensor of integers or bools."""
    whole = shape.dtype.is_integer or shape.dtype.kind == "bool"
    return whole and not shape.dtype.is_packed and int(shape.elements) <= LIMIT
