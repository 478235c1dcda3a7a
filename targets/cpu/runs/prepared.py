"""Runs prepared for inputs of given shapes: what a call of a small model costs is mostly Python, so
only what differs between runs is done in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from migx.argument import Argument
from migx.binding import sizes_told
from migx.ir import Instruction
from migx.op import Array
from migx.planning import is_memory
from migx.shape import TUPLE, Shape
from migx.targets.cpu.plans.memory import Layout, address
from migx.targets.cpu.plans.outline import Work
from migx.targets.cpu.plans.plan import Patch, Plan
from migx.targets.cpu.runs.piece import Piece
from migx.targets.cpu.runs.running import Call, Run, Values

if TYPE_CHECKING:
    from migx.target import PreparedRun
    from migx.targets.cpu.runs.executable import CpuExecutable


def prepared(executable: CpuExecutable, shapes: Sequence[Shape]) -> PreparedRun | None:
    """The run of a program for inputs of these shapes, if it is one piece whose kernels read the
    inputs as they are, whose host steps run no modules, and whose outputs are objects of such
    steps, or arrays that lie in no input, weight or arena.
    """
    main = executable.program.main
    piece, *others = executable.pieces[main]
    if others or piece.endings:
        return None
    plan = piece.plans.at(sizes_told(main, [Argument(shape) for shape in shapes]))
    number = {parameter: i for i, parameter in enumerate(main.parameters.values())}
    own = plan.outline is not piece.outline  # for sizes that some module refuses: not to be kept
    as_given = all(cell.of[0] in number and cell.shape.strides is None for cell in plan.patches)
    hosted = [part.at for part in plan.form.runs if isinstance(part, Work)]
    if own or not as_given or any(at.modules for at in hosted):
        return None
    places: dict[Instruction, tuple[int, Layout] | None] = {
        at: lies[0] for at, _, lies in plan.handed if len(lies) == 1 and _is_array(lies[0][1])
    }
    places |= {at: None for at in hosted if at.shape.dtype is not TUPLE and not is_memory(at.shape)}
    if {*executable.outputs[main]} - places.keys():
        return None
    patches = [(number[cell.of[0]], patch) for cell, patch in plan.patches.items()]
    outputs = [(at, places[at]) for at in executable.outputs[main]]
    return _run(piece, plan, shapes, patches, [_output(plan, *output) for output in outputs])


def _is_array(lie: Layout) -> bool:
    """Whether a value that lies so can be given to the caller: as an array, whose elements have
    each their own memory.
    """
    return not lie.shape.dtype.is_packed and 0 not in lie.strides


Output: TypeAlias = tuple[Instruction, int, Layout | None]
"""A value, the number of its block, and how it lies there, None if it is all of it; -1 is an object
of the host.
"""


def _output(plan: Plan, at: Instruction, place: tuple[int, Layout] | None) -> Output:
    """An output, of which the block and layout are given if it is an array."""
    if place is None:
        return at, -1, None
    number, lie = place
    return at, number, None if plan.blocks[number].alone is lie else lie


def _run(
    piece: Piece,
    plan: Plan,
    shapes: Sequence[Shape],
    patches: Sequence[tuple[int, Patch]],
    outputs: Sequence[Output],
) -> PreparedRun:
    """A run of the steps of a plan for inputs of these shapes. ``patches`` are the words that hold
    addresses in inputs, with the number of the input.
    """
    executable, parameters = piece.executable, piece.executable.program.main.parameters
    first, *others = plan.form.runs or [(0, 0)]
    stretch = None if others or isinstance(first, Work) else first  # alone, without the host

    def run(inputs: Sequence[Array], slots: Mapping[str, Argument]) -> list[Array | Argument]:
        workspace = piece.workspace()
        workspace.serve(plan)
        made = workspace.results(plan, executable.results)
        held: list[object] = []  # what else must live until the end of the run
        for number, patch in patches:
            array = inputs[number]
            if not array.flags.c_contiguous:
                held.append(array := np.ascontiguousarray(array))
            workspace.write(patch, address(array))
        values: Values = {}
        if stretch is None or (plan.slots and not workspace.has(slots)):
            values.update(zip(parameters.values(), map(Argument, shapes, inputs), strict=True))
            held.append(whole := Run(executable, plan, workspace, values, plan.sizes, Call(slots)))
            whole.memory = made
            whole.patch_slots()
        if stretch is None:
            with np.errstate(all="ignore"):
                whole.steps()
        else:
            step, end = stretch
            while step < end:
                step = workspace.run_steps(executable, step, end)
        piece.idle.append(workspace)  # unless the run has failed in the middle
        return [
            values[at] if n < 0 else made[n] if lie is None else lie.of(made[n])
            for at, n, lie in outputs
        ]

    return run
