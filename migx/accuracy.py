"""How far two computations of one program may lie apart: a bound derived from the roundings on the
way.

Two implementations round at the same places, in another order. Each rounding changes a value by at
most u, the unit roundoff, of its magnitude; the signs are as good as random. So the difference is a
sum of bounded terms of mean zero, and stays under ``LAMBDA * sqrt(V)``, V the sum of their squares,
but for a probability of 2 exp(-LAMBDA² / 2) (N. J. Higham and T. Mary, "A new approach to
probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019). V grows along the dataflow,
on the worst of the paths into each instruction: a sum of n terms adds n roundings in the type it is
accumulated in, a product one, a view none; each counts twice, for either side makes it. A value
that is quantised near the middle of two steps may fall on either: that adds one step, of the full
range.

All of this is relative to the greatest magnitude of a tensor, and keeps its relative size from one
instruction to the next, as sums and products do; a logarithm multiplies it by its mean slope. Where
a function flattens its input, the bound is relative to what a difference in the input comes to.
Functions with values up to 1 are approximated to so much of 1, however small the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx.argument import Argument
from migx.ir import Instruction, Module, Program
from migx.op import Operation
from migx.ops.builtin import Param
from migx.shape import F32, DType, Shape

LAMBDA = 8.0
"""How many standard deviations are allowed: a chance of 3e-14 that rounding alone exceeds them."""

TINY = float(np.finfo(np.float32).tiny)
FUNCTION = 16
"""What an elementary function counts for: approximations are good to 2 units in the last place, 4 u
each, whose square is that of 16 roundings.
"""


@dataclass(frozen=True)
class Budget:
    """What rounding may have done to a value on its way.

    ``variance`` is V; ``roundings``, ``longest`` (accumulation) and ``quantised`` count what is on
    the worst path. ``entering`` is V before the value was rounded to whole steps, where it just has
    been. ``scale`` is the magnitude V is relative to, where it exceeds that of the value, and
    ``absolute`` a variance relative to nothing.
    """

    variance: float = 0.0
    roundings: int = 0
    longest: int = 0
    quantised: int = 0
    entering: float | None = None
    scale: float = 0.0
    absolute: float = 0.0

    @property
    def relative(self) -> float:
        """The bound, relative to the greatest magnitude of the tensor."""
        return LAMBDA * math.sqrt(self.variance)

    def tolerance(self, dtype: DType, magnitude: float) -> float:
        """The largest error of an element of a tensor whose greatest magnitude is given.

        Integers are exact, but for those that were rounded or quantised: these may be off by one,
        or by what the bound says where that is more.
        """
        magnitude = max(magnitude, self.scale)
        if dtype.is_float:
            return LAMBDA * math.sqrt(self.variance * magnitude**2 + self.absolute)
        if not self.variance or not dtype.is_integer:
            return 0.0
        before = self.variance if self.entering is None else self.entering
        return max(1.0, math.ceil(LAMBDA * math.sqrt(before) * magnitude))

    def explain(self, dtype: DType) -> str:
        """How the bound comes about, in a line."""
        if not self.tolerance(dtype, 1.0):
            return f"{dtype}, exact"
        text = f"{dtype}, longest accumulation {self.longest}, {self.roundings:.3g} roundings"
        if self.quantised:
            text += f" and {self.quantised} quantisations"
        return f"{text} on the path, {LAMBDA:g} * sqrt(V) = {self.relative:.2g}"


class Roundings:
    """The budget of every value of a program, found by following a run of it: so trip counts and
    dims that only the data decides are what they are.

    An object of this class is what an executable's ``trace`` calls with each instruction and its
    result.
    """

    def __init__(self, program: Program, arguments: Mapping[str, Argument]) -> None:
        self._budgets: dict[Instruction, Budget] = {}
        self._shapes: dict[Instruction, Shape] = {}
        self._known: dict[tuple[Instruction, str], float] = {}
        for name, parameter in program.main.parameters.items():
            self._budgets[parameter] = Budget()
            self._shapes[parameter] = arguments[name].shape

    def __call__(self, at: Instruction, result: Argument) -> None:
        self._shapes[at] = result.shape
        read = [self.of(v) for v in (*at.inputs, *(o for m in at.modules for o in m.outputs))]
        worst = replace(_worst(read), scale=0.0, absolute=0.0)
        made = _after(at, worst, [self._shape(v) for v in at.inputs], result)
        known = self._known.get((at.inputs[0], at.name)) if at.inputs else None
        if known is not None and at.name == "log":
            factor = known / max(_flattened(_magnitudes(result)), TINY)
            made = replace(made, variance=made.variance * max(1.0, factor) ** 2)
        elif known is not None:
            made = replace(made, scale=known)
        elif operations.traits(at.op).view is not None and at.inputs:
            given = self.of(at.inputs[0])
            made = replace(made, scale=given.scale, absolute=given.absolute)
        self._budgets[at] = made
        if made.variance and result.shape.dtype.is_float:
            for name in {user.name for user in at.users} & STEEPEST.keys():
                self._known[at, name] = STEEPEST[name](_magnitudes(result))

    def of(self, at: Instruction) -> Budget:
        """The budget of a value; none has been spent on one that was not computed."""
        if type(at.op) is Param and at not in self._budgets:
            return _worst([self._budgets[v] for v in _sources(at) if v in self._budgets])
        return self._budgets.get(at, Budget())

    def _shape(self, at: Instruction) -> Shape:
        if type(at.op) is Param and at not in self._shapes and not at.shape.static:
            return next((self._shapes[v] for v in _sources(at) if v in self._shapes), at.shape)
        return self._shapes.get(at, at.shape)


def _worst(budgets: Sequence[Budget]) -> Budget:
    return max(budgets, key=lambda budget: budget.variance, default=Budget())


def _sources(parameter: Instruction) -> Sequence[Instruction]:
    """Where a parameter of a loop's body gets its values: from outside, and from the last round."""
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
    if op.name == "quantizelinear":
        return _stepped(worst, 2.0**-dtype.bits if dtype.is_integer else 2 * dtype.roundoff)
    if op.name in WHOLE or (op.name == "convert" and dtype.is_integer):
        if not worst.variance or not shapes[0].dtype.is_float:
            return worst
        return _stepped(worst, 1 / max(1.0, float(np.max(_magnitudes(result), initial=0.0))))
    if dtype.is_float or (dtype.kind == "tuple" and not at.modules):
        return _spent(op, worst, shapes, result.shape)
    return replace(worst, entering=None)


def _stepped(worst: Budget, step: float) -> Budget:
    """The budget after a rounding to steps of a size relative to the range of the values."""
    return Budget(
        worst.variance + step**2,
        worst.roundings + 1,
        worst.longest,
        worst.quantised + 1,
        worst.variance,
    )


def _spent(op: Operation, worst: Budget, shapes: Sequence[Shape], shape: Shape) -> Budget:
    """The budget after an operation on floats; narrow types are accumulated in f32 and rounded
    once.
    """
    count = roundings(op, shapes, shape)
    if not count:
        return replace(worst, entering=None)
    dtype = next((s.dtype for s in (shape, *shape.parts) if s.dtype.is_float), F32)
    once = dtype.roundoff if dtype.digits < F32.digits else 0.0
    accumulated = min(dtype.roundoff, F32.roundoff)
    return Budget(
        worst.variance + 2 * (count * accumulated**2 + once**2),
        worst.roundings + count + bool(once),
        max(worst.longest, count),
        worst.quantised,
        absolute=2 * count * accumulated**2 if op.name in UP_TO_ONE else 0.0,
    )


def _magnitudes(value: Argument) -> NDArray[Any]:
    """The magnitudes of the finite numbers in a value."""
    array = np.abs(value.array.astype(np.float64))
    finite: NDArray[Any] = array[np.isfinite(array)]
    return finite


def roundings(op: Operation, shapes: Sequence[Shape], result: Shape) -> int:
    """How many roundings an operation makes on the way to one element of its result.

    An operation from elsewhere says so itself by a method ``roundings(shapes, result)``; one that
    does not counts one, or as many as elements are folded into one.
    """
    own = getattr(op, "roundings", None)
    if own is not None:
        return int(own(shapes, result))
    if op.name in COUNTS:
        return COUNTS[op.name](op, shapes, result)
    traits = operations.traits(op)
    if op.name in EXACT or traits.view is not None or not shapes:
        return 0
    if traits.reduction:
        return _folded(op, shapes, result)
    return FUNCTION if op.name in FUNCTIONS else 1


def _folded(op: Operation, shapes: Sequence[Shape], result: Shape) -> int:
    return max(1, int(shapes[0].elements) // max(1, int(result.elements)))


def _contracted(op: Operation, shapes: Sequence[Shape], result: Shape) -> int:
    return int(shapes[0].dims[-1])


def _convolved(op: Operation, shapes: Sequence[Shape], result: Shape) -> int:
    return math.prod(map(int, shapes[1].dims[1:]))


def _scattered(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    return int(shapes[1].dims[0]) // int(op.group) * math.prod(map(int, shapes[1].dims[2:]))


def _pooled(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    if op.mode == "max":
        return 0
    return math.prod(map(int, op.lengths)) + (2 * FUNCTION if op.mode == "lpnorm" else 1)


def _along(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    return int(shapes[0].dims[op.axis])


def _normalised(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    return _along(op, shapes, result) + FUNCTION + 1


def _recurred(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    """Each step sums over the states and applies up to three functions one after another."""
    steps, _, features = map(int, shapes[0].dims)
    return features + steps * (int(op.hidden_size) + 3 * FUNCTION)


def _resampled(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    """A place among n elements is rounded by n u, and so are the weights of its neighbours."""
    if op.mode == "nearest":
        return 0
    return 4 * result.rank + sum(
        int(n) ** 2 for n, m in zip(result.dims, shapes[0].dims, strict=True) if n != m
    )


def _sampled(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    """As ``_resampled``, of places that are computed from another input."""
    return 4 * shapes[0].rank + sum(int(n) ** 2 for n in shapes[0].dims[2:])


def _converted(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    given, made = shapes[0].dtype, result.dtype
    exact = given.digits if given.is_float else given.bits
    return int(exact > made.digits)


COUNTS: dict[str, Callable[[Any, Sequence[Shape], Shape], int]] = {
    "dot": _contracted,
    "convolution": _convolved,
    "convolution_backwards": _scattered,
    "pooling": _pooled,
    "prefix_scan_sum": _along,
    "prefix_scan_prod": _along,
    "dft": lambda op, shapes, result: _along(op, shapes, result) + FUNCTION,
    "grid_sample": _sampled,
    "roi_align": _sampled,
    "deformable_convolution": lambda op, shapes, result: (
        _sampled(op, shapes, result) + _convolved(op, shapes, result)
    ),
    "col2im": lambda op, shapes, result: int(shapes[0].dims[1]),
    "determinant": lambda op, shapes, result: int(shapes[0].dims[-1]) ** 2,
    "mel_weight_matrix": lambda op, shapes, result: 2 * FUNCTION,
    "tree_ensemble": lambda op, shapes, result: int(shapes[-1].elements),
    "softmax": _normalised,
    "logsoftmax": _normalised,
    "lrn": lambda op, shapes, result: int(op.size) + FUNCTION + 3,
    "rnn": _recurred,
    "gru": _recurred,
    "lstm": _recurred,
    "resize": _resampled,
    "convert": _converted,
    "reduce_max": lambda op, shapes, result: 0,
    "reduce_min": lambda op, shapes, result: 0,
    "reduce_mean": lambda op, shapes, result: _folded(op, shapes, result) + 1,
    "rsqrt": lambda op, shapes, result: 2,
    "sqdiff": lambda op, shapes, result: 2,
}
"""The operations whose number of roundings depends on shapes."""


def named(names: str) -> frozenset[str]:
    """Names that stand in a text, with spaces between them."""
    return frozenset(names.split())


FUNCTIONS = named(
    "acos acosh asin asinh atan atanh cos cosh elu erf exp log pow sigmoid sin sinh tan tanh"
)
UP_TO_ONE = named("cos erf sigmoid sin tanh")
"""Functions whose values lie between -1 and 1."""

WHOLE = named("ceil floor nearbyint")

DISCRETE = named(
    "argmax argmin dim_literal dimensions_of nonmaxsuppression nonzero undefined @literal"
)
"""What answers with a place or a count, and what is given: it is the same on both sides."""

EXACT = named(
    "abs assume clip compress concat contiguous dynamic_slice gather gather_elements gathernd if"
    " loop max max_roi_pool min neg onehot pad relu reverse reverse_sequence scan scatter_none"
    " scatternd_none sign topk trilu unique where"
)
"""What picks, moves or compares elements and rounds none."""


def _flattened(magnitudes: NDArray[Any]) -> float:
    return float(np.max(magnitudes, initial=0.0))


def _logarithm(magnitudes: NDArray[Any]) -> float:
    """Its slope at an input is the reciprocal of it: the mean over all inputs counts."""
    inputs = magnitudes[magnitudes > 0]
    return _flattened(inputs) * float(np.mean(1 / inputs)) if inputs.size else 0.0


STEEPEST: dict[str, Callable[[NDArray[Any]], float]] = {
    "clip": _flattened,
    "erf": lambda magnitudes: 2 / math.sqrt(math.pi) * _flattened(magnitudes),
    "leaky_relu": _flattened,
    "relu": _flattened,
    "log": _logarithm,
}
"""What a relative difference in inputs of some magnitudes comes to in the result, at most."""


@dataclass(frozen=True)
class Comparison:
    """One tensor against what it should be."""

    name: str
    dtype: str
    largest: float
    rms: float
    tolerance: float
    magnitude: float
    derivation: str
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem


def compare(name: str, got: Any, expected: Any, budget: Budget) -> Comparison:
    """How far a tensor is from the one expected, and whether the budget covers it.

    NaN must meet NaN and an infinity its like; the error and the greatest magnitude are those of
    the finite elements.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    if got.dtype != expected.dtype or got.shape != expected.shape:
        problem = f"got {_kind(got)}, expected {_kind(expected)}"
        return Comparison(name, str(expected.dtype), math.inf, math.inf, 0.0, 0.0, "", problem)
    dtype = DType.of(expected.dtype)
    derivation = budget.explain(dtype)
    if not dtype.is_float and not budget.tolerance(dtype, 1.0):
        wrong = int(np.sum(got != expected))
        problem = f"{wrong} of {got.size} elements differ" if wrong else ""
        return Comparison(name, str(dtype), float(wrong > 0), 0.0, 0.0, 1.0, derivation, problem)
    x, y = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(y)
    same = finite & np.isfinite(x) | (np.isnan(x) & np.isnan(y)) | (x == y)
    errors = np.abs(np.subtract(x, y, where=finite & same, out=np.zeros_like(y)))
    magnitude = float(np.max(np.abs(y), where=finite, initial=0.0))
    tolerance = budget.tolerance(dtype, magnitude)
    largest = float(np.max(errors, initial=0.0))
    rms = math.sqrt(float(np.mean(np.square(errors)))) if errors.size else 0.0
    problem = ""
    if not same.all():
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        problem = (
            f"{int(np.sum(~same))} elements are NaN or infinite on one side: "
            f"{x[at]:g} instead of {y[at]:g} at {list(at)}"
        )
    elif largest > tolerance:
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(errors)), errors.shape))
        over = int(np.sum(errors > tolerance))
        problem = f"{over} of {got.size} elements beyond it: "
        problem += f"{x[at]:.9g} instead of {y[at]:.9g} at {list(at)}"
    return Comparison(name, str(dtype), largest, rms, tolerance, magnitude, derivation, problem)


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype}{list(array.shape)}"
