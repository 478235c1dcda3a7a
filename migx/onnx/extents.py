"""Dims in an ONNX file: sizes read from values, and arithmetic over them as shared nodes.

Every extent becomes a one-element i64 list. It is computed once, in the outermost graph that can
see everything it depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from migx.dim import Call, Dim, Extent, bounds, call
from migx.dims.symbol import Symbol
from migx.errors import OnnxError

if TYPE_CHECKING:
    from migx.onnx.graph_writer import GraphWriter


class Placed(NamedTuple):
    """A value's name, and the depth of the graph that computes it."""

    name: str
    depth: int


def vector(graph: GraphWriter, extents: Sequence[Extent]) -> str:
    """A list of extents as i64; a constant if all are numbers."""
    if all(isinstance(e, int) for e in extents):
        return graph.model.constant(np.array(extents, np.int64))
    parts: list[Placed] = []
    numbers: list[int] = []
    for extent in [*extents, None]:
        if isinstance(extent, int):
            numbers.append(extent)
            continue
        if numbers:
            parts.append(number(graph, *numbers))
            numbers = []
        if extent is not None:
            parts.append(placed(graph, extent))
    return parts[0].name if len(parts) == 1 else added(graph, "Concat", parts, axis=0).name


def number(graph: GraphWriter, *values: int) -> Placed:
    """A list of numbers as a constant."""
    return Placed(graph.model.constant(np.array(values, np.int64)), 0)


def placed(graph: GraphWriter, extent: Extent) -> Placed:
    """An extent as a one-element list."""
    if not isinstance(extent, Dim):
        return number(graph, extent)
    for around in graph.around():
        if (found := around.sizes.get(extent)) is not None:
            if isinstance(found, Placed):
                return found
            name, axis = found
            made = added(around, "Shape", [Placed(name, around.depth)], start=axis, end=axis + 1)
            around.sizes[extent] = made
            return made
    made = computed(graph, extent)
    graph.at_depth(made.depth).sizes[extent] = made
    return made


def computed(graph: GraphWriter, extent: Dim) -> Placed:
    """An extent that is not a dim of any value: a sum of products."""
    if (symbol := extent.symbol) is not None:
        raise OnnxError(f"the size {symbol} is not a dim of any value in the file")
    total: Placed | None = None
    for monomial, coefficient in sorted(extent.terms, key=lambda term: term[1] < 0):
        factors = [of_atom(graph, atom) for atom in monomial]
        least = -1 if total is not None and coefficient < 0 else 1
        if coefficient * least != 1 or not factors:
            factors.append(number(graph, coefficient * least))
        product = reduce(lambda a, b: added(graph, "Mul", [a, b]), factors)
        total = (
            product
            if total is None
            else added(graph, "Sub" if least < 0 else "Add", [total, product])
        )
    assert total is not None
    return total


def of_atom(graph: GraphWriter, atom: Symbol | Call) -> Placed:
    """The value of a symbol, or of a function of extents."""
    if isinstance(atom, Symbol):
        return placed(graph, Dim(atom.name, atom.low, atom.high, atom.optimals))
    whole = call(atom.function, *atom.args)
    if any(whole in g.sizes for g in graph.around()):
        return placed(graph, whole)
    args = [placed(graph, a) for a in atom.args]
    match atom.function:
        case "min":
            made = added(graph, "Min", args)
        case "max":
            made = added(graph, "Max", args)
        case "broadcast":
            made = reduce(lambda a, b: broadcast(graph, a, b), args)
        case _:
            (above, _), (below, _) = map(bounds, atom.args)
            made = quotient(graph, args[0], args[1], exact=above >= 0 and below > 0)
    graph.at_depth(made.depth).sizes[whole] = made
    return made


def broadcast(graph: GraphWriter, a: Placed, b: Placed) -> Placed:
    """The one of two sizes that is not 1."""
    is_one = added(graph, "Equal", [a, number(graph, 1)])
    return added(graph, "Where", [is_one, b, a])


def quotient(graph: GraphWriter, a: Placed, b: Placed, exact: bool) -> Placed:
    """Floor division. ONNX truncates, which is the same only if nothing is negative (``exact``)."""
    if not exact:
        a = added(graph, "Sub", [a, added(graph, "Mod", [a, b])])
    return added(graph, "Div", [a, b])


def added(graph: GraphWriter, kind: str, operands: Sequence[Placed], **attributes: int) -> Placed:
    """Adds a node in the outermost graph that can see its operands."""
    depth = max(p.depth for p in operands)
    names = [p.name for p in operands]
    (name,) = graph.at_depth(depth).node(kind, names, 1, None, attributes)
    return Placed(name, depth)
