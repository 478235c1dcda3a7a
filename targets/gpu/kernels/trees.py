"""Kernels of ensembles of decision trees.

A program has a tile of some elements of the result by some trees. All of its paths take a step at a
time, until the last has reached its leaf; then the weights of the leaves are combined.

A path cannot leave the tables, as a kernel cannot raise: features, nodes and leaves are clamped,
and a path ends after as many steps as there are nodes.
"""

from __future__ import annotations

from migx.dim import product
from migx.ir import Instruction
from migx.ops.trees import TreeEnsemble
from migx.shape import F64, DType
from migx.targets.gpu.emit.expressions import BOTH, ROWS, Expr, Part
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.emit.types import storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.tiles import power_of_two, tiles

TILE = 256
"""Paths that a program takes at a time: few, as each waits for memory in every step."""
TREES = 64
"""The most trees among them."""
X, FEATURES, TESTS, SPLITS, WAYS, WEIGHTS, ROOTS = range(7)
"""The operands."""
FOLDS = {"min": ("tl.min", "tl.minimum", "inf"), "max": ("tl.max", "tl.maximum", "-inf")}
"""How the outputs of trees are combined, if not added: over a tile, one by one, and the value where
there is none.
"""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of an ensemble with features and weights that Triton has a type for."""
    if not isinstance(at.op, TreeEnsemble):
        return None
    return _Trees(at).kernel() if all(storable(v.shape.dtype) for v in at.inputs) else None


class _Trees:
    """Writes the kernel."""

    def __init__(self, at: Instruction) -> None:
        self.at, self.writer, self.op = at, Writer(at), at.op_as(TreeEnsemble)
        self.count, self.trees = product(at.shape.dims), at.inputs[ROOTS].shape.dims[0]
        few = isinstance(self.trees, int) and self.trees < TREES
        self.width = power_of_two(max(1, int(self.trees))) if few else TREES
        self.height = TILE // self.width
        self.tile = (self.height, self.width)

    def kernel(self) -> Kernel:
        """The kernel."""
        w = self.writer
        index = w.numbers(0, 2, self.height, w.let(w.program * self.height))
        w.masks = {0: w.there(index, self.count, self.height)}
        row, target = w.split(Part(index, self.at.shape.dims))
        fold, combine, nothing = FOLDS.get(self.op.aggregate, ("tl.sum", "", "0"))
        total = w.variable(f'tl.full({list(self.tile)}, float("{nothing}"), tl.float64)', BOTH)
        with w.loop(self.trees, self.width) as first:
            tree = w.numbers(1, 2, self.width, first)
            with w.masked({**w.masks, 1: w.there(tree, self.trees, self.width)}):
                said = self._weights(self._leaves(row, tree), target, nothing).text
            old = total.text
            w.line(f"{old} = {combine}({old}, {said})" if combine else f"{old} += {said}")
        text = w.let(f"{fold}({total.text}, axis=1, keep_dims=True)", ROWS).text
        if self.op.aggregate == "average":
            many = f"{w.extent(self.trees).text}"
            text = f"({text} / tl.maximum({many}, 1).to(tl.float64))"
        elif combine:
            text = f'tl.where(tl.abs({text}) == float("inf"), 0.0, {text})'
        value = w.let(elements.converted(text, F64, self.at.shape.dtype), ROWS)
        where = w.offset([Part(index, self.at.shape.dims)], self.at.shape.true_strides)
        w.store(len(self.at.inputs), w.spread(where, (self.height, 1)), value, self.at.shape.dtype)
        return w.finished(self.at.name, tiles(self.count, self.height))

    def _leaves(self, row: Expr, tree: Expr) -> Expr:
        """The leaf that each row reaches in each tree."""
        w = self.writer
        nodes = w.extent(self.at.inputs[FEATURES].shape.dims[0])
        root = w.spread(w.load(ROOTS, w.place(ROOTS, [tree]), self._type(ROOTS)), self.tile)
        if (there := w.mask(BOTH)) is not None:
            root = w.let(f"tl.where({there.text}, {root.text}, -1)", BOTH)
        node, step = w.variable(f"{root.text} + 0", BOTH), w.variable("0")
        most = w.variable(f"tl.max({node.text})")
        with w.block(f"while ({most.text} >= 0) & ({step.text} < {nodes.text}):"):
            following = self._following(row, node)
            w.line(f"{node.text} = {following.text}")
            w.line(f"{most.text} = tl.max({node.text})")
            w.line(f"{step.text} += 1")
        return self._inside(Expr(f"(-1 - {node.text})", BOTH), WEIGHTS, 0)

    def _following(self, row: Expr, node: Expr) -> Expr:
        """The nodes after some, and the leaves where these are leaves."""
        w = self.writer
        going = w.let(f"({node.text} >= 0)", BOTH)
        here = self._inside(node, FEATURES, 0)
        feature = self._inside(self._read(FEATURES, [here], going), X, 1)
        x = self._read(X, [row, feature], going).text
        split, test = self._read(SPLITS, [here], going).text, self._read(TESTS, [here], going).text
        if self._type(X) is not self._type(SPLITS):
            x, split = f"{x}.to(tl.float64)", f"{split}.to(tl.float64)"
        lies = f"(({x} >= {split}).to(tl.int32) + 2 * ({x} <= {split}).to(tl.int32))"
        way = w.let(f"(({test}.to(tl.int32) >> {lies}) & 1)", BOTH)
        then = self._read(WAYS, [here, way], going).text
        return w.let(f"tl.where({going.text}, {then}, {node.text})", BOTH)

    def _weights(self, leaf: Expr, target: Expr, nothing: str) -> Expr:
        """The weights of leaves; infinite ones contribute nothing."""
        w = self.writer
        said = self._read(WEIGHTS, [leaf, target]).text
        there = f'(tl.abs({said}) < float("inf"))'
        if (mask := w.mask(BOTH)) is not None:
            there = f"({there} & {mask.text})"
        return w.let(f'tl.where({there}, {said}.to(tl.float64), float("{nothing}"))', BOTH)

    def _type(self, operand: int) -> DType:
        return self.at.inputs[operand].shape.dtype

    def _read(self, operand: int, places: list[Expr], also: Expr | None = None) -> Expr:
        """Elements of an operand."""
        w = self.writer
        return w.load(
            operand, w.spread(w.place(operand, places), self.tile), self._type(operand), also=also
        )

    def _inside(self, index: Expr, operand: int, axis: int) -> Expr:
        """Indices into an axis of an operand, clamped."""
        w = self.writer
        extent = w.extent(self.at.inputs[operand].shape.dims[axis])
        return w.let(f"tl.minimum(tl.maximum({index.text}, 0), {extent.text} - 1)", BOTH)
