"""The inputs of a run: from a file, or else drawn from a seed."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from migx.argument import Argument
from migx.base.files import member
from migx.cli._load import PeerError, UsageError
from migx.debug.inputs import drawn_inputs
from migx.dims.symbol import listed
from migx.errors import DimError, EvaluationError, InputError, ShapeError
from migx.op import Array
from migx.program import Program
from migx.shape import BOOL, TUPLE, DType, Shape
from migx.shape import integers as integers_of


def read_or_drawn(
    program: Program,
    options: argparse.Namespace,
    known: Mapping[str, int],
    *,
    apart: bool = False,
) -> tuple[dict[str, Array], dict[str, int]]:
    """The inputs for a program, and the sizes chosen for its symbols in order to draw them: those
    ``known``, for others small ones, and ``apart`` if wrong answers are to show.
    """
    parameters = {name: p.shape for name, p in program.main.parameters.items()}
    found = {} if options.inputs is None else read(Path(options.inputs), parameters)
    given = in_types(found, parameters)
    if changed := [name for name, value in given.items() if value is not found[name]]:
        print(f"note: converted to the model's types: {', '.join(changed)}", file=sys.stderr)
    fill = _fill(options.fill, parameters, given)
    lacking = {name: shape for name, shape in parameters.items() if name not in given}
    if options.inputs is not None and (not lacking or given.keys() - parameters.keys()):
        return given, {}
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: seeds are 0 or greater")
    if options.inputs is not None:
        said = f"drawn from seed {options.seed}, as {options.inputs} lacks them"
        if left := [name for name in lacking if name not in fill]:
            print(f"note: {said}: {', '.join(left)}", file=sys.stderr)
    return drawn_inputs(program, options.seed, sizes=known, given=given, fill=fill, apart=apart)


def _fill(
    words: Sequence[str], parameters: Mapping[str, Shape], given: Mapping[str, Any]
) -> dict[str, float]:
    """The values that inputs are filled with: ``mask=1``."""
    found: dict[str, float] = {}
    for word in words:
        name, _, text = word.rpartition("=")
        if name not in parameters:
            raise UsageError(
                f"--fill {word!r}: give an input and the value of its elements, such as mask=1; "
                f"the inputs are {', '.join(parameters) or 'none'}"
            )
        if name in given or name in found:
            raise UsageError(f"--fill {word!r}: input {name!r} is given twice")
        found[name] = _element(word, text, parameters[name])
    return found


def _element(word: str, text: str, shape: Shape) -> float:
    """The value for all elements of an input."""
    dtype = shape.dtype
    try:
        if dtype.is_float and _holds(dtype, number := float(text)):
            return number
        if dtype is BOOL or dtype.is_integer:
            least, most = integers_of(dtype)
            if least <= (value := int(text)) <= most:
                return value
    except ValueError:
        pass  # reported below, as are values that do not fit
    raise UsageError(f"--fill {word!r}: {text!r} cannot be an element of {shape.text}")


def _holds(dtype: DType, number: float) -> bool:
    """Whether a float type holds a number without changing its kind, such as to infinite."""
    with np.errstate(over="ignore"):
        held = np.asarray(number).astype(dtype.numpy)
    return all(bool(kind(held)) is bool(kind(number)) for kind in (np.isnan, np.isinf))


def read(path: Path, parameters: Mapping[str, Shape]) -> dict[str, Any]:
    """The arrays of an ``.npz`` file; the members of a tuple ``x`` are ``x[0]``, ``x[1]`` and so
    on. Types that numpy has no name for, such as bf16, are stored as bytes, and read as the type of
    the parameter.
    """
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no .npz file of plain arrays") from error
    found = {name: _taken(name, shape, arrays) for name, shape in parameters.items()}
    return {name: v for name, v in found.items() if v is not None} | arrays


def in_types(values: Mapping[str, Any], parameters: Mapping[str, Shape]) -> dict[str, Any]:
    """Inputs in which floats of other types than a parameter's are converted."""

    def fitted(value: Any, wanted: Shape | None) -> Any:
        if wanted is None or not isinstance(value, np.ndarray) or value.dtype.type is np.void:
            return value  # bytes of a type unknown to numpy are none of ours
        wide = wanted.dtype.is_float and not wanted.dtype.is_packed
        if not wide or value.dtype == wanted.dtype.numpy or not DType.of(value.dtype).is_float:
            return value
        with np.errstate(over="ignore"):
            return value.astype(wanted.dtype.numpy)

    return {name: fitted(value, parameters.get(name)) for name, value in values.items()}


def _taken(name: str, shape: Shape, arrays: dict[str, Array]) -> Any:
    """An input, removed from the arrays of a file; None if it is not among them."""
    if shape.dtype is TUPLE:
        parts = enumerate(shape.parts)
        members = tuple(_taken(member(name, i), part, arrays) for i, part in parts)
        return None if all(part is None for part in members) else members
    array = arrays.pop(name, None)
    if array is None or array.dtype.kind != "V" or not shape.dtype.is_tensor:
        return array
    dtype = shape.dtype.numpy
    return array.view(dtype) if array.dtype.itemsize == dtype.itemsize else array


def array_of(value: Any) -> Any:
    """The array of a result; other values unchanged."""
    return value.data if isinstance(value, Argument) else value


def summary(name: str, value: Any) -> dict[str, Any]:
    """An output's shape, first values, and the least, greatest and mean of its finite numbers."""
    array = array_of(value)
    if not isinstance(array, np.ndarray):
        return {"name": name, "shape": _kind(value)}
    dtype = DType.of(array.dtype)
    found: dict[str, Any] = {"name": name, "shape": Shape(dtype, array.shape).text}
    if isinstance(value, Argument):
        found["shape"] = value.shape.text
    first = array.reshape(-1)[:4]
    found["first"] = [x if dtype.kind == "string" else x.item() for x in first]
    if dtype.is_float or dtype.is_integer:
        numbers = array.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        if finite.size:
            found |= {"min": finite.min(), "max": finite.max(), "mean": finite.mean()}
        if strange := numbers.size - finite.size:
            found["not finite"] = strange
    return {k: float(v) if isinstance(v, np.floating) else v for k, v in found.items()}


def _kind(value: Any) -> str:
    return value.shape.text if isinstance(value, Argument) else type(value).__name__


@contextmanager
def explaining(sizes: Mapping[str, int]) -> Iterator[None]:
    """Adds to errors in the block which sizes were chosen by default, if these may be to blame."""
    try:
        yield
    except (DimError, EvaluationError, InputError, PeerError, ShapeError) as error:
        if sizes:
            error.add_note(
                f"inputs were drawn with {listed(sizes)}: choose others by --dim-param NAME=N, or "
                "give arrays by --inputs FILE.npz"
            )
        raise
