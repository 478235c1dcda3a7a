"""The nodes of ONNX graphs: their names, their inputs, and a topological order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx

from migx.errors import OnnxError


def all_nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and its nested graphs."""
    for node in graph.node:
        yield node
        for inner in graphs_in(node):
            yield from all_nodes(inner)


def graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def label_of(node: onnx.NodeProto) -> str:
    """A node's name; without one, that of its first output, or of its operator."""
    return node.name or next(filter(None, node.output), node.op_type)


def named(node: onnx.NodeProto) -> str:
    """A node's name in errors."""
    return f"{node.op_type} {label_of(node)!r}"


def in_order(graph: onnx.GraphProto, known: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes in topological order, otherwise as in the file. ``OnnxError`` if two make one
    value, or there is a cycle.
    """
    makers = dict[str, int]()
    for i, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if makers.setdefault(name, i) != i:
                raise OnnxError(f"two values are named {name!r}")
    available = set(known)
    waits, feeds = [], dict[int, list[int]]()
    for i, node in enumerate(graph.node):
        needs = {makers[name] for name in read_by(node) if name in makers and name not in available}
        waits.append(len(needs))
        for maker in needs:
            feeds.setdefault(maker, []).append(i)
    ready = [i for i, count in enumerate(waits) if not count]
    order = []
    while ready:
        at = heapq.heappop(ready)
        order.append(graph.node[at])
        for user in feeds.get(at, ()):
            waits[user] -= 1
            if not waits[user]:
                heapq.heappush(ready, user)
    if len(order) < len(graph.node):
        raise OnnxError(f"the graph has a cycle: {cycle(graph, makers, waits)}")
    return order


def cycle(graph: onnx.GraphProto, makers: Mapping[str, int], waits: Sequence[int]) -> str:
    """The nodes of a cycle, each feeding the next, found from those that still wait for inputs."""
    at = next(i for i, count in enumerate(waits) if count)
    path: list[int] = []
    while at not in path:
        path.append(at)
        at = next(makers[n] for n in read_by(graph.node[at]) if n in makers and waits[makers[n]])
    around = [at, *reversed(path[path.index(at) :])]
    return " -> ".join(repr(label_of(graph.node[i])) for i in around)


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """The names a node reads, those captured by its graphs included."""
    yield from (name for name in node.input if name)
    yield from captured_by(node)


def captured_by(node: onnx.NodeProto) -> Iterator[str]:
    """The names that the graphs in a node's attributes read around the node."""
    for graph in graphs_in(node):
        own = {v.name for v in (*graph.input, *graph.initializer)}
        own |= {name for inner in graph.node for name in inner.output}
        for inner in graph.node:
            yield from (name for name in read_by(inner) if name not in own)
        yield from (v.name for v in graph.output if v.name not in own)
