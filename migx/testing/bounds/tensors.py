"""The error bound of a tensor as a whole, for programs of any size.

Two implementations round at the same places, in different orders. Each rounding changes a value by
at most u, the unit roundoff, relative to its magnitude; the signs are as good as random. So the
difference is a sum of bounded terms with mean zero, and stays below ``LAMBDA * sqrt(V)``, where V
is the sum of their squares, except with probability 2 exp(-LAMBDA² / 2) (N. J. Higham and T. Mary,
"A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019). V grows
along the dataflow, on the worst path into each instruction: a sum of n terms adds n roundings in
the type it is accumulated in, a product one, a view none; each counts twice, since both sides make
it. A value that is quantised near the middle of two steps may fall on either: that adds half a
step.

All of this is relative to the largest magnitude of a tensor, and keeps its relative size from one
instruction to the next, as in sums and products; a logarithm multiplies it by its mean slope, a
sine by its greatest angle, and a sum by what its terms exceed it, if they cancel: see ``sums``. If
a function flattens its input, the bound is relative to the effect of a difference in the input.
Functions with values up to 1 are approximated with an error relative to 1, however small the
result. Around logarithms, roundings to integers and quantisations, errors are ``followed`` element
by element. The bound of a concatenation is that of the part with the largest error; that of a sum
of two is what they may be off together, if that is less.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx.argument import Argument
from migx.binding import sizes_told
from migx.ir import Instruction
from migx.iterations import sources
from migx.op import Operation
from migx.ops.builtin import Param
from migx.ops.quantization import QuantizeLinear
from migx.pipeline import Approximation
from migx.program import Program
from migx.shape import F32, DType, Shape
from migx.testing.bounds.choices import nearest
from migx.testing.bounds.followed import Followed
from migx.testing.bounds.kinds import CHOOSING, DISCRETE, RECURRENT, UP_TO_ONE, WHOLE
from migx.testing.bounds.ranges import TINY, largest
from migx.testing.bounds.recurrent import growth
from migx.testing.bounds.roundings import FUNCTION, LAMBDA, roundings
from migx.testing.bounds.sums import FACTORS, LONG, MOST, norm, sizes

Approximations: TypeAlias = "Mapping[str, Sequence[float | Approximation]]"
"""How far off operations' results, by name, may be on purpose, perhaps for several causes."""
NONE: Approximations = MappingProxyType({})
"""No approximations."""


@dataclass(frozen=True)
class Budget:
    """What rounding may have done to a value so far.

    ``variance`` is V; ``roundings``, ``longest`` (accumulation) and ``quantised`` count what is on
    the worst path. ``entering`` is V before the value was rounded to whole steps, if it has only
    been scaled and moved since. ``scale`` is the magnitude that V is relative to, if it exceeds
    that of the value. ``hangs`` describes a choice on the way between elements whose order rounding
    may change.
    """

    variance: float = 0.0
    roundings: int = 0
    longest: int = 0
    quantised: int = 0
    entering: float | None = None
    scale: float = 0.0
    hangs: str = ""

    @property
    def fresh(self) -> float:
        """What the last rounding to whole steps added to V, if its steps are still of one size."""
        return 0.0 if self.entering is None else self.variance - self.entering

    @property
    def relative(self) -> float:
        """The bound, relative to the largest magnitude of the tensor."""
        return LAMBDA * math.sqrt(self.variance)

    def tolerance(self, dtype: DType, magnitude: float) -> float:
        """The largest error of an element of a tensor, given the tensor's largest magnitude.

        Integers are exact unless they were rounded or quantised: these may be off by one, or by the
        bound if that is more.
        """
        magnitude = max(magnitude, self.scale)
        if dtype.is_float:
            return self.relative * magnitude
        if not self.variance or not dtype.is_integer:
            return 0.0
        before = self.variance if self.entering is None else self.entering
        return max(1.0, math.ceil(LAMBDA * math.sqrt(before) * magnitude))

    def limited(self, most: float, magnitude: float) -> Budget:
        """The budget with ``most`` as tolerance, given the tensor's largest magnitude."""
        if magnitude < TINY:  # nothing is relative to 0
            return replace(self, scale=most / self.relative)
        share = most / (LAMBDA * magnitude)
        variance = min(share * share, sys.float_info.max)
        return replace(self, variance=variance, scale=0.0)

    def grown(self, factor: float) -> Budget:
        """The budget of errors that a factor makes larger, if it does."""
        more = min(max(1.0, factor), sys.float_info.max)
        variance = min(self.variance * more * more, sys.float_info.max)
        return replace(self, variance=variance)

    def beside_one(self, dtype: DType, magnitude: float) -> Budget:
        """The budget after a function with values up to 1, approximated with errors relative to 1,
        given the tensor's largest magnitude. An approximation may have 0 for all that is small.
        """
        size = max(magnitude, self.scale)
        own = 2 * FUNCTION * min(dtype.roundoff, F32.roundoff) ** 2
        if size < TINY:
            return replace(self, scale=1.0)
        variance = min(self.variance + own / size / size, sys.float_info.max)
        return replace(self, variance=variance, scale=size)

    def explain(self, dtype: DType) -> str:
        """The derivation of the bound, in one line."""
        if not self.tolerance(dtype, 1.0):
            return f"{dtype}, exact"
        text = f"{dtype}, longest accumulation {self.longest}, {self.roundings:.3g} roundings"
        if self.quantised:
            text += f" and {self.quantised} quantisations"
        return f"{text} on the path, {LAMBDA:g} * sqrt(V) = {self.relative:.2g}"


@dataclass
class _Value:
    """What is kept of a value: its shape and budget, and what its readers will ask.

    The budget of a parameter is not kept, but that of what it stands for. A value is ``held`` for
    recurrent layers, for operations that choose by order, for sums that are added again, and for
    quantisations with zero points. ``tolerance`` is for concatenations and sums. ``steep`` has what
    ``STEEPEST`` gives for operations, by name. ``largest``, and the ``norms`` by the operand of a
    sum of products that it is, are for programs in which values are quantised.
    """

    shape: Shape
    budget: Budget | None
    held: Argument | None = None
    tolerance: float | None = None
    steep: dict[str, float] = field(default_factory=dict)
    largest: float = 0.0
    norms: dict[tuple[str, int], float] = field(default_factory=dict)


class TensorBounds:
    """The budget of every value of a program, found by following a run: the callback of an
    executable's ``trace``, called with each instruction and its result.

    ``approximations`` are how far off the results of operations, by name, may be on purpose.
    Unlimited ones are ignored: a comparison of whole models is to show their cost.
    """

    def __init__(
        self,
        program: Program,
        arguments: Mapping[str, Argument],
        approximations: Approximations = NONE,
    ) -> None:
        self._approximations = approximations
        self._values: dict[Instruction, _Value] = {}
        self._quantises = any(at.name == "quantizelinear" for at in program.instructions())
        main = program.main
        sizes = sizes_told(main, [arguments[name] for name in main.parameters])
        self._followed = Followed(program, sizes, self._tolerance)

    def __call__(self, at: Instruction, result: Argument) -> None:
        if type(at.op) is Param:
            self._followed.keep(at, result)
            self._remember(at, result, None)
        else:
            self._remember(at, result, self._budget(at, result))

    def _budget(self, at: Instruction, result: Argument) -> Budget:
        """The budget of a result, given those of the inputs."""
        read = [self.of(v) for v in (*at.inputs, *(o for m in at.modules for o in m.outputs))]
        zeros = self._zeros(at)
        if zeros is not None and read[ZERO].variance:
            share = largest(zeros.array) * self._step(at, result, zeros)
            read[ZERO] = replace(read[ZERO], variance=read[ZERO].variance * share * share)
        made = self._passed_on(at, result, replace(_worst(read), scale=0.0))
        self._followed.keep(at, result)
        made = self._sharper(at, result, made)
        off = [_on_purpose(each, at, result) for each in self._approximations.get(at.name, ())]
        if more := sum(each * each for each in off):
            self._followed.forget(at)
            made = replace(made, variance=made.variance + more)
        hangs = next((b.hangs for b in read if b.hangs), "") or self._hangs(at, result)
        return replace(made, hangs=hangs)

    def _remember(self, at: Instruction, result: Argument, budget: Budget | None) -> None:
        """Keeps what those who read a value will ask."""
        readers, dtype = {user.name for user in at.users}, result.shape.dtype
        kept = self._values[at] = _Value(result.shape, budget)
        made = self.of(at)
        if made.variance and readers & JOINING.keys():
            kept.tolerance = made.tolerance(dtype, largest(result.array))
        if made.variance and dtype.is_float:
            steep = readers & STEEPEST.keys()
            kept.steep = {name: STEEPEST[name](result.array) for name in steep}
        scales = any(at in user.inputs[SCALE:] for user in at.users if _has_zeros(user))
        if readers & HOLDING or scales or (readers & LONG and result.shape.elements <= MOST):
            kept.held = result
        if self._quantises and dtype.is_float and readers & PRODUCTS:
            kept.largest = largest(result.array)
            operands = {(u.name, i) for u in at.users for i, v in enumerate(u.inputs) if v is at}
            kept.norms = {each: norm(*each, result) for each in operands if each in FACTORS}

    def _passed_on(self, at: Instruction, result: Argument, worst: Budget) -> Budget:
        """The budget that follows from that of the worst input."""
        if at.name in JOINING and worst.variance:
            worst = self._joined(at, result, worst)
        if at.name == "quantizelinear":
            made = _stepped(worst, self._step(at, result, self._zeros(at)))
        else:
            made = _after(at, worst, [self._shape(v) for v in at.inputs], result)
        if at.name in RECURRENT and (held := self._held(at.inputs)):
            made = made.grown(growth(at.op, held, result))
        first = self._values.get(at.inputs[0]) if at.inputs else None
        known = None if first is None else first.steep.get(at.name)
        if known is not None and at.name in STEEPENING:
            made = made.grown(known / max(largest(result.array), TINY))
        elif known is not None:
            made = replace(made, scale=known)
        elif operations.traits(at.op).view is not None and at.inputs:
            given = self.of(at.inputs[0])
            made = replace(made, scale=given.scale)
        if at.name in UP_TO_ONE:
            made = made.beside_one(result.shape.dtype, largest(result.array))
        if at.name in LONG and made.variance and result.shape.dtype.is_float:
            made = self._left(at, result, worst, made)
        return made

    def _held(self, values: Sequence[Instruction]) -> list[Argument]:
        """Some values, if all of them are held; else none."""
        found = [self._values[v].held for v in values if v in self._values]
        held = [value for value in found if value is not None]
        return held if len(held) == len(values) else []

    def _zeros(self, at: Instruction) -> Argument | None:
        """The zero points of a quantisation, if they are held."""
        return next(iter(self._held([at.inputs[ZERO]])), None) if _has_zeros(at) else None

    def _step(self, at: Instruction, result: Argument, zeros: Argument | None) -> float:
        """A step, relative to the greatest distance of codes from their zero point."""
        if at.name == "dequantizelinear":
            (steps,) = self._held([at.inputs[SCALE]])
            return largest(steps.array) / max(largest(result.array), TINY)
        if not result.shape.dtype.is_integer:
            return 2 * result.shape.dtype.roundoff
        op, codes = at.op_as(QuantizeLinear), result.array
        if zeros is not None:
            zero = op.aligned(zeros.array, codes)
            codes = np.subtract(op.folded(codes), zero, dtype=np.float32)
        return 1 / max(1.0, largest(codes))

    def _left(self, at: Instruction, result: Argument, worst: Budget, made: Budget) -> Budget:
        """The budget of a sum, of which less may be left than its errors are relative to."""
        dtype, magnitude = result.shape.dtype, largest(result.array)
        together = summed = 0.0
        if held := self._held(at.inputs):
            together, summed = sizes(at, held, result)
        together, summed = max(together, magnitude), max(summed, magnitude)
        once = 2 * _once(dtype) ** 2
        own = max(0.0, made.variance - worst.variance - once)
        pairs = [(worst.variance, together), (own, summed), (once, magnitude)]
        known = [self._values.get(v) for v in at.inputs]
        norms = [0.0 if v is None else v.norms.get((at.name, i), 0.0) for i, v in enumerate(known)]
        for i, value in enumerate(known):
            others = (n for k, n in enumerate(norms) if k != i)
            alike = 0.0 if value is None else value.largest * max(others, default=0.0)
            if alike > together:
                fresh = self.of(at.inputs[i]).fresh
                pairs.append((fresh * (1 - (together / alike) ** 2), alike))
        most = LAMBDA * math.hypot(*(math.sqrt(variance) * size for variance, size in pairs))
        return made.limited(most, magnitude) if most > made.tolerance(dtype, magnitude) else made

    def _joined(self, at: Instruction, result: Argument, worst: Budget) -> Budget:
        """The budget of a concatenation or sum, a part of which may be much smaller than others: an
        element may be off by as much as the part that may be off most, or as all together. A sum of
        parts that cancel keeps their relative error.
        """
        most = JOINING[at.name]([self._most(v) for v in at.inputs])
        if not math.isfinite(most):
            return worst
        magnitude = largest(result.array)
        found = worst.limited(most, magnitude)
        return found if at.name == "concat" or found.variance < worst.variance else worst

    def _most(self, part: Instruction) -> float:
        """The most that an element of a part may be off by; infinite if that is not known."""
        known = self._values.get(part)
        if known is None or known.tolerance is None:
            return math.inf if self.of(part).variance else 0.0
        return known.tolerance

    def _sharper(self, at: Instruction, result: Argument, made: Budget) -> Budget:
        """The budget, or a smaller one that follows from the errors of elements."""
        off, dtype = self._followed.difference(at, result), result.shape.dtype
        if off is None or not made.variance:
            return made
        if not off or not dtype.is_float:
            return made if off else Budget()
        magnitude = largest(result.array)
        if not off < made.tolerance(dtype, magnitude):
            return made
        return made.limited(off, magnitude)

    def _tolerance(self, at: Instruction, value: Argument) -> float:
        budget = self.of(at)
        return budget.tolerance(value.shape.dtype, largest(value.array)) if budget.variance else 0.0

    def _hangs(self, at: Instruction, result: Argument) -> str:
        """Which elements are so close that rounding may change the choice; "" if none are."""
        given = at.inputs[CHOOSING[at.name]] if at.name in CHOOSING else None
        if given is None or not given.shape.dtype.is_float or not self._held([given]):
            return ""
        (held,) = self._held([given])
        error = self.of(given).tolerance(given.shape.dtype, largest(held.array))
        if not error or (step := nearest(at, held, result)) >= 2 * error:
            return ""
        return (
            f"{at.name} tells elements apart by {step:.2g}, each of which may be off by {error:.2g}"
        )

    def of(self, at: Instruction) -> Budget:
        """The budget of a value; zero if it was not computed."""
        known = self._values.get(at)
        if known is not None and known.budget is not None:
            return known.budget
        return _worst([v.budget for v in self._given(at) if v.budget is not None])

    def _shape(self, at: Instruction) -> Shape:
        if (known := self._values.get(at)) is not None:
            return known.shape
        given = () if at.shape.static else self._given(at)
        return next((known.shape for known in given), at.shape)

    def _given(self, at: Instruction) -> Iterator[_Value]:
        """What is known of the values that a parameter of a submodule stands for."""
        for value in sources(at) if type(at.op) is Param else ():
            if value in self._values:
                yield self._values[value]


def _on_purpose(more: float | Approximation, at: Instruction, result: Argument) -> float:
    """The intended error of a result, relative to its largest magnitude."""
    if isinstance(more, Approximation):
        return more.of_tensor(at)
    return more / max(largest(result.array), TINY) if 0 < more < math.inf else 0.0


def _worst(budgets: Sequence[Budget]) -> Budget:
    return max(budgets, key=lambda budget: budget.variance, default=Budget())


def _after(at: Instruction, worst: Budget, shapes: Sequence[Shape], result: Argument) -> Budget:
    """The budget of a result, given that of the worst input."""
    op, dtype = at.op, result.shape.dtype
    if dtype.kind == "bool" or op.name in DISCRETE:
        return Budget()
    if op.name == "get_tuple_elem" and dtype.is_integer:
        whole = at.inputs[0].shape.parts
        return Budget() if any(part.dtype.is_float for part in whole) else worst
    if op.name in WHOLE or (op.name == "convert" and dtype.is_integer):
        if not worst.variance or not shapes[0].dtype.is_float:
            return worst
        return _stepped(worst, 1 / max(1.0, largest(result.array)))
    if dtype.is_float or (dtype.kind == "tuple" and not at.modules):
        return _spent(op, worst, shapes, result.shape)
    return replace(worst, entering=None)


def _stepped(worst: Budget, step: float) -> Budget:
    """The budget after rounding to steps of a size relative to the range of the values.

    The difference between two roundings is in an interval of one step, and a variable in an
    interval is sub-Gaussian with a quarter of its length squared as variance (Hoeffding's lemma).
    Nor do two values differ by more than a step beyond what they did before, which is less for the
    first few roundings.
    """
    beyond = math.sqrt(worst.variance) + step / LAMBDA
    return Budget(
        min(worst.variance + step * step / 4, beyond * beyond),
        worst.roundings + 1,
        worst.longest,
        worst.quantised + 1,
        worst.variance,
    )


def _spent(op: Operation, worst: Budget, shapes: Sequence[Shape], shape: Shape) -> Budget:
    """The budget after an operation; narrow types are accumulated in f32 and rounded once."""
    count = roundings(op, shapes, shape)
    if not count:
        moved = operations.traits(op).view is not None
        return worst if moved else replace(worst, entering=None)
    dtype = next((s.dtype for s in (shape, *shape.parts) if s.dtype.is_float), F32)
    once = _once(dtype)
    accumulated = min(dtype.roundoff, F32.roundoff)
    return Budget(
        worst.variance + 2 * (count * accumulated**2 + once**2),
        worst.roundings + count + bool(once),
        max(worst.longest, count),
        worst.quantised,
        worst.entering if op.name == "dequantizelinear" else None,
    )


def _has_zeros(at: Instruction) -> bool:
    """Whether an instruction quantises or dequantises with zero points."""
    return at.name in ("quantizelinear", "dequantizelinear") and len(at.inputs) > ZERO


def _once(dtype: DType) -> float:
    """The rounding of what has been accumulated in a wider type."""
    return dtype.roundoff if dtype.digits < F32.digits else 0.0


def _logarithm(inputs: NDArray[Any]) -> float:
    """The slope of a logarithm is the reciprocal of its input; the mean over all inputs counts."""
    sizes = np.abs(inputs.astype(np.float64))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return largest(sizes) * float(np.mean(1 / sizes)) if sizes.size else 0.0


def _logistic(inputs: NDArray[Any]) -> float:
    """The slope of a sigmoid is steepest at the smallest of its inputs."""
    sizes = np.abs(inputs.astype(np.float64))
    least = math.exp(-float(np.min(sizes[np.isfinite(sizes)], initial=math.inf)))
    return largest(inputs) * least / (1 + least) ** 2


STEEPENING = frozenset(("cos", "log", "sin"))
"""Functions that make relative differences larger: those of a sine are relative to its angle."""

JOINING: dict[str, Callable[[Sequence[float]], float]] = {"concat": max, "add": sum, "sub": sum}
"""How much an element of a result may be off, from how much its parts may be."""

SCALE, ZERO = 1, 2
"""The inputs of quantisations by role."""

HOLDING = RECURRENT | CHOOSING.keys()
PRODUCTS = frozenset(name for name, _ in FACTORS)

STEEPEST: dict[str, Callable[[NDArray[Any]], float]] = {
    "clip": largest,
    "cos": largest,
    "erf": lambda inputs: 2 / math.sqrt(math.pi) * largest(inputs),
    "leaky_relu": largest,
    "relu": largest,
    "log": _logarithm,
    "sigmoid": _logistic,
    "sin": largest,
    "tanh": lambda inputs: 2 * _logistic(2 * inputs.astype(np.float64)),
}
"""The most that a relative difference in some inputs can change the result."""
