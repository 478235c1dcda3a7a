"""Kernels of ``tree_ensemble``.

A tile is some rows. It takes one tree after another, so that a tree's nodes stay in the cache while
all rows walk it, and the leaves of a row are accumulated in the order of the trees. A step from
node to node has no branch: the relation of two numbers is one of four bits, and a test is the mask
of the relations for which it holds. Indices are checked on the way, unless they are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.layout import Multibroadcast
from migx.ops.trees import FAULT, SILENT, TreeEnsemble
from migx.targets.cpu.code.alike import is_inside
from migx.targets.cpu.emit import F32, F64, I64, Type, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.weights import value_of

ROWS = 64
"""The rows of a tile."""
ABREAST = 8
"""The walks from root to leaf that are interleaved, as each always waits for memory."""
X, FEATURES, TESTS, SPLITS, WAYS, WEIGHTS, ROOTS, RESULT = range(8)
"""The operands by role."""

FLOATS = (
    *("false", "uno", "ogt", "ugt", "olt", "ult", "one", "une"),
    *("oeq", "ueq", "oge", "uge", "ole", "ule", "ord", "true"),
)
"""LLVM's name of each test."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``tree_ensemble`` on floats whose weights are f32 or f64."""
    if not isinstance(at.op, TreeEnsemble) or type_of(at.shape.dtype) not in (F32, F64):
        return None
    compared = [at.inputs[index].shape.dtype for index in (X, SPLITS)]
    if not all(t.is_float and elements.computable(t, machine) for t in compared):
        return None
    return _Writer(at, machine).kernel()


def _test_of_all(tests: Instruction) -> int | None:
    """The test that all nodes make, if there is one and it is fixed."""
    if isinstance(tests.op, Multibroadcast):
        tests = tests.inputs[0]
    known = value_of(tests) if tests.shape.elements == 1 else None
    return None if known is None else int(known.array.item()) % len(FLOATS)


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.op = at.op_as(TreeEnsemble)
        self.shapes = [*(v.shape for v in at.inputs), at.shape]
        self.number = F64 if F64 in (memory_of(self.shapes[i].dtype) for i in (X, SPLITS)) else F32
        self.nodes: Extent = self.shapes[FEATURES].dims[0]
        self.targets: Extent = at.shape.dims[1]
        self.test = _test_of_all(at.inputs[TESTS])
        self.inside = is_inside(at)
        self.totals = self.frame.take(ROWS * self.targets, F64)

    def kernel(self) -> Kernel:
        f, frame, rows = self.f, self.frame, self.at.shape.dims[0]
        trees = frame.extent(self.shapes[ROOTS].dims[0])
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
        return frame.finished("trees", (rows + ROWS - 1) // ROWS)

    def _walk(
        self, top: Value, count: Value, trees: Value, walks: Sequence[tuple[Value, Value]]
    ) -> None:
        """Adds the leaves of some trees to the totals of some rows."""
        f = self.f
        made = [(row < count) & (tree < trees) for row, tree in walks]
        rows, roots = [], []
        for is_made, (row, tree) in zip(made, walks, strict=True):
            rows.append(top + f.select(is_made, row, 0))
            roots.append(f.select(is_made, self._place(ROOTS, f.select(is_made, tree, 0)), -1))
        leaves = self._leaves(rows, roots)
        for is_made, (row, _), leaf in zip(made, walks, leaves, strict=True):
            with f.when(is_made):
                self._add(row, leaf)

    def _address(self, operand: int, *places: Value) -> tuple[Value, Type]:
        """The address of an operand's element at some indices, and its type in memory."""
        shape = self.shapes[operand]
        offset = self.frame.offset(shape.true_strides, dict(enumerate(places)))
        memory = memory_of(shape.dtype)
        return self.f.element(self.frame.operands[operand], offset, memory), memory

    def _at(self, operand: int, *places: Value) -> Value:
        """An operand's element at some indices, in its computing type."""
        raw = self.f.load(*self._address(operand, *places))
        return elements.loaded(self.f, raw, self.shapes[operand].dtype)

    def _place(self, operand: int, *places: Value, signed: bool = True) -> Value:
        """The element there as an index."""
        return self.f.cast(self._at(operand, *places), I64, signed=signed)

    def _leaves(self, rows: Sequence[Value], roots: Sequence[Value]) -> list[Value]:
        """The leaves that some rows reach; an index that no leaf has for a row that reaches
        none.
        """
        f, extent = self.f, self.frame.extent
        features = self.shapes[0].dims[1]
        some = extent(self.nodes) * extent(features) > 0
        with f.when(some, roots) as grown:
            with f.loop(0, extent(self.nodes) + 1, carry=roots) as turn:
                going = [self._step(row, at) for row, at in zip(rows, turn.carried, strict=True)]
                turn.carry(*going)
                turn.end(reduce(and_, going) < 0)
            grown.carry(*turn.carried)
        return [-1 - at for at in grown.carried]

    def _step(self, row: Value, at: Value) -> Value:
        """The node of a row after one step. A step to a node that does not exist stays, as in a
        cycle.
        """
        f = self.f
        going = f.opaque(f.op("ashr", at, 63)) ^ -1 if self.inside else self._mask(at, self.nodes)
        here = at & going
        feature = self._place(FEATURES, here)
        if not self.inside:
            found = self._mask(feature, self.shapes[X].dims[1])
            going, feature = going & found, feature & found
        value, split = self._at(X, row, feature), self._at(SPLITS, here)
        x, limit = f.cast(value, self.number), f.cast(split, self.number)
        if self.test is not None:
            holds = f.opaque(f.cast(f.lies(FLOATS[self.test], x, limit), I64, signed=False))
        else:
            greater, less = (f.cast(v, I64, signed=False) for v in (x >= limit, x <= limit))
            holds = self._place(TESTS, here, signed=False) >> f.opaque(greater + less * 2) & 1
        return at ^ ((self._place(WAYS, here, holds) ^ at) & going)

    def _mask(self, place: Value, extent: Extent) -> Value:
        """All bits if an index is in range, else none.

        LLVM would turn a select into a branch, which no CPU can predict.
        """
        return self.f.opaque(0 - self.f.cast(self._inside(place, extent), I64))

    def _inside(self, place: Value, extent: Extent) -> Value:
        return self.f.compare("lt", place, self.frame.extent(extent), signed=False)

    def _add(self, row: Value, leaf: Value) -> None:
        """Adds a leaf's weights to a row's totals."""
        f = self.f
        there = self._inside(leaf, self.shapes[WEIGHTS].dims[0])
        self.frame.fails(~there, FAULT)
        targets = self.frame.extent(self.targets)
        with f.when(there), f.loop(0, targets) as target:
            place = f.element(self.totals, row * targets + target.index, F64)
            total = f.load(place, F64)
            said = f.cast(self._at(WEIGHTS, leaf, target.index), F64)
            says = f.intrinsic("fabs", said) < float("inf")
            f.store(f.select(says, self._combined(total, said), total), place)

    def _combined(self, total: Value, said: Value) -> Value:
        f = self.f
        if self.op.aggregate in ("sum", "average"):
            return total + said
        nearer = said < total if self.op.aggregate == "min" else said > total
        return f.select(nearer | f.compare("ne", total, total), said, total)

    def _finish(self, top: Value, row: Value, trees: Value) -> None:
        """Writes the totals of a row."""
        f, targets = self.f, self.frame.extent(self.targets)
        with f.loop(0, targets) as target:
            total = f.load(f.element(self.totals, row * targets + target.index, F64), F64)
            if self.op.aggregate == "average":
                total = total / f.cast(f.maximum(trees, 1), F64)
            told = f.select(f.compare("ne", total, total), 0.0, total)
            to, memory = self._address(RESULT, top + row, target.index)
            f.store(f.cast(told, memory), to)
