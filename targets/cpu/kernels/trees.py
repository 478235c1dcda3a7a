"""Kernels of ``tree_ensemble``.

A tile is some rows. It takes one tree after another, so that its nodes stay in the cache while all
rows go through it, and what a row is told is added up in the order of the trees. A step from node
to node has no branch: how two numbers lie to each other is one bit of four, and a comparison says
for which of these it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.trees import COMPARISONS, FAULT, SILENT, TreeEnsemble
from migx.targets.cpu.emit import F32, F64, I64, Type, Value
from migx.targets.cpu.kernel import Frame, Kernel, Scratch, memory_of, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements

ROWS = 64
"""How many rows a tile has."""
ABREAST = 8
"""How many walks from root to leaf are made side by side: each waits for memory all the time."""
BITS = 4
HOLDS = reduce(lambda found, code: found << BITS | code, reversed(COMPARISONS), 0)
"""``COMPARISONS`` as one number, the first lowest."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``tree_ensemble`` of floats whose weights are f32 or f64."""
    if not isinstance(at.op, TreeEnsemble) or type_of(at.shape.dtype) not in (F32, F64):
        return None
    compared = [at.inputs[index].shape.dtype for index in (0, 3)]
    if not all(t.is_float and elements.computable(t, machine) for t in compared):
        return None
    return _Writer(at, at.op, machine).kernel()


class _Writer:
    """Writes the kernel of one instruction."""

    def __init__(self, at: Instruction, op: TreeEnsemble, machine: Machine) -> None:
        self.at, self.op, self.frame = at, op, Frame(at, machine)
        self.f = self.frame.function
        self.shapes = [*(v.shape for v in at.inputs), at.shape]
        self.number = F64 if F64 in (memory_of(self.shapes[i].dtype) for i in (0, 3)) else F32
        self.nodes: Extent = self.shapes[1].dims[0]
        self.targets: Extent = at.shape.dims[1]
        scratch = Scratch(self.frame)
        self.totals = scratch.take(ROWS * self.targets, F64)
        self.scratch = scratch.nbytes

    def kernel(self) -> Kernel:
        """The whole of it."""
        f, frame, rows = self.f, self.frame, self.at.shape.dims[0]
        trees = frame.extent(self.shapes[8].dims[0])
        with f.loop(frame.begin, frame.end) as tile:
            top = tile.index * ROWS
            count = f.minimum(frame.extent(rows) - top, ROWS)
            with f.loop(0, count * frame.extent(self.targets)) as k:
                silent = f.const(F64, SILENT[self.op.aggregate])
                f.store(silent, f.element(self.totals, k.index, F64))
            along = f.cast(count >= ABREAST, I64, signed=False)
            across = 1 - along
            by = [1 + across * (ABREAST - 1), 1 + along * (ABREAST - 1)]
            with f.loop(0, trees, by[0]) as tree, f.loop(0, count, by[1]) as row:
                walks = [(row.index + along * k, tree.index + across * k) for k in range(ABREAST)]
                self._walk(top, count, trees, walks)
            with f.loop(0, count) as row:
                self._finish(top, row.index, trees)
        return frame.finished("trees", (rows + ROWS - 1) // ROWS, scratch=self.scratch)

    def _walk(
        self, top: Value, count: Value, trees: Value, walks: Sequence[tuple[Value, Value]]
    ) -> None:
        """Adds to some rows what some trees say to them."""
        f = self.f
        made = [(row < count) & (tree < trees) for row, tree in walks]
        rows, roots = [], []
        for is_made, (row, tree) in zip(made, walks, strict=True):
            rows.append(top + f.select(is_made, row, 0))
            roots.append(f.select(is_made, self._at(8, f.select(is_made, tree, 0)), -1))
        leaves = self._leaves(rows, roots)
        for is_made, (row, _), leaf in zip(made, walks, leaves, strict=True):
            with f.when(is_made):
                self._add(row, leaf)

    def _address(self, operand: int, *places: Value) -> tuple[Value, Type]:
        """Where the element at some places of an operand is, and what it is in memory."""
        f, shape = self.f, self.shapes[operand]
        offset = f.as_index(0)
        for place, step in zip(places, shape.true_strides, strict=True):
            offset = offset + place * self.frame.extent(step)
        memory = memory_of(shape.dtype)
        return f.element(self.frame.operands[operand], offset, memory), memory

    def _at(self, operand: int, *places: Value) -> Value:
        """The element at some places of an operand, in its computing type."""
        raw = self.f.load(*self._address(operand, *places))
        return elements.loaded(self.f, raw, self.shapes[operand].dtype)

    def _leaves(self, rows: Sequence[Value], roots: Sequence[Value]) -> list[Value]:
        """The leaves some rows come to; none that there is, where one comes to none."""
        f, extent = self.f, self.frame.extent
        features = self.shapes[0].dims[1]
        some = extent(self.nodes) * extent(features) > 0
        with f.when(some, roots) as grown:
            with f.loop(0, extent(self.nodes) + 1, carry=roots) as turn:
                going = [self._step(row, at) for row, at in zip(rows, turn.carried, strict=True)]
                turn.carry(*going)
                turn.end(reduce(f.maximum, going) < 0)
            grown.carry(*turn.carried)
        return [-1 - at for at in grown.carried]

    def _step(self, row: Value, at: Value) -> Value:
        """Where a row is after one step. What goes on to where nothing is stays, as in a circle."""
        f = self.f
        known = self._inside(at, self.nodes)
        here = f.select(known, at, 0)
        feature, mode = self._at(1, here), self._at(2, here)
        known = known & self._inside(mode, len(COMPARISONS))
        known = known & self._inside(feature, self.shapes[0].dims[1])
        value = self._at(0, row, f.select(known, feature, 0))
        return f.select(known, self._next(here, mode, value), at)

    def _inside(self, place: Value, extent: Extent) -> Value:
        return self.f.compare("lt", place, self.frame.extent(extent), signed=False)

    def _next(self, here: Value, mode: Value, value: Value) -> Value:
        """Where a row goes on from a node that looks at one of its values."""
        f = self.f
        x, split = (f.cast(v, self.number) for v in (value, self._at(3, here)))
        greater, less = (f.cast(v, I64, signed=False) for v in (x >= split, x <= split))
        place = mode * BITS + greater + less * 2
        missing = f.cast(f.compare("ne", x, x) & self._at(6, here), I64, signed=False)
        # What LLVM sees to be a choice it makes a branch, which no CPU can foresee.
        holds = f.opaque((f.const(I64, HOLDS) >> (place & 63)) & 1 | missing)
        yes, no = self._at(4, here), self._at(5, here)
        return no ^ ((yes ^ no) & -holds)

    def _add(self, row: Value, leaf: Value) -> None:
        """Adds what a leaf says to what a row has been told."""
        f = self.f
        there = self._inside(leaf, self.shapes[7].dims[0])
        self.frame.fails(~there, FAULT)
        targets = self.frame.extent(self.targets)
        with f.when(there), f.loop(0, targets) as target:
            place = f.element(self.totals, row * targets + target.index, F64)
            total = f.load(place, F64)
            said = f.cast(self._at(7, leaf, target.index), F64)
            says = f.intrinsic("fabs", said) < float("inf")
            f.store(f.select(says, self._combined(total, said), total), place)

    def _combined(self, total: Value, said: Value) -> Value:
        f = self.f
        if self.op.aggregate in ("sum", "average"):
            return total + said
        nearer = said < total if self.op.aggregate == "min" else said > total
        return f.select(nearer | f.compare("ne", total, total), said, total)

    def _finish(self, top: Value, row: Value, trees: Value) -> None:
        """Writes what a row has been told."""
        f, targets = self.f, self.frame.extent(self.targets)
        with f.loop(0, targets) as target:
            total = f.load(f.element(self.totals, row * targets + target.index, F64), F64)
            if self.op.aggregate == "average":
                total = total / f.cast(f.maximum(trees, 1), F64)
            told = f.select(f.compare("ne", total, total), 0.0, total)
            to, memory = self._address(9, top + row, target.index)
            f.store(f.cast(told, memory), to)
