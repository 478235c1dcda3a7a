"""The loop nests of a fused kernel: its stages.

A *stage* is the reductions that depend only on earlier stages, computed in one loop over the folded
axes. The last stage has no reductions, and writes what depends on them all. Values that a later
stage needs again are recomputed if that is cheap, and otherwise kept.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from migx.argument import Argument
from migx.fusion.kernels import Access, FusedKernel, Node

KEPT_FROM = 4
"""Values that cost less than this many operations are recomputed, not kept in scratch."""
WEIGHTS = {
    **dict.fromkeys(("acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh"), 12),
    **dict.fromkeys(("elu", "erf", "exp", "log", "sigmoid", "sin", "sinh", "tan", "tanh"), 10),
    **dict.fromkeys(("div", "sqrt"), 4),
    **dict.fromkeys(("fmod", "mod", "rsqrt"), 8),
    "pow": 20,
}
"""The operations that cost more than one addition, and roughly how many."""


@dataclass
class Stage:
    """The reductions of one loop, the nodes written in it, and all nodes computed in it."""

    folds: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)


def weight(node: Node) -> int:
    """A node's cost in additions, roughly."""
    if isinstance(node.of, (Access, Argument)):
        return 0
    return WEIGHTS.get(node.of.name, 1)


def effort(nodes: Sequence[Node], some: Sequence[int]) -> tuple[int, int, int]:
    """The cost of some nodes, given in order, in additions, roughly; that of their critical path;
    and the largest number of live values.
    """
    last = {i: number for number in some for i in nodes[number].inputs}
    done: dict[int, int] = {}
    needed = most = 0
    for number in some:
        inputs = set(nodes[number].inputs)
        done[number] = weight(nodes[number]) + max((done.get(i, 0) for i in inputs), default=0)
        needed += 1 - sum(last[i] == number for i in inputs if i in done)
        most = max(most, needed)
    return sum(weight(nodes[n]) for n in some), max(done.values(), default=0), most


def below(nodes: Sequence[Node], wanted: Iterable[int], known: Container[int]) -> list[int]:
    """The nodes that some depend on, and themselves, in order; without known nodes and what only
    these depend on.
    """
    found: set[int] = set()
    work = [n for n in wanted if n not in known]
    while work:
        number = work.pop()
        if number not in found:
            found.add(number)
            work += [i for i in nodes[number].inputs if i not in known]
    return sorted(found)


def is_folded(fused: FusedKernel, output: int) -> bool:
    """Whether a result has one value for all places of the folded axes."""
    node, access = fused.outputs[output]
    axes = [i for i, folded in enumerate(fused.folded) if folded]
    return bool(axes) and fused.nodes[node].folded and all(access.strides[i] == 0 for i in axes)


def stages_of(fused: FusedKernel) -> tuple[list[Stage], list[int]]:
    """The stages, and the nodes that are kept from one stage for later ones."""
    nodes, several = fused.nodes, any(fused.folded)
    stages, cost = _begun(fused), [0] * len(nodes)
    for number, node in enumerate(nodes):
        cost[number] = weight(node) + sum(cost[i] for i in node.inputs if not nodes[i].folded)
    computed: set[int] = set()
    spilled: dict[int, None] = {}
    for stage in stages:
        wanted = [nodes[n].inputs[0] for n in stage.folds]
        wanted += [fused.outputs[o][0] for o in stage.outputs]
        needed: set[int] = set()
        work = [n for n in wanted if not (several and nodes[n].folded)]
        while work:
            number = work.pop()
            if number in needed:
                continue
            needed.add(number)
            if number in computed and cost[number] >= KEPT_FROM:
                spilled[number] = None
                continue
            work += [i for i in nodes[number].inputs if not (several and nodes[i].folded)]
        stage.nodes = sorted(needed)
        computed |= needed
    return stages, list(spilled)


def _begun(fused: FusedKernel) -> list[Stage]:
    """The stages with their reductions, each in the first stage it can be in, and outputs."""
    nodes = fused.nodes
    level = [0] * len(nodes)
    for number, node in enumerate(nodes):
        level[number] = max((level[i] for i in node.inputs), default=0) + node.folds
    stages = [Stage() for _ in range(max(level, default=0) + 1)]
    for number, node in enumerate(nodes):
        if node.folds:
            stages[level[number] - 1].folds.append(number)
    for output, (number, _) in enumerate(fused.outputs):
        if not is_folded(fused, output):
            stages[level[number]].outputs.append(output)
    return [stage for stage in stages if stage.folds or stage.outputs]
