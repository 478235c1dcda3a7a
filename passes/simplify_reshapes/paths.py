"""Chains of views in a module, and their replacements."""

from __future__ import annotations

from migx import ops
from migx.fusion.index_map import IndexMap, map_of
from migx.fusion.outlining import only_reader
from migx.ir import Instruction
from migx.op import Operation
from migx.passes.simplify_reshapes.chain import canonical, cost
from migx.rewrite import Cursor

VIEWS = (
    ops.Transpose,
    ops.Reshape,
    ops.Squeeze,
    ops.Unsqueeze,
    ops.Broadcast,
    ops.Multibroadcast,
    ops.Slice,
    ops.Step,
)
PASSED = frozenset({*(v.name for v in VIEWS), "contiguous", "identity"})
"""Operations within a chain; a ``contiguous`` at its end is kept, for it fixes a layout."""

LONGEST = 64
"""How many views back a chain is followed, so that the time for a long one stays linear."""

Path = list[Instruction]


def is_view(at: Instruction) -> bool:
    """Whether an instruction may stand inside a chain: a view fixed by its attributes."""
    return at.op.name in PASSED and len(at.inputs) == 1 and at.shape.dtype.is_tensor


def views_to(last: Instruction) -> Path:
    """The chain of views that ends here, with an index map or without."""
    path: Path = []
    at = last
    while is_view(at) and at.module is last.module and len(path) < LONGEST:
        path.append(at)
        at = at.inputs[0]
    return path[::-1]


def path_to(last: Instruction) -> Path:
    """The longest chain of views that ends here and has an index map."""
    path = views_to(last)
    if path and map_along(path) is not None:
        return path
    begin = 0
    for i in range(len(path)):
        if begin <= i and map_along(path[begin : i + 1]) is None:
            begin = i if map_along(path[i : i + 1]) is not None else i + 1
    return path[begin:]


def map_along(path: Path) -> IndexMap | None:
    """The index map of a chain; None if there is none."""
    return map_of(path[0].inputs[0].shape.dims, tuple(view.op for view in path))


def chain_for(path: Path) -> tuple[Operation, ...] | None:
    """The canonical chain equivalent to another; None if none is known."""
    return canonical(path[0].inputs[0].shape.dims, tuple(view.op for view in path))


def goes_on(path: Path) -> bool:
    """Whether a chain continues in its only user, so that it is rewritten from there."""
    user = only_reader(path[-1])
    if user is None or not is_view(user) or user.op.name == "contiguous":
        return False
    return map_along([*path, user]) is not None


def gains(made: tuple[Operation, ...], path: Path) -> bool:
    """Whether a chain should replace a path: it is shorter than the views that die, or as long and
    different.
    """
    shared = next((i for i in range(len(path) - 1, 0, -1) if path[i - 1].use_count > 1), 0)
    old = [v.op for v in path]
    if shared:
        return cost(made) <= cost(old[shared:])
    return len(made) < len(old) or (len(made) == len(old) and list(made) != old)


def applied(at: Cursor, chain: tuple[Operation, ...], source: Instruction) -> Instruction:
    """Adds a chain of views of a source; returns the last."""
    for op in chain:
        source = at(op, source)
    return source
