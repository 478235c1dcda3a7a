"""Compile and run: the flow from a program to an executable and from arrays to arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from migx.argument import Argument
from migx.binding import check_inputs
from migx.ir import Program
from migx.manager import PassManager, Pipeline
from migx.observers import CrashFile
from migx.shape import OPTIONAL, SEQUENCE
from migx.target import CompileOptions, Context, Executable, Target, get_target
from migx.verify import verify


def compiled(program: Program, target: Target | str, **options: Any) -> Executable:
    """The executable of a copy of the program: verified, taken through the passes, finalized."""
    asked = CompileOptions(**options)
    chosen = get_target(target)
    context = chosen.get_context()
    lowered = program.copy()
    verify(lowered)
    passes = (
        chosen.get_passes(context, asked) if asked.passes is None else Pipeline.of(asked.passes)
    )
    PassManager(lowered, (*asked.observers, CrashFile())).run(passes)
    finalize(lowered, context)
    return chosen.make_executable(lowered, context)


def finalize(program: Program, context: Context) -> None:
    """Lets every operation that has something to prepare do so, submodules first."""
    for module in program.submodules(program.main):
        for at in module:
            if hasattr(at.op, "finalize"):
                at.op.finalize(context)


def run(executable: Executable, inputs: Mapping[str, ArrayLike | Argument]) -> list[Any]:
    """The outputs as arrays; packed ones as arguments, tuples as tuples, sequences as lists, an
    optional as what it holds or None.
    """
    arguments = check_inputs(executable.program.main, inputs)
    return [_given_back(result) for result in executable.run(arguments)]


def _given_back(result: Argument) -> Any:
    if result.shape.dtype.name == "tuple":
        return tuple(map(_given_back, result.parts))
    if result.shape.dtype is SEQUENCE:
        return [_given_back(part) for part in result.parts]
    if result.shape.dtype is OPTIONAL:
        return _given_back(result.parts[0]) if result.data else None
    if result.shape.dtype.is_packed:
        return result
    return result.array
