"""Element types of sequences and optionals, inferred from other values if their shapes do not say.
ONNX requires the element type even if the rank is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from migx.errors import OnnxError
from migx.ir import Instruction, Module
from migx.iterations import ends, sources
from migx.onnx import tensors
from migx.ops.builtin import GetTupleElem
from migx.shape import DType, Shape


def declared(name: str, at: Instruction) -> onnx.ValueInfoProto:
    """The declaration of a value in a file; ``OnnxError`` if its element type is unknown."""
    kind = tensors.type_of(at.shape)
    inner = kind
    while (which := inner.WhichOneof("value")) in ("sequence_type", "optional_type"):
        inner = getattr(inner, which).elem_type
    if which is None:
        dtype = element(at)
        if dtype is None:
            raise OnnxError(f"the element type of {name!r}, a {at.shape.text}, is not known")
        inner.tensor_type.elem_type = tensors.code_of(dtype)
    return onnx.helper.make_value_info(name, kind)


def element(at: Instruction) -> DType | None:
    """The element type of the tensors in a sequence or an optional; None if unknown."""
    seen, waiting = {at}, [at]
    for value in waiting:
        dtype = said(value)
        if dtype is not None:
            return dtype
        found = [v for v in neighbours(value) if v.shape.dtype.kind == "opaque" and v not in seen]
        seen.update(found)
        waiting += found
    return None


def said(value: Instruction) -> DType | None:
    """The element type from a host value's shape, or from what is put into or taken out of it."""
    shape: Shape | None = value.shape
    while shape is not None and shape.dtype.kind == "opaque":
        shape = shape.parts[0] if shape.parts else None
    if shape is not None:
        return shape.dtype
    given = value.inputs[1:2] if value.op.name == "sequence_insert" else ()
    given += value.inputs[:1] if value.op.name in ("sequence_construct", "make_optional") else ()
    taken = [user for user in value.users if user.op.name in TAKES]
    into = [user.inputs[1] for user in value.users if user.op.name == "sequence_insert"]
    return next((v.shape.dtype for v in (*given, *into, *taken) if v.shape.dtype.is_tensor), None)


TAKES = ("sequence_at", "concat_from_sequence", "optional_get_element")


def neighbours(value: Instruction) -> Iterator[Instruction]:
    """The values with the same content as a value: those it is made from, and those made from it,
    through branches and loops.
    """
    if value.op.name == "get_tuple_elem":
        yield from ends(value.inputs[0], value.op_as(GetTupleElem).index)
    elif value.op.name == "@param":
        yield from sources(value)
    yield from value.inputs
    for user in value.users:
        if user.op.name == "@return":
            parent = user.module.parent if isinstance(user.module, Module) else None
            yield from results(parent, user.inputs.index(value)) if parent is not None else ()
        elif user.modules:
            place = user.inputs.index(value)
            yield from (list(m.parameters.values())[place] for m in user.modules if m.parameters)
        else:
            yield user


def results(parent: Instruction, place: int) -> Iterator[Instruction]:
    """The tuple members that a module's result becomes."""
    index = place - (1 if parent.op.name == "loop" else 0)
    yield from (u for u in parent.users if getattr(u.op, "index", None) == index)
