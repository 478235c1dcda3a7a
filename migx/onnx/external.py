"""ONNX external data left out of a program, and put in later.

A deferred initializer or Constant is an ``onnx_external_weights`` instruction: the name, file,
offset, length, type and dims that the model declares. The sources of values are in
``migx.weights.sources``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from migx.argument import Argument
from migx.compiler import assembled
from migx.errors import WeightError, counted, first_few
from migx.ir import Instruction
from migx.manager import PassManager
from migx.ops.builtin import AssumeEqual, OnnxExternalWeights
from migx.program import Program
from migx.target import context_for, get_target
from migx.weights import fitting, is_weight, label_of
from migx.weights.constants import Constants, tree
from migx.weights.evaluation import evaluated
from migx.weights.hoisting import settle, weights_of
from migx.weights.live import holding, live_weights, put_literals
from migx.weights.sources import values_from

if TYPE_CHECKING:
    from migx.target import Target


def replace_onnx_external_weights(
    program: Program,
    source: str | Path | Mapping[str, ArrayLike | Argument],
    target: Target | str | None = None,
    *,
    replaceable: bool = True,
    check_finite: bool = False,
    mmap: bool = True,
    strict: bool = True,
    convert: bool = False,
) -> Program:
    """A copy of a program with literals in place of its deferred weights, from ``source``: a folder
    with the model's data files, arrays by name, a ``.safetensors`` or ``.npz`` file, the
    ``.safetensors.index.json`` of several, or another ONNX model.

    Weights replaced before are replaced again if the source has them; those set by an update
    otherwise keep their values; deferred ones without a value must be in the source. A compiled
    program stays compiled, and is made ready by ``finalize`` or by saving and loading it: until
    then nothing is computed or copied to the target. The literals are lowered by the target's
    ``get_lower_literals_passes``, in all modules. They stay ``replaceable`` unless told otherwise:
    then the program is the one ``parse_onnx`` returns, and what a compiled one reads of weights is
    computed now, so that it needs the weights themselves no more. ``mmap=False`` reads data files
    instead of mapping them. ``strict`` and ``convert`` are those of ``Update.update``.

    ``WeightError`` names a weight that is missing, unknown, or of another type or dims;
    ``DataError`` a data file that is missing or too short; ``AssumptionError`` a weight whose value
    the program has been compiled for.
    """
    compiled = None if program._compiled is None else program.compiled
    live = live_weights(program)
    made = holding(program, live)
    programs = [made] if compiled is None else [made, holding(compiled.program, live)]
    wanted = {name: at for each in programs for name, at in weights_of(each).items()}
    values = values_from(source, wanted, strict=strict, convert=convert, program=program)
    check_complete(values, wanted, source)
    for name, value in values.items():
        fit = fitting.fitted(name, value, wanted[name].shape)
        if check_finite:
            fitting.refuse_infinite(name, fit)
        values[name] = fitting.own(fit, mapped=mmap)
    for each in programs:
        check_assumptions(each, values)
        put_literals(each, values, replaceable)
    if compiled is not None and not replaceable:
        settle(programs[-1], Constants(programs[-1]), compiled.context)
        target = compiled.context.target if target is None else target
    if target is not None:
        chosen = get_target(target)
        PassManager(programs[-1]).run(chosen.get_lower_literals_passes(context_for(chosen)))
    if compiled is not None:
        made._compiled = assembled(made, programs[-1], compiled.context)
    return made


def check_assumptions(program: Program, values: Mapping[str, Argument]) -> None:
    """Raises ``AssumptionError`` if a new value is not what a pass relied on."""
    if program.weights is None:
        return
    checks = [at for at in program.weights if type(at.op) is AssumeEqual]
    read = [at for check in checks for at in tree(check) if is_weight(at)]
    given = {at: values[label_of(at)] for at in read if label_of(at) in values}
    evaluated([c for c in checks if all(not is_weight(at) or at in given for at in tree(c))], given)


def check_complete(
    values: Mapping[str, Argument], wanted: Mapping[str, Instruction], source: object
) -> None:
    """Raises ``WeightError`` if a source lacks a required weight."""
    said = "the values given" if isinstance(source, Mapping) else str(source)
    deferred_ = [name for name, at in wanted.items() if type(at.op) is OnnxExternalWeights]
    if missing := [name for name in deferred_ if name not in values]:
        raise WeightError(f"{said} lack {counted(len(missing), 'weight')}: {first_few(missing, 5)}")
