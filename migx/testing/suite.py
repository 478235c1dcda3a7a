"""The cases of ONNX's backend suite: models, inputs, and expected outputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test import BackendTest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import DATA_DIR, load_model_tests

from migx.errors import UnknownName, there_are
from migx.onnx import importers
from migx.shape import DType

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
Values = list[Any]


@cache
def cases(kind: str) -> dict[str, TestCase]:
    """The cases of a kind, by name, sorted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # generating some cases divides by zero or overflows
        return {
            case.name: case for case in sorted(load_model_tests(kind=kind), key=attrgetter("name"))
        }


def chosen(words: Collection[str] = (), families: Collection[str] = ()) -> list[TestCase]:
    """The cases with one of ``words`` in their names and of ``families``; by default all.
    ``UnknownName`` lists the families that exist.
    """
    known = sorted({*map(_file, importers.table().values()), "functions", *KINDS[1:]})
    for name in families:
        if name not in known:
            raise UnknownName(f"no family {name!r}; {there_are(name, known)}")
    every = [(case, family(case)) for kind in KINDS for case in cases(kind).values()]
    return [
        case
        for case, of in every
        if (not families or of in families)
        and (not words or any(word in case.name for word in words))
    ]


def family(case: TestCase) -> str:
    """The family of a case: for one operator, the file in ``migx/onnx/ops`` that reads it, or
    ``functions`` if ONNX defines it by simpler ones; for a model, its kind.
    """
    if case.kind != "node":
        return case.kind
    of_operator = cases("node").get(case.name.partition("_expanded")[0], case)
    model = of_operator.model or loaded(of_operator)[0]
    node = model.graph.node[0]
    found = importers.table().get((node.domain, node.op_type))
    return _file(found) if found else "functions"


def _file(found: Sequence[tuple[int, importers.Importer]]) -> str:
    """The name of the file with an operator's importers."""
    return found[0][1].__module__.rpartition(".")[2]


def loaded(case: TestCase) -> tuple[onnx.ModelProto, list[tuple[Values, Values]]]:
    """The model of a case and its data sets: inputs, and expected outputs."""
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
                _read(file, kind)
                for i, kind in enumerate(found)
                if (file := data / f"{way}_{i}.pb").exists()
            ]
            for way, found in zip(("input", "output"), kinds, strict=True)
        )
        sets.append((xs, ys))
    return model, sets


def generalised(
    model: onnx.ModelProto, sets: list[tuple[Values, Values]]
) -> tuple[onnx.ModelProto, list[tuple[Values, Values]]]:
    """The model with a symbol for each dim of its inputs, and its initializers and constants as
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
    """Removes the numbers from the dims of an input; a former constant gets only its rank. The
    length of a list of integers stays: it may be a number of axes, and ranks are never symbolic.
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


def _light(path: Path) -> tuple[onnx.ModelProto, list[tuple[Values, Values]]]:
    """A network without its weights, with the inputs that the suite draws for it."""
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
    """Raises ``AssertionError`` unless results are as expected."""
    types = [", ".join(map(type_of, values)) for values in (wanted, got)]
    assert types[0] == types[1], f"the outputs are {types[1]}, not {types[0]}"
    flat = ([_comparable(a) for v in values for a in leaves(v)] for values in (wanted, got))
    BackendTest.assert_similar_outputs(next(flat), next(flat), case.rtol, case.atol)


def type_of(value: Any) -> str:
    """The element type of an array; for a sequence, those of its members in brackets."""
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
    """The array in a type that numpy can subtract; bf16 stays: the suite has a tolerance for it."""
    if array.dtype.kind in "US":
        return array.astype(object)
    known = array.dtype.kind in "biufcO" or array.dtype.name == "bfloat16"
    return array if known else array.astype(np.float32)


def ulps(wanted: Any, got: Any) -> float | None:
    """The largest error of a result in units in the last place of its type; None without floats.
    Infinities and NaN that agree are no error.
    """
    errors = [_ulps(w, g) for w, g in zip(leaves(wanted), leaves(got), strict=True)]
    return max((e for e in errors if e is not None), default=None)


def _ulps(wanted: Any, got: Any) -> float | None:
    dtype = next((t for t in DType.known.values() if t.numpy == wanted.dtype and t.digits), None)
    if dtype is None:
        return None
    w, g = (x.astype(np.float64) for x in (wanted, got))
    finite = np.isfinite(w) & np.isfinite(g) & (w != g)
    w, g = w[finite], g[finite]
    if not finite.any():
        return 0.0
    _, exponents = np.frexp(np.maximum(np.abs(w), np.finfo(np.float32).tiny))
    units = np.ldexp(1.0, exponents - dtype.digits)
    largest = float(np.max(np.abs(w - g) / units))
    return largest if math.isfinite(largest) else None
