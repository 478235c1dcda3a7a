"""Compares a model with another one on the same inputs: shows their difference, for which no bound
is derived.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from migx.argument import Argument
from migx.base.files import apart
from migx.cli import _inputs, _load, _streams
from migx.cli._session import Session
from migx.errors import InputError

PEERS = ("onnxruntime", "ref")


def is_model(given: str | None) -> bool:
    """Whether it is a file to compare with. ``UsageError`` if it is neither a file nor a peer."""
    if given is None or given in PEERS:
        return False
    if not Path(given).is_file():
        raise _load.UsageError(f"--against {given}: there are {', '.join(PEERS)}, and no such file")
    return True


def compared(
    names: Sequence[str],
    outputs: Sequence[Any],
    inputs: Mapping[str, Any],
    session: Session,
) -> dict[str, Any]:
    """The differences from the other model's outputs; ``UsageError`` if names or dims differ."""
    options = session.options
    target, theirs = _other(inputs, session)
    mine = dict(apart(zip(names, outputs, strict=True)))
    if mine.keys() != theirs.keys():
        raise _load.UsageError(
            f"the outputs of {options.model} are {', '.join(mine)}, those of {options.against} are "
            f"{', '.join(theirs)}: they must have the same names"
        )
    rows = [_difference(name, value, theirs[name]) for name, value in mine.items()]
    return {"against": f"{options.against} on {target}", "outputs": rows}


def _other(inputs: Mapping[str, Any], session: Session) -> tuple[str, dict[str, Any]]:
    """The target of the other model (the one in its file, or else the one asked for), and its
    outputs by name.
    """
    options = session.options
    # The folder is that of a model from standard input.
    given = {name: value for name, value in vars(options).items() if name != "folder"}
    path, asked = Path(options.against), argparse.Namespace(**given)
    asked.model, asked.passes, asked.dim_param = options.against, None, []
    asked.activations, asked.fast_math = None, None
    asked.weights, asked.no_strict, asked.convert = None, False, False  # it has its own
    if not _load.is_onnx(path):
        asked.input_dim = []
    asked.target = None if path.suffix == ".mxr" else session.target
    other = Session.of(asked, to_run=True)
    other.compile()
    try:
        with _streams.progress(f"running {path.name}"):
            outputs = other.program.eval(inputs)
    except InputError as error:
        error.add_note(f"these are the inputs of {path}, which must be those of {options.model}")
        raise
    return other.target, dict(apart(zip(other.program.main.output_names, outputs, strict=True)))


def _difference(name: str, got: Any, expected: Any) -> dict[str, Any]:
    """How far one output is from the other: the largest error; the root mean square of the errors,
    alone and relative to that of the values; and how many elements differ.
    """
    x, y = _array(name, got), _array(name, expected)
    if x.dtype != y.dtype and object not in (x.dtype, y.dtype):
        x, y = x.astype(np.float64), y.astype(np.float64)
    if x.shape != y.shape:
        raise _load.UsageError(f"output {name!r} has dims {x.shape} here, and {y.shape} there")
    unequal = (x != y) & ((x == x) | (y == y))
    row = {"name": name, "elements": x.size, "unequal": int(np.count_nonzero(unequal))}
    if object in (x.dtype, y.dtype):
        return row
    with np.errstate(invalid="ignore"):
        errors = np.where(unequal, np.abs(x.astype(np.float64) - y.astype(np.float64)), 0.0)
    rms = float(np.sqrt(np.mean(np.square(errors)))) if x.size else 0.0
    largest = float(errors.max(initial=0.0))
    return row | {"largest": largest, "rms": rms, "relative": relative(rms, expected)}


def _array(name: str, value: Any) -> _inputs.Array:
    array = _inputs.array_of(value)
    if not isinstance(array, np.ndarray):
        kind = value.shape if isinstance(value, Argument) else type(value).__name__
        raise _load.UsageError(f"output {name!r} is {kind}: arrays are compared")
    return array


def relative(rms: float, expected: Any) -> float | None:
    """An error divided by the root mean square of the finite expected values; None if these are not
    numbers, or all 0.
    """
    array = _inputs.array_of(expected)
    if not isinstance(array, np.ndarray) or array.dtype == object:
        return None
    wide = array.astype(np.float64)
    wide = wide[np.isfinite(wide)]
    size = float(np.sqrt(np.mean(np.square(wide)))) if wide.size else 0.0
    return rms / size if size else None
