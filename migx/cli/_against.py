"""Compares a model with another one on the same inputs: shows their difference, for which no bound
is derived.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from migx.argument import Argument
from migx.base.files import apart
from migx.cli import _inputs, _load, _streams
from migx.cli._session import Session
from migx.compiler import compiled, given_back
from migx.debug.layers import Distance, Kept, relative
from migx.errors import InputError
from migx.op import Array
from migx.program import Program

PEERS = ("onnxruntime", "ref")


def is_model(given: str | None) -> bool:
    """Whether it is a file to compare with. ``UsageError`` if it is neither a file nor a peer."""
    if given is None or given in PEERS:
        return False
    if not Path(given).is_file():
        raise _load.UsageError(f"--against {given}: there are {', '.join(PEERS)}, and no such file")
    return True


@dataclass(frozen=True)
class Other:
    """What the other model gives: its target (the one in its file, or else the one asked for, and
    ``ref`` for its layers), its outputs by name, and the values of its ONNX nodes, if wanted.
    """

    target: str
    outputs: Mapping[str, Any]
    values: Mapping[str, Array] = field(default_factory=dict)


def compared(
    names: Sequence[str],
    outputs: Sequence[Any],
    other: Other,
    session: Session,
) -> dict[str, Any]:
    """The differences from the other model's outputs; ``UsageError`` if names or dims differ."""
    options, theirs = session.options, other.outputs
    mine = dict(apart(zip(names, outputs, strict=True)))
    if mine.keys() != theirs.keys():
        raise _load.UsageError(
            f"the outputs of {options.model} are {', '.join(mine)}, those of {options.against} are "
            f"{', '.join(theirs)}: they must have the same names"
        )
    rows = [_difference(name, value, theirs[name]) for name, value in mine.items()]
    return {"against": f"{options.against} on {other.target}", "outputs": rows}


def session_of(path: Path, session: Session) -> Session:
    """The session of another model, on the target of its file or else the one asked for."""
    # The folder is that of a model from standard input.
    given = {name: value for name, value in vars(session.options).items() if name != "folder"}
    asked = argparse.Namespace(**given)
    asked.model, asked.passes, asked.dim_param = str(path), None, []
    asked.activations, asked.fast_math = None, None
    asked.weights, asked.no_strict, asked.convert = None, False, False  # it has its own
    asked.names_from = None
    if not _load.is_onnx(path):
        asked.input_dim = []
    asked.target = None if path.suffix == ".mxr" else session.target
    return Session.of(asked, to_run=True)


def taken(inputs: Mapping[str, Any], program: Program) -> dict[str, Any]:
    """The inputs of one program in the float types of another's."""
    wanted = {name: at.shape for name, at in program.main.parameters.items()}
    return _inputs.in_types(inputs, wanted)


def run(inputs: Mapping[str, Any], session: Session) -> Other:
    """Runs the other model."""
    options, path = session.options, Path(session.options.against)
    other = session_of(path, session)
    inputs = taken(inputs, other.program)
    if options.each:
        other.target = "ref"
    else:
        other.compile()
    try:
        with _streams.progress(f"running {path.name} on {other.target}"):
            return _traced(other.program, inputs) if options.each else _evaluated(other, inputs)
    except InputError as error:
        error.add_note(f"these are the inputs of {path}, which must be those of {options.model}")
        raise


def _evaluated(other: Session, inputs: Mapping[str, Any]) -> Other:
    names, outputs = other.program.main.output_names, other.program.eval(inputs)
    return Other(other.target, dict(apart(zip(names, outputs, strict=True))))


def _traced(program: Program, inputs: Mapping[str, Any]) -> Other:
    plain = compiled(program, "ref")
    kept = Kept(plain.program)
    results = map(given_back, plain.trace(plain.arguments(inputs), kept))
    named = zip(program.main.output_names, results, strict=True)
    return Other("ref", dict(apart(named)), kept.values)


def _difference(name: str, got: Any, expected: Any) -> dict[str, Any]:
    """How far one output is from the other: the largest error; the root mean square of the errors,
    alone and relative to that of the values; and how many elements differ.
    """
    x, y = _array(name, got), _array(name, expected)
    if x.shape != y.shape:
        raise _load.UsageError(f"output {name!r} has dims {x.shape} here, and {y.shape} there")
    if object in (x.dtype, y.dtype):
        return {"name": name, "elements": x.size, "unequal": int(np.count_nonzero(x != y))}
    return {"name": name, **vars(Distance.between(x, y))}


def _array(name: str, value: Any) -> Array:
    array = _inputs.array_of(value)
    if not isinstance(array, np.ndarray):
        kind = value.shape if isinstance(value, Argument) else type(value).__name__
        raise _load.UsageError(f"output {name!r} is {kind}: arrays are compared")
    return array


def share(rms: float, expected: Any) -> float | None:
    """An error divided by the root mean square of the expected values; None if these are not
    numbers, or all 0.
    """
    array = _inputs.array_of(expected)
    if not isinstance(array, np.ndarray) or array.dtype == object:
        return None
    return relative(rms, array)
