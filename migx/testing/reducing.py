"""Makes a program that fails smaller while it still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from migx.argument import Argument
from migx.compiler import finalize
from migx.dead_code import remove_dead_code, remove_dead_modules
from migx.errors import MigxError
from migx.ir import Instruction, Program
from migx.ops.builtin import Literal, Param, Return
from migx.target import get_target

Inputs = Mapping[str, Argument]
Fails = Callable[[Program, Inputs], bool]
Smaller = Callable[[Program, int], bool]

TRIALS = 400
"""How many smaller programs are tried."""


def reduced(program: Program, inputs: Inputs, fails: Fails) -> tuple[Program, Inputs]:
    """The smallest program found that still fails, and inputs for it: outputs are left out, and
    instructions become one of their inputs, or inputs of the program with the value they had.
    """
    left = TRIALS
    smaller = True
    while smaller and left:
        smaller = False
        for candidate, given in _candidates(program, inputs):
            left -= 1
            if fails(candidate, given):
                program, inputs, smaller = candidate, given, True
                break
            if not left:
                break
    return program, inputs


def _candidates(program: Program, inputs: Inputs) -> Iterator[tuple[Program, Inputs]]:
    """Programs that are a step smaller, those that lose most first."""
    outputs = len(program.main.outputs)
    for i in range(outputs if outputs > 1 else 0):
        made = program.copy()
        made.main.add_return(made.main.outputs[i])
        yield _cleaned(made, inputs)
    values = _values(program, inputs)
    size = len(program.main)
    for place in range(size - 1, -1, -1):
        at = _at(program, place)
        if type(at.op) in (Param, Return):
            continue
        for i, source in enumerate(at.inputs):
            if source.shape.same_type(at.shape):
                yield from _replaced(program, inputs, place, i)
        plain = at.shape.dtype.is_tensor and not at.shape.dtype.is_packed
        if type(at.op) is not Literal and plain and at in values:
            yield from _replaced(program, {**inputs, f"v{place}": values[at]}, place, None)


def _replaced(
    program: Program, inputs: Inputs, place: int, by: int | None
) -> Iterator[tuple[Program, Inputs]]:
    """The program with an instruction replaced by one of its inputs, or by a new parameter."""
    made = program.copy()
    at, name = _at(made, place), f"v{place}"
    if by is None and name in made.main.parameters:
        return
    new = made.main.add_parameter(name, at.shape.as_standard()) if by is None else at.inputs[by]
    try:
        made.main.replace_instruction(at, new)
    except MigxError:
        return
    yield _cleaned(made, inputs)


def _cleaned(program: Program, inputs: Inputs) -> tuple[Program, Inputs]:
    """The program without what nothing reads, parameters too, and the inputs left."""
    for module in list(program.modules.values()):
        remove_dead_code(module)
    remove_dead_modules(program)
    for module in list(program.modules.values()):
        remove_dead_code(module)
    for parameter in list(program.main.parameters.values()):
        if not parameter.users and parameter.shape.static:  # another may give a dim its size
            program.main.remove_instruction(parameter)
    return program, {name: inputs[name] for name in program.main.parameters}


def _at(program: Program, place: int) -> Instruction:
    return next(at for i, at in enumerate(program.main) if i == place)


def _values(program: Program, inputs: Inputs) -> dict[Instruction, Argument]:
    """What each instruction of a program gives on ``ref``; of one that does not run, nothing."""
    ref = get_target("ref")
    context = ref.get_context()
    finalize(program, context)
    values: dict[Instruction, Argument] = {}
    run = ref.make_executable(program, context).trace  # type: ignore[attr-defined]
    try:
        run(dict(inputs), values.__setitem__)
    except MigxError:
        return {}
    return values
