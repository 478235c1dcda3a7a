"""The error bound of each element: how far it may be from what exact arithmetic gives.

Each operation adds what its own roundings come to, so many units in the last place as it makes of
the magnitudes it sums, and hands on the errors of its inputs: what moves elements moves their
errors; what is a sum of products is computed once more on magnitudes, in double precision, with and
without the errors; what is computed element by element is computed at both ends of each input.
Where a comparison, a rounding to whole numbers or an index could come out otherwise, the bound says
so: it is then the step that would be taken, or infinite. So two programs may differ by the sum of
their bounds, and a term left out, another epsilon or sums in f16 show.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx.argument import Argument
from migx.binding import sizes_of
from migx.errors import MigxError
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.ops.builtin import Literal, Param, Slot
from migx.pipeline import Approximation
from migx.program import Program
from migx.shape import F32, F64, DType, Shape
from migx.target import Context, get_target
from migx.testing.bounds.roundings import (
    EXACT,
    FUNCTION,
    LAMBDA,
    UP_TO_ONE,
    WHOLE,
    named,
    roundings,
)
from migx.testing.bounds.tensors import NONE, Approximations, Budget, TensorBounds, sources

Doubles: TypeAlias = NDArray[Any]
Error: TypeAlias = "Doubles | tuple[Error, ...] | None"
"""A bound for each element, for each part of a tuple; None for none: the value is exact."""

SAMPLES = 4
"""How often an operation of unknown kind is computed on inputs moved about at random; the greatest
difference, times as much again, is its bound.
"""

SCATTERS = named("scatter_add scatter_mul scatternd_add scatternd_mul")
SUMS = SCATTERS | named(
    "add convolution convolution_backwards convolution_channels_last dot mul prefix_scan_prod"
    " prefix_scan_sum quant_convolution quant_dot reduce_mean reduce_prod reduce_sum sub"
)
"""Polynomials of their inputs whose coefficients are at most 1 in magnitude."""

PICKS = named(
    "compress concat contiguous gather gather_elements gathernd pad reverse reverse_sequence"
    " scatter_none scatternd_none trilu"
)
"""Besides views, what moves elements: the number of inputs that hold them is in ``PLACES``, else
all but those that are integers beside floats.
"""

PLACES: dict[str, tuple[int, ...]] = {
    "compress": (0,),
    "gather": (0,),
    "gather_elements": (0,),
    "gathernd": (0,),
}
PLACES |= {"scatter_none": (0, 2), "scatternd_none": (0, 2), "reverse_sequence": (0,)}
WAVES = named("cos sin tan")
"""What comes back after a turn: the ends of an input say little of what lies between them."""

MODULES = frozenset({"pointwise", "fused_reduce", "group", "if"})


class Inside(Exception):
    """A value is inside a loop, where it is another in each round."""


class ElementBounds:
    """The bound of each element of every value of a program, found by following a run of it: what
    the ``trace`` of an executable calls.

    Loops are bounded as a whole, by ``TensorBounds``. Literals that are not among those ``given``
    were computed by a compiler, and have been rounded. ``approximations`` are how far off the
    results of operations, by name, may be on purpose.
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
        self._given = None if given is None else {id(_held(at)) for at in given.literals}
        slots = program.weights
        self._slots = (
            {} if slots is None else dict(zip(slots.output_names, slots.outputs, strict=True))
        )
        shapes = (
            (name, p.shape, arguments[name].shape) for name, p in program.main.parameters.items()
        )
        self._sizes = sizes_of(shapes)
        loops = any(at.op.name in ("loop", "scan") for m in program.modules.values() for at in m)
        self._whole = TensorBounds(program, arguments) if loops else None
        for name, parameter in program.main.parameters.items():
            self._values[parameter] = arguments[name]

    def __call__(self, at: Instruction, result: Argument) -> None:
        if self._whole is not None:
            self._whole(at, result)
        self._values[at] = result
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            try:
                self._errors[at] = self._after(at, result, [self._known(v) for v in at.inputs])
            except Inside:
                self._errors[at] = _unknown(result)
            for more in self._approximations.get(at.op.name, ()):
                if isinstance(more, Approximation):
                    added = more.of_elements(at, [self._known(v)[0] for v in at.inputs])
                else:
                    added = np.asarray(more) if more else None
                if added is not None and result.shape.dtype.is_float:
                    self._errors[at] = added + _filled(self._errors[at], result)

    def of(self, at: Instruction) -> Error:
        """The bound of a value that has been computed."""
        return self._known(at)[1]

    def _known(self, at: Instruction) -> tuple[Argument, Error]:
        """A value and its bound; of a parameter of a module, those it stands for."""
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
            return whole[at.op.index] if isinstance(whole, tuple) else None  # type: ignore[attr-defined]
        if at.op.name == "if":
            unsure = inputs[0][1] is not None
            taken = at.modules[0 if inputs[0][0].array.item() else 1].outputs
            made = [self._known(v) for v in taken]
            return tuple(_unknown(value) if unsure else error for value, error in made)
        if at.op.name in MODULES:
            errors = tuple(self.of(v) for v in at.modules[0].outputs)
            return errors if result.shape.parts else errors[0]
        if at.modules:
            assert self._whole is not None
            return _spread(result, self._whole.of(at))
        if not {symbol.name for symbol in operations.symbols(at.op)} <= self._sizes.keys():
            return _unknown(result)  # of a size that only the data decides
        op = operations.bind(at.op, self._sizes)
        return _Step(op, [a for a, _ in inputs], [e for _, e in inputs], result).error()

    def _made(self, at: Instruction, result: Argument) -> Error:
        """What a literal that was folded, or a slot that is computed, has been rounded by."""
        dtype = result.shape.dtype
        source = self._slots[at.op.slot] if isinstance(at.op, Slot) else at
        made = type(source.op) is not Literal or id(_held(source)) not in (self._given or ())
        if self._given is None or not made or not dtype.is_float or dtype.is_packed:
            return None
        size = float(np.max(np.abs(result.array.astype(np.float64)), initial=0.0))
        return np.full(result.array.shape, LAMBDA * dtype.roundoff * size)


@dataclass
class _Step:
    """One operation on values that have errors."""

    op: Operation
    values: list[Argument]
    errors: list[Error]
    result: Argument

    def error(self) -> Error:
        """The bound of the result."""
        if self.result.shape.parts or any(isinstance(e, tuple) for e in self.errors):
            return self._sampled() if any(e is not None for e in self.errors) else self._own_parts()
        if not self.result.shape.dtype.is_tensor:
            return None
        if self.op.name.startswith(("pack_", "unpack_")):
            return self._packed()
        own = self._own()
        if all(e is None for e in self.errors) and self.op.name != "quantizelinear":
            return own
        passed = self._passed()
        if passed is None or own is None or isinstance(passed, tuple):
            return own if passed is None else passed
        return passed + own

    def _own_parts(self) -> Error:
        """Of an operation with several results: its roundings, and that to the type of each."""
        shapes = [a.shape for a in self.values]
        count = roundings(self.op, shapes, self.result.shape)
        return tuple(
            _ulps(count, part.shape.dtype) * np.maximum(1.0, np.abs(_double(part)))
            + part.shape.dtype.roundoff * np.abs(_double(part))
            + _smallest(part.shape.dtype)
            if count and part.shape.dtype.is_float
            else None
            for part in self.result.parts
        )

    def _own(self) -> Doubles | None:
        """What the operation's own roundings come to."""
        dtype = self.result.shape.dtype
        if not dtype.is_float or self.op.name in WHOLE:
            return None
        count = roundings(self.op, [a.shape for a in self.values], self.result.shape)
        if not count or self.op.name in EXACT:
            return None
        size = np.abs(_double(self.result))
        sums = size
        if self.op.name in SUMS and count > 1:
            sums = _run(self.op, self._magnitudes(), self.result.shape)
        elif self.op.name in UP_TO_ONE:
            sums = np.ones_like(size)
        elif count > FUNCTION or self.op.name == "resize":
            sums = np.full_like(size, max(_largest(a) for a in (*self.values[:1], self.result)))
        elif count > 1 and self.op.name == "pooling":
            sums = np.full_like(size, _largest(self.values[0]))
        return _ulps(count, dtype) * sums + dtype.roundoff * size + _smallest(dtype)

    def _packed(self) -> Error:
        """What is packed may be anything where the input is not exact; unpacked, it is what it
        was.
        """
        given = self.errors[0]
        if given is None or isinstance(given, tuple):
            return None
        kept = self.op.name.startswith("un") and given.shape == self.result.array.shape
        return given if kept else _unknown(self.result)

    def _passed(self) -> Error:
        """What the errors of the inputs come to."""
        name, traits = self.op.name, operations.traits(self.op)
        if name in SUMS:
            return self._summed()
        if name in PICKS or traits.view is not None:
            return self._picked()
        if name == "where":
            return self._chosen()
        errors = [_filled(e, a) for e, a in zip(self.errors, self.values, strict=True)]
        if name in ("softmax", "logsoftmax"):
            most = 2 * np.max(errors[0], self.op.axis, keepdims=True, initial=0.0)  # type: ignore[attr-defined]
            y = _double(self.result)
            return np.broadcast_to(most, y.shape) if name == "logsoftmax" else y * np.expm1(most)
        if name in ("max", "min", "clip"):
            return np.asarray(np.maximum.reduce(errors))
        if name in ("reduce_max", "reduce_min"):
            axes = self.op.axes  # type: ignore[attr-defined]
            return np.asarray(np.max(errors[0], axes, keepdims=True, initial=0.0))
        if traits.pointwise or name in ("quantizelinear", "dequantizelinear"):
            return self._at_corners(errors)
        return self._sampled()

    def _magnitudes(self) -> list[Doubles]:
        """The magnitudes of the inputs; indices as they are."""
        return [
            a.array if i == 1 and self.op.name in SCATTERS else np.abs(_double(a))
            for i, a in enumerate(self.values)
        ]

    def _summed(self) -> Doubles:
        sizes = self._magnitudes()
        spread = [
            s if e is None or s.dtype.kind == "i" else s + e
            for s, e in zip(sizes, self.errors, strict=True)
        ]
        op = operations_of_magnitudes(self.op)
        most, least = (_run(op, of, self.result.shape) for of in (spread, sizes))
        return np.asarray(np.abs(most - least))

    def _picked(self) -> Error:
        places = PLACES.get(self.op.name, range(len(self.values)))
        if self.op.name not in PLACES and self.op.name not in PICKS:
            places = (0,)
        if any(e is not None for i, e in enumerate(self.errors) if i not in places):
            return _unknown(self.result)
        if self.op.name == "identity":
            return self.errors[0]
        moved = [
            _filled(self.errors[i], a) if i in places else a.array
            for i, a in enumerate(self.values)
        ]
        return _run(self.op, moved, self.result.shape)

    def _chosen(self) -> Doubles:
        unsure, *sides = (_filled(e, a) for e, a in zip(self.errors, self.values, strict=True))
        condition, x, y = (a.array for a in self.values)
        made = np.where(condition, *sides)
        gap = np.abs(x.astype(np.float64) - y.astype(np.float64)) + sides[0] + sides[1]
        return np.where(unsure > 0, gap, made)

    def _at_corners(self, errors: list[Doubles]) -> Doubles:
        """The greatest difference at the ends of all inputs."""
        ends = []
        for i, (value, error) in enumerate(zip(self.values, errors, strict=True)):
            if self.op.name == "quantizelinear" and i == 0:
                error = error + 4 * F32.roundoff * np.abs(_double(value))
            ends.append(_moved(value, error) if error.any() else [_widened(value)])
        centre = _double(self.result)
        found = np.zeros_like(centre)
        for corner in itertools.product(*ends):
            made = _run(self.op, list(corner), self.result.shape).astype(np.float64)
            found = np.maximum(found, np.abs(made - centre))
        if self.op.name in WAVES:
            return np.maximum(found, _within_a_turn(self.op.name, self.values[0], errors[0]))
        return found

    def _sampled(self) -> Error:
        """From some runs on inputs moved about at random; of places and counts, none may change."""
        rng, results = np.random.default_rng(0), []
        for _ in range(SAMPLES):
            moved = []
            for value, error in zip(self.values, self.errors, strict=True):
                if error is None or isinstance(error, tuple) or not value.shape.dtype.is_tensor:
                    moved.append(value)
                    continue
                shift = error * rng.choice((-1.0, 1.0), error.shape)
                array = (_double(value) + shift).astype(value.array.dtype)
                moved.append(Argument(value.shape, array))
            try:
                results.append(_evaluated(self.op, moved, self.result.shape))
            except (MigxError, ArithmeticError, LookupError, ValueError):
                return _unknown(self.result)
        return _between(results, self.result)


def _within_a_turn(name: str, value: Argument, error: Doubles) -> Doubles:
    """What a function that comes back may differ by between the ends of its input."""
    if name == "tan":
        low, high = (np.floor(end / np.pi + 0.5) for end in _moved(value, error))
        return np.where(low == high, 0.0, np.inf)  # infinite where it has a pole on the way
    return np.where(error < 1, 0.0, np.minimum(error, 2.0))


def operations_of_magnitudes(op: Operation) -> Operation:
    """The operation that sums the magnitudes of what another adds and subtracts."""
    if op.name == "sub":
        from migx.ops.pointwise import Add

        return Add()
    return op


def _between(results: Sequence[Argument], centre: Argument) -> Error:
    if centre.shape.parts:
        columns = zip(*(r.parts for r in results), strict=True)
        return tuple(_between(c, part) for c, part in zip(columns, centre.parts, strict=True))
    if not centre.shape.dtype.is_tensor or centre.shape.dtype.is_packed:
        return None
    y = _double(centre)
    if any(r.array.shape != y.shape for r in results):
        return _unknown(centre)
    most = np.maximum.reduce([np.abs(_double(r) - y) for r in results])
    if not centre.shape.dtype.is_float:
        return _unknown(centre) if most.any() else np.zeros_like(y)
    return np.asarray(SAMPLES * most + LAMBDA * centre.shape.dtype.roundoff * np.abs(y))


def _run(op: Operation, arrays: Sequence[Any], like: Shape) -> Doubles:
    """The operation on other arrays than it got, in double precision where they are that."""
    arguments = [Argument(Shape(DType.of(a.dtype), a.shape), a) for a in arrays]
    dtype = next((a.shape.dtype for a in arguments if a.shape.dtype is F64), like.dtype)
    if op.name in ("quant_dot", "quant_convolution"):
        op = _unquantised(op)
    result = _evaluated(op, arguments, like.with_type(dtype))
    return np.asarray(result.array)


def _unquantised(op: Operation) -> Operation:
    """The same product, of any type."""
    from migx.ops.linear import Convolution, Dot

    return Dot() if op.name == "quant_dot" else Convolution(**operations.attributes(op))


def _evaluated(op: Operation, arguments: Sequence[Argument], shape: Shape) -> Argument:
    return operations.evaluator(type(op))(op, _context(), shape, arguments, ())


@cache
def _context() -> Context:
    return get_target("ref").get_context()


def _ulps(count: int, dtype: DType) -> float:
    """What so many roundings come to, at most and, of many, but for a chance of 3e-14."""
    return min(count, LAMBDA * math.sqrt(count)) * min(dtype.roundoff, F32.roundoff)


@cache
def _smallest(dtype: DType) -> float:
    return float(ml_dtypes.finfo(dtype.numpy).smallest_subnormal)  # type: ignore[no-untyped-call]


def _double(value: Argument) -> Doubles:
    return value.array.astype(np.float64)


def _widened(value: Argument) -> NDArray[Any]:
    return _double(value) if value.shape.dtype.is_float else value.array


def _moved(value: Argument, error: Doubles) -> list[NDArray[Any]]:
    """A value at its lower and its upper end."""
    dtype = value.shape.dtype
    if dtype.kind == "bool":
        return [value.array, value.array ^ (error > 0)]
    ends = [_double(value) - error, _double(value) + error]
    if dtype.is_float:
        return ends
    limits = np.iinfo(dtype.numpy)
    return [np.clip(e, limits.min, limits.max).astype(dtype.numpy) for e in ends]


def _filled(error: Error, value: Argument) -> Doubles:
    if error is None or isinstance(error, tuple):
        return np.zeros(value.array.shape)
    return error


def _largest(value: Argument) -> float:
    return float(np.max(np.abs(_double(value)), initial=0.0))


def _unknown(value: Argument) -> Error:
    """No bound at all."""
    if value.shape.parts:
        return tuple(map(_unknown, value.parts))
    if not value.shape.dtype.is_tensor:
        return None
    return np.full([int(d) for d in value.shape.dims], np.inf)


def _spread(result: Argument, budget: Budget) -> Error:
    """What a budget for a tensor as a whole comes to for its elements; nothing for places that
    depend on rounded values.
    """
    if result.shape.parts:
        return tuple(_spread(part, budget) for part in result.parts)
    if not result.shape.dtype.is_tensor or result.shape.dtype.is_packed:
        return None
    if result.shape.dtype.kind == "bool" and budget.variance:
        return _unknown(result)
    allowed = budget.tolerance(result.shape.dtype, _largest(result))
    return np.full(result.array.shape, allowed) if allowed else None


def _held(at: Instruction) -> Argument:
    held: Argument = at.op.value  # type: ignore[attr-defined]
    return held
