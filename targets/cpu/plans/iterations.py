"""What iterations of a loop or a scan are given, carry, and make."""

from __future__ import annotations

from dataclasses import dataclass

from migx.dim import Extent
from migx.ir import Instruction, Module
from migx.ops.control import Loop, Scan
from migx.targets.cpu.plans.growth import ENDLESS


@dataclass(frozen=True)
class Row:
    """A value that is a row along an axis of a whole tensor in each iteration: of an input, or
    where there is none, of a result. ``back`` is from the last to the first.
    """

    value: Instruction
    whole: Instruction | None = None
    axis: int = 0
    back: bool = False


@dataclass(frozen=True)
class Iterations:
    """A loop or a scan: at most how often it runs, on which conditions, and what iterations are
    given and hand on. ``state`` are the parameters for the number and the condition; ``carried``
    are a parameter, its first value, and what it is next.
    """

    body: Module
    length: Extent
    carried: tuple[tuple[Instruction, Instruction, Instruction], ...]
    given: tuple[Row, ...]
    made: tuple[Row, ...]
    trips: Instruction | None = None
    starts: Instruction | None = None
    goes_on: Instruction | None = None
    state: tuple[Instruction, ...] = ()

    @classmethod
    def of(cls, at: Instruction) -> Iterations:
        """Those of a loop or a scan."""
        (body,) = at.modules
        taken, returned = list(body.parameters.values()), body.outputs
        if isinstance(at.op, Loop):
            (trips, starts, *firsts), kept = at.inputs, len(at.inputs) - 2
            stacks = at.shape.parts[kept:]
            return cls(
                body,
                stacks[0].dims[0] if stacks else ENDLESS,
                tuple(zip(taken[2:], firsts, returned[1 : 1 + kept], strict=True)),
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
        carried = tuple(zip(taken[:kept], at.inputs[:kept], returned[:kept], strict=True))
        return cls(body, length, carried, tuple(given), tuple(made))
