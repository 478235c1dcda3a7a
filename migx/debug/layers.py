"""What happens inside a run, for whoever looks for the layer that makes an answer wrong: how far
the results of ONNX nodes are from those in another program, and where NaN comes from.

for layer in layers(model, squeezed, inputs):
    print(layer)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from migx.argument import Argument
from migx.compiler import Compiled, compiled, given_back
from migx.ir import Instruction
from migx.op import Array
from migx.program import Program
from migx.shape import DType
from migx.target import Asked, Seen, Target, Traced

PRODUCTS = frozenset(
    {"dot", "convolution", "convolution_backwards", "quant_dot", "quant_convolution"}
)


@dataclass(frozen=True)
class Distance:
    """How far an array is from another of the same dims: the largest error; the root mean square of
    the errors, alone and relative to that of the other's finite elements (None if these are all 0);
    and how many elements differ, or are NaN or infinite here alone.
    """

    largest: float
    rms: float
    relative: float | None
    unequal: int
    not_finite: int
    elements: int

    @classmethod
    def between(cls, got: Array, expected: Array) -> Distance:
        """The distance of numbers of any types; NaN is equal to NaN."""
        same_type = got.dtype == expected.dtype
        x, y = (a if same_type else a.astype(np.float64) for a in (got, expected))
        unequal = (x != y) & ((x == x) | (y == y))
        with np.errstate(invalid="ignore"):
            apart = np.abs(x.astype(np.float64) - y.astype(np.float64))
        errors = np.where(unequal, apart, 0.0)
        rms = root_mean_square(errors)
        strange = ~np.isfinite(x.astype(np.float64)) & np.isfinite(y.astype(np.float64))
        count = np.count_nonzero
        largest = float(errors.max(initial=0.0))
        parts = int(count(unequal)), int(count(strange)), x.size
        return cls(largest, rms, relative(rms, expected), *parts)


@dataclass(frozen=True)
class Layer:
    """The end of an ONNX node in a program, and the distance of its result from the node's result
    in another one. ``product`` says whether the node multiplies matrices or convolves.
    """

    name: str
    at: Instruction
    distance: Distance
    product: bool

    def __str__(self) -> str:
        far, share = self.distance, self.distance.relative
        told = f"{self.name}: rms error {far.rms:.3g}"
        told += "" if share is None else f", {share:.3g} of the rms value"
        return told + (f", {far.not_finite} not finite" if far.not_finite else "")


def layers(
    before: Program, after: Program, inputs: Mapping[str, Any], target: Target | str = "ref"
) -> list[Layer]:
    """How far the result of each ONNX node of ``after``, compiled for a target, is from that in
    ``before`` on ``ref``, in the order of the run; their element types may differ. Nodes that only
    one of them has, or whose results have other dims there, are left out.

    Both are given the same inputs. See ``shown`` for targets that show outputs alone.
    """
    plain = compiled(before, "ref")
    kept = Kept(plain.program)
    plain.trace(plain.arguments(inputs), kept)
    program, run = shown(compiled(after, target), after, inputs)
    found = Layers(program, kept.values)
    run(found)
    return found.rows


def shown(
    subject: Compiled, program: Program, inputs: Mapping[str, Any], **asked: Unpack[Asked]
) -> tuple[Program, Callable[[Seen], list[Any]]]:
    """A compiled program, and a function that runs it, shows its instructions with their results,
    and returns the outputs. Of a target that shows outputs alone, it is ``program`` compiled as
    ``asked`` with the values of its ONNX nodes as outputs, where less is fused.
    """

    def traced(seen: Seen) -> list[Any]:
        return [*map(given_back, subject.trace(subject.arguments(inputs), seen))]

    if isinstance(subject.executable, Traced):
        return subject.program, traced
    whole, count = exposed(program), len(program.main.outputs)
    made = compiled(whole, subject.context.target, **asked)

    def evaluated(seen: Seen) -> list[Any]:
        results = made.eval(inputs)
        for at, value in zip(whole.main.outputs[count:], results[count:], strict=True):
            seen(at, Argument.of(value))
        return results[:count]

    return whole, evaluated


def landmarks(program: Program) -> dict[str, Instruction]:
    """The values of ONNX nodes in a program: the only instruction of a node that others read. Nodes
    with several such or none, or that share one, are left out.
    """
    ends: dict[str, list[Instruction]] = {}
    for at in program.main:
        if len(at.origins) != 1 or not at.inputs or not at.shape.dtype.is_tensor:
            continue
        if any(at.origins[0] not in user.origins for user in at.users):
            ends.setdefault(at.origins[0], []).append(at)
    return {label: found[0] for label, found in ends.items() if len(found) == 1}


def exposed(program: Program) -> Program:
    """A copy in which the values of ONNX nodes follow the outputs, for targets that show nothing
    else. What is read from outside is not fused away.
    """
    made = program.copy()
    main, ends = made.main, landmarks(made)
    names = [*main.output_names, *(f"layer {i}, {name}" for i, name in enumerate(ends))]
    main.add_return(*main.outputs, *ends.values(), names=names)
    return made


class Kept:
    """Keeps the results of ONNX nodes as a run computes them."""

    def __init__(self, program: Program) -> None:
        self._labels = {at: label for label, at in landmarks(program).items()}
        self.values: dict[str, Array] = {}

    def __call__(self, at: Instruction, result: Argument) -> None:
        label = self._labels.get(at)
        if label is not None and _has_numbers(result.shape.dtype):
            self.values[label] = result.array


class Layers:
    """Compares the results of ONNX nodes with given ones as a run computes them."""

    def __init__(self, program: Program, values: Mapping[str, Array]) -> None:
        self._labels = {at: n for n, at in landmarks(program).items() if n in values}
        self._values, self._products = values, nodes_of(program, PRODUCTS)
        self.rows: list[Layer] = []

    def __call__(self, at: Instruction, result: Argument) -> None:
        label = self._labels.get(at)
        if label is None or not _has_numbers(result.shape.dtype):
            return
        wanted = self._values[label]
        if wanted.shape == result.array.shape:
            far = Distance.between(result.array, wanted)
            self.rows.append(Layer(label, at, far, label in self._products))


class NotFinite:
    """Finds, as a run computes values, the first instruction that makes NaN, and the first that
    makes an infinity: whose inputs have none. A literal or an input that has NaN counts as well.
    """

    def __init__(self) -> None:
        self._states: dict[Instruction, int] = {}
        self.nan: tuple[Instruction, int] | None = None
        self.infinite: tuple[Instruction, int] | None = None

    def __call__(self, at: Instruction, result: Argument) -> None:
        state, count = _state(result)
        read = max((self._states.get(value, FINITE) for value in at.inputs), default=FINITE)
        self._states[at] = state
        given = at.op.name == "@param" and at.owner.name != "main"
        if state == NAN != read and not given and self.nan is None:
            self.nan = at, count
        if state == INFINITE and read == FINITE and at.inputs and self.infinite is None:
            self.infinite = at, count


FINITE, INFINITE, NAN = range(3)


def _state(result: Argument) -> tuple[int, int]:
    """The worst kind of number in a value, and how many elements are not finite."""
    dtype = result.shape.dtype
    if not dtype.is_float or dtype.is_packed or not result.available:
        return FINITE, 0
    count = result.array.size - int(np.count_nonzero(np.isfinite(result.array)))
    if not count:
        return FINITE, 0
    return (NAN if np.isnan(result.array).any() else INFINITE), count


def nodes_of(program: Program, names: Collection[str]) -> frozenset[str]:
    """The ONNX nodes from which operations of some names come."""
    found = (at.origins for at in program.instructions() if at.op.name in names)
    return frozenset(name for origins in found for name in origins)


def relative(rms: float, expected: Array) -> float | None:
    """An error divided by the root mean square of the finite expected values; None if these are all
    0.
    """
    wide = expected.astype(np.float64)
    size = root_mean_square(wide[np.isfinite(wide)])
    return rms / size if size else None


def root_mean_square(numbers: Array) -> float:
    """The root mean square of f64 numbers, whose squares may overflow; 0 of none."""
    most = float(np.abs(numbers).max(initial=0.0))
    if not 0 < most < np.inf:
        return most
    return most * float(np.sqrt(np.mean(np.square(numbers / most))))


def _has_numbers(dtype: DType) -> bool:
    return dtype.is_tensor and not dtype.is_packed and (dtype.is_float or dtype.is_integer)
