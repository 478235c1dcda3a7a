"""Kernels of attention: the softmax of scaled and masked products, times values.

No matrix of all scores is ever made. A program has a block of queries and visits the keys block by
block. It keeps for each query the greatest score so far, the sum of the exponentials relative to
it, and the values weighted by these; when a greater score comes, sum and values are scaled down (T.
Dao et al., "FlashAttention", 2022). A sink, a score without a value, is the initial state. All
heads that share keys and values are consecutive in such blocks, so these are read once for the
single queries of a decoder.

If a head is known to have few queries, as in a decoder with a cache, they are taken one by one, and
multiplied elementwise: a tile would be mostly empty rows. Where several queries share keys, and
there are enough tiles for most units, matrix units are still faster.

If many are multiplied without matrix units, adjacent threads read adjacent keys of one feature.
These are a whole head of features apart, in one bank of shared memory, which serves one of them at
a time. So such a kernel has two turns, the first of which transposes the keys into scratch, where
those of a feature are contiguous.
"""

from __future__ import annotations

from migx.dim import Extent, bounds, product
from migx.fusion.attention import WEIGHTS, Attention, described
from migx.fusion.kernels import PRODUCT, Access
from migx.fusion.stages import below
from migx.ir import Instruction
from migx.shape import BF16, F16, F32, Shape
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.arithmetic import products
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import BOTH, ROWS, Expr, Part, both, expr
from migx.targets.gpu.emit.functions import LOG2_E
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.nodes import computable, evaluated
from migx.targets.gpu.parts.sums import dot
from migx.targets.gpu.tiles import power_of_two, tiles

WIDEST = 256
"""The most features of a head."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a ``group`` tagged ``attention``, of f32, f16 or bf16; sums are f32."""
    attention = described(at)
    if attention is None or not _writable(attention):
        return None
    singly = choose.one_by_one(
        *(attention.count[0], attention.heads, product(attention.groups)),
        *(int(attention.depth), attention.queries.dtype.bits),
    )
    return (_OneByOne if singly else _InBlocks)(at, attention).kernel()


def _writable(attention: Attention) -> bool:
    every = (attention.queries, attention.keys, attention.values, attention.output)
    sizes = (attention.depth, attention.width)
    return (
        attention.by_element
        and all(a.dtype in (F32, F16, BF16) for a in every)
        and len({a.dtype for a in every[:3]}) == 1
        and all(isinstance(s, int) and s <= WIDEST for s in sizes)
        and computable(attention.nodes)
    )


class _Writer:
    """What kernels of attention share. A program has a tile of queries, of all heads of a group, by
    keys; and for its queries the greatest scores (``top``), the sums and the values ``held``.
    """

    writer: Writer
    tile: Tile
    item: Part
    row: Part
    top: Expr
    total: Expr
    held: Expr

    def __init__(self, attention: Attention) -> None:
        self.attention, self.items = attention, product(attention.groups)
        each, self.keys = attention.count
        self.rows = (attention.heads, each)
        self.queries = product(self.rows)
        self.depth, self.width = (
            max(16, power_of_two(int(e))) for e in (attention.depth, attention.width)
        )
        self.dtype = attention.queries.dtype

    def begin(self) -> Expr:
        """Sets the program's item; gives the number of its tile within the item."""
        w = self.writer
        many = w.extent(tiles(self.queries, self.tile.rows))
        self.item = Part(w.let(w.program // many), self.attention.groups)
        return w.program % many

    def finished(self, turns: int = 0) -> Kernel:
        """The kernel, once its text is written."""
        a, tile = self.attention, self.tile
        return self.writer.finished(
            "attention",
            tiles(self.queries, tile.rows) * self.items * tile.parts,
            warps=tile.warps,
            stages=tile.stages,
            flops=2 * self.items * self.queries * self.keys * (a.depth + a.width),
            turns=turns,
        )

    def offset(self, access: Access, *last: Part) -> Expr:
        """The offset of elements of the item in an operand."""
        return self.writer.offset([self.item, *last], access.strides)

    def read(
        self, access: Access, key: Expr, feature: Expr, sizes: tuple[int, int], block: int = 0
    ) -> Expr:
        """Keys or values at some indices, 0 where there are none; ``sizes`` are the features that
        exist, and those of a tile; ``block`` is how many keys are read, by default a tile's.
        """
        w, there = self.writer, None
        extents = (feature, *sizes), (key, self.keys, block or self.tile.columns)
        for index, extent, size in extents:
            if (inside := w.there(index, extent, size)) is not None:
                there = w.let(both(there, inside))
        first_head = Part(expr(0), (self.attention.heads,))
        where = self.offset(access, first_head, Part(key, (self.keys,)), Part(feature, sizes[:1]))
        with w.masked({}):
            return w.load(access.operand, where, access.dtype, raw=True, also=there)

    def start(self, dims: list[int], over: frozenset[int], *, empty: bool = False) -> None:
        """Initialises greatest scores and sums: for nothing, or for the sinks."""
        w, sink, zeros = self.writer, self.attention.sink, f"tl.zeros({dims}, tl.float32)"
        if sink is None or empty:
            self.top = w.variable(f"tl.full({dims}, float('-inf'), tl.float32)", over)
            self.total = w.variable(zeros, over)
            return
        top = self.made(sink, expr(0), expr(0)).text
        self.top = w.variable(f"{zeros} + {top}", over)
        top = self.top.text
        base = f"tl.where({top} == float('-inf'), 0.0, {top})"
        self.total = w.variable(_power(f"{top} - {base}"), over)

    def query(self, feature: Expr) -> Expr:
        """Some features of the queries."""
        w, a = self.writer, self.attention
        where = self.offset(a.queries, self.row, Part(feature, (a.depth,)))
        there = w.let(feature.below(w.extent(a.depth)))
        return w.load(a.queries.operand, where, a.queries.dtype, raw=True, also=there)

    def scores(self, text: str, over: frozenset[int], key: Expr, tile: tuple[int, ...]) -> Expr:
        """The input of the softmax for products with some keys, as a tile of these dims; minus
        infinity where there is no key.
        """
        w, a = self.writer, self.attention
        (axis,) = key.over
        inside = w.there(key, self.keys, self.tile.columns)
        w.masks = {**w.masks, axis: inside}
        score = self.made(a.score, w.let(self._scaled(text), over), key)
        text = f"{w.spread(score, tile).text}.to(tl.float32)"
        if inside is not None:
            text = f"tl.where({inside.text}, {text}, float('-inf'))"
        return w.let(text, over)

    def go_on(self, scores: Expr, along: str, sums: Expr | None = None) -> None:
        """Updates the greatest scores and the sums with scores reduced ``along`` an axis; or with
        the greatest scores and the ``sums`` of parts.
        """
        w, top, total = self.writer, self.top.text, self.total.text
        less = _power(f"{top} - _base")
        if not self.attention.by_row:  # NaN of scores that are all minus infinity is kept
            less = f"tl.where({top} == _top, 1.0, {less})"
        w.line(f"_top = tl.maximum({top}, tl.max({scores.text}, {along}))")
        w.line("_base = tl.where(_top == float('-inf'), 0.0, _top)")
        w.line(f"_power = {_power(f'{scores.text} - _base')}")
        w.line(f"_less = {less}")
        powers = "_power" if sums is None else f"_power * {sums.text}"
        w.line(f"{total} = {total} * _less + tl.sum({powers}, {along})")

    def weights(self, key: Expr, over: frozenset[int]) -> str:
        """The weights of the values of a block, not yet divided by the sum of all."""
        w, a = self.writer, self.attention
        if a.by_row:
            return "_power"
        text = "tl.where(_top == float('-inf'), float('nan'), _power)"
        changed = self.made(a.weight, w.let(text, over), key)
        (axis,) = key.over
        return changed.text if (inside := w.masks[axis]) is None else w.only(inside, changed).text

    @property
    def held_less(self) -> str:
        """The weighted values, scaled down."""
        less = f"{self.held.text} * _less"
        return less if self.attention.by_row else f"tl.where(_less > 0.0, {less}, 0.0)"

    def finish(self, feature: Expr, tile: tuple[int, ...]) -> None:
        """Writes the weighted values."""
        w, a = self.writer, self.attention
        (axis,) = feature.over
        w.masks = {**w.masks, axis: w.there(feature, a.width, self.width)}
        held, total = self.held.text, self.total.text
        value = self.held * w.let(f"(1.0 / {total})", self.total.over)
        value = w.let(value)
        if a.by_row:
            value = self.made(a.weight, value, expr(0))
        else:
            value = w.let(f"tl.where({total} == 0.0, {held}, {value.text})", value.over)
        there = f"{total} > 0.0" if a.guarded else ""
        if not a.guarded and bounds(self.keys)[0] <= 0:  # without keys, the sum is 0
            there = f"{w.extent(self.keys).text} > 0"
        if there:
            value = w.let(f"tl.where({there}, {value.text}, 0.0)", value.over)
        where = self.offset(a.output, self.row, Part(feature, (a.width,)))
        w.store(a.output.operand, w.spread(where, tile), value, a.output.dtype)

    def made(self, node: int, given: Expr, key: Expr) -> Expr:
        """A node, computed from products or weights with some keys."""
        w, nodes = self.writer, self.attention.nodes
        found, place = dict[int, Expr](), dict[Access, Expr]()
        wanted = below(nodes, [node], ())
        for n in wanted:
            if isinstance(of := nodes[n].of, Access):
                if of.operand in (PRODUCT, WEIGHTS):
                    found[n] = given
                else:
                    place[of] = self.offset(of, self.row, Part(key, (self.keys,)))
        evaluated(w, nodes, wanted, found, place)
        return found[node]

    def _scaled(self, text: str) -> str:
        """Products, multiplied or divided by the scales."""
        w = self.writer
        for scale in self.attention.scales:
            by = w.let(elements.constant(scale.by)).text
            text = f"({text}) {'/' if scale.divides else '*'} {by}"
        return text


def _power(x: str) -> str:
    """The exponential of a difference of scores. A power of two has no subnormals, which would take
    three instructions more, and do not count beside the power of the greatest score, 1.
    """
    return f"tl.exp2(({x}) * {LOG2_E!r})"


def _beside(attention: Attention) -> int:
    """The bits that are read beside each score, but for masks, of which a thread keeps a bit."""
    nodes = attention.nodes
    read = {nodes[n].of for n in below(nodes, [attention.score, attention.weight], ())}
    every = [of for of in read if isinstance(of, Access) and of.operand >= 0]
    return sum(a.dtype.bits for a in every if a.dtype.bits > 8 and 0 not in a.strides[-2:])


class _InBlocks(_Writer):
    """Blocks of queries and of keys, multiplied as matrices."""

    def __init__(self, at: Instruction, attention: Attention) -> None:
        super().__init__(attention)
        bits, apart = self.dtype.bits, attention.keys.strides[-2] != 1
        self.turned = apart and choose.turned(self.keys, self.depth, bits)
        self.tile = choose.attention(
            *(self.queries, self.keys, self.items, self.depth, self.width, bits),
            apart=apart and not self.turned,
            beside=_beside(attention),
        )
        self.how = products(self.dtype, self.depth)
        room = tiles(self.keys, self.tile.columns) * self.tile.columns
        self.turned_keys = Shape(self.dtype, (self.items, self.depth, room))
        self.writer = Writer(at, scratch=(self.turned_keys,) if self.turned else ())

    def kernel(self) -> Kernel:
        """The kernel."""
        w, number = self.writer, self.begin()
        if not self.turned:
            self._weighted(number)
            return self.finished()
        with w.block("if turn == 0:"):
            self._turn(w.let(number))
        with w.block("else:"):
            self._weighted(number)
        return self.finished(turns=2)

    def _turn(self, number: Expr) -> None:
        """Transposes a program's share of an item's keys into scratch, with zeros in the rest of
        the last block.
        """
        w, a, size, room = self.writer, self.attention, self.tile.rows, self.turned_keys.dims[-1]
        step = w.let(w.extent(tiles(self.queries, size)) * size)
        with w.loop(room, step, w.let(number * size)) as begin:
            key, feature = w.numbers(0, 2, size, begin), w.numbers(1, 2, self.depth)
            keys = self.read(a.keys, key, feature, (int(a.depth), self.depth), size)
            w.masks = {0: w.there(key, room, size)}
            keys = w.spread(keys, (size, self.depth))
            w.store(*self._of_turned(key, feature), keys, self.dtype)

    def _of_turned(self, key: Expr, feature: Expr) -> tuple[int, Expr]:
        """The operand with the transposed keys, and the offset of some of them."""
        w = self.writer
        operand = w.operand_of_scratch(self.turned_keys)
        return operand, w.place(operand, (self.item.index, feature, key))

    def _weighted(self, number: Expr) -> None:
        """Writes the results of a block of queries."""
        w, height = self.writer, self.tile.rows
        row = w.numbers(0, 2, height, w.let(number * height))
        w.masks = rows = {0: w.there(row, self.queries, height)}
        self.row = Part(row, self.rows)
        q = w.let(w.spread(self.query(w.numbers(1, 2, self.depth)), (height, self.depth)))
        self.start([height, 1], ROWS)
        self.held = w.variable(f"tl.zeros([{height}, {self.width}], tl.float32)", BOTH)
        with w.loop(self.keys, self.tile.columns) as begin:
            self._block(begin, q, rows)
        w.masks = rows
        self.finish(w.numbers(1, 2, self.width), (height, self.width))

    def _block(self, begin: Expr, q: Expr, rows: dict[int, Expr | None]) -> None:
        """Adds a block of keys."""
        w, (height, block) = self.writer, (self.tile.rows, self.tile.columns)
        key = w.numbers(1, 2, block, begin)
        keys = w.spread(self._keys(key), (self.depth, block))
        w.masks = rows
        products = self._dot(q.text, keys.text)
        self.go_on(self.scores(products, BOTH, key, (height, block)), "axis=1, keep_dims=True")
        power = self.weights(key, BOTH)
        key, feature = w.numbers(0, 2, block, begin), w.numbers(1, 2, self.width)
        a, held = self.attention, self.held.text
        values = self.read(a.values, key, feature, (int(a.width), self.width))
        values = w.spread(values, (block, self.width))
        weights = f"{power}.to({values.text}.dtype)"
        w.line(f"{held} = {self._dot(weights, values.text, self.held_less)}")
        w.line(f"{self.top.text} = _top")

    def _dot(self, x: str, y: str, *added: str) -> str:
        """The products of two matrices, ``added`` to what is given."""
        if self.how == "bf16x6":
            return " + ".join((*added, f"bf16x6_dot({x}, {y})"))
        return dot(self.how, x, y, *added)

    def _keys(self, key: Expr) -> Expr:
        """The keys of a block, by features."""
        w, a, feature = self.writer, self.attention, self.writer.numbers(0, 2, self.depth)
        if not self.turned:
            return self.read(a.keys, key, feature, (int(a.depth), self.depth))
        w.masks = {}  # scratch has room for the whole block, and zeros for missing features
        operand, where = self._of_turned(key, feature)
        return w.load(operand, where, self.dtype, raw=True)


class _OneByOne(_Writer):
    """Single queries, multiplied with blocks of keys elementwise. Scores have one axis, so Triton
    keeps keys and values in the threads that read them.

    With few queries, the keys of each are cut into parts, and the kernel takes two turns. In the
    first each program visits a part, and stores what it keeps for its query in scratch; the second
    combines the parts as if they were blocks.
    """

    def __init__(self, at: Instruction, attention: Attention) -> None:
        super().__init__(attention)
        self.every = self.items * self.queries
        bits = self.dtype.bits
        self.tile = choose.query(self.keys, self.every, self.depth, self.width, bits)
        self.writer = Writer(at)

    def kernel(self) -> Kernel:
        """The kernel."""
        w, parts = self.writer, self.tile.parts
        if parts == 1:
            self._set_query(w.program)
            self._visit(self.keys, 0)
            self._end()
            return self.finished()
        every = w.extent(self.every)
        query, part = w.let(w.program % every), w.let(w.program // every)
        self._set_query(query)
        with w.block("if turn == 0:"):
            begin, end = w.share(self.keys, self.tile.columns, part, parts)
            self._visit(end, begin)
            self._keep(query, part)
        with w.block(f"elif {part.text} == 0:"):
            self._combine(query)
            self._end()
        return self.finished(turns=2)

    def _set_query(self, number: Expr) -> None:
        """Sets the item and the row of a query."""
        w = self.writer
        many = w.extent(self.queries)
        self.item = Part(w.let(number // many), self.attention.groups)
        self.row = Part(w.let(number % many), self.rows)

    def _visit(self, end: Extent | Expr, begin: Expr | int) -> None:
        """Visits the keys in a range."""
        w = self.writer
        q = self.query(w.numbers(1, 2, self.depth))
        self._start(empty=self.tile.parts > 1)
        with w.loop(end, self.tile.columns, begin) as start:
            self._block(start, q)

    def _start(self, *, empty: bool) -> None:
        self.start([], frozenset(), empty=empty)
        self.held = self.writer.variable(f"tl.zeros([{self.width}], tl.float32)", ROWS)

    def _end(self) -> None:
        """Writes the result of a query."""
        w = self.writer
        w.masks = {}
        self.finish(w.numbers(0, 1, self.width), (self.width,))

    def _block(self, begin: Expr, q: Expr) -> None:
        """Adds a block of keys; all loads are issued before any is used."""
        w, a, block = self.writer, self.attention, self.tile.columns
        key = w.numbers(0, 2, block, begin)
        values, keys = (
            self.read(access, key, w.numbers(1, 2, padded), (int(features), padded))
            for access, features, padded in (
                (a.values, a.width, self.width),
                (a.keys, a.depth, self.depth),
            )
        )
        terms = f"{q.text}.to(tl.float32) * {keys.text}.to(tl.float32)"
        products = f"tl.sum({terms}, axis=1)"
        key = w.numbers(0, 1, block, begin)
        self.go_on(self.scores(products, ROWS, key, (block,)), "axis=0")
        power = self.weights(key, ROWS)
        self._add(f"{power}[:, None] * {values.text}.to(tl.float32)")

    def _add(self, weighted: str) -> None:
        """Adds weighted values, and goes on to the new greatest score."""
        w = self.writer
        w.line(f"{self.held.text} = {self.held_less} + tl.sum({weighted}, axis=0)")
        w.line(f"{self.top.text} = _top")

    # Keys in parts.

    def _of_scratch(self, query: Expr, part: Expr, feature: Expr) -> list[tuple[int, Expr]]:
        """The operands, and the offsets in them, of what programs keep of their parts: the greatest
        score, the sum, and features of the weighted values.
        """
        w, shape = self.writer, (self.every, self.tile.parts)
        scores = w.operand_of_scratch(Shape(F32, (2, *shape)))
        values = w.operand_of_scratch(Shape(F32, (*shape, self.width)))
        own = [(scores, w.place(scores, (expr(n), query, part))) for n in (0, 1)]
        return [*own, (values, w.place(values, (query, part, feature)))]

    def _keep(self, query: Expr, part: Expr) -> None:
        w = self.writer
        w.masks = {}
        places = self._of_scratch(query, part, w.numbers(0, 1, self.width))
        for (operand, where), value in zip(places, (self.top, self.total, self.held), strict=True):
            w.store(operand, where, value, F32)

    def _combine(self, query: Expr) -> None:
        """Combines what was kept of all parts; of one without keys, that is nothing."""
        w, parts = self.writer, self.tile.parts
        w.masks = {}
        self._start(empty=False)
        deep, wide = w.numbers(0, 2, parts), w.numbers(1, 2, self.width)
        every = w.numbers(0, 1, parts)
        of_scores = self._of_scratch(query, every, expr(0))[:2]
        tops, totals = (w.load(operand, where, F32) for operand, where in of_scores)
        values = w.load(*self._of_scratch(query, deep, wide)[2], F32)
        self.go_on(tops, "axis=0", totals)
        weighted = f"_power[:, None] * {values.text}"
        if not self.attention.by_row:  # as of blocks, NaN is kept
            w.line(f"_power = tl.where({tops.text} == _top, 1.0, _power)")
            weighted = f"tl.where(_power[:, None] > 0.0, {weighted}, 0.0)"
        self._add(weighted)
