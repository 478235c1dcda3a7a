"""Arithmetic on a byte alone, as a table of its 256 results.

A quantised model rounds to bytes after each operation, also where a kernel has several: between two
roundings there is an activation, or the affine half of a normalisation, with constants of one
element. The result is again a byte, and a function of the previous one. So all of it, however often
it rounds, becomes one lookup. The table is computed by the meanings of the operations, so its bits
are those of ``ref``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from migx.argument import Argument
from migx.fusion.kernels import Access, FusedKernel, Node
from migx.fusion.stages import below, weight
from migx.op import Modules, Shapes, evaluator
from migx.ops.quantization import Linear
from migx.shape import I8, U8, Shape

BYTES = 256
ROUNDING = {"quantizelinear": 9, "dequantizelinear": 3}
"""Their cost in additions, roughly: clipping, the division, rounding, the zero point."""


@dataclass(frozen=True)
class Lookup:
    """An element of a table of 256 for each byte, whose bits are an unsigned index."""

    table: Argument
    name: ClassVar[str] = "lookup"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        """The dims of the bytes, with the table's type."""
        (of,) = shapes
        return of.with_type(self.table.shape.dtype)


def tabled(kernel: FusedKernel, cost: int) -> FusedKernel:
    """The same computation with tables for bytes that are functions of other bytes, where that is
    cheaper; ``cost`` is that of a lookup, in additions.
    """
    nodes, sources = list(kernel.nodes), _sources(kernel.nodes)
    wanted = [number for number, _ in kernel.outputs]
    for number, source in reversed(sources.items()):
        needed = below(nodes, wanted, ())
        if source == number or not _is_byte(nodes[number]) or number not in needed:
            continue
        tried, of = [*nodes], Lookup(_table(kernel.nodes, number, source))
        tried[number] = replace(nodes[number], of=of, inputs=(source,))
        left = below(tried, wanted, ())
        if _effort(tried, left, cost) < _effort(nodes, needed, cost):
            nodes = tried
    return kernel if nodes == [*kernel.nodes] else _of_needed(kernel, nodes)


def _is_byte(node: Node) -> bool:
    return node.dtype in (I8, U8)


def _sources(nodes: Sequence[Node]) -> dict[int, int]:
    """The node of the byte that each node is a function of; without nodes that depend on none, or
    on several values. A byte is a function of itself.
    """
    constant: set[int] = set()
    found: dict[int, int] = {}
    for number, node in enumerate(nodes):
        varying = [i for i in node.inputs if i not in constant]
        of = {found.get(i) for i in varying}
        if isinstance(node.of, Argument):
            constant.add(number)
        elif len(of) == 1 and None not in of and _may_be_tabled(node, varying):
            found[number] = found[varying[0]]
        elif _is_byte(node):
            found[number] = number
    return found


def _may_be_tabled(node: Node, varying: Sequence[int]) -> bool:
    """Whether each element depends only on those at its own index; scales are constants."""
    if isinstance(node.of, Linear):
        return varying == [node.inputs[0]] and not node.of.block
    return not node.folds


def _effort(nodes: Sequence[Node], needed: Sequence[int], cost: int) -> int:
    """The cost of some nodes in additions, roughly."""
    return sum(
        cost
        if isinstance(nodes[n].of, Lookup)
        else ROUNDING.get(getattr(nodes[n].of, "name", ""), weight(nodes[n]))
        for n in needed
    )


def _table(nodes: Sequence[Node], number: int, source: int) -> Argument:
    """A node's value for each byte that its source may be, in the order of its bits."""
    every = np.arange(BYTES, dtype=np.uint8).view(nodes[source].dtype.numpy)
    values = {source: Argument.of(every)}
    with np.errstate(all="ignore"):
        for n in below(nodes, [number], {source}):
            node = nodes[n]
            if isinstance(node.of, Argument):
                values[n] = node.of
                continue
            assert not isinstance(node.of, Access)
            first, *rest = (values[i].array.reshape(-1) for i in node.inputs)
            size = () if isinstance(node.of, Linear) else every.shape
            given = [np.broadcast_to(v if size else v[0], size) for v in rest]
            arguments = [Argument.of(v) for v in (np.broadcast_to(first, every.shape), *given)]
            shape = Shape(node.dtype, every.shape)
            values[n] = evaluator(type(node.of))(node.of, None, shape, arguments, [])
    return values[number]


def _of_needed(kernel: FusedKernel, nodes: Sequence[Node]) -> FusedKernel:
    """The kernel with these nodes instead of its own, without unused ones."""
    needed = below(nodes, [number for number, _ in kernel.outputs], ())
    place = {number: index for index, number in enumerate(needed)}
    kept = [replace(nodes[n], inputs=tuple(place[i] for i in nodes[n].inputs)) for n in needed]
    outputs = tuple((place[number], access) for number, access in kernel.outputs)
    return replace(kernel, nodes=tuple(kept), outputs=outputs)
