"""Which instructions share a kernel: a twelve-layer model has one layer's kernels to write.

A kernel may depend on an instruction's operation and shape, on the module it runs, and on how each
input lies, which its shape says. Of a constant it may know what kind it is and through which views
it is seen; what is in it only of those of one element that nobody may replace, and of small ones in
its module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

from migx import op as operations
from migx.fusion.outlining import viewed
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal, Param, Slot
from migx.ops.formats import UnpackWeight
from migx.ops.indexing import Gather
from migx.planning import is_block

SMALL = 2048
"""Elements of a constant in a module that may be known."""


def likeness(at: Instruction) -> Hashable | None:
    """What two instructions have in common that share a kernel; None where that cannot be said."""
    places: dict[Instruction, int] = {}
    inputs = tuple(_seen(value, places) for value in at.inputs)
    modules = tuple(map(_inside, at.modules))
    if None in modules or type(at.op) is Literal:
        return None
    return operations.key(at.op, digests=True), at.shape, inputs, modules


def digest(at: Instruction) -> str | None:
    """A name for what instructions that share a kernel have in common, the same in every process;
    symbols are told apart by their names alone.
    """
    alike = likeness(at)
    return None if alike is None else hashlib.sha256(repr(alike).encode()).hexdigest()


def _seen(value: Instruction, places: dict[Instruction, int]) -> Hashable:
    """An input as it lies, and where it shows a constant the views it is seen through; ``places``
    tells equal values from others.
    """
    lies = places.setdefault(value, len(places)), value.shape
    views: list[Hashable] = []
    while (below := viewed(value)) is not None:
        views += [operations.key(value.op, digests=True), below.shape]
        value = below
    behind = _behind(value)
    return lies if behind is None else (*lies, *views, behind)


def _behind(value: Instruction) -> Hashable:
    """What a kernel may know of the constant behind the views; None where there is none."""
    match value.op:
        case Literal():
            return _constant(value.op)
        case Slot():
            return "@slot"
        case UnpackWeight():
            return operations.key(value.op, digests=True)
        case Gather() if is_block(value) and (behind := _behind(value.inputs[0])) is not None:
            return "block", behind
    return None


def _constant(op: Literal, most: int = 1) -> Hashable:
    shape = op.value.shape
    known = shape.dtype.is_tensor and shape.elements <= most and not op.replaceable
    return "@literal", op.replaceable, _short(op.value.tobytes()) if known else None


def _short(bits: bytes) -> bytes:
    """Bytes, or where they are many a digest of them."""
    return bits if len(bits) <= 16 else hashlib.sha256(bits).digest()


def _inside(module: Module) -> Hashable | None:
    """A module but for the names in it; None for one that reads what is around it, or holds a
    constant that is not small.
    """
    places: dict[Instruction, int] = {}
    found: list[Hashable] = []
    for at in module:
        if at.modules or not places.keys() >= set(at.inputs):
            return None
        places[at] = len(places)
        op: Hashable = None
        if isinstance(at.op, Literal):
            if at.shape.elements > SMALL:
                return None
            op = _constant(at.op, SMALL)
        elif not isinstance(at.op, Param):
            op = operations.key(at.op, digests=True)
        found.append((op, at.shape, *map(places.__getitem__, at.inputs)))
    return tuple(found)
