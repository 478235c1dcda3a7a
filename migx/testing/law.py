"""The law of weights: a program computes the same with given weights, however it got them.

Let T be a program compiled with weights left out. Baking W0 and swapping in W1, baking W1, and
saving and loading either give slots of the same bytes and outputs of the same bits. A program
compiled with W0 known either refuses W1 and is unchanged, or computes with W1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx.argument import Argument
from migx.errors import AssumptionError
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.onnx.external import replace_onnx_external_weights as baked
from migx.ops.builtin import Literal, OnnxExternalWeights, Slot
from migx.ops.fused import Fused
from migx.program import Program
from migx.serialize import load, save
from migx.target import Target
from migx.testing.oracles import Outputs, Violation, bounded, expect_same, run_on_ref

Inputs = Mapping[str, Argument]
Values = dict[str, Argument]


def check_law(program: Program, inputs: Inputs, target: Target, passes: Pipeline | None) -> int:
    """Checks a program by the law, with its float literals as weights, of which every other one is
    swapped; returns the number of weights.
    """
    template, first = without_weights(program)
    if not first:
        return 0
    second = first | {n: turned(v) for i, (n, v) in enumerate(first.items()) if i % 2 == 0}
    changes = {name: value for name, value in second.items() if value is not first[name]}
    template.compile(target, passes=passes)
    swapped = baked(template, first, target).finalize(target)
    _update(swapped, changes)
    straight = baked(template, second, target).finalize(target)
    expected = _seen(straight, inputs)
    _expect(_seen(swapped, inputs), expected, "swapping W1 in differs from baking it")
    _update(template, second)
    _expect(_seen(template, inputs), expected, "filling a template differs from baking")
    with tempfile.TemporaryDirectory() as folder:
        for name, each in {"baked": straight, "swapped": swapped}.items():
            save(each, Path(folder, "program.mxr"))
            found = _seen(load(Path(folder, "program.mxr")), inputs)
            _expect(found, expected, f"the {name} program differs when it is loaded")
    reference = run_on_ref(_with(program, second), inputs, program)
    _expect_near(straight, inputs, program, reference)
    _check_known(program, inputs, target, passes, first, changes, reference)
    return len(first)


def _check_known(
    program: Program,
    inputs: Inputs,
    target: Target,
    passes: Pipeline | None,
    first: Values,
    changes: Values,
    reference: Outputs,
) -> None:
    """A program compiled with known values refuses others or computes with them."""
    known = baked(without_weights(program)[0], first).compile(target, passes=passes)
    before = _seen(known, inputs)
    try:
        _update(known, changes)
    except AssumptionError:
        _expect(_seen(known, inputs), before, "weights that were refused have changed something")
    else:
        _expect_near(known, inputs, program, reference)


def without_weights(program: Program) -> tuple[Program, Values]:
    """A copy of a program with its float literals of several elements deferred, and their values by
    the names given to them.
    """
    made, values = program.copy(), dict[str, Argument]()
    for number, at in enumerate(list(made.literals)):
        if _is_weight(at):
            name = f"law.{number}"
            values[name] = at.op_as(Literal).value
            place = name, "weights.bin", 0, int(at.shape.nbytes), at.shape
            at.owner.replace_operation(at, OnnxExternalWeights(*place))
    return made, values


def _is_weight(at: Instruction) -> bool:
    parent = None if at.module is None else at.module.parent
    fused = parent is not None and isinstance(parent.op, Fused)
    several = int(at.shape.elements) > 1 and at.shape.standard
    return at.shape.dtype.is_float and several and not fused and not at.shape.dtype.is_packed


def _with(program: Program, values: Values) -> Program:
    """A copy of a program with other values in those literals."""
    made = program.copy()
    for number, at in enumerate(list(made.literals)):
        if (value := values.get(f"law.{number}")) is not None:
            at.owner.replace_operation(at, Literal(value))
    return made


def turned(value: Argument) -> Argument:
    """The elements of a value in another order: plausible values for its place."""
    array: NDArray[Any] = np.roll(value.array.reshape(-1), 1)
    return Argument(value.shape, np.ascontiguousarray(array).reshape(value.array.shape))


def _update(program: Program, values: Values) -> None:
    with program.update_weights() as new:
        for name, value in values.items():
            new[name] = value


def _seen(program: Program, inputs: Inputs) -> dict[str, bytes]:
    """The bytes of a compiled program's slots and outputs."""
    made = program.compiled
    slots = {f"slot {n}": v.tobytes() for n, v in made.weights.current.slots.items()}
    outputs = {f"output {i}": r.tobytes() for i, r in enumerate(made.results(inputs))}
    return slots | outputs


def _expect(found: dict[str, bytes], expected: dict[str, bytes], message: str) -> None:
    wrong = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    if wrong:
        raise Violation("law of weights", f"{message}: {', '.join(wrong)}")


def _expect_near(made: Program, inputs: Inputs, given: Program, reference: Outputs) -> None:
    """Compares with the result without passes, within the bounds of both computations."""
    compiled = made.compiled
    lowered = with_literals(compiled.program, compiled.weights.current.slots)
    got = bounded(compiled.results(inputs), lowered, inputs, given, reference)
    expect_same("law of weights", "compiled with these weights", got, reference)


def with_literals(program: Program, slots: Mapping[str, Argument]) -> Program:
    """A copy of a program with its slots replaced by their values."""
    made = program.copy()
    for module in made.modules.values():
        for at in module:
            if isinstance(at.op, Slot):
                module.replace_operation(at, Literal(slots[at.op.slot]))
    return made
