"""The cases of ONNX's backend suite, and what a target makes of each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test import BackendTest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import DATA_DIR, load_model_tests

from migx import backend
from migx.errors import MigxError
from migx.shape import DType

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
Values = list[Any]
_TITLES = ("operators that", "Not equal", "Arrays are not equal", "the program is not")
"""First lines of errors that say little without the next."""


@dataclass(frozen=True)
class Outcome:
    """What came of one case: the largest error in units in the last place, None where no floats
    are; or why it failed. ``host`` says that a node ran through onnx's reference implementation.
    """

    kind: str
    name: str
    why: str = ""
    ulp: float | None = None
    host: bool = False

    @property
    def passed(self) -> bool:
        return not self.why


@cache
def cases(kind: str) -> dict[str, TestCase]:
    """The cases of a kind by name, in the order of their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making some cases divides by zero, or overflows
        return {case.name: case for case in sorted(load_model_tests(kind=kind), key=_name)}


def _name(case: TestCase) -> str:
    return case.name


def outcome(case: TestCase, device: str = "ref", *, symbolic: bool = False) -> Outcome:
    """Runs a case, each of its data sets, by the tolerances of the suite. Element types must be
    equal. ``symbolic`` runs it with nothing known before the run; see ``generalised``.
    """
    worst: float | None = None
    host = False
    try:
        model, sets = loaded(case)
        if symbolic:
            model, sets = generalised(model, sets)
        prepared = backend.prepare(model, device, folder=case.model_dir or ".")
        modules = prepared.program.modules.values()
        host = any(at.name == "host" for module in modules for at in module)
        for inputs, wanted in sets:
            got = list(prepared.run(inputs))
            compare(wanted, got, case)
            errors = [e for e in map(ulps, wanted, got) if e is not None]
            worst = max([worst or 0.0, *errors]) if errors else worst
    except (AssertionError, MigxError) as error:
        return Outcome(case.kind, case.name, reason(error))
    return Outcome(case.kind, case.name, ulp=worst, host=host)


def reason(error: Exception) -> str:
    """The first lines of an error in one, so far as they say what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines[0].startswith(_TITLES) else 1])
    return said if len(said) <= 160 else said[:157] + "..."


def loaded(case: TestCase) -> tuple[onnx.ModelProto, list[tuple[Values, Values]]]:
    """The model of a case and its data sets: inputs, and the outputs that are wanted."""
    if case.model is not None:
        return case.model, [(_arrays(xs), _arrays(ys)) for xs, ys in case.data_sets or ()]
    if case.url is not None and "/light/" in case.url:
        return _light(Path(DATA_DIR) / "light" / Path(case.url).name)
    folder = Path(case.model_dir or "")
    model = onnx.load(folder / "model.onnx")
    kinds = ([v.type for v in model.graph.input], [v.type for v in model.graph.output])
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        xs, ys = (
            [
                _read(data / f"{way}_{i}.pb", kind)
                for i, kind in enumerate(found)
                if _there(data, way, i)
            ]
            for way, found in zip(("input", "output"), kinds, strict=True)
        )
        sets.append((xs, ys))
    return model, sets


def generalised(
    model: onnx.ModelProto, sets: list[tuple[Values, Values]]
) -> tuple[onnx.ModelProto, list[tuple[Values, Values]]]:
    """The model with a symbol for each dim of its inputs, and its initializers and constants made
    inputs; and the data sets with their values.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    tensors = list(graph.initializer)
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        if node.attribute[0].name == "value":
            tensors.append(onnx.TensorProto.FromString(node.attribute[0].t.SerializeToString()))
            tensors[-1].name = node.output[0]
            graph.node.remove(node)
    inputs = {v.name: v for v in graph.input}
    for tensor in tensors:
        if tensor.name not in inputs:
            graph.input.add(name=tensor.name).type.tensor_type.elem_type = tensor.data_type
    del graph.initializer[:]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    given = [v.name for v in model.graph.input if v.name not in values]
    for value in graph.input:
        _forget_dims(value, values)
    return made, [
        ([{**dict(zip(given, xs, strict=True)), **values}[v.name] for v in graph.input], ys)
        for xs, ys in sets
    ]


def _forget_dims(value: onnx.ValueInfoProto, values: dict[str, Any]) -> None:
    """Gives the dims of an input no numbers; one that was a constant gets its rank. The length of a
    list of integers stays: it may be the number of axes of something, and ranks are never symbols.
    """
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return
    dims = [d.dim_value for d in tensor.shape.dim]
    if value.name in values:
        dims = list(values[value.name].shape)
    integers = tensor.elem_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for extent in dims:
        tensor.shape.dim.add(**({"dim_value": extent} if integers and len(dims) == 1 else {}))


def _there(data: Path, way: str, index: int) -> bool:
    return (data / f"{way}_{index}.pb").exists()


def _light(path: Path) -> tuple[onnx.ModelProto, list[tuple[Values, Values]]]:
    """A network without its weights, with the inputs the suite draws for it."""
    model = onnx.load(path)
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [
        BackendTest.generate_dummy_data(value, name=path.stem)
        for value in model.graph.input
        if value.name not in initialized
    ]
    files = [path.with_name(f"{path.stem}_output_{i}.pb") for i in range(len(model.graph.output))]
    outputs = [_read(f, v.type) for f, v in zip(files, model.graph.output, strict=True)]
    return model, [(inputs, outputs)]


def _arrays(values: Sequence[Any]) -> Values:
    return [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content))


def compare(wanted: Sequence[Any], got: Sequence[Any], case: TestCase) -> None:
    """Raises ``AssertionError`` unless results are those wanted."""
    types = [", ".join(map(type_of, values)) for values in (wanted, got)]
    assert types[0] == types[1], f"the outputs are {types[1]}, not {types[0]}"
    flat = ([_comparable(a) for v in values for a in leaves(v)] for values in (wanted, got))
    BackendTest.assert_similar_outputs(next(flat), next(flat), case.rtol, case.atol)


def type_of(value: Any) -> str:
    """The element type of an array; of a sequence, those of its members in brackets."""
    if isinstance(value, list):
        return f"[{', '.join(map(type_of, value))}]"
    if value is None:
        return "none"
    dtype = np.asarray(value).dtype
    return "str" if dtype.kind in "OUS" else dtype.name


def leaves(value: Any) -> Iterator[Any]:
    """The arrays in a value."""
    if isinstance(value, list):
        for member in value:
            yield from leaves(member)
    elif value is not None:
        yield np.asarray(value)


def _comparable(array: Any) -> Any:
    """The array, in a type that numpy can subtract; bf16 stays, for which the suite has a tolerance
    of its own.
    """
    if array.dtype.kind in "US":
        return array.astype(object)
    known = array.dtype.kind in "biufcO" or array.dtype.name == "bfloat16"
    return array if known else array.astype(np.float32)


def ulps(wanted: Any, got: Any) -> float | None:
    """The largest error of a result in units in the last place of its type; None where it holds no
    floats. Infinities and NaN that agree are no error.
    """
    errors = [_ulps(w, g) for w, g in zip(leaves(wanted), leaves(got), strict=True)]
    return max((e for e in errors if e is not None), default=None)


def _ulps(wanted: Any, got: Any) -> float | None:
    dtype = next((t for t in DType.known.values() if t.numpy == wanted.dtype and t.digits), None)
    if dtype is None:
        return None
    w, g = (x.astype(np.float64) for x in (wanted, got))
    finite = np.isfinite(w) & np.isfinite(g) & (w != g)
    if not finite.any():
        return 0.0
    _, exponents = np.frexp(np.maximum(np.abs(w), np.finfo(np.float32).tiny)[finite])
    units = np.ldexp(1.0, exponents - dtype.digits)
    largest = float(np.max(np.abs(w - g)[finite] / units))
    return largest if math.isfinite(largest) else None
