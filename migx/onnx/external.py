"""ONNX external data left out of a program, and put in its place later.

A deferred initializer or Constant is an ``onnx_external_weights`` instruction: the name, file,
offset, length, type and dims that the model declares. Values come from a folder that holds such
files, a dict of arrays by name, a safetensors file, the index of several, or an npz file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike
from onnx import TensorProto

from migx import op as operations
from migx.argument import Argument, Source
from migx.compiler import assembled
from migx.errors import DataError, WeightError, first_few, there_are
from migx.files import inside
from migx.ir import Instruction
from migx.manager import PassManager
from migx.onnx import tensors
from migx.ops.builtin import AssumeEqual, Literal, OnnxExternalWeights
from migx.program import Program
from migx.shape import Shape
from migx.target import get_target
from migx.weights import epochs, fitting
from migx.weights.constants import tree
from migx.weights.evaluation import evaluated
from migx.weights.hoisting import is_weight, label_of, weights_of
from migx.weights.live import holding, live_weights, put_literals

if TYPE_CHECKING:
    from migx.target import Target


def deferred(tensor: TensorProto, label: str) -> OnnxExternalWeights:
    """The operation that stands for a tensor with external data; no file is looked at."""
    shape = tensors.shape_of(tensor)
    place = tensors.external_place(tensor, shape)
    return OnnxExternalWeights(label, place.location, place.offset, place.length, shape)


def is_there(at: Instruction, folder: Path) -> bool:
    """Whether an instruction is a deferred weight whose bytes are in a folder."""
    op = at.op
    if type(op) is not OnnxExternalWeights:
        return False
    file = inside(folder, op.file, f"external data of {op.label!r}")
    return Source(file, op.offset, op.length).present


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
    with the model's data files, arrays by name, a ``.safetensors`` or ``.npz`` file, or the
    ``.safetensors.index.json`` of several.

    Weights replaced before are replaced again, if the source has them, and those that an update has
    given keep what they have, if it has not; deferred ones without a value it must have.
    A program that is compiled stays so, and is made ready by ``finalize`` or by saving and loading
    it: until then nothing is computed or copied to the target. The literals are lowered by the
    target's ``get_lower_literals_passes``, in all modules. They stay ``replaceable`` unless told
    otherwise: then the program is the one ``parse_onnx`` gives. ``mmap=False`` reads data files
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
    values = values_from(source, wanted, strict=strict, convert=convert)
    check_complete(values, wanted, source)
    for name, value in values.items():
        fit = fitting.fitted(name, value, wanted[name].shape)
        if check_finite:
            fitting.refuse_infinite(name, fit)
        values[name] = epochs.own(fit, mapped=mmap)
    for each in programs:
        check_assumptions(each, values)
        put_literals(each, values, replaceable)
    if target is not None:
        chosen = get_target(target)
        PassManager(programs[-1]).run(chosen.get_lower_literals_passes(chosen.get_context()))
    if compiled is not None:
        made._compiled = assembled(made, programs[-1], compiled.context)
    return made


def defer(program: Program) -> None:
    """Leaves out the values of the weights that may be replaced. ``WeightError`` where nothing says
    in which file one stands.
    """
    for module in program.modules.values():
        for at in module:
            op = at.op
            if type(op) is not Literal or not op.replaceable:
                continue
            if not op.file:
                raise WeightError(
                    f"weight {op.label!r} came from no file, so it cannot be left out"
                )
            place = op.label, op.file, op.offset, int(at.shape.nbytes), at.shape
            module.replace_operation(at, OnnxExternalWeights(*place))


def check_assumptions(program: Program, values: Mapping[str, Argument]) -> None:
    """Raises ``AssumptionError`` where a new value is not what a pass relied on."""
    if program.weights is None:
        return
    checks = [at for at in program.weights if type(at.op) is AssumeEqual]
    read = [at for check in checks for at in tree(check) if is_weight(at)]
    given = {at: values[label_of(at)] for at in read if label_of(at) in values}
    evaluated([c for c in checks if all(not is_weight(at) or at in given for at in tree(c))], given)


def check_complete(
    values: Mapping[str, Argument], wanted: Mapping[str, Instruction], source: object
) -> None:
    """Raises ``WeightError`` where a source does not have what is needed."""
    said = "the values given" if isinstance(source, Mapping) else str(source)
    deferred_ = [name for name, at in wanted.items() if type(at.op) is OnnxExternalWeights]
    if missing := [name for name in deferred_ if name not in values]:
        raise WeightError(f"{said} lack {len(missing)} weights: {first_few(missing, 5)}")


def values_from(
    source: Any, wanted: Mapping[str, Instruction], *, strict: bool = True, convert: bool = False
) -> dict[str, Any]:
    """The values that a folder, a file or a dict has for some weights. Errors, and what is
    ``strict`` and converted, as in ``migx.weights.epochs.Update.update``.
    """
    had = _had(source, wanted)
    found = {name: had[name] for name in wanted if name in had}
    partial = isinstance(source, Mapping)
    missing = [] if partial else [name for name in wanted if name not in had]
    left = [name for name in had if name not in wanted]
    if (missing or left) and (strict or not found):
        raise WeightError(_other_names(source, wanted, missing, left))
    if convert:
        return {n: fitting.fitted(n, v, wanted[n].shape, convert=True) for n, v in found.items()}
    return found


def _other_names(
    source: Any, wanted: Mapping[str, Instruction], missing: list[str], left: list[str]
) -> str:
    """What to say of a source that has not the names of the weights."""
    if left and not wanted:
        return fitting.unknown(left[0], wanted)
    partial, said = isinstance(source, Mapping), []
    if missing:
        said.append(f"lacks {len(missing)} weights: {first_few(missing, 5)}")
    if left:
        has = "have" if partial else "has"
        said.append(f"{has} {len(left)} weights the program has not: {first_few(left, 5)}")
    if missing and len(left) > 1:
        said.append(f"for {missing[0]!r} {there_are(missing[0], left)}")
    elif left and not missing:
        said.append(f"for {left[0]!r} {there_are(str(left[0]), wanted)}")
    if common := (len(source) - len(left) if partial else len(wanted) - len(missing)):
        said.append(f"strict=False takes the {common} that both have")
    return f"{'the values given' if partial else source} {'; '.join(said)}"


def _had(source: Any, wanted: Mapping[str, Instruction]) -> dict[str, Any]:
    """All that a source has, by name; a folder has the weights whose place in a file is known."""
    if isinstance(source, Mapping):
        return dict(source)
    if not isinstance(source, (str, PathLike)):
        raise WeightError(
            "weights are given as a dict of arrays by name, a folder of external data, or a "
            f".safetensors or .npz file, not as {type(source).__name__}"
        )
    path = Path(source)
    if path.is_dir() and not (indices := sorted(path.glob(f"*{_INDEX}"))):
        placed = {n: at for n, at in wanted.items() if operations.attributes(at.op)["file"]}
        known: dict[str, tuple[Path, int]] = {}
        return {name: from_folder(path, name, at, known) for name, at in placed.items()}
    if path.is_dir():
        return dict(sharded(indices[0]))
    if not path.exists():
        raise DataError(f"there is no file or folder {path}")
    for end, read in ((_INDEX, sharded), (".safetensors", safetensors), (".npz", npz)):
        if path.name.endswith(end):
            return dict(read(path))
    raise WeightError(
        f"{path} is no folder of external data, and its name ends neither in .safetensors nor in "
        f"{_INDEX} or .npz"
    )


def from_folder(
    folder: Path, name: str, at: Instruction, known: dict[str, tuple[Path, int]] | None = None
) -> Argument:
    """The value of a weight, mapped from where a folder has it; ``known`` keeps the files found."""
    op: Any = at.op
    place = tensors.Place(op.file, op.offset, int(at.shape.nbytes))
    return Argument(at.shape, source=tensors.located(place, folder.absolute(), name, known))


_INDEX = ".safetensors.index.json"
_SAFETENSORS = {
    "F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "BOOL": "bool",
    "F8_E4M3": "f8e4m3fn", "F8_E5M2": "f8e5m2",
    **{f"{sign.upper()}{bits}": f"{sign}{bits}" for sign in "iu" for bits in (8, 16, 32, 64)},
}  # fmt: skip


def safetensors(path: Path) -> dict[str, Argument]:
    """The tensors of a safetensors file, mapped: it is a length, a JSON header of types, dims and
    offsets, and the bytes, of which each tensor has its own and none is left over.
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
    """The tensors of several safetensors files, mapped, by the index beside them: a JSON object
    whose ``weight_map`` says which file has which tensor.
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


def _tensor(path: Path, start: int, name: str, entry: Any) -> Argument:
    """A tensor of a safetensors file whose bytes begin at ``start``, from its entry in the header;
    ``ValueError`` where that is none.
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
    """``ValueError`` unless the tensors found lie one behind the other from ``start`` to the end of
    a file of ``size`` bytes.
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
