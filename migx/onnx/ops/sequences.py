"""ONNX sequences and optionals."""

from __future__ import annotations

from migx import ops
from migx.dim import may_equal
from migx.ir import Instruction
from migx.iterations import ends
from migx.onnx import tensors
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.ops.sequences import VARIES
from migx.shape import OPTIONAL, Shape


def member(node: Node, whole: Instruction) -> Shape:
    """The shape of the members of a sequence or an optional: from itself, from what was put into
    it, or from the model's declaration of the node's first output.
    """
    held = known(whole)
    if held is None:
        name, declared = node.proto.output[0], node.declared()
        shapes = () if declared is None else tensors.held(declared.type, f"value {name!r}")
        if not shapes:
            raise node.fail(
                f"the rank of the elements of {whole!r} is not known: let the model declare the "
                f"shape of {name!r}"
            )
        held = shapes[0]
    return held


def known(whole: Instruction) -> Shape | None:
    """The known shape of the members of a sequence or an optional, from what is put into it, also
    in the modules it comes from.
    """
    if whole.shape.parts:
        return whole.shape.parts[0]
    match whole.op:
        case ops.SequenceInsert():
            return varying(whole.inputs[1].shape)
        case ops.SequenceErase():
            return known(whole.inputs[0])
        case ops.GetTupleElem(index=index):
            found = map(known, ends(whole.inputs[0], index))
            return next((varying(held) for held in found if held is not None), None)
    return None


def varying(shape: Shape) -> Shape:
    """The shape of members with no known dims."""
    return shape.with_dims([VARIES] * shape.rank) if shape.dtype.is_tensor else shape


def own_dims(node: Node, shape: Shape) -> Shape:
    """The shape with a new symbol for each dim that varies between members."""
    if not shape.dtype.is_tensor:
        return shape
    dims = [node.fresh(str(i)) if d == VARIES else d for i, d in enumerate(shape.dims)]
    return shape.with_dims(dims)


@importer("SequenceConstruct", since=11)
def construct(node: Node) -> Instruction:
    return node.add(ops.SequenceConstruct(), *node.operands())


@importer("SequenceEmpty", since=11)
def empty(node: Node) -> Instruction:
    return node.add(ops.SequenceConstruct())


@importer("SequenceInsert", since=11)
def insert(node: Node) -> Instruction:
    position = () if node.optional(2) is None else (node.input(2),)
    return node.add(ops.SequenceInsert(), node.input(0), node.input(1), *position)


@importer("SequenceErase", since=11)
def erase(node: Node) -> Instruction:
    position = () if node.optional(1) is None else (node.input(1),)
    return node.add(ops.SequenceErase(), node.input(0), *position)


@importer("SequenceAt", since=11)
def at(node: Node) -> Instruction:
    output = own_dims(node, member(node, node.input(0)))
    return node.add(ops.SequenceAt(output), node.input(0), node.input(1))


@importer("SequenceLength", since=11)
def length(node: Node) -> Instruction:
    return node.add(ops.SequenceLength(), node.input(0))


@importer("ConcatFromSequence", since=11)
def concat(node: Node) -> Instruction:
    new_axis = bool(node.integer("new_axis", 0))
    held = known(node.input(0))
    if held is None:
        output = own_dims(node, member(node, node.input(0)))
        axis = node.axis(node.integer("axis"), output.rank)
    else:
        axis = node.axis(node.integer("axis"), held.rank + new_axis)
        dims = list(held.dims)
        dims[axis : axis + (not new_axis)] = [VARIES]
        output = own_dims(node, held.with_dims(dims))
    return node.add(ops.ConcatFromSequence(output, axis, new_axis), node.input(0))


@importer("SplitToSequence", since=11)
def split(node: Node) -> Instruction:
    x, lengths = node.input(0), node.optional(1)
    axis = node.axis(node.integer("axis", 0), x.shape.rank)
    if lengths is None:
        return node.add(ops.SplitToSequence(axis, bool(node.integer("keepdims", 1))), x)
    if are_ones(node, lengths) and (
        not lengths.shape.rank or may_equal(lengths.shape.elements, x.shape.dims[axis])
    ):
        return node.add(ops.SplitToSequence(axis), x)
    return node.add(ops.SplitToSequence(axis), x, lengths)


def are_ones(node: Node, value: Instruction) -> bool:
    """Whether all elements of a value are known to be 1, whatever their number."""
    while value.op.name in ("broadcast", "multibroadcast"):
        value = value.inputs[0]
    held = node.extents(value)
    return held is not None and all(extent == 1 for extent in held)


@importer("Optional", since=15)
def optional(node: Node) -> Instruction:
    given = node.optional(0)
    if given is not None:
        return node.add(ops.MakeOptional(), given)
    return node.add(ops.MakeOptional(Shape.opaque(OPTIONAL, *node.held_type("type"))))


@importer("OptionalHasElement", since=15)
def has_element(node: Node) -> Instruction:
    given = node.optional(0)
    if given is None or given.shape.dtype is not OPTIONAL:
        return node.literal(given is not None)
    return node.add(ops.OptionalHasElement(), given)


@importer("OptionalGetElement", since=15)
def get_element(node: Node) -> Instruction:
    whole = node.input(0)
    if whole.shape.dtype is not OPTIONAL:
        return whole
    output = own_dims(node, member(node, whole))
    return node.add(ops.OptionalGetElement(output), whole)
