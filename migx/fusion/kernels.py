"""The description of a fused kernel, shared by the targets, each of which generates its own code.

A ``FusedKernel`` computes on a *space* of axes, some of which are *folded*: reductions run over
these, and a reduction's result has one value for all their places. An operand is reached by an
``Access``: a stride along each axis, 0 where it is broadcast. The computation of an element is a
list of ``Node``s, each computed from earlier ones. Views and fused modules are gone: broadcasts are
strides of 0, and axes with the same layout in every operand are merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeVar

from migx import op as operations
from migx.argument import Argument
from migx.dim import Dim, Extent, may_equal, product
from migx.fusion.outlining import BROADCASTS, keeps_order
from migx.ir import Instruction
from migx.op import Operation
from migx.ops.builtin import Literal, Param
from migx.ops.fused import Fused, FusedReduce, Group, Pointwise
from migx.ops.layout import Broadcast, Contiguous, Multibroadcast, Reshape
from migx.ops.linear import Convolution, Dot, QuantConvolution, QuantDot
from migx.ops.pointwise import Div, Exp, Identity, Log, Sub
from migx.ops.quantization import Linear
from migx.ops.reduce import REDUCTIONS, Logsoftmax, Reduce, ReduceMax, ReduceSum, Softmax
from migx.planning import results
from migx.shape import Dims, DType, Shape

Steps = TypeVar("Steps", bound=tuple[Extent, ...])


@dataclass(frozen=True)
class Access:
    """How an operand is reached: its number among inputs and results, its stride along each axis of
    the space, and the offset of the space from its first element, both in elements.
    """

    operand: int
    dtype: DType
    strides: Dims
    offset: Extent = 0


@dataclass(frozen=True)
class Node:
    """One value in the computation of an element: an operation on other nodes, an operand that is
    read, or a constant of one element. ``folded`` values are the same along the folded axes.
    """

    of: Operation | Access | Argument
    dtype: DType
    folded: bool
    inputs: tuple[int, ...] = ()

    @property
    def folds(self) -> bool:
        """Whether it is a reduction."""
        return isinstance(self.of, Reduce)

    @property
    def reduction(self) -> Reduce:
        """Its reduction."""
        assert isinstance(self.of, Reduce)
        return self.of

    def reads(self, operand: int | None = None) -> bool:
        """Whether it reads an operand: any, or the one with that number."""
        return isinstance(self.of, Access) and operand in (None, self.of.operand)


@dataclass(frozen=True)
class FusedKernel:
    """A computation over a space of axes ``dims``, outermost first. ``folded`` says for each axis
    whether reductions run over it; ``outputs`` are nodes and where each is written.
    """

    dims: Dims
    folded: tuple[bool, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[int, Access], ...]

    @property
    def accesses(self) -> list[Access]:
        """Every access, inputs first."""
        return [n.of for n in self.nodes if isinstance(n.of, Access)] + [a for _, a in self.outputs]

    def in_place(self, *used: int) -> tuple[tuple[int, int], ...]:
        """The inputs with exactly the layout of the only result, which is number 0, except those
        ``used`` elsewhere; none if there are several results.
        """
        alike = self.lying_as(0) if len(self.outputs) == 1 else ()
        return tuple((i, 0) for i in alike if i not in used)

    def lying_as(self, output: int) -> tuple[int, ...]:
        """The inputs with exactly the layout of a result, wherever they are read."""
        _, result = self.outputs[output]
        read = [n.of for n in self.nodes if isinstance(n.of, Access) and not n.reads(PRODUCT)]
        others = {
            a.operand
            for a in read
            if (a.strides, a.dtype.bits) != (result.strides, result.dtype.bits)
        }
        return tuple(dict.fromkeys(a.operand for a in read if a.operand not in others))

    def with_axis(self, *, folded: bool) -> FusedKernel:
        """This kernel with one more axis, of size 1, inside the others."""
        strides = [(*a.strides, 0) for a in self.accesses]
        return self.over((*self.dims, 1), (*self.folded, folded), strides)

    def over(self, dims: Dims, folded: tuple[bool, ...], strides: Iterable[Dims]) -> FusedKernel:
        """This kernel over other axes, with the given strides for each access."""
        pairs = zip(self.accesses, strides, strict=True)
        moved = (replace(access, strides=along) for access, along in pairs)
        nodes = [replace(n, of=next(moved)) if n.reads() else n for n in self.nodes]
        outputs = [(node, next(moved)) for node, _ in self.outputs]
        return FusedKernel(dims, folded, tuple(nodes), tuple(outputs))

    def as_bits(self) -> FusedKernel:
        """This kernel; if it only copies elements of whole bytes, of integers of the same size, so
        that all their bits stay.
        """

        def whole(access: Access) -> Access:
            return replace(access, dtype=DType.of(f"u{access.dtype.bits}"))

        read = [node.of for node in self.nodes if isinstance(node.of, Access)]
        if len(read) < len(self.nodes) or any(a.dtype.bits < 8 for a in read):
            return self
        nodes = [
            Node(whole(a), whole(a).dtype, n.folded) for a, n in zip(read, self.nodes, strict=True)
        ]
        outputs = [(number, whole(access)) for number, access in self.outputs]
        return replace(self, nodes=tuple(nodes), outputs=tuple(outputs))

    @property
    def flops(self) -> Extent:
        """The total number of operations on elements."""
        every = product(self.dims)
        kept = product(d for d, f in zip(self.dims, self.folded, strict=True) if not f)
        computed = [node for node in self.nodes if not isinstance(node.of, (Access, Argument))]
        return sum(kept if node.folded and not node.folds else every for node in computed)


def described(at: Instruction) -> FusedKernel | None:
    """The kernel of an instruction that is fused, or could be fused alone; None for others."""
    made = _Description(at)
    try:
        made.build()
    except Unfit:
        return None
    return collapsed(made.finished())


class Unfit(Exception):
    """A module contains what cannot be described."""


@dataclass
class _Description:
    """The description of an instruction while it is built. A ``product`` inside is an operand like
    others: see ``epilogue``.
    """

    at: Instruction
    product: Instruction | None = None
    columns: Extent = 0
    nodes: list[Node] = field(default_factory=list)
    outputs: list[tuple[int, Access]] = field(default_factory=list)
    axes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.dims = results(self.at)[0].dims

    def build(self) -> None:
        """Sets the space, and fills in nodes and outputs."""
        at = self.at
        match at.op:
            case Pointwise() | Linear():
                pass
            case FusedReduce():
                self.axes, self.dims = at.op.axes, _space(at) or self.dims
            case Reduce():
                self.axes, self.dims = at.op.axes, at.inputs[0].shape.dims
            case Softmax():
                self.axes = (at.op.axis,)
            case Contiguous() | Reshape() if len(at.inputs) == 1:
                self.dims = at.inputs[0].shape.dims
            case _ if not operations.traits(at.op).pointwise:
                raise Unfit
        if isinstance(at.op, Fused):
            self.write(at.modules[0].outputs)
        else:
            inputs = [-1 - i for i in range(len(at.inputs))]
            self._output(0, self._apply(at.op, inputs, at.shape.dtype), at.shape)

    def write(self, values: Sequence[Instruction]) -> None:
        """Adds outputs for values inside the instruction."""
        for number, (value, node) in enumerate(zip(values, self.values(values), strict=True)):
            self._output(number, node, value.shape)

    def values(self, wanted: Sequence[Instruction]) -> list[int]:
        """The nodes of values inside; negative numbers are inputs of the instruction."""
        inside = list(self.at.modules[0]) if self.at.modules else [self.at]
        needed = set(wanted)
        for at in reversed(inside):
            if at in needed and at is not self.product:
                needed.update(at.inputs)
        parameters = [at for at in inside if type(at.op) is Param]
        found = {at: -1 - i for i, at in enumerate(parameters)}
        for at in inside:
            if at in needed and at not in found:
                found[at] = self._inner(at, found)
        return [found[value] for value in wanted]

    def _output(self, number: int, value: int, shape: Shape) -> None:
        node = self._loaded(value)
        written = results(self.at)[number]
        strides = written.true_strides
        if isinstance(self.at.op, Reshape):
            strides = Shape(written.dtype, self.dims).true_strides
        access = Access(len(self.at.inputs) + number, written.dtype, self._spread(shape, strides))
        self.outputs.append((node, access))

    def _inner(self, at: Instruction, found: dict[Instruction, int]) -> int:
        if at is self.product:
            return self._rows(at)
        if type(at.op) is Literal:
            if at.op.replaceable or at.shape.elements != 1:
                raise Unfit
            return self._node(at.op.value, at.shape.dtype, True)
        inputs = [found[v] for v in at.inputs]
        if self._is_product_moved(at) and inputs[0] >= 0 and self.nodes[inputs[0]].reads(PRODUCT):
            return inputs[0]
        if isinstance(at.op, (Multibroadcast, Broadcast, Identity)) and len(inputs) == 1:
            (value,) = inputs
            constant = value >= 0 and isinstance(self.nodes[value].of, Argument)
            (source,) = at.inputs
            if not constant and not all(map(self._is_space, (at.shape.dims, source.shape.dims))):
                raise Unfit
            return value
        return self._apply(at.op, inputs, at.shape.dtype)

    def _is_product_moved(self, at: Instruction) -> bool:
        """Whether a value may be the whole product in other dims, with the elements in order."""
        same = self.product is not None and at.shape.elements == self.product.shape.elements
        return same and keeps_order(at)

    def _rows(self, product: Instruction) -> int:
        """The node that reads the product."""
        rows = len(self.dims)
        inside: Extent = 1
        while inside != self.columns:
            if rows == 0:
                raise Unfit
            rows -= 1
            inside = inside * self.dims[rows]
        dtype = product.shape.dtype
        strides = (*Shape(dtype, self.dims[:rows]).true_strides, *[0] * (len(self.dims) - rows))
        return self._node(Access(PRODUCT, dtype, strides), dtype, False)

    def _apply(self, op: Operation, inputs: Sequence[int], dtype: DType) -> int:
        """An operation on nodes; negative numbers are inputs of the instruction, read here."""
        if isinstance(op, Linear):
            return self._linear(op, inputs, dtype)
        values = [self._loaded(v) for v in inputs]
        if isinstance(op, (Contiguous, Reshape)):
            return values[0]
        if isinstance(op, Softmax):
            return self._softmax(op, values[0], dtype)
        if isinstance(op, Reduce) and type(op) in REDUCTIONS:
            if tuple(sorted(op.axes)) != tuple(sorted(self.axes)):
                raise Unfit
            return self._node(op, dtype, True, values)
        if not operations.traits(op).pointwise:
            raise Unfit
        return self._node(op, dtype, all(self.nodes[v].folded for v in values), values)

    def _softmax(self, op: Softmax, x: int, dtype: DType) -> int:
        if (op.axis,) != self.axes:
            raise Unfit
        top = self._node(ReduceMax(self.axes), dtype, True, [x])
        shifted = self._node(Sub(), dtype, False, [x, top])
        power = self._node(Exp(), dtype, False, [shifted])
        total = self._node(ReduceSum(self.axes), dtype, True, [power])
        if isinstance(op, Logsoftmax):
            return self._node(
                Sub(), dtype, False, [shifted, self._node(Log(), dtype, True, [total])]
            )
        return self._node(Div(), dtype, False, [power, total])

    def _linear(self, op: Linear, inputs: Sequence[int], dtype: DType) -> int:
        """A ``quantizelinear`` or ``dequantizelinear``, whose scale and zero point are for the
        whole tensor, for each index of one axis, or for all but one axis.
        """
        x = self._loaded(inputs[0])
        values = [x] + [self._parameter(v, op) for v in inputs[1:]]
        return self._node(op, dtype, all(self.nodes[v].folded for v in values), values)

    def _parameter(self, value: int, op: Linear) -> int:
        if value >= 0:
            return value
        number, axis = -1 - value, op.axis
        shape = self.at.inputs[number].shape
        strides: list[Extent] = [0] * len(self.dims)
        if op.block and shape.elements != 1:
            if shape.dims != (*self.dims[:axis], 1, *self.dims[axis + 1 :]):
                raise Unfit
            strides = [0 if i == axis else s for i, s in enumerate(shape.true_strides)]
        elif shape.elements != 1:
            if shape.dims != self.dims[axis : axis + 1]:
                raise Unfit
            strides[axis] = shape.true_strides[0]
        folded = all(strides[i] == 0 for i in self.axes)
        return self._node(Access(number, shape.dtype, tuple(strides)), shape.dtype, folded)

    def _loaded(self, value: int) -> int:
        """A node; for an input of the instruction, the node that reads it."""
        if value >= 0:
            return value
        number = -1 - value
        shape = self.at.inputs[number].shape
        strides = self._spread(shape, shape.true_strides)
        folded = bool(self.axes) and all(strides[i] == 0 for i in self.axes)
        return self._node(Access(number, shape.dtype, strides), shape.dtype, folded)

    def _spread(self, shape: Shape, strides: Dims) -> Dims:
        """The strides of a value along the axes of the space; 0 on folded axes of size 1."""
        if isinstance(self.at.op, Reshape):
            return strides
        if not self._is_space(shape.dims, unless_refused=True):
            raise Unfit
        whole = shape.dims == self.dims
        return tuple(
            0 if i in self.axes and not whole and shape.dims[i] == 1 else s
            for i, s in enumerate(strides)
        )

    def _is_space(self, dims: Dims, *, unless_refused: bool = False) -> bool:
        """Whether dims are those of the space, with folded axes of full size or 1. With
        ``unless_refused``, symbols that may be equal also count: the readers' shape rules refuse
        sizes that differ.
        """
        if len(dims) != len(self.dims):
            return False
        return all(
            a == b
            or (i in self.axes and a == 1)
            or (unless_refused and isinstance(a, Dim) and isinstance(b, Dim) and may_equal(a, b))
            for i, (a, b) in enumerate(zip(dims, self.dims, strict=True))
        )

    def _node(
        self,
        of: Operation | Access | Argument,
        dtype: DType,
        folded: bool,
        inputs: Sequence[int] = (),
    ) -> int:
        node = Node(of, dtype, folded, tuple(inputs))
        if isinstance(of, Access) and node in self.nodes:
            return self.nodes.index(node)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def finished(self) -> FusedKernel:
        """The description before axes are merged."""
        folded = tuple(i in self.axes for i in range(len(self.dims)))
        return FusedKernel(self.dims, folded, tuple(self.nodes), tuple(self.outputs))


def _space(at: Instruction) -> Dims | None:
    """The dims that a module's reductions fold."""
    for inner in at.modules[0]:
        if isinstance(inner.op, (Reduce, Softmax)):
            return inner.inputs[0].shape.dims
    return None


def collapsed(kernel: FusedKernel) -> FusedKernel:
    """The same computation on the fewest axes: axes of size 1 are dropped, and neighbours with the
    same layout in every operand are merged.
    """
    accesses = kernel.accesses
    axes = [axis for axis, extent in enumerate(kernel.dims) if extent != 1]
    kept: list[tuple[Extent, Dims]] = []
    folded: list[bool] = []
    for fold, alike in groupby(axes, lambda axis: kernel.folded[axis]):
        steps = ((kernel.dims[i], tuple(a.strides[i] for a in accesses)) for i in alike)
        kept += fewest(steps)
        folded += [fold] * (len(kept) - len(folded))
    left = [tuple(strides[i] for _, strides in kept) for i in range(len(accesses))]
    return kernel.over(tuple(extent for extent, _ in kept), tuple(folded), left)


def fewest(axes: Iterable[tuple[Extent, Steps]]) -> list[tuple[Extent, Steps]]:
    """The same places on the fewest axes, each given by its extent and the steps along it: axes of
    size 1 are dropped, and neighbours with the same layout are merged.
    """
    kept: list[tuple[Extent, Steps]] = []
    for extent, steps in axes:
        if extent == 1:
            continue
        if kept and all(a == b * extent for a, b in zip(kept[-1][1], steps, strict=True)):
            kept[-1] = (kept[-1][0] * extent, steps)
        else:
            kept.append((extent, steps))
    return kept


def name_of(at: Instruction) -> str:
    """A readable name of an instruction's computation."""
    if not at.modules:
        return at.name
    (module,) = at.modules
    inside = dict.fromkeys(i.name for i in module if not i.name.startswith("@"))
    names = [n for n in inside if n not in BROADCASTS]
    return f"{at.name}({', '.join(names)})"


DOTS = (Dot, QuantDot)
CONVOLUTIONS = (Convolution, QuantConvolution)
TAGS = frozenset(
    {"int4_gemm", "gemm_epilogue", "gemm_quantized", "conv_epilogue", "conv_quantized"}
)
"""The tags of groups that are one product or convolution, with what comes before and after it."""


def core_of(at: Instruction, kinds: tuple[type[Operation], ...]) -> Instruction | None:
    """The product or convolution, of these ``kinds``, that an instruction is, or that it contains
    if it is the group of one; otherwise None.
    """
    if type(at.op) in kinds:
        return at
    if not isinstance(at.op, Group) or at.op.tag not in TAGS:
        return None
    return next((v for v in at.modules[0] if type(v.op) in kinds), None)


PRODUCT = -1
"""The operand number of the product that an epilogue reads."""


def epilogue(at: Instruction, product: Instruction, columns: Extent) -> FusedKernel | None:
    """What an instruction does to the elements of a product: of itself, or of one in its module.

    The product is read by an ``Access`` of operand ``PRODUCT``, whose strides count its rows and
    are 0 along the columns, of which each row has ``columns``. None if the module contains what
    cannot be described, or splits rows.
    """
    made = _Description(at, product, columns)
    try:
        made.write(at.modules[0].outputs if at.modules else [product])
    except Unfit:
        return None
    return collapsed(made.finished())


def row_and_column_axes(kernel: FusedKernel) -> tuple[list[int], list[int]]:
    """The axes of an epilogue's space that count the product's rows, and its columns."""
    rows = next(a.strides for a in kernel.accesses if a.operand == PRODUCT)
    return [i for i, s in enumerate(rows) if s != 0], [i for i, s in enumerate(rows) if s == 0]


def operand(at: Instruction, value: Instruction) -> FusedKernel | None:
    """How the elements of a value inside an instruction's module are computed, on the axes of this
    value; None if the module contains what cannot be described.
    """
    made = _Description(at)
    made.dims = value.shape.dims
    try:
        node = made._loaded(*made.values([value]))
    except Unfit:
        return None
    access = Access(len(at.inputs), value.shape.dtype, value.shape.as_standard().true_strides)
    made.outputs.append((node, access))
    return made.finished()
