"""What the iterations of a loop or a scan read, carry and produce."""

from __future__ import annotations

from dataclasses import dataclass

from migx.dim import Extent
from migx.ir import Instruction, Module
from migx.ops.control import Loop, Scan
from migx.targets.cpu.plans.growth import ENDLESS


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
    and pass on. ``state`` are the parameters for the number and the condition; each of ``carried``
    is a parameter, its first value, and its next one.
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
        """The iterations of a loop or a scan."""
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
