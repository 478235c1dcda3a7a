"""Memory planning: which instructions share a plan, and where their values lie in one arena."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from migx import op as operations
from migx.base.memory import aligned
from migx.dim import Dim, Extent
from migx.dims.extents import Numbers
from migx.ir import Instruction, Module
from migx.ops.builtin import GetTupleElem, Param, Return
from migx.ops.indexing import Gather
from migx.ops.layout import Reshape, Slice
from migx.shape import I32, I64, Shape
from migx.sizes import symbols_of, symbols_within
from migx.verify import captures_of

PAGE = 1024
"""Blocks whose size varies are rounded up to multiples of this many bytes."""


def is_memory(shape: Shape) -> bool:
    """Whether a value is bytes that a kernel can address, not a host object."""
    return shape.dtype.is_tensor and shape.dtype.kind != "string"


def results(at: Instruction) -> tuple[Shape, ...]:
    """The shapes an instruction writes: those of the parts if its result is a tuple."""
    return at.shape.parts or (at.shape,)


def is_alias(at: Instruction) -> bool:
    """Whether a value aliases its first input, so that it needs no code."""
    if operations.traits(at.op).view != 0 or not at.inputs:
        return False
    if type(at.op) is GetTupleElem:
        return True
    if not is_memory(at.shape) or at.shape.dtype.is_packed:
        return False
    return not isinstance(at.op, Reshape) or at.inputs[0].shape.strides is None


def shift(at: Instruction) -> Extent:
    """How many elements after the start of its source an alias begins."""
    if not isinstance(at.op, Slice):
        return 0
    strides = at.inputs[0].shape.true_strides
    pairs = zip(at.op.axes, at.op.starts, strict=True)
    return sum((start * strides[axis] for axis, start in pairs), 0)


def is_block(at: Instruction) -> bool:
    """Whether a value is one block of a tensor picked by a run-time index, so that it can alias the
    tensor; which has at least one block.
    """
    if not isinstance(at.op, Gather) or at.op.axis != 0 or not is_memory(at.shape):
        return False
    blocks, index = (v.shape for v in at.inputs)
    known = isinstance(blocks.dims[0], int) and blocks.dims[0] > 0
    return known and blocks.standard and index.rank == 0 and index.dtype in (I32, I64)


def lies_in(at: Instruction) -> tuple[Instruction, tuple[int, ...]]:
    """The value whose memory a value aliases (itself, if it has its own), and the path of the
    member that is meant if that is a tuple.
    """
    member: tuple[int, ...] = ()
    while is_alias(at):
        if type(at.op) is GetTupleElem:
            member = (at.op.index, *member)
        at = at.inputs[0]
    return at, member


def root(value: Instruction) -> Instruction:
    """The value whose memory a value aliases, or aliases a member of; itself, if it has its own."""
    while is_alias(value):
        value = value.inputs[0]
    return value


def viewed(value: Instruction) -> Instruction | None:
    """The input that a value is a view of, even if its layout cannot alias it; None for others."""
    is_view = operations.traits(value.op).view == 0 and len(value.inputs) == 1
    return value.inputs[0] if is_view else None


def source(value: Instruction) -> Instruction:
    """The value that a value is a view of, through all views; itself if it is none."""
    while (below := viewed(value)) is not None:
        value = below
    return value


class Part(NamedTuple):
    """Instructions of a module that one plan runs, and after them those whose results alone
    determine their sizes.
    """

    instructions: list[Instruction]
    late: list[Instruction]


def pieces(module: Module, known: set[str]) -> list[Part]:
    """The instructions of a module, cut where results determine sizes. Each part has all that can
    run by then, in the order of the module; ``known`` are the symbols known outside.
    """
    made = [Part([], [])]
    told = dict.fromkeys(known, 0)  # the part from which on a symbol is known, or a value there
    ready: dict[Instruction, int] = {}
    for at in module:
        names = symbols_of(at)
        if type(at.op) is Param:
            told |= dict.fromkeys(names, 0)
        inside = frozenset[str]().union(*map(symbols_within, at.modules))
        since = [told.get(name, 0) for name in names | inside]
        since += [ready.get(v, 0) for v in (*at.inputs, *captures_of(at))]
        number = len(made) - 1 if type(at.op) is Return else max(since, default=0)
        late = not names <= told.keys()
        ready[at] = number + late
        if len(made) == ready[at]:
            made.append(Part([], []))
        made[number][late].append(at)
        if late:
            told |= dict.fromkeys(names - told.keys(), number + 1)
    return made


def with_known(module: Module, known: set[str]) -> Iterator[tuple[Instruction, set[str]]]:
    """Each instruction of a module, which may be changed meanwhile, with the symbols known where it
    runs: not those that only its own result tells, or its modules. The set grows from one to the
    next.
    """
    told = set(known)
    for at in list(module):
        yield at, told
        told |= symbols_of(at)


class Life(NamedTuple):
    """A live range: a block's bytes, and the first and last step at which it is needed."""

    nbytes: int
    first: int
    last: int


def arranged(lives: Sequence[Life]) -> tuple[list[int], int]:
    """An offset for each block such that no two live ranges overlap in memory, and the total bytes.

    Blocks are placed in order of their first step, each in the smallest gap that holds it; of those
    with the same first step, the largest first.
    """
    order = sorted(range(len(lives)), key=lambda i: (lives[i].first, -lives[i].nbytes))
    ends = sorted(range(len(lives)), key=lambda i: lives[i].last)
    offsets, total, freed = [0] * len(lives), 0, 0
    gaps: list[tuple[int, int]] = []  # (offset, bytes), by offset, never touching
    for i in order:
        while lives[ends[freed]].last < lives[i].first:
            block = ends[freed]
            if lives[block].nbytes:
                _free(gaps, offsets[block], aligned(lives[block].nbytes))
            freed += 1
        size = aligned(lives[i].nbytes)
        if not size:
            continue
        fitting = [(gap, k) for k, (_, gap) in enumerate(gaps) if gap >= size]
        if fitting:
            gap, k = min(fitting)
            at = gaps[k][0]
            gaps[k : k + 1] = [(at + size, gap - size)] if gap > size else []
        else:
            at = total
            if gaps and sum(gaps[-1]) == total:
                at, _ = gaps.pop()
            total = at + size
        offsets[i] = at
    return offsets, total


def _free(gaps: list[tuple[int, int]], at: int, size: int) -> None:
    k = bisect.bisect(gaps, (at, 0))
    if k < len(gaps) and gaps[k][0] == at + size:
        size += gaps.pop(k)[1]
    if k and sum(gaps[k - 1]) == at:
        at, size = gaps[k - 1][0], gaps[k - 1][1] + size
        k -= 1
        gaps.pop(k)
    gaps.insert(k, (at, size))


class Arena:
    """Blocks, given by their bytes and live ranges, laid out anew for the sizes of each run.

    Sizes that vary between runs are rounded up to whole pages, large ones by at most a sixteenth.
    So similar sizes have the same layout, and the last one is cached.
    """

    def __init__(self, blocks: Sequence[tuple[Extent, int, int]]) -> None:
        self._spans = [(first, last) for _, first, last in blocks]
        self._changing = np.array([isinstance(nbytes, Dim) for nbytes, _, _ in blocks], bool)
        self._known: tuple[bytes, Numbers, int] | None = None

    def arranged(self, nbytes: Numbers) -> tuple[Numbers, int]:
        """The offset of each block for the given block sizes, and the total bytes."""
        sixteenth = 2 ** np.maximum(np.frexp(nbytes)[1] - 5, 0)
        step = np.where(self._changing, np.maximum(sixteenth, PAGE), 1)
        roomy = -(-nbytes // step) * step
        key, known = roomy.tobytes(), self._known
        if known is None or known[0] != key:
            pairs = zip(roomy.tolist(), self._spans, strict=True)
            offsets, total = arranged([Life(size, *span) for size, span in pairs])
            known = self._known = key, np.array(offsets, np.int64), total
        return known[1:]
