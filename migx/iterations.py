"""What the iterations of a loop or a scan read, carry and produce."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from migx.dim import Dim, Extent, maximum
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal
from migx.ops.control import Loop, Scan
from migx.ops.dims import DimLiteral
from migx.ops.pointwise import Identity
from migx.shape import Shape

ENDLESS = 1 << 62
"""More iterations than there will ever be."""


class Carried(NamedTuple):
    """A value that iterations hand on: a parameter of the body, its first value, its next one."""

    parameter: Instruction
    first: Instruction
    again: Instruction


@dataclass(frozen=True)
class Row:
    """A value that in each iteration is a row along an axis of a whole tensor: an input or, if that
    is None, a result. ``back`` runs from the last row to the first.
    """

    value: Instruction
    whole: Instruction | None = None
    axis: int = 0
    back: bool = False


@dataclass(frozen=True)
class Iterations:
    """A loop or a scan: its maximal trip count, its conditions, and the values its iterations read
    and pass on. ``state`` are the parameters for the number and the condition.
    """

    body: Module
    length: Extent
    carried: tuple[Carried, ...]
    given: tuple[Row, ...]
    made: tuple[Row, ...]
    trips: Instruction | None = None
    starts: Instruction | None = None
    goes_on: Instruction | None = None
    state: tuple[Instruction, ...] = ()

    @classmethod
    def of(cls, at: Instruction) -> Iterations:
        """The iterations of a loop or a scan."""
        (body,) = at.modules
        taken, returned = list(body.parameters.values()), body.outputs
        if isinstance(at.op, Loop):
            (trips, starts, *firsts), kept = at.inputs, len(at.inputs) - 2
            stacks = at.shape.parts[kept:]
            return cls(
                body,
                stacks[0].dims[0] if stacks else ENDLESS,
                tuple(map(Carried, taken[2:], firsts, returned[1 : 1 + kept])),
                (),
                tuple(map(Row, returned[1 + kept :])),
                trips,
                starts,
                returned[0],
                tuple(taken[:2]),
            )
        op = at.op_as(Scan)
        kept = len(at.inputs) - op.num_scan_inputs
        given = [
            Row(value, whole, axis, bool(back))
            for value, (whole, axis, back) in zip(
                taken[kept:], op.inputs(at.inputs[kept:]), strict=True
            )
        ]
        made = [Row(v, None, axis, bool(back)) for v, axis, back in op.outputs(returned[kept:])]
        length = at.inputs[kept].shape.dims[given[0].axis]
        carried = tuple(map(Carried, taken[:kept], at.inputs[:kept], returned[:kept]))
        return cls(body, length, carried, tuple(given), tuple(made))

    @property
    def begins(self) -> bool:
        """Whether only the trip count can prevent a first iteration."""
        return self.starts is None or is_undefined(self.starts) or is_true(self.starts)

    @property
    def is_counted(self) -> bool:
        """Whether, once begun, it ends by its trip count alone."""
        ends = self.goes_on
        while ends is not None and isinstance(ends.op, Identity):
            (ends,) = ends.inputs
        return ends is None or ends is self.state[1] or is_true(ends)

    @property
    def count(self) -> Extent | None:
        """The number of iterations of a loop, if known and no condition ends it earlier."""
        told = self.told_trips if self.is_counted and self.begins else None
        return None if told is None else maximum(told, 0)

    @property
    def told_trips(self) -> Extent | None:
        """The trip count operand of a loop, if it is known."""
        if self.trips is not None:
            match self.trips.op:
                case DimLiteral(values=[extent]):
                    return extent
                case Literal(value=value, replaceable=False):
                    return int(value.array)
        return None


def sources(parameter: Instruction) -> tuple[Instruction, ...]:
    """The values that a parameter of a module stands for: its argument and, if iterations hand it
    on, its next value. None for parameters of a root, and for the state of a loop.
    """
    body = parameter.owner
    if (parent := body.parent) is None:
        return ()
    if not isinstance(parent.op, Loop | Scan):
        place = list(body.parameters.values()).index(parameter)
        return parent.inputs[place : place + 1]
    of = Iterations.of(parent)
    found: dict[Instruction, tuple[Instruction, ...]] = {
        row.value: (row.whole,) for row in of.given if row.whole is not None
    }
    found |= {each.parameter: (each.first, each.again) for each in of.carried}
    return found.get(parameter, ())


def ends(parent: Instruction, index: int) -> Iterator[Instruction]:
    """The values that one of the results of a branch, a loop or a scan may be, or has as rows: what
    the modules return for it and, of a loop, what it begins with.
    """
    of_loop = isinstance(parent.op, Loop)  # whose body returns its condition first
    yield from (module.outputs[index + of_loop] for module in parent.modules)
    yield from parent.inputs[2 + index : 3 + index] if of_loop else ()


class Changing(NamedTuple):
    """A symbol of a body that is a dim of carried values: its name, its extent in the first
    iteration and in the next one, and the name of the symbol it is in the result, if any.
    """

    name: str
    first: Extent
    again: Extent
    end: str | None


def changing_dims(
    carried: Iterable[tuple[Carried, Shape]], known: Collection[str]
) -> Iterator[Changing]:
    """The dims of carried values that are symbols not ``known`` outside, and so may change; each
    value comes with the shape of its result.
    """
    for (parameter, first, again), result in carried:
        dims = parameter.shape.dims, first.shape.dims, again.shape.dims, result.dims
        for here, start, then, end in zip(*dims, strict=False):
            if (name := free(here, known)) is not None and here == Dim(name):
                after = free(end, known)
                yield Changing(name, start, then, after if after and end == Dim(after) else None)


def free(extent: Extent, known: Collection[str]) -> str | None:
    """The name of a dim that is a symbol not ``known``; else None."""
    symbol = extent.symbol if isinstance(extent, Dim) else None
    return None if symbol is None or symbol.name in known else symbol.name


def is_true(value: Instruction) -> bool:
    """Whether a condition is known to hold."""
    op = value.op
    return isinstance(op, Literal) and not op.replaceable and bool(op.value.array.all())


def is_undefined(value: Instruction) -> bool:
    """Whether an operand is left out."""
    return not value.shape.dtype.is_tensor
