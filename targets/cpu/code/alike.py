"""Which instructions share a kernel, so that a model of twelve like layers compiles one layer.

A kernel may depend on an instruction's operation and shape, on the module it runs, and on the
layout of each input, which its shape gives. It may know that an input is a constant, and the views
on it, but not whether that is packed; so an instruction keeps its kernel when its constants get the
format this asks for. A value it may know only of constants of one element that nobody may replace,
and of small ones in its module; of trees also whether all that they refer to exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

from migx import op as operations
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal, Param, Slot
from migx.ops.formats import UnpackWeight
from migx.ops.indexing import Gather
from migx.ops.trees import TreeEnsemble
from migx.planning import is_block, viewed
from migx.weights import value_of

SMALL = 2048
"""The most elements of a constant in a module whose values a kernel may know."""


def likeness(at: Instruction) -> Hashable | None:
    """A key that is equal for instructions that share a kernel; None if there is no such key."""
    places: dict[Instruction, int] = {}
    inputs = tuple(_seen(value, places) for value in at.inputs)
    modules = tuple(map(_inside, at.modules))
    if None in modules or type(at.op) is Literal:
        return None
    return operations.key(at.op, digests=True), at.shape, inputs, modules, is_inside(at)


def is_inside(at: Instruction) -> bool:
    """Whether an instruction is an ensemble of trees that nobody may replace, and all features,
    nodes and leaves that it refers to exist.
    """
    if not isinstance(at.op, TreeEnsemble):
        return False
    x, features, _, _, ways, weights, roots = at.inputs
    known = [value_of(each) for each in (features, ways, roots)]
    fixed = [value.array for value in known if value is not None]
    columns, nodes, leaves = x.shape.dims[1], features.shape.dims[0], weights.shape.dims[0]
    if len(fixed) < len(known) or not isinstance(columns, int) or not nodes:
        return False
    read, *places = fixed
    within = [(read >= 0) & (read < columns)]
    within += [(place >= -leaves) & (place < nodes) for place in places]
    return all(bool(each.all()) for each in within)


def digest(at: Instruction) -> str | None:
    """A name for ``likeness``, the same in every process; symbols differ by their names alone."""
    alike = likeness(at)
    return None if alike is None else hashlib.sha256(repr(alike).encode()).hexdigest()


def _seen(value: Instruction, places: dict[Instruction, int]) -> Hashable:
    """The layout of an input and, for a constant, the views on it; ``places`` identifies equal
    values.
    """
    lies = places.setdefault(value, len(places)), value.shape
    views: list[Hashable] = []
    while (below := viewed(value)) is not None:
        views += [operations.key(value.op, digests=True), below.shape]
        value = below
    behind = _behind(value)
    return lies if behind is None else (*lies, *views, behind)


def _behind(value: Instruction) -> Hashable:
    """What a kernel may know of the constant behind the views; None if there is none."""
    match value.op:
        case Literal() if value.shape.elements == 1 and not value.op.replaceable:
            return _constant(value.op, 1)
        case Literal() | Slot() | UnpackWeight():
            return "constant"
        case Gather() if is_block(value) and (behind := _behind(value.inputs[0])) is not None:
            return "block", behind
    return None


def _constant(op: Literal, most: int) -> Hashable:
    shape = op.value.shape
    known = shape.dtype.is_tensor and shape.elements <= most and not op.replaceable
    return "@literal", op.replaceable, _short(op.value.tobytes()) if known else None


def _short(bits: bytes) -> bytes:
    """The bytes, or a digest if they are many."""
    return bits if len(bits) <= 16 else hashlib.sha256(bits).digest()


def _inside(module: Module) -> Hashable | None:
    """A module up to the names in it; None if it reads values around it, or holds a constant that
    is not small.
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
