"""Memory exchanged with other libraries without copies: DLPack, and ``__cuda_array_interface__``.

A DLPack capsule holds a C struct that describes a tensor, with a function to call when it is no
longer needed (github.com/dmlc/dlpack, the unversioned struct, which every library takes). The
structs are read and written here, so no array library is needed, and bf16 passes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint64,
    c_void_p,
)
from typing import Any, NamedTuple

import numpy as np

from migx.errors import InputError, ShapeError
from migx.shape import DType, Shape

CPU, CUDA, MANAGED, ROCM = 1, 2, 13, 10
"""DLPack's kinds of memory: the host's, and that of GPUs."""
CODES = {"int": 0, "uint": 1, "float": 2, "bool": 6}
BFLOAT = 4
NAME = b"dltensor"


class Lent(NamedTuple):
    """Memory of another owner: its address, the value there, and the object that keeps it alive."""

    address: int
    shape: Shape
    owner: Any


class _Tensor(Structure):
    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _Managed(Structure):
    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p))


_python = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", _python))
_valid = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", _python))
_pointer = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", _python))
_given: dict[int, tuple[Any, ...]] = {}
"""The objects kept alive for exported tensors, by the addresses of their structs."""


def _let_go(managed: int) -> None:
    """Releases a tensor that is no longer needed."""
    _given.pop(managed, None)


def _unused(capsule: int) -> None:
    """Releases the tensor of a capsule that was never consumed; given its address, as it is
    dying.
    """
    if _valid(capsule, NAME):
        _let_go(_pointer(capsule, NAME))


_deleter = ctypes.CFUNCTYPE(None, c_void_p)(_let_go)
_destructor = ctypes.PYFUNCTYPE(None, c_void_p)(_unused)


def exported(address: int, shape: Shape, device: tuple[int, int], owner: Any) -> Any:
    """A capsule of a value of static shape; ``owner`` lives until the consumer is done. Raises
    ``BufferError`` for types that DLPack does not have.
    """
    dtype = shape.dtype
    code = BFLOAT if dtype.name == "bf16" else CODES.get(dtype.kind)
    if code is None or dtype.bits < 8 or (dtype.numpy.kind not in "biuf" and code != BFLOAT):
        raise BufferError(f"DLPack has no element type {dtype}")
    rank = shape.rank
    dims = (c_int64 * rank)(*map(int, shape.dims))
    strides = (c_int64 * rank)(*map(int, shape.true_strides))
    tensor = _Tensor(address, *device, rank, code, dtype.bits, 1, dims, strides, 0)
    made = _Managed(tensor, None, ctypes.cast(_deleter, c_void_p))
    where = ctypes.addressof(made)
    _given[where] = made, dims, strides, owner
    return _new(where, NAME, ctypes.cast(_destructor, c_void_p))


def imported(capsule: Any) -> Lent:
    """The memory in a capsule. It is not marked as consumed: it lives on as the owner, and calls
    the producer's function when it is freed. Raises ``InputError`` for unsupported types.
    """
    if not _valid(id(capsule), NAME):
        raise InputError("it gives no DLPack capsule, or one that has been consumed")
    where: int = _pointer(id(capsule), NAME)
    tensor = _Managed.from_address(where).tensor
    dims = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    kinds = {code: kind for kind, code in CODES.items()}
    name = f"bf{tensor.bits}" if tensor.code == BFLOAT else ""
    kind = kinds.get(tensor.code, "")
    name = name or ("bool" if kind == "bool" else f"{kind[:1]}{tensor.bits}")
    if name not in DType.known or tensor.lanes != 1:
        raise InputError(f"DLPack's element type {tensor.code} of {tensor.bits} bits is unknown")
    shape = _shape(DType.of(name), dims, strides)
    return Lent((tensor.data or 0) + tensor.byte_offset, shape, capsule)


def interfaced(said: Mapping[str, Any], owner: Any) -> Lent:
    """The memory described by ``__cuda_array_interface__`` (version 3 of numba's convention)."""
    if said.get("mask") is not None:
        raise InputError("it is a masked array")
    try:
        dtype = DType.of(np.dtype(said["typestr"]))
    except (ShapeError, TypeError) as error:
        raise InputError(f"its elements are {said['typestr']}: {error}") from error
    given, step = said.get("strides"), dtype.bits // 8
    if given is not None and any(s % step for s in given):
        raise InputError(f"its strides {given} are not multiples of {step} bytes")
    strides = None if given is None else tuple(s // step for s in given)
    return Lent(int(said["data"][0]), _shape(dtype, tuple(said["shape"]), strides), owner)


def _shape(dtype: DType, dims: tuple[int, ...], strides: tuple[int, ...] | None) -> Shape:
    """A shape; arbitrary strides of axes of one element are replaced by standard ones. Raises
    ``InputError`` if others are negative.
    """
    usual = Shape(dtype, dims)
    if strides is None or 0 in dims:
        return usual
    true = zip(dims, strides, usual.true_strides, strict=True)
    moved = tuple(int(u) if d == 1 else s for d, s, u in true)
    if any(s < 0 for s in moved):
        raise InputError(f"its strides {strides} are negative: make it contiguous first")
    return usual if moved == usual.true_strides else Shape(dtype, dims, moved)
