"""ONNX's training operators: derivatives, and one optimiser step for each group of tensors."""

from __future__ import annotations

from collections.abc import Callable

from migx import ops
from migx.dim import Extent
from migx.errors import UnknownName
from migx.gradient import gradients, recomputed
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.linear import scaled
from migx.op import Operation

DOMAIN = "ai.onnx.preview.training"
Group = tuple[Instruction, ...]


@importer("Gradient", domain=DOMAIN)
def gradient(node: Node) -> tuple[Instruction, ...]:
    """The derivatives of the value named ``y`` with respect to those named ``xs``, at the operands:
    these may differ from the named values, also for the fixed ones, ``zs``.
    """
    xs, zs = node.strings("xs"), node.strings("zs", ())
    named = [node.graph.lookup(name) for name in (*xs, *zs)]
    if len(node.inputs) != len(named):
        raise node.fail(f"it has {len(node.inputs)} inputs; xs and zs name {len(named)}")
    given = [node.input(i) for i in range(len(named))]
    y = node.graph.lookup(node.string("y"))
    if not y.shape.dtype.is_float:
        raise node.fail(f"y is {y.shape}, which has no derivatives; it must be floating-point")
    try:
        y = recomputed(y, dict(zip(named, given, strict=True)), node)
        return tuple(gradients(y, given[: len(xs)], node, given[len(xs) :]))
    except UnknownName as error:
        raise node.fail(str(error)) from error


def each(node: Node, members: int, step: Callable[..., Group]) -> tuple[Instruction, ...]:
    """The results of a step for each group of tensors, sorted by kind.

    Operands after the rate and the count are the first members of all groups, then all second ones.
    """
    count, rest = divmod(len(node.inputs) - 2, members)
    if rest or not count:
        raise node.fail(f"takes a rate, a count and {members} tensors of each kind")
    groups = [[node.input(2 + i + count * m) for m in range(members)] for i in range(count)]
    results = [step(*group) for group in groups]
    return tuple(value for kind in zip(*results, strict=True) for value in kind)


def regularized(node: Node, x: Instruction, gradient: Instruction) -> Instruction:
    """The gradient plus the norm coefficient times the tensor."""
    return both(node, ops.Add(), scaled(node, x, node.number("norm_coefficient", 0.0)), gradient)


def both(node: Node, op: Operation, x: Instruction, y: Instruction) -> Instruction:
    """An operation on two values, the second converted to the type of the first."""
    return node.add(op, x, node.convert(y, x.shape.dtype))


def root(node: Node, x: Instruction) -> Instruction:
    """The square root plus epsilon."""
    root = node.add(ops.Sqrt(), x)
    return node.add(ops.Add(), root, node.number("epsilon", 0.0))


@importer("Adagrad", domain=DOMAIN)
def adagrad(node: Node) -> tuple[Instruction, ...]:
    rate, count = single(node, 0), single(node, 1)
    decay = scaled(node, node.convert(count, rate.shape.dtype), node.number("decay_factor", 0.0))
    rate = node.add(ops.Div(), rate, node.add(ops.Add(), decay, 1))

    def step(x: Instruction, gradient: Instruction, squares: Instruction) -> Group:
        slope = regularized(node, x, gradient)
        total = node.add(ops.Add(), squares, node.add(ops.Mul(), slope, slope))
        change = node.add(ops.Div(), both(node, ops.Mul(), slope, rate), root(node, total))
        return node.add(ops.Sub(), x, change), total

    return each(node, 3, step)


@importer("Momentum", domain=DOMAIN)
def momentum(node: Node) -> tuple[Instruction, ...]:
    rate, count = single(node, 0), single(node, 1)
    alpha, beta = node.number("alpha"), node.number("beta")
    first = node.add(ops.Equal(), count, 0)
    share = node.add(ops.Where(), first, 1, node.scalar(beta, rate))
    nesterov = node.choice("mode", ("standard", "nesterov")) == "nesterov"

    def step(x: Instruction, gradient: Instruction, velocity: Instruction) -> Group:
        slope = regularized(node, x, gradient)
        added = both(node, ops.Mul(), slope, share)
        new = node.add(ops.Add(), scaled(node, velocity, alpha), added)
        way = node.add(ops.Add(), slope, scaled(node, new, alpha)) if nesterov else new
        return node.add(ops.Sub(), x, both(node, ops.Mul(), way, rate)), new

    return each(node, 3, step)


@importer("Adam", domain=DOMAIN)
def adam(node: Node) -> tuple[Instruction, ...]:
    """Averages of gradients and their squares, with bias correction in the first steps."""
    rate, count = single(node, 0), single(node, 1)
    alpha, beta = node.number("alpha", 0.9), node.number("beta", 0.999)
    grown = node.convert(count, rate.shape.dtype)
    one = node.scalar(1, grown)
    bias = [node.add(ops.Sub(), one, node.add(ops.Pow(), b, grown)) for b in (alpha, beta)]
    widened = node.add(ops.Mul(), rate, node.add(ops.Sqrt(), bias[1]))
    adjusted = node.add(ops.Div(), widened, bias[0])
    started = node.add(ops.Greater(), count, 0)
    rate = node.add(ops.Where(), started, adjusted, rate)
    after = 1 - node.number("norm_coefficient_post", 0.0)

    def step(x: Instruction, gradient: Instruction, *averages: Instruction) -> Group:
        slope = regularized(node, x, gradient)
        squared = node.add(ops.Mul(), slope, slope)
        new = [
            node.add(ops.Add(), scaled(node, old, b), scaled(node, value, 1 - b))
            for old, value, b in zip(averages, (slope, squared), (alpha, beta), strict=True)
        ]
        change = node.add(ops.Div(), both(node, ops.Mul(), new[0], rate), root(node, new[1]))
        return scaled(node, node.add(ops.Sub(), x, change), after), new[0], new[1]

    return each(node, 4, step)


def single(node: Node, index: int) -> Instruction:
    """A one-element operand as a scalar."""
    dims: tuple[Extent, ...] = ()
    return node.reshape(node.input(index), dims)
