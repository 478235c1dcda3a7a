"""The types that ONNX's operators take, and the wider types they compute in if they do not take
narrow ones.

Integers that wrap around, and floats that are rounded once at the end, have the same results that
way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import onnx
from onnx import TensorProto

from migx.errors import OnnxError
from migx.onnx import tensors
from migx.shape import F32, I32, I64, DType

VERSION = 21
"""The default domain's version that operators are written at, unless one needs a later version."""
VERSIONS = range(VERSION, onnx.defs.onnx_opset_version() + 1)


@dataclass(frozen=True)
class Wider:
    """The type each input of a node is cast to, or None; and which results are cast back."""

    inputs: tuple[DType | None, ...]
    back: tuple[DType | None, ...]

    def result(self, index: int) -> DType | None:
        """The type a result is cast to."""
        return self.back[min(index, len(self.back) - 1)]

    @property
    def saturate(self) -> int | None:
        """The attribute of casts to narrow floats, which overflow as arithmetic does."""
        return 0 if any(t is not None and t.is_float and t.bits == 8 for t in self.back) else None


def wider(kind: str, types: Sequence[DType | None]) -> Wider | None:
    """The wider types for a node; None if it takes its inputs as they are, or no type fits. Unknown
    input types are accepted.
    """
    return _wider(kind, tuple(types))


@cache
def _wider(kind: str, types: tuple[DType | None, ...]) -> Wider | None:
    schema = next(filter(None, (_schema(kind, version) for version in VERSIONS)), None)
    if schema is None or kind in ("Cast", "Identity"):
        return None
    formal = [_input(schema, i) for i in range(len(types))]
    refused = {f.type_str: t for f, t in zip(formal, types, strict=True) if t and not _takes(f, t)}
    chosen = {name: _next(schema, name, dtype) for name, dtype in refused.items()}
    if not refused or None in chosen.values():
        return None
    inputs = tuple(chosen.get(f.type_str) for f in formal)
    return Wider(inputs, tuple(refused.get(f.type_str) for f in schema.outputs))


def _next(schema: onnx.defs.OpSchema, name: str, dtype: DType) -> DType | None:
    """A wider type for the inputs of a schema that share a type variable."""
    if dtype.is_packed or not (dtype.is_integer or dtype.is_float):
        return None
    formal = [given for given in schema.inputs if given.type_str == name]
    candidates = (F32,) if dtype.is_float else (I32, I64)
    fits = (c for c in candidates if c.bits > dtype.bits and all(_takes(f, c) for f in formal))
    return next(fits, None)


def since(kind: str, index: int, dtype: DType) -> int:
    """The first version, from ours on, in which an operator takes a type as one of its inputs."""
    for version in VERSIONS:
        schema = _schema(kind, version)
        if schema is not None and schema.inputs and _takes(_input(schema, index), dtype):
            return version
    raise OnnxError(f"ONNX {kind} takes no {dtype}")


@cache
def _schema(kind: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(kind, version)
    except onnx.defs.SchemaError:
        return None


def _input(schema: onnx.defs.OpSchema, index: int) -> onnx.defs.OpSchema.FormalParameter:
    """The declaration of an input; the last one is also for all further ones."""
    return schema.inputs[min(index, len(schema.inputs) - 1)]


@cache
def _name(dtype: DType) -> str:
    return f"tensor({TensorProto.DataType.Name(tensors.code_of(dtype)).lower()})"


def _takes(formal: onnx.defs.OpSchema.FormalParameter, dtype: DType) -> bool:
    return not dtype.is_tensor or _name(dtype) in formal.types
