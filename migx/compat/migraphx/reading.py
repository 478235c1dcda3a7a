"""MIGraphX's functions that read models: a dim that no option names is 1."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from migx.compat.migraphx.programs import program
from migx.compat.migraphx.shapes import dynamic_dimension
from migx.dim import Extent
from migx.errors import CompatError

if TYPE_CHECKING:
    from onnx import TensorShapeProto, ValueInfoProto

    from migx.onnx.wire import Stripped

Dims = Mapping[str, Sequence[int]]
DynDims = Mapping[str, Sequence[dynamic_dimension | int]]
NONE: Mapping[str, Any] = MappingProxyType({})
ONE = dynamic_dimension(1, 1)


def parse_onnx(
    filename: str,
    default_dim_value: int = 0,
    default_dyn_dim_value: dynamic_dimension = ONE,
    dim_params: Mapping[str, dynamic_dimension | int] = NONE,
    map_input_dims: Dims = NONE,
    map_dyn_input_dims: DynDims = NONE,
    skip_unknown_operators: bool = False,
    print_program_on_error: bool = False,
    max_loop_iterations: int = 10,
    limit_max_iterations: int = 65535,
    use_debug_symbols: bool = False,
) -> program:
    """The program of an ONNX file.

    A dim that is not a number in the file is taken from ``map_input_dims`` or
    ``map_dyn_input_dims`` for its input, or from ``dim_params`` for its name, or is the default, 1.
    Loops run as long as the model says, and instructions always know their nodes:
    ``use_debug_symbols`` adds nothing. ``CompatError`` names an option that is not supported.
    """
    from migx.onnx.wire import read_stripped

    if (max_loop_iterations, limit_max_iterations) != (10, 65535):
        raise CompatError(
            "loops run as long as the model says: leave max_loop_iterations and "
            "limit_max_iterations out"
        )
    _refuse(skip_unknown_operators, print_program_on_error)
    path = Path(filename).absolute()
    sizes = _Sizes(
        default_dim_value, default_dyn_dim_value, dim_params, map_input_dims, map_dyn_input_dims
    )
    return _read(read_stripped(path), path.parent, sizes)


def parse_onnx_buffer(
    filename: bytes,
    default_dim_value: int = 0,
    default_dyn_dim_value: dynamic_dimension = ONE,
    map_input_dims: Dims = NONE,
    map_dyn_input_dims: DynDims = NONE,
    skip_unknown_operators: bool = False,
    print_program_on_error: bool = False,
    external_data_path: str = "",
    use_debug_symbols: bool = False,
) -> program:
    """The program of an ONNX model's bytes, with external data in ``external_data_path``.

    ``filename`` is the bytes: MIGraphX calls them so. See ``parse_onnx``.
    """
    from migx.onnx.wire import stripped_of

    _refuse(skip_unknown_operators, print_program_on_error)
    sizes = _Sizes(
        default_dim_value, default_dyn_dim_value, NONE, map_input_dims, map_dyn_input_dims
    )
    return _read(stripped_of(bytes(filename)), Path(external_data_path).absolute(), sizes)


def parse_tf(
    filename: str,
    is_nhwc: bool = True,
    batch_size: int = 1,
    map_input_dims: Dims = NONE,
    output_names: Sequence[str] = (),
) -> program:
    """Raises ``CompatError``: migx reads ONNX."""
    raise CompatError(f"migx reads ONNX files, not TensorFlow's: convert {filename} by tf2onnx")


def get_onnx_operators() -> list[str]:
    """The names of all supported ONNX operators, of all domains."""
    from migx.onnx import importers

    return sorted({name for _, name in importers.table()})


def _refuse(skip_unknown_operators: bool, print_program_on_error: bool) -> None:
    if skip_unknown_operators:
        raise CompatError(
            "an operator that is not known is not skipped: without skip_unknown_operators, the "
            "error lists all of them; migx.onnx.importers adds one"
        )
    if print_program_on_error:
        raise CompatError("errors draw the node they are about: leave print_program_on_error out")


class _Sizes:
    """The dims that a caller gives for inputs."""

    def __init__(
        self,
        default_dim_value: int,
        default: dynamic_dimension,
        dim_params: Mapping[str, dynamic_dimension | int],
        fixed: Dims,
        dynamic: DynDims,
    ) -> None:
        given = (default.min, default.max) != (1, 1)
        if default_dim_value and given:
            raise CompatError("give default_dim_value or default_dyn_dim_value, not both")
        if fixed and dynamic:
            raise CompatError("give map_input_dims or map_dyn_input_dims, not both")
        number = default_dim_value or 1
        self.default = default if given else dynamic_dimension(number, number)
        self.dim_params, self.fixed, self.dynamic = dim_params, fixed, dynamic

    def of(self, value: ValueInfoProto) -> list[Extent]:
        """The dims of an input."""
        name = value.name
        if name in self.fixed:
            return [int(d) for d in self.fixed[name]]
        if name in self.dynamic:
            return [_extent(d, f"{name}.{i}") for i, d in enumerate(self.dynamic[name])]
        declared = value.type.tensor_type.shape.dim
        return [self._dim(f"{name}.{i}", d) for i, d in enumerate(declared)]

    def _dim(self, hint: str, declared: TensorShapeProto.Dimension) -> Extent:
        from migx.onnx.given import declared_name

        if declared.HasField("dim_value") and declared.dim_value > 0:
            return int(declared.dim_value)
        name = declared_name(declared)
        return _extent(self.dim_params.get(name, self.default), name or hint)

    def named(self) -> Iterator[str]:
        """The inputs that are named."""
        yield from (*self.fixed, *self.dynamic)


def _extent(given: dynamic_dimension | int, name: str) -> Extent:
    """The given number, or the symbol ``name``."""
    if isinstance(given, dynamic_dimension):
        return given.extent(name)
    try:
        return operator.index(given)
    except TypeError:
        raise CompatError(
            f"dim {name!r} is a dynamic_dimension or a number, not {given!r}"
        ) from None


def _read(stripped: Stripped, folder: Path, sizes: _Sizes) -> program:
    from migx.onnx.reader import program_of

    graph = stripped.model.graph
    given = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in given}
    ranked = [
        value
        for value in inputs.values()
        if value.type.tensor_type.HasField("shape") or value.name in sizes.named()
    ]
    dims = {value.name: sizes.of(value) for value in ranked}
    dims.update((name, []) for name in sizes.named() if name not in inputs)  # refused by the reader
    for value in ranked:  # dims given here are for one input, whatever names it shares
        for declared in value.type.tensor_type.shape.dim:
            declared.ClearField("dim_param")
    return program(program_of(stripped, folder, dims))


__all__ = ["get_onnx_operators", "parse_onnx", "parse_onnx_buffer", "parse_tf"]
