"""Runs prepared for inputs of given shapes: what a call of a small model costs is mostly Python, so
only what differs between runs is done in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from migx.argument import Argument
from migx.binding import sizes_told
from migx.op import Array
from migx.shape import Shape
from migx.targets.cpu.plans.memory import Layout, address
from migx.targets.cpu.plans.outline import Work
from migx.targets.cpu.plans.plan import Patch, Plan
from migx.targets.cpu.runs.piece import Piece
from migx.targets.cpu.runs.running import Call, Run

if TYPE_CHECKING:
    from migx.target import PreparedRun
    from migx.targets.cpu.runs.executable import CpuExecutable


def prepared(executable: CpuExecutable, shapes: Sequence[Shape]) -> PreparedRun | None:
    """The run of a program for inputs of these shapes, if it is one stretch of kernels that read
    the inputs as they are, and its outputs are arrays that lie in no input, weight or arena.
    """
    main = executable.program.main
    piece, *others = executable.pieces[main]
    if others or piece.endings:
        return None
    plan = piece.plans.at(sizes_told(main, [Argument(shape) for shape in shapes]))
    steps, *more = plan.form.runs or [(0, 0)]
    number = {parameter: i for i, parameter in enumerate(main.parameters.values())}
    own = plan.outline is not piece.outline  # for sizes that some module refuses: not to be kept
    as_given = all(cell.of[0] in number and cell.shape.strides is None for cell in plan.patches)
    if more or own or isinstance(steps, Work) or not as_given:
        return None
    places = {
        at: lies[0] for at, _, lies in plan.handed if len(lies) == 1 and _is_array(lies[0][1])
    }
    if {*executable.outputs[main]} - places.keys():
        return None
    patches = [(number[cell.of[0]], patch) for cell, patch in plan.patches.items()]
    return _run(piece, plan, steps, patches, [places[at] for at in executable.outputs[main]])


def _is_array(lie: Layout) -> bool:
    """Whether a value that lies so can be given to the caller: as an array, whose elements have
    each their own memory.
    """
    return not lie.shape.dtype.is_packed and 0 not in lie.strides


def _run(
    piece: Piece,
    plan: Plan,
    steps: tuple[int, int],
    patches: Sequence[tuple[int, Patch]],
    outputs: Sequence[tuple[int, Layout]],
) -> PreparedRun:
    """A run of the ``steps`` of a plan. ``patches`` are the words that hold addresses in inputs,
    with the number of the input, ``outputs`` the block and layout of each.
    """
    executable, (begin, end) = piece.executable, steps
    views = [(n, None if plan.blocks[n].alone is lie else lie) for n, lie in outputs]

    def run(inputs: Sequence[Array], slots: Mapping[str, Argument]) -> list[Array]:
        workspace = piece.workspace()
        workspace.serve(plan)
        made = workspace.results(plan, executable.results)
        held: list[object] = []  # what else must live until the end of the run
        for number, patch in patches:
            array = inputs[number]
            if not array.flags.c_contiguous:
                held.append(array := np.ascontiguousarray(array))
            workspace.write(patch, address(array))
        if plan.slots and not workspace.has(slots):
            held.append(whole := Run(executable, plan, workspace, {}, plan.sizes, Call(slots)))
            whole.patch_slots()
        step = begin
        while step < end:
            step = workspace.run_steps(executable, step, end)
        piece.idle.append(workspace)  # unless the run has failed in the middle
        return [made[n] if lie is None else lie.of(made[n]) for n, lie in views]

    return run
