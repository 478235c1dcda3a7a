"""Sources of values for weights: a dict of arrays by name, a folder of external data, a safetensors
file, the index of several, an npz file, or another ONNX model.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from migx import op as operations
from migx.argument import Argument, Source
from migx.base.files import inside
from migx.errors import DataError, DataWarning, WeightError, counted, first_few, there_are, warn
from migx.ir import Instruction
from migx.ops.builtin import Literal, OnnxExternalWeights
from migx.program import Program
from migx.shape import Shape
from migx.weights.fitting import fitted, unknown
from migx.weights.marking import fixed_weights


def values_from(
    source: Any,
    wanted: Mapping[str, Instruction],
    *,
    strict: bool = True,
    convert: bool = False,
    program: Program | None = None,
) -> dict[str, Any]:
    """The values that a folder, a file or a dict has for some weights. Errors, ``strict`` and
    ``convert`` are as in ``migx.weights.update.Update.update``. A folder of external data has no
    values for weights of the ``program`` inside the model file, which are fixed: a ``DataWarning``
    says so.
    """
    folder = _folder_of(source)
    had = everything(source) if folder is None else _placed(folder, wanted)
    found = {name: had[name] for name in wanted if name in had}
    partial = isinstance(source, Mapping)
    missing = [] if partial else [name for name in wanted if name not in had]
    left = [name for name in had if name not in wanted]
    if (missing or left) and (strict or not found):
        raise WeightError(_other_names(source, wanted, missing, left))
    if strict and folder is not None and program is not None:
        _warn_of_fixed(source, fixed_weights(program))
    if convert:
        return {n: fitted(n, v, wanted[n].shape, convert=True) for n, v in found.items()}
    return found


def _other_names(
    source: Any, wanted: Mapping[str, Instruction], missing: list[str], left: list[str]
) -> str:
    """The message for a source whose names differ from those of the weights."""
    if left and not wanted:
        return unknown(left[0], wanted)
    partial, said = isinstance(source, Mapping), []
    if missing:
        said.append(f"lacks {counted(len(missing), 'weight')}: {first_few(missing, 5)}")
    if left:
        has = "have" if partial else "has"
        unwanted = counted(len(left), "weight")
        said.append(f"{has} {unwanted} the program does not have: {first_few(left, 5)}")
    if missing and len(left) > 1:
        said.append(f"for {missing[0]!r} {there_are(missing[0], left)}")
    elif left and not missing:
        said.append(f"for {left[0]!r} {there_are(str(left[0]), wanted)}")
    if missing and left:
        said.append("migx.weights.naming.Naming finds names by value")
    if common := (len(source) - len(left) if partial else len(wanted) - len(missing)):
        said.append(f"strict=False takes the {common} that both have")
    return f"{'the values given' if partial else source} {'; '.join(said)}"


def names_in(source: Any) -> list[str]:
    """The names in a source; none for a folder of external data, which finds weights by place."""
    return [] if _folder_of(source) is not None else [*everything(source)]


def _folder_of(source: Any) -> Path | None:
    """The folder of external data that a source is, or None."""
    path = Path(source) if isinstance(source, (str, PathLike)) else None
    return path if path is not None and path.is_dir() and _index_of(path) is None else None


def _placed(folder: Path, wanted: Mapping[str, Instruction]) -> dict[str, Argument]:
    """The weights whose place in a file is known, from a folder of external data."""
    placed = {n: at for n, at in wanted.items() if operations.attributes(at.op)["file"]}
    known: dict[str, tuple[Path, int]] = {}
    return {name: from_folder(folder, name, at, known) for name, at in placed.items()}


def everything(source: Any) -> dict[str, Any]:
    """All values of a dict or a file, by name."""
    if isinstance(source, Mapping):
        return dict(source)
    if not isinstance(source, (str, PathLike)):
        raise WeightError(
            "weights are given as a dict of arrays by name, a folder of external data, or a "
            f".safetensors, .npz or .onnx file, not as {type(source).__name__}"
        )
    path = Path(source)
    if (index := _index_of(path)) is not None:
        return dict(sharded(index))
    if not path.exists():
        raise DataError(f"there is no file or folder {path}")
    if path.is_dir():
        raise WeightError(
            f"{path} is a folder, in which weights are found by their place: give a file that has "
            "them by name"
        )
    for end, read in ((".safetensors", safetensors), (".npz", npz), (".onnx", of_model)):
        if path.name.endswith(end):
            return dict(read(path))
    raise WeightError(
        f"{path} is no folder of external data, and its name ends neither in .safetensors nor in "
        f"{_INDEX}, .npz or .onnx"
    )


def _index_of(path: Path) -> Path | None:
    """The index of safetensors files that a path is, or that is in the folder it is."""
    if path.is_dir():
        return next(iter(sorted(path.glob(f"*{_INDEX}"))), None)
    return path if path.name.endswith(_INDEX) and path.exists() else None


def _warn_of_fixed(folder: Any, names: list[str]) -> None:
    if names:
        warn(
            f"{folder} does not have the {counted(len(names), 'weight')} inside the model's own "
            f"file, which stay as they were read, {first_few(names, 5)}; write the model with "
            "size_threshold=0 or call program.make_replaceable() and give them by name",
            DataWarning,
        )


def located(
    weight: OnnxExternalWeights,
    folder: Path,
    known: dict[str, tuple[Path, int]] | None = None,
    advice: str = "",
) -> Source:
    """The source of external data in a folder. ``DataError`` if the file is outside it, missing, or
    too short; ``advice`` is added if it is missing. ``known`` caches files and their sizes between
    calls.
    """
    what, offset, length = _named(weight), weight.offset, weight.length
    known = {} if known is None else known
    if weight.file not in known:
        file = inside(folder, weight.file, what)
        if not file.is_file():
            raise DataError(f"{what}: there is no file {file}{advice}")
        known[weight.file] = file, file.stat().st_size
    file, size = known[weight.file]
    if offset + length > size:
        raise DataError(
            f"{what}: {file} has {size} bytes, the tensor is at bytes {offset} to {offset + length}"
        )
    return Source(file, offset, length)


def _named(weight: OnnxExternalWeights) -> str:
    return f"external data of {weight.label!r}"


def from_folder(
    folder: Path, name: str, at: Instruction, known: dict[str, tuple[Path, int]] | None = None
) -> Argument:
    """The value of a weight, mapped from a folder; ``known`` caches the files found."""
    op: Any = at.op
    place = OnnxExternalWeights(name, op.file, op.offset, int(at.shape.nbytes), at.shape)
    return Argument(at.shape, source=located(place, folder.absolute(), known))


def is_there(at: Instruction, folder: Path) -> bool:
    """Whether an instruction is a deferred weight whose bytes are in a folder."""
    op = at.op
    if type(op) is not OnnxExternalWeights:
        return False
    return Source(inside(folder, op.file, _named(op)), op.offset, op.length).present


_INDEX = ".safetensors.index.json"
_SAFETENSORS = {
    "F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "BOOL": "bool",
    "F8_E4M3": "f8e4m3fn", "F8_E5M2": "f8e5m2",
    **{f"{sign.upper()}{bits}": f"{sign}{bits}" for sign in "iu" for bits in (8, 16, 32, 64)},
}  # fmt: skip


def safetensors(path: Path) -> dict[str, Argument]:
    """The tensors of a safetensors file, mapped. The format is a length, a JSON header of types,
    dims and offsets, and the bytes, which the tensors cover without overlap or gaps.
    """
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            if size < 8:
                raise ValueError(f"it has {size} bytes, too few for the length of a header")
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError(f"its header of {length} bytes is longer than the file")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError(f"its header is a JSON {type(header).__name__}, not an object")
        header.pop("__metadata__", None)
        found = {n: _tensor(path, 8 + length, n, entry) for n, entry in header.items()}
        _check_places(found, 8 + length, size)
        return found
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no safetensors file: {error}") from error


def sharded(path: Path) -> dict[str, Argument]:
    """The tensors of several safetensors files, mapped, by their index: a JSON object whose
    ``weight_map`` names the file of each tensor.
    """
    try:
        index = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    match index:
        case {"weight_map": dict(files)} if all(type(file) is str for file in files.values()):
            names = dict.fromkeys(files.values())
        case _:
            raise DataError(f"{path} has no weight_map from the names of tensors to those of files")
    held = {name: safetensors(inside(path.parent, name, f"a file of {path}")) for name in names}
    if lacking := [name for name, file in files.items() if name not in held[file]]:
        raise DataError(f"{path} names tensors that are not there: {first_few(lacking, 5)}")
    return {name: held[file][name] for name, file in files.items()}


def npz(path: Path) -> dict[str, Any]:
    """The arrays of an npz file."""
    try:
        with np.load(path) as held:
            return dict(held)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{path} is no npz file of numbers: {error}") from error


def of_model(path: Path) -> dict[str, Argument]:
    """The floats that an ONNX model has in tensors of several elements, by name."""
    from migx import parse_onnx

    program = parse_onnx(path)
    named = {at.op.label: at.op.value for at in program.literals if type(at.op) is Literal}
    return {name: named[name] for name in fixed_weights(program)}


def _tensor(path: Path, start: int, name: str, entry: Any) -> Argument:
    """A tensor of a safetensors file whose bytes begin at ``start``, from its entry in the header;
    ``ValueError`` if the entry is invalid.
    """
    match entry:
        case {"dtype": str(dtype), "shape": [*dims], "data_offsets": [int(first), int(last)]} if (
            all(type(each) is int for each in dims)
        ):
            if dtype not in _SAFETENSORS:
                raise ValueError(f"the type {dtype} of {name!r} is not supported")
            shape = Shape(_SAFETENSORS[dtype], dims)
            if last - first != shape.nbytes:
                raise ValueError(f"{name!r} is {shape}, which is not bytes {first} to {last}")
            return Argument(shape, source=Source(path.absolute(), start + first, last - first))
        case _:
            raise ValueError(f"{name!r} has not a dtype, a shape and two data_offsets: {entry!r}")


def _check_places(found: Mapping[str, Argument], start: int, size: int) -> None:
    """``ValueError`` unless the tensors are contiguous from ``start`` to the end of a file of
    ``size`` bytes.
    """
    end, before = start, "the header"
    places = [(value.source, name) for name, value in found.items() if value.source is not None]
    for at, name in sorted(places, key=lambda place: (place[0].offset, place[0].length)):
        if at.offset != end:
            right = f"{end - start}, where {before} ends"
            raise ValueError(f"{name!r} begins at byte {at.offset - start}, not at {right}")
        end, before = at.offset + at.length, repr(name)
    if end != size:
        raise ValueError(f"{before} ends at byte {end - start} of {size - start}")
