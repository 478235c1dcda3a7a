"""The dims that a file declares, that a caller gives for inputs, and those of other inputs that
follow by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx

from migx import dim
from migx.dim import Dim, Extent
from migx.errors import OnnxError
from migx.ir import Instruction
from migx.sizes import bare_symbols

InputDims = Mapping[str, Sequence[Extent]]


def declared_name(declared: onnx.TensorShapeProto.Dimension) -> str:
    """The name of a dim in the file; none for ``?``, a placeholder of some exporters."""
    named: str = declared.dim_param.strip()
    return "" if named == "?" else named


def declared_rank(value: onnx.ValueInfoProto | None) -> int | None:
    """The rank of a tensor in the file; None if not declared."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    return len(value.type.tensor_type.shape.dim)


def contradicted(
    outputs: Iterable[onnx.ValueInfoProto], values: Iterable[Instruction]
) -> list[str]:
    """A message for each output whose declared rank, or a number among its declared dims, is not
    that of its value.
    """
    found = []
    for output, value in zip(outputs, values, strict=True):
        declared, dims = output.type.tensor_type.shape.dim, value.shape.dims
        numbers = zip((d.dim_value for d in declared), dims, strict=False)
        fits = all(n in (d, 0, -1) for n, d in numbers if isinstance(d, int))
        if declared_rank(output) not in (None, len(dims)) or not fits:
            said = ", ".join(str(d.dim_value or d.dim_param or "?") for d in declared)
            found.append(
                f"output {output.name!r} is declared as [{said}], and computed as {value.shape}"
            )
    return found


def checked(given: InputDims | None, inputs: Collection[str]) -> InputDims:
    """The given dims; ``OnnxError`` unless they are lists of dims by names of inputs."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise OnnxError(
            "input_dims has the dims of inputs by their names, such as {'x': [1, 8]}, not "
            f"{given!r}"
        )
    if unknown := sorted(set(given) - set(inputs)):
        names, there = (", ".join(map(repr, each)) for each in (unknown, sorted(inputs)))
        raise OnnxError(f"input_dims: there is no input {names}; the inputs are {there}")
    for name, dims in given.items():
        if not hasattr(dims, "__iter__"):
            raise OnnxError(f"input_dims gives {name} {dims!r}, not a list of dims such as [1, 8]")
    return given


def by_name(inputs: Iterable[onnx.ValueInfoProto], given: InputDims) -> dict[str, Extent]:
    """The extents for names of dims: those given for a dim with that name, and the symbols in them.
    ``OnnxError`` if a name is given two values.
    """
    found: dict[str, tuple[Extent, str]] = {}

    def take(name: str, extent: Extent, where: str) -> None:
        known, there = found.setdefault(name, (extent, where))
        if known != extent:
            raise OnnxError(
                f"input_dims gives dim {name!r} as {shown(known)} in {there} and as "
                f"{shown(extent)} in {where}: one name is one size"
            )

    declared = {value.name: value.type.tensor_type.shape.dim for value in inputs}
    for where, dims in given.items():
        for in_file, extent in zip(declared[where], dims, strict=False):
            if name := declared_name(in_file):
                take(name, extent, where)
    replaced = frozenset(found)
    for where, dims in given.items():
        for symbol in (s for extent in dims for s in dim.symbols(extent)):
            if symbol.name not in replaced:
                take(symbol.name, Dim.of({(symbol,): 1}), where)
    return {name: extent for name, (extent, _) in found.items()}


def expect_alone(given: InputDims, inputs: Iterable[Instruction]) -> None:
    """``OnnxError`` if a given dim has a symbol that is not by itself a dim of any input, so that
    nothing tells its size.
    """
    alone = bare_symbols(inputs)
    for where, dims in given.items():
        for extent in dims:
            for symbol in dim.symbols(extent):
                if symbol.name not in alone:
                    raise OnnxError(
                        f"input_dims gives {where} the dim {extent}, but nothing tells what "
                        f"{symbol} is: it must be a dim of an input by itself. Where it is not, "
                        f"give {where} a symbol for the whole dim"
                    )


def shown(extent: Extent) -> str:
    """An extent as text, a symbol with its bounds."""
    symbol = extent.symbol if isinstance(extent, Dim) else None
    if symbol is None:
        return str(extent)
    low, high = symbol.bounds
    return f"{symbol} of {low}..{high}"
