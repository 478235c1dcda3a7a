"""The integers that a run computes, as extents over the iteration numbers of loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from migx import dim, ops
from migx import op as operations
from migx.dim import Dim, Extent
from migx.dims.arithmetic import ON_EXTENTS
from migx.dims.symbol import Symbol
from migx.errors import MigxError
from migx.ir import Instruction, Module
from migx.iterations import Carried, Iterations, is_true, is_undefined
from migx.op import Array
from migx.ops.builtin import Literal, Param
from migx.ops.control import Loop
from migx.ops.fused import Pointwise
from migx.passes.simplify_counting.facts import Replaced, replaced, told_by
from migx.passes.simplify_loops import known_before
from migx.shape import BOOL, I32, I64, DType, Shape
from migx.sizes import known_symbols

Pair: TypeAlias = tuple[Extent, Extent]
"""Two extents, the first less than the second."""
LIMIT, STEPS = 64, 64
"""The most elements of values that may be counters, and the most steps to compute them."""
SOON = 1 << 20
"""The bound of a counter while its increment is being found."""
HIDDEN, SIGNS = "@", "+-"
"""The prefix of symbols that are not sizes of a program, and the suffixes of two whose difference
is an integer known only at run time.
"""
EXACT = {"f16": 1 << 11, "bf16": 1 << 8, "f32": 1 << 24, "f64": 1 << 53}
"""The bounds up to which floats represent all integers."""
INEXACT = {"div", "mod", "reduce_prod", "reduce_sum"}
"""Operations on integers whose results, or numbers on the way to them, floats may have to round."""
ALONE = {"identity", "multibroadcast", "reshape", "squeeze", "unsqueeze"}
"""Operations that keep the single element of a condition."""
COMPARED = {"less", "less_or_equal", "greater", "greater_or_equal"}
ROUNDING = {"ceil", "floor", "identity", "round", "trunc"}
"""Operations that leave integers unchanged."""


class Counters:
    """The integers that values hold whenever a run computes them: the ``iteration`` of a loop is a
    symbol, an integer known only at run time the difference of two. ``assumed`` has the elements of
    some values; other values that loops carry are then unknown.
    """

    def __init__(self, assumed: Mapping[Instruction, Array] | None = None) -> None:
        self._known: dict[Instruction, Array | None] = dict(assumed or {})
        self._explores = assumed is None
        self._replaced: dict[Module, Replaced] = {}
        self._born: dict[str, tuple[Instruction, int]] = {}

    def of(self, at: Instruction, left: int = STEPS) -> Array | None:
        """The elements of a value; None where nothing is known of it."""
        if at not in self._known:
            self._known[at] = self._found(at, left) if _is_small(at.shape) and left else None
            if self._known[at] is None:
                self._known[at] = self._anything(at)
        return self._known[at]

    def one(self, at: Instruction) -> Extent | None:
        """The only element of a value."""
        held = self.of(at)
        return None if held is None or held.size != 1 else held.reshape(-1).tolist()[0]

    def _found(self, at: Instruction, left: int) -> Array | None:
        op = at.op
        if type(op) is Literal:
            return None if op.replaceable else _whole(op.value.array)
        if isinstance(op, ops.DimLiteral):
            held = np.empty(len(op.values), object)
            held[:] = op.values
            return held.reshape(op.lens)
        if type(op) is Param:
            return self._parameter(at)
        fused = isinstance(op, Pointwise) and not at.shape.parts
        if not at.inputs or not (fused or operations.traits(op).foldable):
            return None
        given = [self.of(v, left - 1) for v in at.inputs]
        arrays = [np.asarray(v, object) for v in given if v is not None]
        if len(arrays) < len(given):
            return None
        made = self._within(at, arrays) if fused else _computed(at, arrays)
        return made if made is not None and _is_exact(at.shape.dtype, made) else None

    def _within(self, at: Instruction, given: list[Array]) -> Array | None:
        """The result of a fused instruction's module for these inputs."""
        (body,) = at.modules
        inside = Counters(dict(zip(body.parameters.values(), given, strict=True)))
        found = inside.of(body.outputs[0])
        return None if found is None or inside._born else found

    def _anything(self, at: Instruction) -> Array | None:
        """Unknown integers, each the difference of two new symbols."""
        if at.shape.dtype not in (I64, I32) or not _is_small(at.shape):
            return None
        held = np.empty(int(at.shape.elements), object)
        for i in range(held.size):
            names = [f"{HIDDEN}{id(at)}.{i}{sign}" for sign in SIGNS]
            self._born |= dict.fromkeys(names, (at, i))
            above, below = map(Dim, names)
            held[i] = above - below
        return held.reshape(at.shape.dims)

    # What loops count.

    def _parameter(self, at: Instruction) -> Array | None:
        loop = at.owner.parent
        if loop is None or not isinstance(loop.op, Loop):
            return None
        of = Iterations.of(loop)
        number, condition = of.state
        if at is number:
            return np.array(self.iteration(loop), object)
        if at is condition:  # else there is no such iteration
            return np.array(True, object)
        (value,) = (each for each in of.carried if each.parameter is at)
        return self._carried(loop, value) if self._explores else None

    def iteration(self, loop: Instruction) -> Dim:
        """The number of a loop's current iteration, as a symbol."""
        trips = Iterations.of(loop).told_trips
        most = max(trips - 1, 0) if isinstance(trips, int) else None
        return Dim(f"{HIDDEN}{loop.modules[0].name}", 0, most)

    def _carried(self, loop: Instruction, value: Carried) -> Array | None:
        """A carried value that grows by the same amount in each iteration. The amount is found for
        a supposed value, then verified from each iteration to the next.
        """
        at, begin, again = value
        self._known[at] = None  # where it depends on itself by way of others
        first, count = self.of(begin), self.iteration(loop)
        if first is None or first.size != 1 or first.shape != again.shape.dims:
            return None
        supposed = Dim(f"{HIDDEN}{id(at)}", 0, SOON)
        later = _one(Counters({at: np.full(first.shape, supposed, object)}).of(again))
        if later is None or isinstance(more := later - supposed, Dim):
            return None
        (start,) = first.reshape(-1).tolist()
        here = np.full(first.shape, start + more * count, object)
        then = _one(Counters({at: here}).of(again))
        return here if then == start + more * (count + 1) else None

    # Facts that hold in every iteration.

    def replaced(self, module: Module | None) -> Replaced:
        """The symbols with known extents or bounds while a module runs, for ``replaced``."""
        found: Replaced = []
        if module is None or module.parent is None:
            return found
        if module not in self._replaced:
            loop = module.parent
            for least in self._facts(loop) if isinstance(loop.op, Loop) else ():
                found += told_by(replaced(least, found), f"{HIDDEN}{module.name}")
            for name, extent in self.replaced(loop.module):
                found.append((name, extent))
            self._replaced[module] = found
        return self._replaced[module]

    def _facts(self, loop: Instruction) -> Iterator[Extent]:
        """Extents that are not negative in any iteration."""
        count = self.iteration(loop)
        trips = None if is_undefined(loop.inputs[0]) else self.one(loop.inputs[0])
        if trips is not None:
            yield trips - count - 1
        given, (body,) = loop.inputs[1], loop.modules
        begins = [] if is_undefined(given) else [*self._holds(given)]
        for less, most in self._holds(body.outputs[0]):
            if not (more := self._rate(less, most, loop)):
                continue
            before = less - more  # what was compared for this iteration, unless it is the first
            start = dim.substitute(before, {count.symbol.name: 0} if count.symbol else {})
            if dim.bounds(most - start)[0] > 0 or any(
                end == most and dim.at_most(start, low) for low, end in begins
            ):
                yield most - before - 1

    def trips(self, loop: Instruction) -> Extent | None:
        """The iterations of a loop that its condition ends when a counter reaches a bound, without
        regard to its trip count; None if it has no such condition, or they are unknown.
        """
        of, given, count = Iterations.of(loop), loop.inputs[1], self.iteration(loop)
        if (asked := self._asked(of.body.outputs[0], of.state[1])) is None:
            return None
        less, most = asked
        if not (more := self._rate(less, most, loop)) or count.symbol is None:
            return None
        start = dim.substitute(less, {count.symbol.name: 0})
        if of.begins:
            return _steps(start, most, more) + 1
        start = start - more
        return _steps(start, most, more) if self._asked(given) == (start, most) else None

    def _asked(self, asked: Instruction, holds: Instruction | None = None) -> Pair | None:
        """The pair whose order is equivalent to a condition; ``holds`` is a condition known to be
        true.
        """
        while asked.name in ALONE and len(asked.inputs) == 1:
            (asked,) = asked.inputs
        if asked.name == "logical_and":
            left = [v for v in asked.inputs if v is not holds and not is_true(v)]
            return self._asked(left[0], holds) if len(left) == 1 else None
        if asked.name not in COMPARED:
            return None
        return self._pair(asked, asked.inputs)

    def _pair(self, asked: Instruction, sides: Sequence[Instruction]) -> Pair | None:
        """The pair that a comparison of two sides orders."""
        one, other = map(self.one, sides)
        if one is None or other is None:
            return None
        low, high = (one, other) if asked.name.startswith("less") else (other, one)
        return low, high + (1 if asked.name.endswith("equal") else 0)

    def whose(self, number: Extent) -> Instruction | None:
        """The value whose only element is this number, if it is known only at run time."""
        for symbol in dim.symbols(number):
            at, _, _ = self.source(symbol)
            if at is not None and self.one(at) == number:
                return at
        return None

    def source(self, symbol: Symbol) -> tuple[Instruction | None, int, int]:
        """The value, the index of its element, and the sign with which a symbol is part of that
        element; None for the value if the symbol is no such part.
        """
        at, number = self._born.get(symbol.name, (None, 0))
        return at, number, 1 if symbol.name.endswith(SIGNS[0]) else -1

    def _rate(self, less: Extent, most: Extent, loop: Instruction) -> int:
        """How much ``less`` grows in each iteration of a loop, where the bound ``most`` is
        loop-invariant; else 0.
        """
        count = self.iteration(loop)
        more = _after(less, count) - less
        if isinstance(more, Dim) or more <= 0 or _after(most, count) != most:
            return 0
        changes = (self._changes(symbol, count, loop) for symbol in dim.symbols(less - most))
        return 0 if any(changes) else more

    def _changes(self, symbol: Symbol, count: Dim, loop: Instruction) -> bool:
        """Whether a symbol other than the counter may change between iterations."""
        if symbol == count.symbol:
            return False
        if symbol.name.startswith(HIDDEN):
            at, _, _ = self.source(symbol)
            module = None if at is None else at.module
            return module is None or loop.modules[0] in module.enclosing()
        return symbol.name not in known_before(loop) | known_symbols(loop.owner)

    def _holds(self, condition: Instruction) -> Iterator[Pair]:
        """The pairs that are ordered where a condition holds."""
        name, inputs = condition.name, condition.inputs
        if name == "logical_and":
            yield from (pair for each in inputs for pair in self._holds(each))
        elif name in ALONE and len(inputs) == 1:
            yield from self._holds(inputs[0])
        elif name in COMPARED:
            pair = self._pair(condition, inputs if name.endswith("equal") else _unrounded(inputs))
            if pair is not None:
                yield pair


def _steps(start: Extent, most: Extent, more: int) -> Extent:
    """The number of increments until ``start`` is no longer less than ``most``; nothing that might
    overflow is subtracted from a number known only at run time.
    """
    sized = is_told(most) and is_told(start)
    left = dim.maximum(most - start, 0) if sized else dim.maximum(most, start) - start
    return (left + (more - 1)) // more


def is_told(extent: Extent) -> bool:
    """Whether an extent is made of sizes of the program alone."""
    return not any(symbol.name.startswith(HIDDEN) for symbol in dim.symbols(extent))


def _computed(at: Instruction, arrays: list[Array]) -> Array | None:
    """The result of an operation on integers; None if it is unknown."""
    op, name, (dtype, given) = at.op, at.name, (at.shape.dtype, at.inputs[0].shape.dtype)
    if name in ROUNDING:
        return arrays[0]
    if name == "convert":
        return None if BOOL in (dtype, given) else arrays[0]
    if (dtype.is_float and name in INEXACT) or (function := ON_EXTENTS.get(name)) is None:
        return None
    if any(v.shape.dtype is not I64 for v in at.inputs[1:]) and name in ("gather", "reshape"):
        return None
    try:
        return np.asarray(function(op, *arrays), object)
    except (ArithmeticError, LookupError, MigxError, TypeError, ValueError):
        return None  # it fails when it runs, or what it gives is not known


def _is_small(shape: Shape) -> bool:
    """Whether values of a shape may be counters, or computed from them."""
    dtype = shape.dtype
    kind = dtype in (I64, I32, BOOL) or dtype.name in EXACT
    return kind and shape.static and int(shape.elements) <= LIMIT


def _whole(held: Array) -> Array | None:
    """The elements of a literal, if they are integers."""
    if held.dtype.kind in "iub":
        return held.astype(object)
    with np.errstate(all="ignore"):
        whole = np.isfinite(held).all() and (held == np.rint(held)).all()
    return held.astype(np.int64).astype(object) if whole and held.dtype.kind == "f" else None


def _is_exact(dtype: DType, held: Array) -> bool:
    """Whether a type represents these integers exactly."""
    most = EXACT.get(dtype.name)
    if most is None:
        return True
    spans = map(dim.bounds, held.reshape(-1).tolist())
    return all(-most <= low and high <= most for low, high in spans)


def _unrounded(sides: Sequence[Instruction]) -> Sequence[Instruction]:
    """The integers themselves, where two are compared as floats: a lesser float comes from a lesser
    integer.
    """
    rounded = all(v.name == "convert" and v.shape.dtype.is_float for v in sides)
    whole = rounded and all(v.inputs[0].shape.dtype.is_integer for v in sides)
    return [v.inputs[0] for v in sides] if whole else sides


def _one(held: Array | None) -> Extent | None:
    return None if held is None or held.size != 1 else held.reshape(-1).tolist()[0]


def _after(extent: Extent, count: Dim) -> Extent:
    """An extent in the next iteration."""
    assert count.symbol is not None
    return dim.substitute(extent, {count.symbol.name: count + 1})
