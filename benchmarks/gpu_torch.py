"""Programs as torch graphs, on which torch is measured for models. An instruction becomes the
equivalent call of torch; values that depend on constants alone are constants, so weights of four
bits are floats there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu_peers import Missing
from migx.ir import Instruction
from migx.meaning import by_meaning
from migx.ops._windows import split
from migx.ops.builtin import Literal, Param, Return
from migx.program import Program
from migx.target import get_target

_ALIKE = (
    *("abs", "add", "ceil", "cos", "erf", "exp", "floor", "isnan", "log", "logical_and"),
    *("logical_or", "logical_xor", "mul", "neg", "pow", "relu", "rsqrt", "sigmoid", "sin"),
    *("sqrt", "sub", "tanh", "where"),
)
SAME = {name: name for name in _ALIKE} | {
    "clip": "clamp",
    "dot": "matmul",
    "equal": "eq",
    "greater": "gt",
    "greater_or_equal": "ge",
    "identity": "clone",
    "less": "lt",
    "less_or_equal": "le",
    "max": "maximum",
    "min": "minimum",
    "not": "logical_not",
    "recip": "reciprocal",
}
"""Operations whose operands torch takes unchanged, with its names for them."""
FOLDS = {
    "reduce_mean": "mean",
    "reduce_sum": "sum",
    "reduce_max": "amax",
    "reduce_min": "amin",
    "reduce_prod": "prod",
}
"""Reductions."""


def graph_of(program: Program, torch: Any, device: str) -> Any:
    """A torch module that takes the parameters of a program in order and returns its results.
    ``Missing`` names an operation that has no call here.
    """
    made = _Graph(torch, device)
    for at in program.main:
        made.instruction(at)
    return torch.fx.GraphModule(made.root, made.graph)


class _Graph:
    """The graph so far; ``values`` are its nodes, ``constants`` the known values."""

    def __init__(self, torch: Any, device: str) -> None:
        self.torch, self.device = torch, device
        self.graph, self.root = torch.fx.Graph(), torch.nn.Module()
        self.values: dict[Instruction, Any] = {}
        self.constants: dict[Instruction, Any] = {}
        self.context = get_target("ref").get_context()

    def instruction(self, at: Instruction) -> None:
        """Adds an instruction."""
        if isinstance(at.op, Param):
            self.values[at] = self.graph.placeholder(f"x{len(self.values)}")
        elif isinstance(at.op, Return):
            self.graph.output(tuple(map(self.value, at.inputs)))
        elif isinstance(at.op, Literal):
            self.constants[at] = at.op.value
        elif not at.modules and all(v in self.constants for v in at.inputs):
            given = [self.constants[v] for v in at.inputs]
            self.constants[at] = by_meaning(at, at.op, self.context, at.shape, given)
        else:
            self.values[at] = self.called(at)

    def value(self, at: Instruction) -> Any:
        """The node of a value; for a constant, one that reads it."""
        if at not in self.values:
            name = f"c{len(self.values)}"
            array = np.array(self.constants[at].array)
            self.root.register_buffer(name, self.torch.as_tensor(array, device=self.device))
            self.values[at] = self.graph.get_attr(name)
        return self.values[at]

    def call(self, name: str, *given: Any, **how: Any) -> Any:
        """A call of a function of torch."""
        found: Any = self.torch
        for part in name.split("."):
            found = getattr(found, part)
        return self.graph.call_function(found, given, how)

    def at(self, value: Any, *index: Any) -> Any:
        """Part of a value."""
        return self.graph.call_function(operator.getitem, (value, index))

    def called(self, at: Instruction) -> Any:
        """Adds the calls for an instruction; returns the last."""
        if at.name not in {*SAME, *FOLDS, *CALLS} or not at.shape.static:
            raise Missing(f"torch is asked for no {at.name}")
        given = list(map(self.value, at.inputs))
        if at.name in SAME:
            return self.call(SAME[at.name], *given)
        if at.name in FOLDS:
            return self.call(FOLDS[at.name], given[0], list(_op(at).axes), keepdim=True)
        return CALLS[at.name](self, at, given)


def _op(at: Instruction) -> Any:
    return at.op


def _dims(at: Instruction) -> list[int]:
    return [int(d) for d in at.shape.dims]


def _reshape(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    return graph.call("reshape", given[0], _dims(at))


def _broadcast(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    inner = [int(d) for d in at.inputs[0].shape.dims]
    after = at.shape.rank - _op(at).axis - len(inner)
    spread = graph.call("reshape", given[0], [*inner, *[1] * after])
    return graph.call("broadcast_to", spread, _dims(at))


def _slice(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    index, op = [slice(None)] * at.shape.rank, _op(at)
    for axis, start in zip(op.axes, op.starts, strict=True):
        index[axis] = slice(int(start), int(start) + _dims(at)[axis])
    return graph.at(given[0], *index)


def _divide(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    rounding = {"rounding_mode": "trunc"} if at.shape.dtype.is_integer else {}
    return graph.call("div", *given, **rounding)


def _convert(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    made = graph.torch.as_tensor(np.zeros(0, at.shape.dtype.numpy))
    return graph.graph.call_method("to", (given[0], made.dtype))


def _gather(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    index = graph.graph.call_method("long", (given[1],))
    if at.inputs[1].shape.rank:
        return graph.at(given[0], *[slice(None)] * _op(at).axis, index)
    row = graph.call("reshape", index, [1])  # a scalar would be fetched to the host, a graph break
    return _reshape(graph, at, [graph.at(given[0], *[slice(None)] * _op(at).axis, row)])


def _gathernd(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    if _op(at).batch_dims:
        raise Missing("torch is asked for no gathernd of batches")
    count = int(at.inputs[1].shape.dims[-1])
    return graph.at(given[0], *(graph.at(given[1], ..., k) for k in range(count)))


def _pads(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Padding as torch has it: of the last axis first."""
    pairs = zip(begins, ends, strict=True)
    return [int(n) for pair in reversed(list(pairs)) for n in pair]


def _convolution(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    op, (x, weights) = _op(at), given
    begins, ends = split(op.padding)
    if tuple(begins) != tuple(ends):
        x, begins = graph.call("nn.functional.pad", x, _pads(begins, ends)), [0] * len(begins)
    how = {"stride": op.stride, "padding": tuple(begins), "dilation": op.dilation}
    rank = at.shape.rank - 2
    return graph.call(f"nn.functional.conv{rank}d", x, weights, groups=op.group, **how)


def _pooling(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    op, rank = _op(at), at.shape.rank - 2
    begins, ends = split(op.padding)
    if op.mode not in ("max", "average") or tuple(begins) != tuple(ends):
        raise Missing(f"torch is asked for no pooling of mode {op.mode} with padding {op.padding}")
    how = {"stride": op.stride, "padding": tuple(begins), "ceil_mode": op.ceil_mode}
    if op.mode == "max":
        how["dilation"] = op.dilation
        return graph.call(f"nn.functional.max_pool{rank}d", given[0], op.lengths, **how)
    how["count_include_pad"] = op.count_include_pad
    return graph.call(f"nn.functional.avg_pool{rank}d", given[0], op.lengths, **how)


def _pad(graph: _Graph, at: Instruction, given: Sequence[Any]) -> Any:
    op = _op(at)
    if op.mode not in ("constant", "reflect") or len(given) > 1:
        raise Missing(f"torch is asked for no pad of mode {op.mode}")
    begins, ends = split(op.pads)
    lead = next((i for i, n in enumerate(zip(begins, ends, strict=True)) if any(n)), 0)
    return graph.call(
        "nn.functional.pad", given[0], _pads(begins[lead:], ends[lead:]), mode=op.mode
    )


CALLS: dict[str, Callable[[_Graph, Instruction, Sequence[Any]], Any]] = {
    "argmax": lambda g, at, v: g.call("argmax", v[0], _op(at).axis, keepdim=True),
    "broadcast": _broadcast,
    "concat": lambda g, at, v: g.call("cat", list(v), _op(at).axis),
    "contiguous": lambda g, at, v: g.call("clone", v[0]),
    "convert": _convert,
    "convolution": _convolution,
    "div": _divide,
    "gather": _gather,
    "gathernd": _gathernd,
    "multibroadcast": lambda g, at, v: g.call("broadcast_to", v[0], _dims(at)),
    "pad": _pad,
    "pooling": _pooling,
    "reshape": _reshape,
    "slice": _slice,
    "softmax": lambda g, at, v: g.call("softmax", v[0], _op(at).axis),
    "squeeze": _reshape,
    "transpose": lambda g, at, v: g.call("permute", v[0], list(_op(at).permutation)),
    "unsqueeze": _reshape,
}
"""Operations with attributes, or calls of their own."""
