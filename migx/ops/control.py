"""Operations whose bodies are modules: a choice and two kinds of loop. All results are tuples.

A body may read values of the modules around it, so none of these is folded because its inputs are
known. ``outputs``, where given, are the shapes of the results; dims that no rule can know are
symbols of their own there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from migx import dim
from migx.argument import Argument
from migx.dim import Dim, Extent
from migx.errors import EvaluationError, ShapeError, counted
from migx.op import Arguments, Array, Modules, Op, Operation, Runnables, Shapes, Traits
from migx.ops._rules import expect, expect_axis, expect_same_type
from migx.shape import BOOL, I64, OPTIONAL, DType, Shape

if TYPE_CHECKING:
    from migx.ir import Module

CONTROL = Traits(foldable=False)
ITERATION, CONDITION = Shape(I64), Shape(BOOL)
ITERATIONS = Dim("iterations")
T = TypeVar("T")


class Assume(Op):
    """The first input, if the second, a bool scalar, is ``expected``; otherwise the run fails.

    The error is an ``EvaluationError``, which says ``otherwise``. A reader adds it where it had to
    commit to one branch, or where an operator refuses some values of a run.
    """

    traits = Traits(foldable=False)
    expected: bool = True
    otherwise: str = ""

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        expect_scalar(self, shapes[1], BOOL, "condition")
        return shapes[0].as_standard()

    def compute(self, x: Array, condition: Array) -> Array:
        if bool(condition) is not self.expected:
            raise EvaluationError(self.fault)
        return x

    @property
    def fault(self) -> str:
        """The message of the error."""
        made_for = f"the program was made for inputs at which this condition is {self.expected}"
        return self.otherwise or made_for


class If(Op):
    """The results of the first module if the bool condition holds, else those of the second.

    Neither module has parameters. Without ``outputs``, both must return the same types and dims
    (ONNX If-21).
    """

    traits = CONTROL
    outputs: tuple[Shape, ...] = ()

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_scalar(self, shapes[0], BOOL, "condition")
        expect_modules(self, modules, 2)
        chosen, other = (expect_body(self, module, []) for module in modules)
        if not self.outputs:
            return Shape.tuple(*expect_same(self, chosen, other))
        expect_match(self, "outputs", self.outputs, chosen)
        expect_match(self, "outputs", self.outputs, other)
        return Shape.tuple(*self.outputs)

    def compute(self, arguments: Arguments, modules: Runnables) -> Argument:
        return Argument.tuple(modules[0 if arguments[0].array.item() else 1]([]))


class Loop(Op):
    """Runs its module while the condition holds, at most as often as the trip count says.

    Inputs are the trip count (i64) and the condition (bool), each possibly undefined, and the
    carried values. The module takes the iteration (i64[]), the condition (bool[]) and the carried
    values; it returns the condition, the carried values and the scan outputs. The result is the
    last carried values, then the scan outputs of all iterations stacked along a new first axis.
    ``outputs`` is needed where there are scan outputs, or where a carried value changes its dims.

    ONNX Loop-21, except that the condition the module returns counts even if none is given, as in
    onnxruntime.
    """

    traits = CONTROL
    outputs: tuple[Shape, ...] = ()

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect_modules(self, modules, 1)
        carried, again, scanned = self._carried_and_returned(shapes, modules[0])
        if self.outputs:
            kept, stacks = self.outputs[: len(carried)], self.outputs[len(carried) :]
            expect_match(self, "carried values", kept, carried)
            expect_match(self, "carried values", kept, again)
            expect_match(self, "scan outputs", stacks, scanned)
            return Shape.tuple(*self.outputs)
        if scanned:
            raise ShapeError(
                "loop has scan outputs: say in the attribute outputs how long they are"
            )
        return Shape.tuple(*expect_same(self, carried, again))

    def _carried_and_returned(
        self, shapes: Shapes, body: Module
    ) -> tuple[Shapes, list[Shape], list[Shape]]:
        """The carried values, those the body returns, and the stacked scan outputs."""
        if len(shapes) < 2:
            got = counted(len(shapes), "input")
            raise ShapeError(f"loop takes a trip count and a condition, got {got}")
        (trip, given), carried = shapes[:2], shapes[2:]
        if trip.dtype is not OPTIONAL:
            expect_scalar(self, trip, I64, "trip count")
        if given.dtype is not OPTIONAL:
            expect_scalar(self, given, BOOL, "condition")
        returned = expect_body(self, body, [ITERATION, CONDITION, *carried])
        if len(returned) <= len(carried):
            raise ShapeError(
                f"loop: {body.name} returns {len(returned)} values, "
                f"not a condition and {len(carried)} carried ones"
            )
        condition, *again = returned[: 1 + len(carried)]
        expect_scalar(self, condition, BOOL, f"condition {body.name} returns")
        rows = returned[1 + len(carried) :]
        return carried, again, [with_axis(self, row, 0, ITERATIONS) for row in rows]

    def compute(self, shape: Shape, arguments: Arguments, modules: Runnables) -> Argument:
        (trip, given, *carried), (body,) = arguments, modules
        limit = None if trip.shape.dtype is OPTIONAL else trip.array.item()
        going = given.shape.dtype is OPTIONAL or given.array.item()
        iteration, rows, kept = 0, list[list[Argument]](), len(carried)
        while going and (limit is None or iteration < limit):
            state = [Argument(ITERATION, np.array(iteration)), Argument(CONDITION, np.array(going))]
            condition, *returned = body([*state, *carried])
            carried = returned[:kept]
            rows.append(returned[kept:])
            going, iteration = condition.array.item(), iteration + 1
        stacks = [
            stacked(self, [row[i] for row in rows], part, 0)
            for i, part in enumerate(shape.parts[kept:])
        ]
        return Argument.tuple([*carried, *stacks])


class Scan(Op):
    """Runs its module on each slice of the scan inputs, carrying states along (ONNX Scan-9).

    Inputs are the states, then ``num_scan_inputs`` tensors. The module takes the states and one
    slice of each tensor; it returns the states and any number of scan outputs. The result is the
    last states, then the scan outputs stacked. Axes are 0 where left out; direction 1 reads slices,
    or stacks scan outputs, from the last to the first.
    """

    traits = CONTROL
    num_scan_inputs: int
    scan_input_axes: tuple[int, ...] = ()
    scan_input_directions: tuple[int, ...] = ()
    scan_output_axes: tuple[int, ...] = ()
    scan_output_directions: tuple[int, ...] = ()

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        kept = len(shapes) - self.num_scan_inputs
        if not 1 <= self.num_scan_inputs <= len(shapes):
            raise ShapeError(
                f"scan cannot have {self.num_scan_inputs} scan inputs of {len(shapes)}"
            )
        states, (slices, length) = shapes[:kept], self._slices(shapes[kept:])
        expect_modules(self, modules, 1)
        returned = expect_body(self, modules[0], [*states, *slices])
        expect_match(self, "states", states, returned[:kept])
        rows = self.outputs(returned[kept:])
        stacks = [with_axis(self, shape, axis, length) for shape, axis, _ in rows]
        return Shape.tuple(*(s.as_standard() for s in states), *stacks)

    def compute(self, shape: Shape, arguments: Arguments, modules: Runnables) -> Argument:
        (body,), kept = modules, len(arguments) - self.num_scan_inputs
        states, rows = list(arguments[:kept]), list[list[Argument]]()
        scanned = self._rows(arguments[kept:])
        if len({len(rows) for rows in scanned}) > 1:
            lengths = ", ".join(str(len(rows)) for rows in scanned)
            raise EvaluationError(f"scan needs inputs of one length, got {lengths}")
        for row in zip(*scanned, strict=True):
            returned = body([*states, *row])
            states = returned[:kept]
            rows.append(returned[kept:])
        stacks = [
            stacked(self, [row[i] for row in (rows[::-1] if back else rows)], part, axis)
            for i, (part, axis, back) in enumerate(self.outputs(shape.parts[kept:]))
        ]
        return Argument.tuple([*states, *stacks])

    def _slices(self, shapes: Shapes) -> tuple[list[Shape], Extent]:
        """The shapes of one slice of each scan input, and how many slices there are."""
        for shape in shapes:
            expect_same_type(self, [shape])
        inputs = [(s.dims, expect_axis(self, axis, s.rank)) for s, axis, _ in self.inputs(shapes)]
        lengths = [dims[axis] for dims, axis in inputs]
        if not all(dim.may_equal(length, lengths[0]) for length in lengths):
            raise ShapeError(f"scan needs inputs of one length, got {', '.join(map(str, lengths))}")
        rests = [dims[:axis] + dims[axis + 1 :] for dims, axis in inputs]
        slices = [shape.with_dims(rest) for shape, rest in zip(shapes, rests, strict=True)]
        return slices, next((n for n in lengths if isinstance(n, int)), lengths[0])

    def _rows(self, arguments: Sequence[Argument]) -> list[list[Argument]]:
        """The slices of each scan input, in reading order."""
        return [
            [
                Argument.of(np.asarray(x))
                for x in np.moveaxis(a.array, axis, 0)[:: -1 if back else 1]
            ]
            for a, axis, back in self.inputs(arguments)
        ]

    def inputs(self, values: Sequence[T]) -> list[tuple[T, int, int]]:
        """The scan inputs with their axes and directions."""
        return with_places(values, self.scan_input_axes, self.scan_input_directions)

    def outputs(self, values: Sequence[T]) -> list[tuple[T, int, int]]:
        """The scan outputs with their axes and directions."""
        return with_places(values, self.scan_output_axes, self.scan_output_directions)


def with_places(
    values: Sequence[T], axes: tuple[int, ...], directions: tuple[int, ...]
) -> list[tuple[T, int, int]]:
    """Scan inputs or outputs with their axes and directions: 0 if these are left out."""
    for places in (axes, directions):
        if len(places) not in (0, len(values)):
            raise ShapeError(
                f"scan: {places} are not the axes or directions of {len(values)} values"
            )
    zeros = (0,) * len(values)
    return list(zip(values, axes or zeros, directions or zeros, strict=True))


def expect_modules(op: Operation, modules: Modules, count: int) -> None:
    """Raises ``ShapeError`` unless there are ``count`` modules."""
    if len(modules) != count:
        raise ShapeError(f"{op.name} takes {count} modules, got {len(modules)}")


def expect_body(op: Operation, body: Module, given: Shapes) -> list[Shape]:
    """The shapes a module returns; ``ShapeError`` unless its parameters accept those given."""
    taken = [parameter.shape for parameter in body.parameters.values()]
    expect_match(op, f"parameters of {body.name}", taken, given)
    return [value.shape for value in body.outputs]


def expect_scalar(op: Operation, shape: Shape, dtype: DType, what: str) -> None:
    """Raises ``ShapeError`` unless the shape is of one element of the type."""
    if shape.dtype is not dtype or not dim.may_equal(shape.elements, 1):
        raise ShapeError(f"{op.name}: the {what} is one {dtype}, got {shape.text}")


def expect_match(op: Operation, what: str, wanted: Shapes, given: Shapes) -> None:
    """Raises ``ShapeError`` unless the shapes are as many as wanted, and each can match."""
    if len(wanted) != len(given) or not all(map(can_be, given, wanted)):
        texts = (", ".join(s.text for s in shapes) or "none" for shapes in (wanted, given))
        raise ShapeError(f"{op.name}: {what} are {next(texts)}, but got {next(texts)}")


def expect_same(op: Operation, first: Shapes, second: Shapes) -> list[Shape]:
    """The standard shapes that two modules, or iterations, share; ``ShapeError`` if they differ."""
    if [s.dtype for s in first] != [s.dtype for s in second]:
        expect_match(op, "results", first, second)
    for a, b in zip(first, second, strict=True):
        if not a.same_type(b):
            raise ShapeError(
                f"{op.name}: a result is {a.text} or {b.text}: say in the attribute outputs which"
            )
    return [shape.as_standard() for shape in first]


def can_be(given: Shape, wanted: Shape) -> bool:
    """Whether type and dims can agree, with symbols of either side free."""
    if given.same_type(wanted):
        return True
    if given.dtype is not wanted.dtype or given.rank != wanted.rank:
        return False
    if given.parts and wanted.parts:
        return len(given.parts) == len(wanted.parts) and all(map(can_be, given.parts, wanted.parts))
    spans = [(dim.bounds(a), dim.bounds(b)) for a, b in zip(given.dims, wanted.dims, strict=True)]
    return all(a[0] <= b[1] and b[0] <= a[1] for a, b in spans)


def stacked(op: Operation, rows: Sequence[Argument], part: Shape, axis: int) -> Argument:
    """The scan outputs of all iterations along a new axis; an empty tensor if there are none."""
    if not rows:
        dims = [d if isinstance(d, int) and i != axis else 0 for i, d in enumerate(part.dims)]
        return Argument.of(np.empty(dims, part.dtype.numpy))
    if len(found := {r.shape.dims if r.elsewhere else r.array.shape for r in rows}) > 1:
        raise EvaluationError(f"{op.name}: a scan output has the dims {sorted(found)} in turn")
    return type(rows[0]).stack(rows, axis)


def with_axis(op: Operation, shape: Shape, axis: int, length: Extent) -> Shape:
    """The shape of a tensor with a new axis of ``length``, at ``axis`` of the result."""
    dtype = expect_same_type(op, [shape])
    expect_axis(op, axis, shape.rank + 1)
    return Shape(dtype, (*shape.dims[:axis], length, *shape.dims[axis:]))
