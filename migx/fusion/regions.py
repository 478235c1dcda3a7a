"""Results written in regions: concatenations with the arithmetic before and after them, constant
padding, reversing, copies. Each region is an elementwise kernel of its own, which reads and writes
from an offset on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from migx import op as operations
from migx.argument import Argument
from migx.dim import Extent, maximum, offsets
from migx.fusion.kernels import Access, FusedKernel, Node, Unfit, collapsed
from migx.fusion.outlining import is_small
from migx.ir import Instruction
from migx.ops.builtin import Literal, Param
from migx.ops.control import Assume
from migx.ops.fused import Group
from migx.ops.layout import Broadcast, Concat, Multibroadcast, Pad, Reverse
from migx.planning import is_memory
from migx.shape import Dims, DType, Shape


def described(at: Instruction) -> list[FusedKernel] | None:
    """The regions that make up an instruction's result; None if it has none."""
    try:
        match at.op:
            case Assume():
                return _moved(at, [_copied(at)])
            case Concat():
                return _moved(at, _concatenated(at))
            case Group(tag="concat"):
                return _grouped(at)
            case Reverse():
                return _moved(at, [_reversed(at)])
            case Pad(mode="constant"):
                return _padded(at)
    except Unfit:
        pass
    return None


# Copies of elements.


@dataclass(frozen=True)
class _Part:
    """A copy: its dims, its source and its destination, each with an offset."""

    dims: Dims
    operand: int
    given: tuple[Dims, Extent]
    made: tuple[Dims, Extent]


def _moved(at: Instruction, parts: Sequence[_Part]) -> list[FusedKernel]:
    """Copies as kernels, on integers as wide as the elements, so that bits are preserved."""
    if at.shape.dtype.is_packed or not is_memory(at.shape):
        raise Unfit
    dtype = DType.of(f"u{at.shape.dtype.bits}")
    count = len(at.inputs)
    return [
        _computation(
            part.dims,
            [Node(Access(part.operand, dtype, *part.given), dtype, False)],
            Access(count, dtype, *part.made),
        )
        for part in parts
    ]


def _computation(dims: Dims, nodes: Sequence[Node], result: Access) -> FusedKernel:
    whole = FusedKernel(dims, (False,) * len(dims), tuple(nodes), ((len(nodes) - 1, result),))
    return collapsed(whole)


def _copied(at: Instruction) -> _Part:
    steps, made = at.inputs[0].shape.true_strides, at.shape.true_strides
    return _Part(at.shape.dims, 0, (steps, 0), (made, 0))


def _concatenated(at: Instruction) -> list[_Part]:
    axis, strides = at.op_as(Concat).axis, at.shape.true_strides
    starts = offsets(value.shape.dims[axis] for value in at.inputs)
    given = [(value.shape.dims, value.shape.true_strides) for value in at.inputs]
    return [
        _Part(dims, number, (steps, 0), (strides, starts[number] * strides[axis]))
        for number, (dims, steps) in enumerate(given)
    ]


def _reversed(at: Instruction) -> _Part:
    dims, steps = at.shape.dims, list(at.inputs[0].shape.true_strides)
    offset: Extent = 0
    for axis in at.op_as(Reverse).axes:
        offset = offset + (dims[axis] - 1) * steps[axis]
        steps[axis] = -1 * steps[axis]
    return _Part(dims, 0, (tuple(steps), offset), (at.shape.true_strides, 0))


def _padded(at: Instruction) -> list[FusedKernel]:
    """The interior, and for each axis the padding on either side, inside that of outer axes."""
    rank, given, pads = at.shape.rank, at.inputs[0].shape, at.op_as(Pad).pads
    strides = at.shape.true_strides
    before = [maximum(p, 0) for p in pads[:rank]]
    after = [maximum(p, 0) for p in pads[rank:]]
    inside = [d - b - a for d, b, a in zip(at.shape.dims, before, after, strict=True)]
    start = sum((b * s for b, s in zip(before, strides, strict=True)), 0)
    dropped = [maximum(-1 * p, 0) for p in pads[:rank]]
    from_ = sum((n * s for n, s in zip(dropped, given.true_strides, strict=True)), 0)
    part = _Part(tuple(inside), 0, (given.true_strides, from_), (strides, start))
    regions = _moved(at, [part])
    for axis in range(rank):
        outer = sum((before[i] * strides[i] for i in range(axis)), 0)
        behind = (before[axis] + inside[axis]) * strides[axis]
        for extent, offset in ((before[axis], outer), (after[axis], outer + behind)):
            if extent != 0:
                dims = (*inside[:axis], extent, *at.shape.dims[axis + 1 :])
                regions.append(_filled(at, dims, offset))
    return regions


def _filled(at: Instruction, dims: Dims, offset: Extent) -> FusedKernel:
    """A region of padding: the second input, or zero."""
    dtype = DType.of(f"u{at.shape.dtype.bits}")
    if len(at.inputs) == 2:
        node = Node(Access(1, dtype, (0,) * len(dims)), dtype, False)
    else:
        node = Node(Argument.of(0, dtype), dtype, False)
    access = Access(len(at.inputs), dtype, at.shape.true_strides, offset)
    return _computation(dims, [node], access)


# Arithmetic around a concatenation.


def _grouped(at: Instruction) -> list[FusedKernel]:
    """A region for each part of a group's concatenation; ``Unfit`` for other contents."""
    (module,) = at.modules
    concats = [v for v in module if isinstance(v.op, Concat)]
    if len(concats) != 1 or at.shape.parts:
        raise Unfit
    (concat,) = concats
    (result,) = module.outputs
    if result.shape.dims != concat.shape.dims:
        raise Unfit
    regions = []
    axis, strides = concat.op_as(Concat).axis, at.shape.true_strides
    starts = offsets(part.shape.dims[axis] for part in concat.inputs)
    for part, start in zip(concat.inputs, starts, strict=False):
        region = _Region(at, concat, part, start)
        region.value(result)
        access = Access(len(at.inputs), at.shape.dtype, strides, start * strides[axis])
        regions.append(_computation(part.shape.dims, region.nodes, access))
    return regions


@dataclass
class _Region:
    """One part of a concatenation, from ``start`` on, with the arithmetic around it."""

    at: Instruction
    concat: Instruction
    part: Instruction
    start: Extent
    nodes: list[Node] = field(default_factory=list)
    found: dict[tuple[Instruction, bool], int] = field(default_factory=dict)

    def value(self, value: Instruction, before: bool = False) -> int:
        """The node of a value ``before`` or after the concatenation; ``Unfit`` for others."""
        if (value, before) not in self.found:
            self.found[value, before] = self._made(value, before)
        return self.found[value, before]

    def _made(self, value: Instruction, before: bool) -> int:
        if value is self.concat:
            return self.value(self.part, True)
        if is_small(value):
            return self._node(Node(value.op_as(Literal).value, value.shape.dtype, False))
        if isinstance(value.op, Multibroadcast | Broadcast) and is_small(value.inputs[0]):
            return self.value(value.inputs[0], before)
        if type(value.op) is Param:
            return self._read(value, before)
        if not operations.traits(value.op).pointwise:
            raise Unfit
        given = tuple(self.value(v, before) for v in value.inputs)
        return self._node(Node(value.op, value.shape.dtype, False, given))

    def _read(self, parameter: Instruction, before: bool) -> int:
        """An input of the group; after the concatenation, only this region's part of it is read."""
        dims = self.part.shape.dims if before else self.concat.shape.dims
        number = list(self.at.modules[0].parameters.values()).index(parameter)
        shape: Shape = self.at.inputs[number].shape
        if shape.dims != dims:
            raise Unfit
        strides = shape.true_strides
        offset = 0 if before else self.start * strides[self.concat.op_as(Concat).axis]
        return self._node(Node(Access(number, shape.dtype, strides, offset), shape.dtype, False))

    def _node(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1
