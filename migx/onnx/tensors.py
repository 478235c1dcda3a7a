"""ONNX tensors as arguments: mapped if their bytes are in a file, decoded if they are in the
message.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from migx.argument import Argument, Source
from migx.dim import Dim, Extent
from migx.errors import DataError, OnnxError, ShapeError
from migx.ops.builtin import OnnxExternalWeights
from migx.ops.maps import map_of
from migx.ops.sequences import VARIES
from migx.shape import MAP, OPTIONAL, STR, DType, Shape
from migx.weights.sources import located

_TYPES = {
    "FLOAT": "f32",
    "DOUBLE": "f64",
    "FLOAT16": "f16",
    "BFLOAT16": "bf16",
    "BOOL": "bool",
    "STRING": "str",
    "FLOAT8E4M3FN": "f8e4m3fn",
    "FLOAT8E4M3FNUZ": "f8e4m3fnuz",
    "FLOAT8E5M2": "f8e5m2",
    "FLOAT8E5M2FNUZ": "f8e5m2fnuz",
    "FLOAT8E8M0": "f8e8m0",
    "FLOAT4E2M1": "f4",
    **{f"INT{bits}": f"i{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"UINT{bits}": f"u{bits}" for bits in (2, 4, 8, 16, 32, 64)},
}


_LEFT_OUT = "; with defer_external_weights=True none need be there yet"

_CODES = {DType.of(ours): int(TensorProto.DataType.Value(name)) for name, ours in _TYPES.items()}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


def dtype_of(code: int, what: str) -> DType:
    """The element type for an ONNX type code; ``OnnxError`` names what has an unsupported one."""
    if code not in _DTYPES:
        known = code in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(code) if known else code
        raise OnnxError(f"{what} has the element type {name}, which is not supported")
    return _DTYPES[code]


def code_of(dtype: DType) -> int:
    """The ONNX type code for an element type."""
    return _CODES[dtype]


def declared(dtype: DType, dims: Iterable[Extent], what: str) -> Shape:
    """A shape that a file or its reader's caller declares; errors name what has it."""
    try:
        return Shape(dtype, dims)
    except ShapeError as error:
        raise OnnxError(f"{what}: {error}") from error


def host_shape(value: onnx.TypeProto, what: str) -> Shape:
    """The shape of a sequence, an optional or a map; elements without a rank are unknown."""
    kind = value.WhichOneof("value")
    if kind == "sequence_type":
        return Shape.opaque("sequence", *held(value.sequence_type.elem_type, what))
    if kind == "optional_type":
        return Shape.opaque("optional", *held(value.optional_type.elem_type, what))
    if kind == "map_type":
        held_type = value.map_type.value_type
        if held_type.WhichOneof("value") != "tensor_type" or held_type.tensor_type.shape.dim:
            raise OnnxError(f"{what} is a map to more than single values, which is not supported")
        codes = value.map_type.key_type, held_type.tensor_type.elem_type
        return map_of(*(dtype_of(code, what) for code in codes))
    raise OnnxError(f"{what} is of the kind {kind or 'untyped'}, which is not supported")


def held(element: onnx.TypeProto, what: str) -> tuple[Shape, ...]:
    """The element shape of a sequence or optional; dims that are no numbers vary."""
    if element.WhichOneof("value") != "tensor_type":
        return (host_shape(element, what),)
    tensor = element.tensor_type
    dtype = dtype_of(tensor.elem_type, what)
    if not tensor.HasField("shape"):
        return ()
    return (declared(dtype, [d.dim_value or VARIES for d in tensor.shape.dim], what),)


def type_of(shape: Shape) -> onnx.TypeProto:
    """The ONNX type for a shape: its dims as numbers, names or expressions."""
    made: onnx.TypeProto = onnx.TypeProto()
    if not shape.dtype.is_tensor:
        if shape.dtype is MAP:
            key, value = shape.parts
            made.map_type.key_type = code_of(key.dtype)
            made.map_type.value_type.CopyFrom(type_of(Shape(value.dtype)))
            return made
        holder = made.optional_type if shape.dtype is OPTIONAL else made.sequence_type
        holder.SetInParent()
        if shape.parts:
            holder.elem_type.CopyFrom(type_of(shape.parts[0]))
        return made
    made.tensor_type.elem_type = code_of(shape.dtype)
    made.tensor_type.shape.SetInParent()
    for extent in shape.dims:
        made.tensor_type.shape.dim.add(**({} if extent == VARIES else _said(extent)))
    return made


def _said(extent: Extent) -> dict[str, int | str]:
    """A dim in a file: a number, a symbol's name, or an expression as text."""
    if not isinstance(extent, Dim):
        return {"dim_value": extent}
    return {"dim_param": str(extent) if extent.symbol is None else extent.symbol.name}


def shape_of(tensor: TensorProto) -> Shape:
    """The shape a tensor declares; a scalar has rank 0."""
    what = f"tensor {tensor.name!r}"
    return declared(dtype_of(tensor.data_type, what), tensor.dims, what)


def to_argument(tensor: TensorProto, folder: Path, embedded: Source | None = None) -> Argument:
    """The value of a tensor. Bytes in ``embedded`` or in an external file are mapped, not read.

    ``DataError`` if the bytes are missing, too few or too many; ``OnnxError`` for a path outside
    the model's folder.
    """
    shape = shape_of(tensor)
    source = embedded
    if tensor.data_location == TensorProto.EXTERNAL:
        source = located(deferred(tensor, tensor.name), folder, advice=_LEFT_OUT)
    elif source is not None:
        check_length(tensor, shape, source.length)
    if source is not None:
        return Argument(shape, source=source)
    if shape.dtype is STR:
        strings = np.array([_decoded(s, tensor.name) for s in tensor.string_data], object)
        check_length(tensor, shape, len(strings), int(shape.elements))
        return Argument(shape, strings.reshape(tensor.dims))
    if tensor.HasField("raw_data"):
        check_length(tensor, shape, len(tensor.raw_data))
        flat = np.frombuffer(tensor.raw_data, shape.dtype.numpy)
        return Argument(shape, flat if shape.dtype.is_packed else flat.reshape(tensor.dims))
    return Argument(shape, _typed(tensor, shape))


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise OnnxError(f"tensor {name!r} holds a string that is not UTF-8: {data!r}") from error


def _typed(tensor: TensorProto, shape: Shape) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """The data of the typed fields (``float_data``, ...), wider integers for narrow types."""
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    values = np.array(getattr(tensor, field))
    if shape.dtype.is_packed:
        flat = values.astype(np.uint8)
        check_length(tensor, shape, len(flat))
        return flat
    check_length(tensor, shape, len(values), int(shape.elements))
    if shape.dtype.is_float and shape.dtype.bits < 32:
        bits = values.astype(np.uint16 if shape.dtype.bits == 16 else np.uint8)
        return bits.view(shape.dtype.numpy).reshape(tensor.dims)
    return values.astype(shape.dtype.numpy).reshape(tensor.dims)


def deferred(tensor: TensorProto, label: str) -> OnnxExternalWeights:
    """The operation for a tensor with external data. Without a length, which is optional in ONNX,
    it has the bytes its shape takes. Does not access files.

    ``OnnxError`` if there is no location, a number is invalid, or the elements are strings;
    ``DataError`` if the length does not fit the shape.
    """
    shape = shape_of(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    what = f"external data of {tensor.name!r}"
    if shape.dtype is STR:
        raise OnnxError(f"{what}: strings stand in the model itself")
    if not entries.get("location"):
        raise OnnxError(f"{what} has no location")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", shape.nbytes))
    except ValueError as error:
        raise OnnxError(f"{what} has an offset or length that is no number: {entries}") from error
    if offset < 0 or length < 0:
        raise OnnxError(f"{what} has a negative offset or length: {offset}, {length}")
    check_length(tensor, shape, length)
    return OnnxExternalWeights(label, entries["location"], offset, length, shape)


def without_data(shape: Shape, name: str = "") -> TensorProto:
    """A tensor with a static shape, without data yet."""
    dims = [int(d) for d in shape.dims]
    return TensorProto(name=name, data_type=code_of(shape.dtype), dims=dims)


def place_outside(tensor: TensorProto, file: str, offset: int, length: int) -> None:
    """Places the data of a tensor in a file beside the model."""
    tensor.data_location = TensorProto.EXTERNAL
    for key, said in (("location", file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(said))


def check_length(tensor: TensorProto, shape: Shape, got: int, wanted: int | None = None) -> None:
    """Raises ``DataError`` unless a tensor has as many bytes, or values, as its shape takes."""
    unit = "bytes" if wanted is None else "values"
    wanted = int(shape.nbytes) if wanted is None else wanted
    if got != wanted:
        raise DataError(
            f"tensor {tensor.name!r} is {shape} and takes {wanted} {unit}, but has {got}"
        )
