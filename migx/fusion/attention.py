"""What a ``group`` tagged ``attention`` computes, described for the kernels of targets.

The space of the scores has the batch axes (those of groups, then one of the heads that share keys
and values), then queries, then keys. Every operand is reached by an ``Access`` with a stride for
each batch axis and two more: for a query or key, and a feature; for an operand of the scores, such
as a mask, a query and a key. Views inside the group are folded into the strides; the batch is split
into enough axes for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from migx import op as operations
from migx.argument import Argument
from migx.dim import Extent
from migx.fusion.index_map import Axis, Factor, exact, map_of, regrouped, tidy
from migx.fusion.kernels import PRODUCT, Access, Node, Unfit
from migx.fusion.outlining import is_small, only_reader
from migx.fusion.stages import below
from migx.ir import Instruction
from migx.ops.builtin import Literal, Param
from migx.ops.fused import Group
from migx.ops.layout import Concat, Multibroadcast, Slice, Transpose
from migx.ops.linear import Dot
from migx.ops.logic import Isnan
from migx.ops.pointwise import Convert, Mul, Where
from migx.ops.quantization import Linear
from migx.ops.reduce import Softmax
from migx.planning import source, viewed
from migx.shape import Dims, DType, Shape

WEIGHTS = PRODUCT - 1
"""The operand number of the softmax's result."""


@dataclass(frozen=True)
class Scale:
    """A number that all scores are multiplied or divided by."""

    by: Argument
    divides: bool


@dataclass(frozen=True)
class Attention:
    """The product of ``values`` with the softmax, over the keys, of the scores that ``nodes``
    compute from the scaled products of ``queries`` and ``keys``.

    Among the nodes, ``PRODUCT`` reads such a product, node ``score`` is the softmax's operand,
    ``WEIGHTS`` reads its result, and node ``weight`` is what the values are multiplied by. Node
    ``sink``, if there is one, is an extra score for each query, which takes part in the softmax and
    has no value; it does not depend on products. If ``guarded``, rows that would be NaN are 0
    instead. ``count`` is how many queries and keys there are, ``depth`` and ``width`` how many
    features these and values have.
    """

    groups: Dims
    heads: int
    count: tuple[Extent, Extent]
    depth: Extent
    width: Extent
    queries: Access
    keys: Access
    values: Access
    output: Access
    scales: tuple[Scale, ...]
    nodes: tuple[Node, ...]
    score: int
    sink: int | None
    weight: int
    guarded: bool

    @property
    def by_row(self) -> bool:
        """Whether the change of the weights can be applied to the weighted values instead: the
        weights are the softmax's result, rounded to the type of the values, times factors, or 0
        under conditions, all of which are the same along a row.
        """
        return self._follows_the_softmax(self.weight, self._is_of_rows)

    @property
    def by_element(self) -> bool:
        """The same for factors that vary along a row: normalising by the sum can then wait."""
        return self._follows_the_softmax(self.weight, self._is_given)

    def _follows_the_softmax(self, number: int, met: Callable[[int], bool]) -> bool:
        node = self.nodes[number]
        match node.of:
            case Where():
                condition, *ways = node.inputs
                follows = (self._is_zero(n) or self._follows_the_softmax(n, met) for n in ways)
                return met(condition) and all(follows)
            case Mul():
                pairs = (node.inputs, node.inputs[::-1])
                return any(self._follows_the_softmax(a, met) and met(b) for a, b in pairs)
            case Convert():
                (given,) = node.inputs
                return node.dtype is self.values.dtype and self._follows_the_softmax(given, met)
        return node.reads(WEIGHTS)

    def _is_zero(self, number: int) -> bool:
        of = self.nodes[number].of
        return isinstance(of, Argument) and not of.array.any()

    def _is_of_rows(self, number: int) -> bool:
        """Whether a node is the same for all keys of a query, and independent of the scores."""
        return self._is_given(number) and all(a.strides[-1] == 0 for a in self._read(number))

    def _is_given(self, number: int) -> bool:
        """Whether a node does not depend on the scores."""
        return all(a.operand >= 0 for a in self._read(number))

    def _read(self, number: int) -> list[Access]:
        read = (self.nodes[n].of for n in below(self.nodes, [number], ()))
        return [of for of in read if isinstance(of, Access)]


def described(at: Instruction) -> Attention | None:
    """The attention that an instruction computes; None if there is none, or no description."""
    if not isinstance(at.op, Group) or at.op.tag != "attention":
        return None
    try:
        return _Description(at).built()
    except Unfit:
        return None


@dataclass(frozen=True)
class _Operand:
    """An operand before the batch is split: its leading factors, and its last two strides."""

    number: int
    dtype: DType
    lead: Axis
    last: tuple[Extent, Extent]


@dataclass
class _Description:
    at: Instruction
    nodes: list[Node] = field(default_factory=list)
    known: dict[Instruction, int] = field(default_factory=dict)
    operands: dict[int, _Operand] = field(default_factory=dict)
    """The operands that nodes read, by node number."""
    score: int = -1
    sink: int | None = None

    def built(self) -> Attention:
        """The description."""
        *inner, end = self.at.modules[0]
        (last,) = end.inputs
        order = tuple(range(last.shape.rank))
        if isinstance(last.op, Transpose):
            order, (last,) = last.op.permutation, last.inputs
        dots = [v for v in inner if isinstance(v.op, Dot)]
        if len(dots) != 2 or last is not dots[1]:
            raise Unfit
        self.product, self.many = dots[0], last.inputs[1].shape.dims[-2]
        weight = self._node(last.inputs[0])
        if self.score < 0:
            raise Unfit
        scales: list[Scale] = []
        left = self._factor(self.product.inputs[0], scales)
        right = self._factor(self.product.inputs[1], scales)
        values = self._operand(last.inputs[1])
        right = _Operand(right.number, right.dtype, right.lead, right.last[::-1])
        output = _written(self.at.shape, order, len(self.at.inputs))
        groups, heads = self._batch(left, right, values, output)
        batch, product = (*groups, heads), self.product
        guarded, weight = self._guard(weight)
        return Attention(
            groups=groups,
            heads=heads,
            count=(product.shape.dims[-2], product.shape.dims[-1]),
            depth=product.inputs[0].shape.dims[-1],
            width=last.shape.dims[-1],
            queries=_access(left, batch),
            keys=_access(right, batch),
            values=_access(values, batch),
            output=_access(output, batch),
            scales=tuple(scales),
            nodes=self._reached(batch),
            score=self.score,
            sink=self.sink,
            weight=weight,
            guarded=guarded,
        )

    def _batch(
        self, left: _Operand, right: _Operand, values: _Operand, output: _Operand
    ) -> tuple[Dims, int]:
        """The batch axes of groups, and the number of heads in each group."""
        every = [left, right, values, output, *self.operands.values()]
        batch = _cut([[f.extent for f in each.lead] for each in every])
        return _of_groups(batch, (right, values))

    def _reached(self, batch: Dims) -> tuple[Node, ...]:
        """The nodes, with operands read by their strides along the batch axes."""
        reached = {number: _access(operand, batch) for number, operand in self.operands.items()}
        return tuple(
            Node(reached[number], node.dtype, False) if number in reached else node
            for number, node in enumerate(self.nodes)
        )

    def _factor(self, value: Instruction, scales: list[Scale]) -> _Operand:
        """A factor of the scores without the numbers that scale it."""
        between: list[Instruction] = []
        while not isinstance(value.op, Param):
            if (below := viewed(value)) is not None:
                between.append(value)
            else:
                place, scale = self._scale(value)
                scales.append(scale)
                below = value.inputs[place]
            value = below
        return self._seen(value, between[::-1])

    def _scale(self, value: Instruction) -> tuple[int, Scale]:
        """The index of the input that an instruction scales, and the scale."""
        for place in {"mul": (0, 1), "div": (0,)}.get(value.op.name, ()):
            number = source(value.inputs[1 - place])
            if is_small(number):
                return place, Scale(number.op_as(Literal).value, value.op.name == "div")
        raise Unfit

    def _operand(self, value: Instruction) -> _Operand:
        """A parameter read only through views."""
        between = []
        while (below := viewed(value)) is not None:
            between.append(value)
            value = below
        if not isinstance(value.op, Param):
            raise Unfit
        return self._seen(value, between[::-1])

    def _seen(self, parameter: Instruction, between: Sequence[Instruction]) -> _Operand:
        number = list(self.at.modules[0].parameters.values()).index(parameter)
        shape = self.at.inputs[number].shape
        return _Operand(number, shape.dtype, *_through(shape, between))

    def _node(self, value: Instruction) -> int:
        """The node of a value between the scores and the weights."""
        if value not in self.known:
            self.known[value] = self._made(value)
        return self.known[value]

    def _made(self, value: Instruction) -> int:
        dtype = value.shape.dtype
        if value is self.product:
            return self._added(Access(PRODUCT, dtype, ()), dtype)
        if isinstance(value.op, Literal):
            if value.op.replaceable or value.shape.elements != 1:
                raise Unfit
            return self._added(value.op.value, dtype)
        softmax = value.inputs[0] if isinstance(value.op, Slice) else value
        if type(softmax.op) is Softmax and self.score < 0:
            self._given(softmax, value)
            return self._added(Access(WEIGHTS, dtype, ()), dtype)
        if viewed(value) is not None or isinstance(value.op, Param):
            return self._view(value)
        if isinstance(value.op, Linear):
            if value.op.block or any(v.shape.elements != 1 for v in value.inputs[1:]):
                raise Unfit
        elif not operations.traits(value.op).pointwise:
            raise Unfit
        return self._added(value.op, dtype, tuple(self._node(v) for v in value.inputs))

    def _given(self, softmax: Instruction, result: Instruction) -> None:
        """Finds the operand of a softmax, of whose result all is read, or all but the sink."""
        (scores,) = softmax.inputs
        if softmax.op_as(Softmax).axis != softmax.shape.rank - 1:
            raise Unfit
        if result is not softmax:
            if (parts := beside_a_sink(softmax)) is None:
                raise Unfit
            scores, sink = parts
            self.sink = self._node(sink)
        self.score = self._node(scores)

    def _view(self, value: Instruction) -> int:
        """The node of a parameter, or of the source of a view that keeps queries and keys."""
        whole = source(value)
        if isinstance(whole.op, Literal):
            return self._node(whole)
        if isinstance(whole.op, Param):
            node = self._added(Access(-1, value.shape.dtype, ()), value.shape.dtype)
            self.operands[node] = self._operand(value)
            return node
        (given,) = value.inputs
        if isinstance(value.op, Multibroadcast):
            # The scores have as many keys as there are values, or the last product would be
            # refused.
            fits = value.shape.dims[:-1] == given.shape.dims[:-1]
            fits = fits and given.shape.dims[-1] == self.many
        else:
            same = value.op.name in ("reshape", "squeeze", "unsqueeze", "identity", "contiguous")
            fits = same and value.shape.dims[-2:] == self.product.shape.dims[-2:]
        if not fits:
            raise Unfit
        return self._node(given)

    def _added(
        self,
        of: operations.Operation | Access | Argument,
        dtype: DType,
        inputs: tuple[int, ...] = (),
    ) -> int:
        self.nodes.append(Node(of, dtype, False, inputs))
        return len(self.nodes) - 1

    def _guard(self, weight: int) -> tuple[bool, int]:
        """Whether weights that are NaN are replaced by 0, and the node before that."""
        node = self.nodes[weight]
        if not isinstance(node.of, Where):
            return False, weight
        condition, zero, kept = (self.nodes[i] for i in node.inputs)
        tests = isinstance(condition.of, Isnan) and condition.inputs == (node.inputs[2],)
        number = zero.of.array.reshape(-1)[0] if isinstance(zero.of, Argument) else None
        if kept.reads(WEIGHTS) and tests and number == 0:
            return True, node.inputs[2]
        return False, weight


def beside_a_sink(softmax: Instruction) -> tuple[Instruction, Instruction] | None:
    """The scores and the sink that are concatenated for a softmax, if nothing else reads the
    concatenation, and the result is read only by one slice that takes the part of the scores.
    """
    (joined,), taken, last = softmax.inputs, only_reader(softmax), softmax.shape.rank - 1
    apart = joined.op == Concat(last) and len(joined.inputs) == 2
    if not apart or taken is None or only_reader(joined) is not softmax:
        return None
    first, second = joined.inputs
    count = first.shape.dims[-1]
    for scores, sink, start in ((first, second, 0), (second, first, count)):
        share = Slice((last,), (start,), (start + scores.shape.dims[-1],))
        if sink.shape.dims[-1] == 1 and taken.op == share:
            return scores, sink
    return None


def is_read_through(shape: Shape, between: Sequence[Instruction]) -> bool:
    """Whether a kernel can read a value of this shape through a chain of views: the elements of a
    row or a column must then be adjacent.
    """
    try:
        return 1 in _through(shape, between)[1]
    except Unfit:
        return False


def _through(shape: Shape, between: Sequence[Instruction]) -> tuple[Axis, tuple[Extent, Extent]]:
    """The leading factors and the last two strides of a value seen through views."""
    found = map_of(shape.dims, tuple(v.op for v in between))
    if found is None or len(found.axes) < 2 or any(found.starts):
        raise Unfit
    steps = [_step(shape, group, found.groups) for group in range(len(found.groups))]
    return _parted(
        [
            tidy(f if f.repeats else Factor(f.extent, 0, f.stride * steps[f.axis]) for f in axis)
            for axis in found.axes
        ]
    )


def _step(shape: Shape, group: int, groups: tuple[Dims, ...]) -> Extent:
    """The stride of a group of axes as one axis; ``Unfit`` if they cannot be merged."""
    first = sum(len(g) for g in groups[:group])
    strides = shape.true_strides[first : first + len(groups[group])]
    for i in range(len(strides) - 1):
        if strides[i] != strides[i + 1] * groups[group][i + 1]:
            raise Unfit
    return strides[-1] if strides else 0


def _written(shape: Shape, order: Sequence[int], number: int) -> _Operand:
    """The result, whose axes are those of the last product, permuted."""
    factors = [Factor(d, 0, s) for d, s in zip(shape.dims, shape.true_strides, strict=True)]
    axes = [tidy((factors[order.index(axis)],)) for axis in range(shape.rank)]
    return _Operand(number, shape.dtype, *_parted(axes))


def _parted(axes: Sequence[Axis]) -> tuple[Axis, tuple[Extent, Extent]]:
    """The leading axes as one list of factors, and the strides of the last two. An axis of size 1
    may have any stride: 1, if it is the last.
    """
    *lead, row, column = axes
    if len(row) > 1 or len(column) > 1:
        raise Unfit
    last = (row[0].stride if row else 0, column[0].stride if column else 1)
    return tuple(f for axis in lead for f in axis), last


def _cut(lists: Sequence[Sequence[Extent]]) -> Dims:
    """The fewest axes of which the extents in each list are products, innermost first."""
    todo = [list(extents) for extents in lists]
    found: list[Extent] = []
    while any(todo):
        if not all(todo):
            raise Unfit
        least = next(
            (e[-1] for e in todo if all(exact(other[-1], e[-1]) is not None for other in todo)),
            None,
        )
        if least is None:
            raise Unfit
        for extents in todo:
            rest = exact(extents.pop(), least)
            assert rest is not None
            if rest != 1:
                extents.append(rest)
        found.append(least)
    return tuple(found[::-1])


def _of_groups(batch: Dims, shared: Sequence[_Operand]) -> tuple[Dims, int]:
    """The batch axes of groups, and the number of heads in each: the last axis counts heads if the
    shared operands do not move along it.
    """
    heads = batch[-1] if batch else 1
    moves = any(_access(operand, batch).strides[-3] != 0 for operand in shared if batch)
    return (batch, 1) if moves or not isinstance(heads, int) else (batch[:-1], heads)


def _access(operand: _Operand, batch: Dims) -> Access:
    axes = regrouped(operand.lead, batch)
    if axes is None or any(len(axis) > 1 for axis in axes):
        raise Unfit
    strides = [axis[0].stride if axis else 0 for axis in axes]
    return Access(operand.number, operand.dtype, (*strides, *operand.last))
