"""Kernels of attention: the softmax of scaled and masked products, times values.

No matrix of all scores is ever made. A tile is a block of queries of one head. It visits the keys
block by block, and keeps for each query the greatest score so far, the sum of the exponentials
relative to it, and the values weighted by these; when a greater score comes, sum and values are
scaled down (M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", 2018; T. Dao
et al., "FlashAttention", 2022). If there is a sink, a score without a key or a value, it is the
initial state: the greatest score is the sink, and the sum 1.

**Why it is fast.** Lanes are queries throughout. The queries of a tile are transposed once, into a
panel that stays in the L1 cache; the scores have a row for each key, and so have the weights, which
are then the panel of the second product. Both products are those of ``tile.py``: elements of keys
and values are read in place, one at a time, and broadcast, so neither is ever packed. All keys of a
query are in one lane, so maxima, exponentials and sums are plain vector arithmetic without
reductions over lanes. A remainder of queries that fills little of a block, and few queries with a
long cache, are computed row by row instead, with all heads that share keys and values
(``attention_rows.py``).

No tile shares its sums with another, so bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import lcm, prod

from migx import dim
from migx import shape as dtypes
from migx.dim import Extent, product
from migx.fusion.attention import WEIGHTS, Attention, described
from migx.fusion.kernels import PRODUCT, Access
from migx.fusion.stages import below
from migx.ir import Instruction
from migx.targets.cpu.emit import F32, Type, Value
from migx.targets.cpu.emit.vector_math import exp_to_zero
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of
from migx.targets.cpu.kernels import attention_rows
from migx.targets.cpu.kernels.attention_rows import LOWEST
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.epilogue import emittable, evaluated
from migx.targets.cpu.parts.matrix import Matrix
from migx.targets.cpu.parts.tile import Tile, accumulate, cycles
from migx.targets.cpu.parts.transpose import gather_columns, scatter_columns

ROW = 2
"""The cost of a query computed row by row, relative to one lane of a block."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a ``group`` tagged ``attention``, of f32, f16 or bf16; sums are f32."""
    attention = described(at)
    if attention is None or not _emittable(attention, machine):
        return None
    return Writer(at, machine, attention).kernel()


def _emittable(attention: Attention, machine: Machine) -> bool:
    every = (attention.queries, attention.keys, attention.values, attention.output)
    if any(a.dtype not in (dtypes.F32, dtypes.F16, dtypes.BF16) for a in every):
        return False
    if not isinstance(attention.depth, int) or not isinstance(attention.width, int):
        return False
    if not attention.by_row and _operands(attention, attention.weight):
        return False
    return attention.output.strides[-1] == 1 and emittable(attention.nodes, machine)


def _operands(attention: Attention, node: int | None) -> list[Access]:
    """The inputs that a node is computed from; none if there is no node."""
    wanted = [] if node is None else [node]
    read = (attention.nodes[n].of for n in below(attention.nodes, wanted, ()))
    return list(dict.fromkeys(a for a in read if isinstance(a, Access) and a.operand >= 0))


@dataclass(frozen=True)
class Blocking:
    """How a tile is computed: ``vectors`` of ``lanes`` queries at a time with ``height`` elements
    of keys or values, in blocks of ``keys``; up to ``few`` queries row by row.
    """

    lanes: int
    vectors: int
    height: int
    keys: Extent
    few: int

    @property
    def width(self) -> int:
        """The queries of a tile."""
        return self.lanes * self.vectors

    def tile(self, rows: Extent) -> Tile:
        """The tile of a product with so many rows."""
        block = int(rows) if isinstance(rows, int) else self.height
        return Tile(self.height, self.vectors, self.lanes, max(1, block), 1, F32)


def chosen(machine: Machine, attention: Attention) -> Blocking:
    """The blocking of least cost, by the model of ``tile.py``: the cycles for the strips of the
    second product, times the lanes that the queries occupy, idle ones included.
    """
    queries, keys = attention.count
    lanes, best = machine.lanes(F32), (0.0, 0, 0)
    rows_too = attention_rows.fits(attention)
    for vectors in range(1, 5):
        height = min((machine.registers - vectors - 1) // vectors, 8)
        if height < 1:
            continue
        cost = _turns(attention.width, height, vectors) / (vectors * lanes)
        cost *= _lanes_used(queries, vectors * lanes, rows_too)
        if not best[1] or cost < best[0]:
            best = cost, vectors, height
    _, vectors, height = best
    width = vectors * lanes
    few = width // ROW if rows_too else 0
    if not attention.by_row:
        return Blocking(lanes, vectors, height, keys, few)
    most = max(height, machine.l1 // 2 // (width * F32.nbytes) // height * height)
    if isinstance(keys, int):
        share = -(-keys // max(1, -(-keys // most)))
        most = max(1, -(-share // height)) * height
    return Blocking(lanes, vectors, height, most, few)


def _turns(rows: Extent, height: int, vectors: int) -> float:
    """Cycles of the multiply-add units for a step of the depth, for so many rows."""
    total, left = 0.0, rows if isinstance(rows, int) else height
    while left:
        strips, left = divmod(left, height)
        total += strips * cycles(height, vectors)
        height = max(1, height // 2)
    return total


def _lanes_used(queries: Extent, width: int, rows_too: bool) -> int:
    if not isinstance(queries, int):
        return 1
    whole, left = divmod(queries, width)
    return whole * width + (
        left * ROW if rows_too and left <= width // ROW else min(left, 1) * width
    )


class Writer(KernelWriter):
    """Writes the kernel of one attention; has what both ways to compute a tile need."""

    def __init__(self, at: Instruction, machine: Machine, attention: Attention) -> None:
        super().__init__(at, machine)
        self.attention = attention
        self.blocking = chosen(machine, attention)
        self.queries, self.keys = (self.frame.extent(e) for e in attention.count)
        self.met = _operands(attention, attention.score)
        self.met_first = _operands(attention, attention.sink)
        self.met_last = _operands(attention, attention.weight)
        self.widens = attention.keys.dtype is not dtypes.F32
        self._divide_scratch()

    def kernel(self) -> Kernel:
        f, attention, width = self.f, self.attention, self.blocking.width
        queries, keys = attention.count
        blocks, items = (queries + width - 1) // width, product(attention.groups)
        together = self._together()
        parts = (attention.heads + together - 1) // together
        scores = items * attention.heads * queries * keys
        with f.loop(self.frame.begin, self.frame.end) as number:
            many = self.frame.extent(blocks)
            heads = self._go_to(number.index // many, parts, together)
            top = number.index % many * width
            rows = f.minimum(self.queries - top, width)
            self._tile(top, rows, heads)
        return self.frame.finished(
            "attention",
            blocks * parts * items,
            flops=2 * scores * (attention.depth + attention.width),
        )

    def _together(self) -> Extent:
        """The heads of a tile, among those that share keys and values: one, but if queries are few,
        all of them, or as many as leave a tile for each core.
        """
        attention, few = self.attention, self.blocking.few
        groups = prod(max(1, int(dim.bounds(extent)[0])) for extent in attention.groups)
        tiles = -(-self.machine.cores // groups)
        most = -(-attention.heads // tiles)
        return dim.maximum(1, dim.minimum(most, (few + 1 - attention.count[0]) * most))

    def _go_to(self, item: Value, parts: Extent, together: Extent) -> Value:
        """Sets the batch indices of a tile's heads, given ``parts`` tiles per group; gives the
        number of heads.
        """
        frame, groups = self.frame, self.attention.groups
        each, most, axes = frame.extent(parts), frame.extent(together), range(len(groups))
        first = item % each * most
        self.places = {**frame.places(item // each, groups, axes), len(axes): first}
        return self.f.minimum(most, self.attention.heads - first)

    def _tile(self, top: Value, rows: Value, heads: Value) -> None:
        """One tile, computed in whichever way is less work for its number of queries."""
        f, (queries, _), few = self.f, self.attention.count, self.blocking.few
        width = self.blocking.width
        last = queries % width if isinstance(queries, int) else None
        if not few or last == 0 or (last is not None and last > few):
            self._block(top, rows)
        elif isinstance(queries, int) and queries <= few:
            attention_rows.emit(self, top, rows, heads)
        else:
            with f.when(rows <= few):
                attention_rows.emit(self, top, rows, heads)
            with f.unless(rows <= few):
                self._block(top, rows)

    def matrix(self, access: Access, head: Value | None = None) -> Matrix:
        """An operand as a matrix for the item of this tile; ``head`` counts from the tile's first,
        if given.
        """
        row, column = map(self.frame.extent, access.strides[-2:])
        first = self.frame.start(access, self.places)
        if head is not None:
            step = self.frame.extent(access.strides[-3])
            first = self.f.element(first, head * step, memory_of(access.dtype))
        return Matrix(first, row, column, access.dtype)

    def scaled(self, x: Value) -> Value:
        """Queries times all factors of the scores."""
        for scale in self.attention.scales:
            by = float(scale.by.array.reshape(-1)[0])
            x = x / by if scale.divides else x * by
        return x

    def evaluated(self, node: int, read: Callable[[Access], Value]) -> Value:
        """A node, given a function that reads its operands."""
        return evaluated(self.f, self.attention.nodes, read, [node])[node]

    def begun(self, read: Callable[[Access], Value]) -> tuple[Value, Value]:
        """Vectors of the greatest scores and of the sums before any key: those of nothing, or of
        the sinks.
        """
        f, lanes = self.f, self.blocking.lanes
        lowest = f.const(F32.times(lanes), LOWEST)
        if self.attention.sink is None:
            return lowest, f.const(lowest.type, 0)
        sink = f.splat(self.evaluated(self.attention.sink, read), lanes)
        greatest = f.select(sink > lowest, sink, lowest)
        return greatest, exp_to_zero(f, sink - greatest)

    def finished(self, value: Value, total: Value, read: Callable[[Access], Value]) -> Value:
        """Weighted values divided by the sum of the weights, and what follows; 0 if there are no
        keys, or for guarded rows that would be NaN.
        """
        f = self.f
        if not self.attention.by_row:
            return value
        result = value * (1.0 / total)
        if self.attention.guarded:
            return f.select(total > 0.0, result, 0.0)
        made = self.weight(result, read)
        if dim.bounds(self.attention.count[1])[0] > 0:
            return made
        none = f.splat(f.compare("eq", self.keys, 0), total.type.lanes)
        return f.select(none, 0.0, made)  # whatever other operands rows have, which may be empty

    def weight(self, softmax: Value, read: Callable[[Access], Value] | None = None) -> Value:
        """The factor of the values, from the result of the softmax; or with ``read``, which gives
        the row's other operands, what follows on values already weighted.
        """

        def given(access: Access) -> Value:
            return softmax if read is None or access.operand == WEIGHTS else read(access)

        return self.evaluated(self.attention.weight, given)

    # A block of queries, in lanes.

    def _divide_scratch(self) -> None:
        """The queries transposed, the weighted values, the scores, and their other operands,
        transposed.
        """
        blocking, attention, lanes = self.blocking, self.attention, self.blocking.lanes
        step = lcm(lanes, blocking.height)  # strips may write more rows than there are

        def area(rows: Extent, row: Extent = blocking.width, type_: Type = F32) -> Value:
            return self.frame.take((rows + step - 1) // step * step * row, type_)

        self.panel, self.sums = area(attention.depth), area(attention.width)
        self.scores = area(blocking.keys)
        self.turned = {
            access: area(rows, type_=memory_of(access.dtype))
            for met, rows in (([*self.met_first, *self.met_last], 1), (self.met, blocking.keys))
            for access in met
        }
        if self.widens:
            features = dim.maximum(attention.depth, attention.width) + lanes - 1
            self.staged = area(blocking.keys, features // lanes * lanes)

    def _panel_of(self, first: Value) -> Matrix:
        """A matrix in scratch whose rows are vectors of all the queries."""
        return Matrix.dense(first, self.blocking.width, dtypes.F32)

    def _block(self, top: Value, rows: Value) -> None:
        f, attention, blocking = self.f, self.attention, self.blocking
        depth, width = self.frame.extent(attention.depth), self.frame.extent(attention.width)
        panel, sums, scores = map(self._panel_of, (self.panel, self.sums, self.scores))
        queries = self.matrix(attention.queries).moved(top, 0)
        size, lanes = blocking.width, blocking.lanes

        def scaled(read: Value) -> Value:
            return self.scaled(elements.loaded(f, read, attention.queries.dtype))

        gather_columns(queries, (rows, depth), panel, size, lanes, scaled)
        once = self._single and isinstance(attention.count[1], int) and attention.count[1] > 0
        if not once:
            self._clear(self.sums, width)
        keys, values = self.matrix(attention.keys), self.matrix(attention.values)
        product_, weighted = blocking.tile(blocking.keys), blocking.tile(attention.width)
        start = self._start(top, rows)
        with f.loop(0, self.keys, self.frame.extent(blocking.keys), carry=start) as block:
            many = f.minimum(self.keys - block.index, self.frame.extent(blocking.keys))
            here = self._widened(keys.moved(block.index, 0), many, depth)
            strips = product_.strips(attention.count[1])
            accumulate(product_, self.scores, here, panel, many, depth, strips, fresh=True)
            highest, totals = block.carried[: blocking.vectors], block.carried[blocking.vectors :]
            highest, totals = self._weights(top, rows, block.index, many, highest, totals)
            block.carry(*highest, *totals)
            left = self._widened(values.moved(block.index, 0), many, width).turned
            strips = weighted.strips(attention.width)
            accumulate(weighted, self.sums, left, scores, width, many, strips, fresh=once)
        output = self.matrix(attention.output).moved(top, 0)
        line = self.panel  # the queries are not needed any more
        for j, total in enumerate(block.carried[blocking.vectors :]):
            f.store(total, f.element(line, j * lanes, F32))
        met = self._met_by_rows(self.met_last, top, rows)

        def shared(value: Value, row: Value) -> Value:
            total = f.load(f.element(line, row, F32), F32.times(lanes))
            return self.finished(value, total, met(row))

        scatter_columns(sums, output, (rows, width), size, lanes, shared)

    def _start(self, top: Value, rows: Value) -> list[Value]:
        """The greatest scores and the sums before there are keys."""
        f, blocking = self.f, self.blocking
        met = self._met_by_rows(self.met_first, top, rows)
        places = [f.as_index(j * blocking.lanes) for j in range(blocking.vectors)]
        begun = [self.begun(met(place)) for place in places]
        return [value for part in zip(*begun, strict=True) for value in part]

    def _met_by_rows(
        self, every: Iterable[Access], top: Value, rows: Value
    ) -> Callable[[Value], Callable[[Access], Value]]:
        """A function that gives, from a query on, vectors of operands that do not depend on the
        key.
        """
        matrices, first = {access: self.matrix(access) for access in every}, self.f.as_index(0)
        for access in matrices:
            self._turn(access, top, rows, first, self.f.as_index(1))
        return lambda row: lambda access: self._met(access, matrices[access], first, row)

    def _widened(self, given: Matrix, rows: Value, columns: Value) -> Matrix:
        """Rows of keys or values in place, or a copy if they are narrower than sums."""
        f, lanes = self.f, self.blocking.lanes
        if not self.widens:
            return given
        if given.column.number != 1 and given.row.number == 1:
            return self._widened(given.turned, columns, rows).turned
        line = (columns + (lanes - 1)) // lanes * lanes
        made = Matrix.dense(self.staged, line, dtypes.F32)
        with f.loop(0, rows) as i, f.loop(0, columns, lanes) as j:
            mask = f.first_lanes(columns - j.index, lanes)
            vector = given.loaded(i.index, j.index, lanes, mask)
            f.store(vector, made.at(i.index, j.index))
        return made

    @property
    def _single(self) -> bool:
        """Whether one block has all the keys."""
        keys, block = self.attention.count[1], self.blocking.keys
        return keys == block or (isinstance(keys, int) and isinstance(block, int) and keys <= block)

    def _clear(self, first: Value, rows: Value) -> None:
        f, lanes = self.f, self.blocking.lanes
        with f.loop(0, rows * self.blocking.vectors) as at:
            f.store(f.const(F32.times(lanes), 0), f.element(first, at.index * lanes, F32), align=64)

    def _weights(
        self,
        top: Value,
        rows: Value,
        key: Value,
        many: Value,
        highest: list[Value],
        totals: list[Value],
    ) -> tuple[list[Value], list[Value]]:
        """Turns a block of products into weights; gives the updated greatest scores and sums."""
        f, attention = self.f, self.attention
        for access in self.met:
            self._turn(access, top, rows, key, many)
        greatest = self._scores(key, many, highest)
        if not self._single or attention.sink is not None:
            shrunk = [exp_to_zero(f, a - b) for a, b in zip(highest, greatest, strict=True)]
            totals = [t * s for t, s in zip(totals, shrunk, strict=True)]
        if not self._single:
            with f.when(key > 0), f.loop(0, self.frame.extent(attention.width)) as k:
                for place, by in zip(self._line(k.index, self.sums), shrunk, strict=True):
                    f.store(f.load(place, by.type) * by, place)
        with f.loop(0, many, carry=totals) as i:
            made = []
            for place, best, total in zip(self._line(i.index), greatest, i.carried, strict=True):
                weight = exp_to_zero(f, f.load(place, best.type) - best)
                f.store(weight, place)
                made.append(total + weight)
            i.carry(*made)
        if not attention.by_row:
            self._change_weights(many, i.carried)
        return greatest, i.carried

    def _scores(self, key: Value, many: Value, highest: list[Value]) -> list[Value]:
        """Turns a block of products into scores; gives the greatest so far."""
        f, between = self.f, self.attention.nodes[self.attention.score].of
        changes = not (isinstance(between, Access) and between.operand == PRODUCT)
        met = {access: self.matrix(access).moved(0, key) for access in self.met}
        with f.loop(0, many, carry=highest) as i:
            made = []
            for j, (place, best) in enumerate(zip(self._line(i.index), i.carried, strict=True)):
                score = f.load(place, best.type)
                if changes:
                    score = self._scored(score, met, i.index, j)
                    f.store(score, place)
                made.append(f.select(score > best, score, best))
            i.carry(*made)
        return i.carried

    def _scored(self, product_: Value, met: dict[Access, Matrix], key: Value, j: int) -> Value:
        """A vector of scores, from vector j of the products of a key."""
        first = self.f.as_index(j * self.blocking.lanes)

        def read(access: Access) -> Value:
            if access.operand == PRODUCT:
                return product_
            return self._met(access, met[access], key, first)

        return self.evaluated(self.attention.score, read)

    def _met(self, access: Access, given: Matrix, key: Value, first: Value) -> Value:
        """A vector of another operand of a key's scores or weights, from the first of its queries
        on.
        """
        f, lanes, memory = self.f, self.blocking.lanes, memory_of(access.dtype)
        if access.strides[-2] == 0:
            one = elements.loaded(f, f.load(given.at(0, key), memory), access.dtype)
            return f.splat(one, lanes)
        place = f.element(self.turned[access], key * self.blocking.width + first, memory)
        return elements.loaded(f, f.load(place, memory.times(lanes)), access.dtype)

    def _change_weights(self, many: Value, totals: list[Value]) -> None:
        """Applies the operations between the softmax and the values."""
        f = self.f
        with f.loop(0, many) as i:
            for place, total in zip(self._line(i.index), totals, strict=True):
                f.store(self.weight(f.load(place, total.type) / total), place)

    def _line(self, row: Value, first: Value | None = None) -> list[Value]:
        """The addresses of the vectors of a row in scratch, by default of the scores."""
        f, blocking = self.f, self.blocking
        base = f.element(first or self.scores, row * blocking.width, F32)
        return [f.element(base, j * blocking.lanes, F32) for j in range(blocking.vectors)]

    def _turn(self, access: Access, top: Value, rows: Value, key: Value, many: Value) -> None:
        """Transposes another operand of a block's scores, unless it is the same for all queries."""
        if access.strides[-2] == 0:
            return
        blocking = self.blocking
        made = Matrix.dense(self.turned[access], blocking.width, access.dtype)
        given = self.matrix(access).moved(top, key)
        gather_columns(given, (rows, many), made, blocking.width, blocking.lanes)
