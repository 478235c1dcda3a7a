"""The error bound of each element: how far it may be from exact arithmetic.

Each operation adds its own roundings, in units in the last place of the magnitudes it sums, and
propagates the errors of its inputs: see ``steps``. So two programs may differ by the sum of their
bounds; a missing term, another epsilon or sums in f16 exceed it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.binding import sizes_told
from migx.dim import Dim
from migx.ir import Instruction, Module
from migx.iterations import sources
from migx.meaning import actual
from migx.ops.builtin import GetTupleElem, Literal, Param, Slot
from migx.pipeline import Approximation
from migx.program import Program
from migx.testing.bounds.kinds import CHOICES
from migx.testing.bounds.ranges import at_the_end, largest
from migx.testing.bounds.roundings import LAMBDA
from migx.testing.bounds.steps import Error, Step, doubles, filled, unknown
from migx.testing.bounds.tensors import NONE, Approximations, Budget, TensorBounds
from migx.verify import captures_of

MODULES = frozenset({"pointwise", "fused_reduce", "group", "if"})


class Inside(Exception):
    """A value in a loop, which differs in each iteration."""


class ElementBounds:
    """The bound of each element of every value of a program, found by following a run: the callback
    of an executable's ``trace``.

    Loops are bounded as a whole, by ``TensorBounds``, unless what they read may be anything. If the
    program was made from a ``given`` one, literals that this does not have were computed by a
    compiler, and count as rounded; and numbers at the end of their range count as exact as others,
    because the bounds of the given program say which may be lost. ``approximations`` are how far
    off the results of operations, by name, may be on purpose.
    """

    def __init__(
        self,
        program: Program,
        arguments: Mapping[str, Argument],
        given: Program | None = None,
        approximations: Approximations = NONE,
    ) -> None:
        self._approximations = approximations
        self._values: dict[Instruction, Argument] = {}
        self._errors: dict[Instruction, Error] = {}
        self._given: set[int] | None = None
        self._made_of = given is not None and given is not program
        if given is not None:
            self._given = {id(at.op_as(Literal).value) for at in given.literals}
        self._slots = program.slots
        main = program.main
        self._sizes = sizes_told(main, [arguments[name] for name in main.parameters])
        names = {at.op.name for at in program.instructions()}
        loops = not names.isdisjoint(("loop", "scan"))
        self._whole = TensorBounds(program, arguments, approximations) if loops else None
        self._chooses = not names.isdisjoint(CHOICES)
        for name, parameter in program.main.parameters.items():
            self._values[parameter] = arguments[name]

    def __call__(self, at: Instruction, result: Argument) -> None:
        if self._whole is not None:
            self._whole(at, result)
        if type(at.op) is Param:  # a module's has the bound of its argument
            return
        self._values[at] = result
        if not at.shape.static:
            self._learn(at, result)
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            try:
                inputs = [self._known(v) for v in at.inputs]
                error = self._after(at, result, inputs)
                self._errors[at] = self._approximated(at, result, inputs, error)
            except Inside:
                self._errors[at] = unknown(result)

    def _learn(self, at: Instruction, result: Argument) -> None:
        """Remembers the sizes that a result tells, which may be others in each iteration."""
        shape, made = at.shape, actual(result)
        for declared, given in zip((shape, *shape.parts), (made, *made.parts), strict=True):
            for extent, size in zip(declared.dims, given.dims, strict=True):
                if isinstance(extent, Dim) and extent.symbol is not None:
                    self._sizes[extent.symbol.name] = int(size)

    def _approximated(
        self,
        at: Instruction,
        result: Argument,
        inputs: Sequence[tuple[Argument, Error]],
        error: Error,
    ) -> Error:
        """The bound plus the intended error of the result. An infinity in an input may reach more
        elements of an approximated result than of an exact one.
        """
        for more in self._approximations.get(at.op.name, ()):
            if isinstance(more, Approximation):
                added = more.of_elements(at, [value for value, _ in inputs], result)
            else:
                added = np.asarray(more) if more else None
            if added is not None and result.shape.dtype.is_float:
                if any(isinstance(e, np.ndarray) and np.isinf(e).any() for _, e in inputs):
                    return unknown(result)
                error = added + filled(error, result)
        return error

    def of(self, at: Instruction) -> Error:
        """The bound of a computed value. If the program chooses the largest of some numbers, a 0 is
        not exact, because its sign may differ.
        """
        value, error = self._known(at)
        return _either_zero(value, error) if self._chooses else error

    def _known(self, at: Instruction) -> tuple[Argument, Error]:
        """A value and its bound; for a parameter of a module, those of its argument."""
        if at in self._values:
            return self._values[at], self._errors.get(at)
        parent = at.module.parent if isinstance(at.module, Module) else None
        if type(at.op) is not Param or parent is None or parent.op.name not in MODULES:
            raise Inside(at)
        return self._known(sources(at)[0])

    def _after(
        self, at: Instruction, result: Argument, inputs: list[tuple[Argument, Error]]
    ) -> Error:
        if type(at.op) in (Literal, Slot):
            return self._made(at, result)
        if at.op.name == "get_tuple_elem":
            whole = inputs[0][1]
            return whole[at.op_as(GetTupleElem).index] if isinstance(whole, tuple) else None
        if at.op.name == "if":
            unsure = inputs[0][1] is not None
            taken = at.modules[0 if inputs[0][0].array.item() else 1].outputs
            made = [self._known(v) for v in taken]
            return tuple(unknown(value) if unsure else error for value, error in made)
        if at.op.name in MODULES:
            errors = tuple(self._known(v)[1] for v in at.modules[0].outputs)
            return errors if result.shape.parts else errors[0]
        if at.modules:
            assert self._whole is not None
            read = [error for _, error in (*inputs, *map(self._known, captures_of(at)))]
            free = self._is_free(at) or any(map(_is_unlimited, read))
            return unknown(result) if free else _spread(result, self._whole.of(at))
        if not {symbol.name for symbol in operations.symbols(at.op)} <= self._sizes.keys():
            return unknown(result)  # its size depends on data
        op = operations.bind(at.op, self._sizes)
        values, theirs = [a for a, _ in inputs], [e for _, e in inputs]
        return Step(op, values, theirs, result, sure=self._made_of).error()

    def _is_free(self, at: Instruction) -> bool:
        """Whether an operation in a loop may return anything on purpose."""
        inner = [m for body in at.modules for m in body.program.submodules(body)]
        names = {v.op.name for module in inner for v in module}
        return any(math.inf in self._approximations.get(name, ()) for name in names)

    def _made(self, at: Instruction, result: Argument) -> Error:
        """The rounding of a folded literal or a computed slot."""
        dtype = result.shape.dtype
        source = self._slots[at.op.slot] if isinstance(at.op, Slot) else at
        made = type(source.op) is not Literal or id(source.op.value) not in (self._given or ())
        if self._given is None or not made or not dtype.is_float or dtype.is_packed:
            return None
        error = LAMBDA * dtype.roundoff * largest(result.array)
        return np.where(np.isfinite(doubles(result)), error, 0.0)


def _is_unlimited(error: Error) -> bool:
    """Whether an element may be anything, which no budget of a whole tensor says."""
    if isinstance(error, tuple):
        return any(map(_is_unlimited, error))
    return error is not None and bool(np.isinf(error).any())


def _either_zero(value: Argument, error: Error) -> Error:
    """A bound that is positive wherever the value is 0."""
    if value.shape.parts:
        errors = error if isinstance(error, tuple) else (None,) * len(value.parts)
        return tuple(map(_either_zero, value.parts, errors))
    if not value.shape.dtype.is_float or value.shape.dtype.is_packed:
        return error
    least = np.where(value.array == 0, np.finfo(np.float64).smallest_subnormal, 0.0)
    return np.maximum(filled(error, value), least)


def _spread(result: Argument, budget: Budget) -> Error:
    """A tensor's budget as a bound on each element; unknown for bools that depend on rounded
    values, and for floats at the end of their range.
    """
    if result.shape.parts:
        return tuple(_spread(part, budget) for part in result.parts)
    if not result.shape.dtype.is_tensor or result.shape.dtype.is_packed:
        return None
    if result.shape.dtype.kind == "bool" and budget.variance:
        return unknown(result)
    if result.shape.dtype.is_float and at_the_end(doubles(result), result.shape.dtype).any():
        return unknown(result)
    allowed = budget.tolerance(result.shape.dtype, largest(result.array))
    return np.full(result.array.shape, allowed) if allowed else None
