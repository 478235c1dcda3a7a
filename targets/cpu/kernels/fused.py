"""Kernels of elementwise arithmetic, of reductions, of both fused, and of copies between layouts.

The last axis of the space is the *vector axis*, which lanes run along. If it is reduced, a row is
read in one loop for each *stage* (a stage is the reductions that depend only on earlier ones; the
last one writes what depends on them all), lanes hold partial results and are reduced at the end;
several short rows are processed abreast. If it is not reduced, every lane is a row of its own, and
the loops of the stages run inside. Values that a later stage needs again are recomputed if that is
cheap, and kept in scratch otherwise.

Rows are shared out, never a reduction, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from migx.argument import Argument
from migx.dim import Extent, product
from migx.fusion.kernels import Access, FusedKernel, described, name_of
from migx.fusion.stages import Stage, below, is_folded
from migx.ir import Instruction
from migx.ops.reduce import ReduceMean
from migx.targets.cpu.emit import I8, I64, Function, Type, Value, division, reductions
from migx.targets.cpu.kernel import Frame, Kernel, memory_of
from migx.targets.cpu.kernels.fused_cut import Cut, total_type
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.abreast import Abreast
from migx.targets.cpu.parts.epilogue import emittable


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of what ``described`` describes, if LLVM has all its element types."""
    fused = described(at)
    fused = None if fused is None else fused.as_bits()
    if fused is None or not emittable(fused.nodes, machine):
        return None
    return Writer(Frame(at, machine), fused).kernel()


@dataclass
class Point:
    """The position of elements: its indices on the folded axes, and the first of its lanes on the
    vector axis, with a mask if not all exist; ``every`` is the mask for all rows abreast.
    """

    places: dict[int, Value]
    first: Value
    lanes: int
    mask: Value | None = None
    every: Value | None = None


Body: TypeAlias = Callable[[Point, list[Value]], list[Value]]
"""The body of an iteration: from its point and the carried values to the next carried values."""


class Writer:
    """Writes one fused computation: as a kernel, or as some of the tiles of one. ``origins`` are
    the addresses of its distinct accesses, in order, if they are known.
    """

    def __init__(self, frame: Frame, fused: FusedKernel, origins: Sequence[Value] = ()) -> None:
        self.cut = cut = Cut(frame.machine, fused)
        self.fused, self.nodes, self.stages = cut.fused, cut.nodes, cut.stages
        self.frame = frame
        self.f: Function = self.frame.function
        self.abreast = self._abreast(1)
        self.rows: dict[int, Value] = {}
        self.found: dict[int, Value] = {}
        self.origins = dict(zip(dict.fromkeys(self.fused.accesses), origins, strict=False))
        self.bases: dict[Access, Value] = {}
        self.kept_already: set[int] = set()
        kept = product(self.fused.dims[i] for i in cut.outer_folds) * self._width_kept
        self.slots = {number: frame.take(kept, I64) for number in cut.spilled}

    def _abreast(self, rows: int) -> Abreast:
        cut = self.cut
        return Abreast(self.f, rows, cut.lanes, cut.inner, cut.machine.vector_bytes)

    # The outer loops.

    def kernel(self) -> Kernel:
        """The kernel."""
        self.write(self.frame.begin, self.frame.end)
        return self.frame.finished(
            name_of(self.frame.at),
            self.tiles,
            flops=self.fused.flops,
            over=self._over() if len(self.fused.outputs) > 1 else self.fused.in_place(),
        )

    @property
    def tiles(self) -> Extent:
        """How many tiles there are."""
        return self.cut.tiles

    def write(self, begin: Value, end: Value) -> None:
        """Writes the loops over a half-open range of tiles."""
        f, frame, cut = self.f, self.frame, self.cut
        height, width, across = cut.tile
        with f.loop(begin, end) as tile:
            number, count = tile.index, frame.extent(across)
            top = number // count * frame.extent(height)
            bottom = f.minimum(top + frame.extent(height), frame.extent(cut.row_count))
            left = number % count * frame.extent(width)
            right = f.minimum(left + frame.extent(width), frame.extent(cut.inner))
            rest = cut.most_rows if cut.row_count % cut.most_rows == 0 else 1
            for rows in dict.fromkeys((cut.most_rows, rest)):
                end = bottom if rows == rest else top + (bottom - top) // rows * rows
                self.abreast = self._abreast(rows)
                with f.loop(top, end, rows) as row:
                    self._row(row.index)
                    if cut.by_row:
                        self._along_row()
                    else:
                        self._along(left, right, [], self._column)
                top = end

    def _row(self, row: Value) -> None:
        """Finds the address of a row in every operand, and reads what is invariant along it."""
        f = self.f
        places = self.frame.places(row, self.fused.dims, self.cut.row_axes)
        self.bases = {
            a: self.frame.start(a, places, self.origins.get(a)) for a in self.fused.accesses
        }
        self.rows = {}
        start = Point({}, f.const(I64, 0), 0)
        for number, node in enumerate(self.nodes):
            if isinstance(node.of, Argument):
                self.rows[number] = elements.splat_constant(
                    f, node.of.array.reshape(-1)[0], node.dtype
                )
            elif isinstance(node.of, Access) and self._is_fixed(node.of):
                self.rows[number] = self._read(node.of, start)

    def _is_fixed(self, access: Access) -> bool:
        """Whether an operand is one element for a whole row."""
        return all(access.strides[i] == 0 for i in (self.cut.last, *self.cut.outer_folds))

    def _along(self, begin: Value, end: Value, carry: list[Value], body: Body) -> list[Value]:
        """The loop along the vector axis: by whole vectors, then the rest under a mask, or one by
        one if the CPU has none.
        """
        f, lanes, step = self.f, self.cut.lanes, self.cut.step
        whole = end if self.cut.exact else begin + (end - begin) // step * step
        if self.cut.exact or not isinstance(self.cut.inner, int) or self.cut.inner > step:
            with f.loop(begin, whole, step, carry) as loop:
                loop.carry(*body(Point({}, loop.index, lanes), loop.carried))
            carry = loop.carried
        if self.cut.exact:
            return carry
        with f.loop(whole, end, step if self.frame.machine.masks else 1, carry) as loop:
            point = self._rest(loop.index, end)
            loop.carry(*body(point, loop.carried))
        return loop.carried

    def _rest(self, first: Value, end: Value) -> Point:
        """The rest from an index on: all of it if the CPU has masks, else one element."""
        if not self.frame.machine.masks:
            return Point({}, first, 0)
        left = end - first
        every = self.abreast.mask(left)
        mask = every if self.abreast.rows == 1 else self.f.first_lanes(left, self.cut.lanes)
        return Point({}, first, self.cut.lanes, mask, every)

    def _column(self, point: Point, carry: list[Value]) -> list[Value]:
        """Some adjacent rows, if the vector axis is not folded."""
        self.found, self.kept_already = dict(self.rows), set()
        for stage in self.stages:
            self._between(stage, point)
            starts = self._starts(stage, point.lanes)
            self._finish(stage, self._nest(stage, self.cut.outer_folds, point, starts))
        self._last_outputs(point)
        return carry

    def _along_row(self) -> None:
        """One row, if the vector axis is folded."""
        f = self.f
        self.found, self.kept_already = dict(self.rows), set()
        start = Point({}, f.const(I64, 0), 0)
        for stage in self.stages:
            self._between(stage, start)
            starts = self._starts(stage, self.cut.lanes * self.abreast.rows)
            if self.cut.odd:
                starts += self._starts(stage, 0)
            totals = self._nest(stage, self.cut.outer_folds, start, starts)
            count = len(stage.folds)
            folds = zip(stage.folds, totals, strict=False)
            folded = [reductions.fold(f, self._folding(n), t, self.abreast.rows) for n, t in folds]
            for k, rest in enumerate(totals[count:]):
                folded[k] = self._combined(stage.folds[k], folded[k], rest)
            self._finish(stage, folded)
        self._last_outputs(start)

    def _nest(
        self, stage: Stage, axes: Sequence[int], point: Point, carry: list[Value]
    ) -> list[Value]:
        """The loops of a stage over the folded axes, and the results of its reductions."""
        if not axes:
            if not self.cut.by_row:
                return self._element(stage, point, carry)
            end = self.frame.extent(self.cut.inner)

            def body(at: Point, totals: list[Value]) -> list[Value]:
                return self._element(stage, replace(at, places=point.places), totals)

            return self._along(self.f.const(I64, 0), end, carry, body)
        extent = self.frame.extent(self.fused.dims[axes[0]])
        with self.f.loop(0, extent, 1, carry) as loop:
            inside = replace(point, places={**point.places, axes[0]: loop.index})
            loop.carry(*self._nest(stage, axes[1:], inside, loop.carried))
        return loop.carried

    def _element(self, stage: Stage, point: Point, carry: list[Value]) -> list[Value]:
        """Computes one point of each lane, writes its outputs, and adds it to the reductions."""
        values = dict(self.found)
        for number in (n for n in stage.nodes if n not in values):
            values[number] = self._value(number, values, point)
            if number in self.cut.spilled and number not in self.kept_already:
                self._spill(number, values[number], point)
        for output in stage.outputs:
            node, access = self.fused.outputs[output]
            self._write(access, values[node], point)
        totals = list(carry)
        first = len(stage.folds) if self.cut.by_row and self.cut.odd and not point.lanes else 0
        for k, number in enumerate(stage.folds, first):
            (source,) = self.nodes[number].inputs
            value = self._summand(number, self._spread(values[source], point))
            if self.cut.by_row and point.every is not None:
                value = self.f.select(point.every, value, self._identity(number, value.type.lanes))
            totals[k] = self._combined(number, totals[k], value)
        return totals

    def _value(self, number: int, values: dict[int, Value], point: Point) -> Value:
        """A node at a point, from those before it."""
        node = self.nodes[number]
        if number in self.kept_already:
            return self._spilled(number, point)
        if isinstance(node.of, Access):
            return self._read(node.of, point)
        assert not isinstance(node.of, Argument)
        types = [self.nodes[i].dtype for i in node.inputs]
        given = [values[i] for i in node.inputs]
        if not node.folded and self.abreast.rows > 1:
            given = [self._spread(value, point) for value in given]
        return elements.apply(self.f, node.of, given, types, node.dtype)

    def _spread(self, value: Value, point: Point) -> Value:
        """A per-row scalar, or one for all rows, broadcast to all lanes of a point."""
        return self.abreast.spread(value) if point.lanes else value

    # Reductions.

    def _between(self, stage: Stage, point: Point) -> None:
        """Computes the values a stage needs that are the same at all points."""
        written = [self.fused.outputs[o][0] for o in stage.outputs]
        for number in below(self.nodes, stage.nodes + stage.folds + written, self.found):
            if self.nodes[number].folded and not self.nodes[number].folds:
                self._fixed(number, point)

    def _fixed(self, number: int, point: Point) -> None:
        if number not in self.found:
            self.found[number] = self._value(number, self.found, point)

    def _last_outputs(self, point: Point) -> None:
        """Writes the results that have one value for all points."""
        for output, (node, access) in enumerate(self.fused.outputs):
            if is_folded(self.fused, output):
                for number in below(self.nodes, [node], self.found):
                    self._fixed(number, point)
                self._write(access, self.found[node], point)

    def _finish(self, stage: Stage, totals: Sequence[Value]) -> None:
        self.kept_already |= {n for n in stage.nodes if n in self.cut.spilled}
        for number, total in zip(stage.folds, totals, strict=True):
            self.found[number] = self._finished(number, total)

    def _finished(self, number: int, total: Value) -> Value:
        node = self.nodes[number]
        if not isinstance(node.of, ReduceMean):
            return total
        count = product(d for d, f in zip(self.fused.dims, self.fused.folded, strict=True) if f)
        many = self.f.cast(self.frame.extent(count), total.type.one)
        mean = division.quotient(self.f, total, self.f.splat(many, total.type.lanes), node.dtype)
        return self.f.cast(mean, elements.computing(node.dtype))

    def _summand(self, number: int, value: Value) -> Value:
        signed = self.nodes[number].dtype.kind == "int"
        return self.f.cast(value, total_type(self.nodes[number]), signed=signed)

    def _starts(self, stage: Stage, lanes: int) -> list[Value]:
        return [self._identity(number, lanes) for number in stage.folds]

    def _identity(self, number: int, lanes: int) -> Value:
        node = self.nodes[number]
        start = node.reduction.start(node.dtype.numpy)
        return self.f.const(total_type(node).times(lanes), start)

    def _folding(self, number: int) -> str:
        node = self.nodes[number]
        return elements.folding(node.reduction.ufunc, node.dtype)

    def _combined(self, number: int, total: Value, value: Value) -> Value:
        """A total combined with one more value; the NaN test is of the value, so that it waits for
        nothing.
        """
        return reductions.combined(self.f, self._folding(number), value, total)

    # Memory.

    def _address(self, access: Access, point: Point) -> Value:
        offset = point.first * self.frame.extent(access.strides[self.cut.last])
        for axis, place in point.places.items():
            offset = offset + place * self.frame.extent(access.strides[axis])
        return self.f.element(self.bases[access], offset, memory_of(access.dtype))

    def _read(self, access: Access, point: Point) -> Value:
        memory, at = memory_of(access.dtype), self._address(access, point)
        down, along = self._steps(access)
        if not point.lanes or along.number == 0:
            found = self.abreast.read_each(at, down, memory)
        else:
            found = self.abreast.read(at, down, along, memory, point.mask)
        return elements.loaded(self.f, found, access.dtype)

    def _steps(self, access: Access) -> tuple[Value, Value]:
        """The strides of an operand between rows and along them."""
        down = access.strides[self.cut.row_axes[-1]] if self.abreast.rows > 1 else 0
        return self.frame.extent(down), self.frame.extent(access.strides[self.cut.last])

    def _write(self, access: Access, value: Value, point: Point) -> None:
        value = elements.stored(self.f, value, access.dtype)
        at = self._address(access, point)
        down, along = self._steps(access)
        if point.lanes:
            self.abreast.write(self.abreast.spread(value), at, down, along, point.mask)
        else:
            self.abreast.write_each(value, at, down)

    # Scratch.

    @property
    def _width_kept(self) -> Extent:
        """Elements of scratch for one index on the outer folded axes."""
        cut, step = self.cut, self.cut.step
        if not cut.by_row:
            return step
        return (cut.inner + step - 1) // step * step * cut.most_rows

    def _slot(self, number: int, point: Point, one: Type) -> Value:
        f = self.f
        place: Value = f.const(I64, 0)
        for axis in self.cut.outer_folds:
            place = place * self.frame.extent(self.fused.dims[axis]) + point.places[axis]
        place = place * self.frame.extent(self._width_kept)
        if self.cut.by_row:
            place = place + point.first * self.abreast.rows
        return f.element(self.slots[number], place, one)

    def _spill(self, number: int, value: Value, point: Point) -> None:
        if value.type.scalar == "i1":
            value = self.f.cast(value, I8, signed=False)
        value = self._spread(value, point)
        self.f.store(value, self._slot(number, point, value.type.one))

    def _spilled(self, number: int, point: Point) -> Value:
        one = elements.computing(self.nodes[number].dtype)
        lanes = point.lanes * self.abreast.rows
        if one.scalar == "i1":
            kept = self.f.load(self._slot(number, point, I8), I8.times(lanes))
            return self.f.compare("ne", kept, 0)
        return self.f.load(self._slot(number, point, one), one.times(lanes))

    # What the plan needs to know.

    def _over(self) -> tuple[tuple[int, int], ...]:
        """For several results, the inputs that each may overwrite: of the same layout, and not used
        after the stage in which the result is written.
        """
        folds = {number for stage in self.stages for number in stage.folds}
        found = []
        for place, stage in enumerate(self.stages):
            wanted = [self.nodes[n].inputs[0] for s in self.stages[place + 1 :] for n in s.folds]
            wanted += [
                node
                for output, (node, _) in enumerate(self.fused.outputs)
                if is_folded(self.fused, output)
                or any(output in s.outputs for s in self.stages[place + 1 :])
            ]
            later = [self.nodes[n] for n in below(self.nodes, wanted, folds)]
            for output in stage.outputs:
                inputs = self.fused.lying_as(output)
                found += [(i, output) for i in inputs if not any(n.reads(i) for n in later)]
        return tuple(found)
