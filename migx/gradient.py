"""Reverse-mode differentiation: adds instructions that compute derivatives.

Each operation's rule is one entry of ``RULES``, or, for an operation of a package of your own, its
static method ``derivative``. Derivatives are ordinary instructions, so they can
be differentiated in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from migx import dim, ops
from migx.builders import Arithmetic, astype, at_least_f32, full_like, number
from migx.dim import Extent
from migx.errors import UnknownName
from migx.ir import Instruction
from migx.verify import captures_of
from migx.weights.constants import tree


def gradients(
    y: Instruction, xs: Sequence[Instruction], tape: Arithmetic, fixed: Collection[Instruction] = ()
) -> list[Instruction]:
    """The derivatives of the sum of ``y`` with respect to each of ``xs``, which are taken to be
    independent. Nothing is differentiated through ``fixed`` values.

    ``UnknownName`` if a value on the way has an operation without a rule.
    """
    stops = {*xs, *fixed}
    order = tree(y, lambda at: () if at in stops else _read(at))
    moving: set[Instruction] = set()
    for at in order:
        on_the_way = at not in fixed and any(v in moving for v in _read(at))
        if at in xs or (on_the_way and _moves(at)):
            moving.add(at)
    found = {y: full_like(tape, y, 1)} if y in moving else {}
    for at in reversed(order):
        if at not in moving or at in xs or at not in found:
            continue
        slope, rule = found.pop(at), _rule(at)
        for i, value in enumerate(at.inputs):
            if value in moving:
                part = rule(tape, at, slope, i)
                found[value] = tape(ops.Add(), found[value], part) if value in found else part
    return [found[x] if x in found else full_like(tape, x, 0) for x in xs]


def recomputed(
    y: Instruction, given: Mapping[Instruction, Instruction], tape: Arithmetic
) -> Instruction:
    """``y`` with some of the values it depends on replaced; itself if there are none."""
    made = {old: new for old, new in given.items() if old is not new}
    for at in tree(y, lambda at: () if at in given else _read(at)) if made else ():
        if at in given or not any(v in made for v in _read(at)):
            continue
        if at.modules:
            raise UnknownName(f"{at.op.name} cannot be differentiated at other values")
        made[at] = tape(at.op, *(made.get(v, v) for v in at.inputs))
    return made.get(y, y)


def _read(at: Instruction) -> tuple[Instruction, ...]:
    """The values an instruction depends on, captures of its modules included, the last first."""
    return (*at.inputs, *captures_of(at))[::-1]


def _moves(at: Instruction) -> bool:
    """Whether small changes of its inputs can change a value a little; integers jump."""
    return at.shape.dtype.is_float or not at.shape.dtype.is_tensor


Rule: TypeAlias = Callable[[Arithmetic, Instruction, Instruction, int], Instruction]
"""The derivative with respect to an input, given the instruction, the derivative with respect to
its result, and the input's index.
"""


def _rule(at: Instruction) -> Rule:
    own: Rule | None = getattr(at.op, "derivative", None)
    if own is not None:
        return own
    if at.op.name not in RULES:
        raise UnknownName(
            f"there is no derivative of {at.op.name}; there are of {', '.join(sorted(RULES))}"
        )
    return RULES[at.op.name]


def _product(t: Arithmetic, first: Instruction, *factors: Instruction | float) -> Instruction:
    """The product of values and numbers, from left to right."""
    for factor in factors:
        first = t(ops.Mul(), first, factor)
    return first


def _shaped(t: Arithmetic, x: Instruction, like: Instruction) -> Instruction:
    """A value reshaped to the dims of another."""
    dims = like.shape.dims
    return x if x.shape.dims == dims else t(ops.Reshape(dims), x)


def _divided(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    part = t(ops.Div(), g, at.inputs[1])
    return part if i == 0 else _product(t, part, at, -1.0)


def _power(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    x, y = at.inputs
    if i == 1:
        return _product(t, g, at, t(ops.Log(), x))
    y = astype(t, y, x.shape.dtype)
    return _product(t, g, y, t(ops.Pow(), x, t(ops.Add(), y, -1.0)))


def _extreme(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    """Of equal values, the first counts as the extreme."""
    first = t(ops.Equal(), at.inputs[0], at)
    return t(ops.Where(), first if i == 0 else t(ops.Not(), first), g, 0)


def _clipped(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    x, low, high = at.inputs
    below, above = t(ops.Less(), x, low), t(ops.Greater(), x, high)
    if i:
        return t(ops.Where(), (below, above)[i - 1], g, 0)
    return t(ops.Where(), t(ops.LogicalOr(), below, above), 0, g)


def _chosen(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    condition = at.inputs[0]
    return t(ops.Where(), condition, g, 0) if i == 1 else t(ops.Where(), condition, 0, g)


def _leaking(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    below = t(ops.Mul(), g, _attribute(at, "alpha"))
    return t(ops.Where(), t(ops.Greater(), at.inputs[0], 0), g, below)


def _elu(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    below = t(ops.Mul(), g, t(ops.Add(), at, _attribute(at, "alpha")))
    return t(ops.Where(), t(ops.Greater(), at.inputs[0], 0), g, below)


def _dot(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    lead = range(g.shape.rank - 2)
    other = t(ops.Transpose((*lead, len(lead) + 1, len(lead))), at.inputs[1 - i])
    return t(ops.Dot(), g, other) if i == 0 else t(ops.Dot(), other, g)


def _spread(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    """The derivative of the sum along some axes, broadcast to the input's dims."""
    return t(ops.Multibroadcast(at.inputs[0].shape.dims), g)


def _mean(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    dims, dtype = at.inputs[0].shape.dims, g.shape.dtype
    wide = at_least_f32(dtype)  # a float of 16 bits may not hold the count
    count = astype(t, number(t, dim.product([dims[a] for a in _attribute(at, "axes")])), wide)
    part = t(ops.Div(), astype(t, g, wide), count)
    return _spread(t, at, astype(t, part, dtype), i)


def _greatest(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    """Equal maxima share the derivative."""
    x = at.inputs[0]
    held = t(ops.Convert(g.shape.dtype), t(ops.Equal(), x, _spread(t, at, at, i)))
    count = t(ops.ReduceSum(_attribute(at, "axes")), held)
    return t(ops.Mul(), _spread(t, at, g, i), t(ops.Div(), held, count))


def _softmax(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    part = t(ops.Mul(), g, at)
    total = t(ops.ReduceSum((_attribute(at, "axis"),)), part)
    return t(ops.Sub(), part, t(ops.Mul(), at, total))


def _log_softmax(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    total = t(ops.ReduceSum((_attribute(at, "axis"),)), g)
    return t(ops.Sub(), g, t(ops.Mul(), t(ops.Exp(), at), total))


def _shared(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    """The sum over all copies of a broadcast element."""
    x = at.inputs[0]
    if i or len(at.inputs) > 1:
        raise UnknownName(
            "there is no derivative of a broadcast to dims that are only known at run time"
        )
    first = getattr(at.op, "axis", g.shape.rank - x.shape.rank)
    own = range(first, first + x.shape.rank)
    axes = tuple(
        a for a, d in enumerate(g.shape.dims) if a not in own or x.shape.dims[a - first] != d
    )
    return _shaped(t, t(ops.ReduceSum(axes), g), x) if axes else g


def _turned(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    return t(ops.Transpose(tuple(map(int, np.argsort(_attribute(at, "permutation"))))), g)


def _part(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    axis = _attribute(at, "axis")
    ends = dim.offsets(v.shape.dims[axis] for v in at.inputs)
    return t(ops.Slice((axis,), (ends[i],), (ends[i + 1],)), g)


def _cut(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    dims = at.inputs[0].shape.dims
    before, after = list[Extent]([0] * len(dims)), list[Extent]([0] * len(dims))
    for axis, start in zip(_attribute(at, "axes"), _attribute(at, "starts"), strict=True):
        before[axis], after[axis] = start, dims[axis] - start - at.shape.dims[axis]
    return t(ops.Pad((*before, *after)), g)


def _taken(t: Arithmetic, at: Instruction, g: Instruction, i: int) -> Instruction:
    """Each slice's derivative is added where it was gathered from."""
    (x, indices), axis = at.inputs, _attribute(at, "axis")
    lead, tail = x.shape.dims[:axis], x.shape.dims[axis + 1 :]
    dims = (*lead, indices.shape.elements, *tail)
    places = t(ops.Reshape((indices.shape.elements,)), indices)
    index = t(ops.Broadcast(axis, dims), places)
    return t(ops.ScatterAdd(axis), full_like(t, x, 0), index, t(ops.Reshape(dims), g))


def _attribute(at: Instruction, name: str) -> Any:
    return getattr(at.op, name)


RULES: dict[str, Rule] = {
    "abs": lambda t, at, g, i: t(ops.Mul(), g, t(ops.Sign(), at.inputs[0])),
    "add": lambda t, at, g, i: g,
    "broadcast": _shared,
    "clip": _clipped,
    "concat": _part,
    "contiguous": lambda t, at, g, i: g,
    "convert": lambda t, at, g, i: t(ops.Convert(at.inputs[0].shape.dtype), g),
    "cos": lambda t, at, g, i: _product(t, g, t(ops.Sin(), at.inputs[0]), -1.0),
    "div": _divided,
    "dot": _dot,
    "elu": _elu,
    "erf": lambda t, at, g, i: _product(
        t, g, t(ops.Exp(), _product(t, at.inputs[0], at.inputs[0], -1.0)), 2 / math.sqrt(math.pi)
    ),
    "exp": lambda t, at, g, i: t(ops.Mul(), g, at),
    "gather": _taken,
    "identity": lambda t, at, g, i: g,
    "leaky_relu": _leaking,
    "log": lambda t, at, g, i: t(ops.Div(), g, at.inputs[0]),
    "logsoftmax": _log_softmax,
    "max": _extreme,
    "min": _extreme,
    "mul": lambda t, at, g, i: t(ops.Mul(), g, at.inputs[1 - i]),
    "multibroadcast": _shared,
    "neg": lambda t, at, g, i: t(ops.Neg(), g),
    "pow": _power,
    "recip": lambda t, at, g, i: _product(t, g, at, at, -1.0),
    "reduce_max": _greatest,
    "reduce_mean": _mean,
    "reduce_min": _greatest,
    "reduce_sum": _spread,
    "relu": lambda t, at, g, i: t(ops.Where(), t(ops.Greater(), at.inputs[0], 0), g, 0),
    "reshape": lambda t, at, g, i: _shaped(t, g, at.inputs[0]),
    "rsqrt": lambda t, at, g, i: _product(t, g, at, at, at, -0.5),
    "sigmoid": lambda t, at, g, i: _product(t, g, at, t(ops.Add(), t(ops.Neg(), at), 1.0)),
    "sin": lambda t, at, g, i: t(ops.Mul(), g, t(ops.Cos(), at.inputs[0])),
    "slice": _cut,
    "softmax": _softmax,
    "sqrt": lambda t, at, g, i: t(ops.Div(), t(ops.Mul(), g, 0.5), at),
    "squeeze": lambda t, at, g, i: _shaped(t, g, at.inputs[0]),
    "sub": lambda t, at, g, i: g if i == 0 else t(ops.Neg(), g),
    "tanh": lambda t, at, g, i: t(ops.Mul(), g, t(ops.Add(), _product(t, at, at, -1.0), 1.0)),
    "transpose": _turned,
    "unsqueeze": lambda t, at, g, i: _shaped(t, g, at.inputs[0]),
    "where": _chosen,
}
"""The derivative rule of each operation, by name."""
