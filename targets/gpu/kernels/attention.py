"""Kernels of attention: the softmax of scaled and masked products, times values.

No matrix of all scores is ever made. A program has a block of queries of one head and goes over the
keys block by block. It keeps for each query the greatest score so far, the sum of the exponentials
below it, and the values weighted by these; when a greater score comes, sum and values are scaled
down (T. Dao et al., "FlashAttention", 2022).
"""

from __future__ import annotations

from migx.argument import Argument
from migx.dim import product
from migx.fusion.attention import WEIGHTS, Attention, described
from migx.fusion.kernels import PRODUCT, Access
from migx.fusion.stages import below
from migx.ir import Instruction
from migx.shape import BF16, F16, F32
from migx.targets.gpu import elements
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.kernels.fused import computable, evaluated
from migx.targets.gpu.text import Expr, Kernel, Part, Writer, power_of_two, tiles, whole

WIDEST = 256
"""The most features of a head."""
BOTH = frozenset({0, 1})


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a ``group`` tagged ``attention``, of f32, f16 or bf16; sums are f32."""
    attention = described(at)
    if attention is None or not _writable(attention):
        return None
    return _Writer(at, attention).kernel()


def _writable(attention: Attention) -> bool:
    every = (attention.queries, attention.keys, attention.values, attention.output)
    sizes = (attention.depth, attention.width)
    return (
        attention.plain
        and all(a.dtype in (F32, F16, BF16) for a in every)
        and len({a.dtype for a in every[:3]}) == 1
        and all(isinstance(s, int) and s <= WIDEST for s in sizes)
        and computable(attention.nodes)
    )


class _Writer:
    """Writes the kernel of one attention."""

    def __init__(self, at: Instruction, attention: Attention) -> None:
        self.at, self.attention = at, attention
        self.queries, self.keys = attention.count
        self.depth, self.width = (
            max(16, power_of_two(int(e))) for e in (attention.depth, attention.width)
        )
        dtype, heads = attention.queries.dtype, product(attention.batch)
        self.tile = choose.attention(
            self.queries, self.keys, heads, self.depth, self.width, dtype.bits
        )
        self.height, self.block = self.tile.rows, self.tile.columns
        self.precision = choose.precision(dtype)
        self.writer = Writer(at)

    def kernel(self) -> Kernel:
        """The whole of it."""
        w, a = self.writer, self.attention
        blocks = tiles(self.queries, self.height)
        many = w.extent(blocks)
        item = Part(w.let(w.program // many), a.batch)
        row = w.numbers(0, 2, self.height, w.let(w.program % many * self.height))
        if not whole(self.queries, self.height):
            w.masks[0] = w.let(row.below(w.extent(self.queries)))
        self.item, self.row = item, Part(row, (self.queries,))
        feature = w.numbers(1, 2, self.depth)
        where = self._offset(a.queries, self.row, Part(feature, (a.depth,)))
        with_features = w.let(feature.below(w.extent(a.depth)))
        q = w.load(a.queries.operand, where, a.queries.dtype, raw=True, also=with_features)
        self.q = w.let(w.spread(q, (self.height, self.depth)))
        tall = [self.height, 1]
        top = w.variable(f"tl.full({tall}, float('-inf'), tl.float32)", frozenset({0}))
        total = w.variable(f"tl.zeros({tall}, tl.float32)", frozenset({0}))
        held = w.variable(f"tl.zeros([{self.height}, {self.width}], tl.float32)", BOTH)
        with w.loop(self.keys, self.block) as begin:
            self._block(begin, top, total, held)
        self._finish(total, held)
        flops = 2 * product(a.batch) * self.queries * self.keys * (a.depth + a.width)
        warps, stages = self.tile.warps, self.tile.stages
        grid = blocks * product(a.batch)
        return w.finished("attention", grid, warps=warps, stages=stages, flops=flops)

    def _offset(self, access: Access, *last: Part) -> Expr:
        return self.writer.offset([self.item, *last], access.strides)

    def _block(self, begin: Expr, top: Expr, total: Expr, held: Expr) -> None:
        """Adds a block of keys."""
        w, a = self.writer, self.attention
        rows = w.masks.get(0)
        scores = self._scores(begin)
        w.line(f"_top = tl.maximum({top.text}, tl.max({scores.text}, axis=1, keep_dims=True))")
        w.line("_base = tl.where(_top == float('-inf'), 0.0, _top)")
        w.line(f"_power = tl.exp({scores.text} - _base)")
        w.line(f"_less = tl.exp({top.text} - _base)")
        w.line(f"{total.text} = {total.text} * _less + tl.sum(_power, axis=1, keep_dims=True)")
        w.masks = {}
        key, feature = w.numbers(0, 2, self.block, begin), w.numbers(1, 2, self.width)
        if not whole(self.keys, self.block):
            w.masks[0] = w.let(key.below(w.extent(self.keys)))
        if not whole(a.width, self.width):
            w.masks[1] = w.let(feature.below(w.extent(a.width)))
        where = self._offset(a.values, Part(key, (self.keys,)), Part(feature, (a.width,)))
        there = w.masks.pop(0, None)
        values = w.load(a.values.operand, where, a.values.dtype, raw=True, also=there)
        values = w.spread(values, (self.block, self.width))
        weights = f"_power.to({values.text}.dtype)"
        w.line(
            f"{held.text} = tl.dot({weights}, {values.text}, {held.text} * _less{self.precision})"
        )
        w.line(f"{top.text} = _top")
        w.masks = {} if rows is None else {0: rows}

    def _scores(self, begin: Expr) -> Expr:
        """What the softmax is given for a block of keys; minus infinity where there is no key."""
        w, a = self.writer, self.attention
        rows = w.masks.pop(0, None)
        key, feature = w.numbers(1, 2, self.block, begin), w.numbers(0, 2, self.depth)
        inside = w.let(key.below(w.extent(self.keys)))
        whole_block = whole(self.keys, self.block)
        if not whole_block:
            w.masks[1] = inside
        if not whole(a.depth, self.depth):
            w.masks[0] = w.let(feature.below(w.extent(a.depth)))
        where = self._offset(a.keys, Part(key, (self.keys,)), Part(feature, (a.depth,)))
        keys = w.load(a.keys.operand, where, a.keys.dtype, raw=True, also=w.masks.pop(0, None))
        keys = w.spread(keys, (self.depth, self.block))
        if rows is not None:
            w.masks[0] = rows
        product_ = f"tl.dot({self.q.text}, {keys.text}{self.precision})"
        scores = w.let(Expr(self._scaled(product_), BOTH))
        found = {
            n: scores
            for n, node in enumerate(a.nodes)
            if isinstance(node.of, Access) and node.of.operand == PRODUCT
        }
        place = {
            node.of: self._offset(node.of, self.row, Part(key, (self.keys,)))
            for node in a.nodes
            if isinstance(node.of, Access) and node.of.operand not in (PRODUCT, WEIGHTS)
        }
        evaluated(w, a.nodes, below(a.nodes, [a.score], found), found, place)
        score = w.spread(found[a.score], (self.height, self.block))
        text = f"{score.text}.to(tl.float32)"
        if not whole_block:
            text = f"tl.where({inside.text}, {text}, float('-inf'))"
        return w.let(Expr(text, BOTH))

    def _scaled(self, text: str) -> str:
        """Products, multiplied or divided by the scales."""
        w = self.writer
        for scale in self.attention.scales:
            if isinstance(scale.by, Argument):
                by = w.let(Expr(elements.constant(scale.by))).text
            else:
                by = w.load(scale.by.operand, Expr("0", number=0), scale.by.dtype).text
            text = f"({text}) {'/' if scale.divides else '*'} {by}"
        return text

    def _finish(self, total: Expr, held: Expr) -> None:
        """Writes the weighted values."""
        w, a = self.writer, self.attention
        feature = w.numbers(1, 2, self.width)
        if not whole(a.width, self.width):
            w.masks[1] = w.let(feature.below(w.extent(a.width)))
        text = f"{held.text} / {total.text}"
        if a.guarded:
            text = f"tl.where(({text}) == ({text}), {text}, 0.0)"
        value = w.let(Expr(text, BOTH))
        where = self._offset(a.output, self.row, Part(feature, (a.width,)))
        w.store(a.output.operand, w.spread(where, (self.height, self.width)), value, a.output.dtype)
