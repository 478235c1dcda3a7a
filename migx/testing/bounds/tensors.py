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
instruction to the next, as in sums and products; a logarithm multiplies it by its mean slope, and a
sum by what its terms exceed it, if they cancel: see ``sums``. If a function flattens its input, the
bound is relative to the effect of a difference in the input. Functions with values up to 1 are
approximated with an error relative to 1, however small the result. Around logarithms, roundings to
integers and quantisations, errors are ``followed`` element by element. The bound of a concatenation
is that of the part with the largest error; that of a sum of two is what they may be off together,
if that is less.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx.argument import Argument
from migx.binding import sizes_told
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.ops.builtin import Param
from migx.ops.quantization import QuantizeLinear
from migx.pipeline import Approximation
from migx.program import Program
from migx.shape import F32, DType, Shape
from migx.testing.bounds.choices import CHOOSING, nearest
from migx.testing.bounds.followed import Followed
from migx.testing.bounds.ranges import TINY, largest
from migx.testing.bounds.recurrent import RECURRENT, growth
from migx.testing.bounds.roundings import DISCRETE, LAMBDA, UP_TO_ONE, WHOLE, roundings
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
    that of the value, and ``absolute`` a variance that is not relative. ``hangs`` describes a
    choice on the way between elements whose order rounding may change.
    """

    variance: float = 0.0
    roundings: int = 0
    longest: int = 0
    quantised: int = 0
    entering: float | None = None
    scale: float = 0.0
    absolute: float = 0.0
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
            return LAMBDA * math.hypot(
                math.sqrt(self.variance) * magnitude, math.sqrt(self.absolute)
            )
        if not self.variance or not dtype.is_integer:
            return 0.0
        before = self.variance if self.entering is None else self.entering
        return max(1.0, math.ceil(LAMBDA * math.sqrt(before) * magnitude))

    def limited(self, most: float, magnitude: float) -> Budget:
        """The budget with ``most`` as tolerance, given the tensor's largest magnitude."""
        if magnitude < TINY:  # nothing is relative to 0
            return replace(self, scale=most / self.relative, absolute=0.0)
        share = most / (LAMBDA * magnitude)
        variance = min(share * share, sys.float_info.max)
        return replace(self, variance=variance, scale=0.0, absolute=0.0)

    def explain(self, dtype: DType) -> str:
        """The derivation of the bound, in one line."""
        if not self.tolerance(dtype, 1.0):
            return f"{dtype}, exact"
        text = f"{dtype}, longest accumulation {self.longest}, {self.roundings:.3g} roundings"
        if self.quantised:
            text += f" and {self.quantised} quantisations"
        return f"{text} on the path, {LAMBDA:g} * sqrt(V) = {self.relative:.2g}"


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
        self._budgets: dict[Instruction, Budget] = {}
        self._shapes: dict[Instruction, Shape] = {}
        self._known: dict[tuple[Instruction, str], float] = {}
        self._held: dict[Instruction, Argument] = {}
        """The values read by recurrent layers, by operations that choose by order, and by sums
        that are added again.
        """
        self._largest: dict[Instruction, float] = {}
        self._norms: dict[tuple[Instruction, str, int], float] = {}
        """The magnitudes of the factors of sums of products, where values are quantised."""
        self._quantises = any(at.name == "quantizelinear" for at in program.instructions())
        self._joins: dict[Instruction, float] = {}
        """The tolerances of the parts of concatenations and sums."""
        main = program.main
        sizes = sizes_told(main, [arguments[name] for name in main.parameters])
        self._followed = Followed(program, sizes, self._tolerance)

    def __call__(self, at: Instruction, result: Argument) -> None:
        self._shapes[at] = result.shape
        if type(at.op) is Param:
            self._followed.keep(at, result)
        else:
            self._budgets[at] = self._budget(at, result)
        self._remember(at, result)

    def _budget(self, at: Instruction, result: Argument) -> Budget:
        """The budget of a result, given those of the inputs."""
        read = [self.of(v) for v in (*at.inputs, *(o for m in at.modules for o in m.outputs))]
        zeros = self._held.get(at.inputs[ZERO]) if _has_zeros(at) else None
        if zeros is not None and read[ZERO].variance:
            share = largest(zeros.array) * self._step(at, result, zeros)
            read[ZERO] = replace(read[ZERO], variance=read[ZERO].variance * share**2)
        worst = replace(_worst(read), scale=0.0, absolute=0.0)
        if at.name in JOINING and worst.variance:
            worst = self._joined(at, result, worst)
        made = _after(at, worst, [self._shape(v) for v in at.inputs], result)
        if at.name == "quantizelinear":
            made = _stepped(worst, self._step(at, result, zeros))
        if at.name in RECURRENT and all(v in self._held for v in at.inputs):
            grown = growth(at.op, [self._held[v] for v in at.inputs], result)
            made = replace(made, variance=made.variance * max(1.0, grown) ** 2)
        known = self._known.get((at.inputs[0], at.name)) if at.inputs else None
        if known is not None and at.name == "log":
            factor = known / max(largest(result.array), TINY)
            made = replace(made, variance=made.variance * max(1.0, factor) ** 2)
        elif known is not None:
            made = replace(made, scale=known)
        elif operations.traits(at.op).view is not None and at.inputs:
            given = self.of(at.inputs[0])
            made = replace(made, scale=given.scale, absolute=given.absolute)
        if at.name in LONG and made.variance and result.shape.dtype.is_float:
            made = self._left(at, result, worst, made)
        self._followed.keep(at, result)
        made = self._sharper(at, result, made)
        if more := sum(
            _on_purpose(a, at, result) ** 2 for a in self._approximations.get(at.name, ())
        ):
            self._followed.forget(at)
            made = replace(made, variance=made.variance + more)
        hangs = next((b.hangs for b in read if b.hangs), "") or self._hangs(at, result)
        return replace(made, hangs=hangs)

    def _remember(self, at: Instruction, result: Argument) -> None:
        """Keeps what those who read a value will ask."""
        readers, made = {user.name for user in at.users}, self.of(at)
        if made.variance and readers & JOINING.keys():
            self._joins[at] = made.tolerance(result.shape.dtype, largest(result.array))
        if made.variance and result.shape.dtype.is_float:
            for name in readers & STEEPEST.keys():
                self._known[at, name] = STEEPEST[name](result.array)
        scales = any(at in user.inputs[SCALE:] for user in at.users if _has_zeros(user))
        if readers & HOLDING or scales or (readers & LONG and result.shape.elements <= MOST):
            self._held[at] = result
        if not (self._quantises and result.shape.dtype.is_float and readers & PRODUCTS):
            return
        self._largest[at] = largest(result.array)
        for user in at.users:
            for place, value in enumerate(user.inputs):
                if value is at and (user.name, place) in FACTORS:
                    self._norms[at, user.name, place] = norm(user.name, place, result)

    def _step(self, at: Instruction, result: Argument, zeros: Argument | None) -> float:
        """A step, relative to the greatest distance of codes from their zero point."""
        if at.name == "dequantizelinear":
            steps = self._held[at.inputs[SCALE]]
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
        if all(v in self._held for v in at.inputs):
            together, summed = sizes(at, [self._held[v] for v in at.inputs], result)
        together, summed = max(together, magnitude), max(summed, magnitude)
        once = 2 * _once(dtype) ** 2
        own = max(0.0, made.variance - worst.variance - once)
        pairs = [(worst.variance, together), (own, summed), (once, magnitude)]
        for i, value in enumerate(at.inputs):
            others = [self._norms.get((v, at.name, k)) for k, v in enumerate(at.inputs) if k != i]
            alike = self._largest.get(value, 0.0) * max((n for n in others if n), default=0.0)
            if alike > together:
                pairs.append((self.of(value).fresh * (1 - (together / alike) ** 2), alike))
        most = LAMBDA * math.hypot(*(math.sqrt(variance) * size for variance, size in pairs))
        return made.limited(most, magnitude) if most > made.tolerance(dtype, magnitude) else made

    def _joined(self, at: Instruction, result: Argument, worst: Budget) -> Budget:
        """The budget of a concatenation or sum, a part of which may be much smaller than others: an
        element may be off by as much as the part that may be off most, or as all together. A sum of
        parts that cancel keeps their relative error.
        """
        parts = [self._joins.get(v, math.inf if self.of(v).variance else 0.0) for v in at.inputs]
        most = JOINING[at.name](parts)
        if not math.isfinite(most):
            return worst
        magnitude = largest(result.array)
        found = worst.limited(most, magnitude)
        return found if at.name == "concat" or found.variance < worst.variance else worst

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
        if given is None or given not in self._held or not given.shape.dtype.is_float:
            return ""
        held = self._held[given]
        error = self.of(given).tolerance(given.shape.dtype, largest(held.array))
        if not error or (step := nearest(at, held, result)) >= 2 * error:
            return ""
        return (
            f"{at.name} tells elements apart by {step:.2g}, each of which may be off by {error:.2g}"
        )

    def of(self, at: Instruction) -> Budget:
        """The budget of a value; zero if it was not computed."""
        if type(at.op) is Param and at not in self._budgets:
            return _worst([self._budgets[v] for v in sources(at) if v in self._budgets])
        return self._budgets.get(at, Budget())

    def _shape(self, at: Instruction) -> Shape:
        if type(at.op) is Param and at not in self._shapes and not at.shape.static:
            return next((self._shapes[v] for v in sources(at) if v in self._shapes), at.shape)
        return self._shapes.get(at, at.shape)


def _on_purpose(more: float | Approximation, at: Instruction, result: Argument) -> float:
    """The intended error of a result, relative to its largest magnitude."""
    if isinstance(more, Approximation):
        return more.of_tensor(at)
    return more / max(largest(result.array), TINY) if 0 < more < math.inf else 0.0


def _worst(budgets: Sequence[Budget]) -> Budget:
    return max(budgets, key=lambda budget: budget.variance, default=Budget())


def sources(parameter: Instruction) -> Sequence[Instruction]:
    """The values of a submodule's parameter: its argument and, in a loop, the result of the
    previous iteration.
    """
    body = parameter.module
    parent = body.parent if isinstance(body, Module) else None
    if body is None or parent is None:
        return ()
    index = list(body.parameters.values()).index(parameter)
    # A loop's body takes the iteration and the condition first, and returns the condition.
    again = index - 1 if parent.op.name == "loop" else index
    carried = body.outputs[again : again + 1] if index < len(parent.inputs) and again >= 0 else ()
    return (*parent.inputs[index : index + 1], *carried)


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
    beyond = (math.sqrt(worst.variance) + step / LAMBDA) ** 2
    return Budget(
        min(worst.variance + step**2 / 4, beyond),
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
        absolute=2 * count * accumulated**2 if op.name in UP_TO_ONE else 0.0,
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


JOINING: dict[str, Callable[[Sequence[float]], float]] = {"concat": max, "add": sum, "sub": sum}
"""How much an element of a result may be off, from how much its parts may be."""

SCALE, ZERO = 1, 2
"""The inputs of quantisations by role."""

HOLDING = RECURRENT | CHOOSING.keys()
PRODUCTS = frozenset(name for name, _ in FACTORS)

STEEPEST: dict[str, Callable[[NDArray[Any]], float]] = {
    "clip": largest,
    "erf": lambda inputs: 2 / math.sqrt(math.pi) * largest(inputs),
    "leaky_relu": largest,
    "relu": largest,
    "log": _logarithm,
}
"""The most that a relative difference in some inputs can change the result."""
