"""Kernels of arithmetic on elements, of reductions, and of both fused; of copies between layouts.

The last axis of the space is the *vector axis*: its places go through lanes. Where it is folded, a
row is read in one loop for each *stage* (a stage is the reductions that need only what earlier ones
gave, and the last one writes what needs them all), lanes hold partial results and are folded at the
end. Where it is not, every lane is a row of its own, and the loops of the stages run inside. What a
later stage needs again is computed again where that is cheap, and kept in scratch where it is not.

Rows are shared out, never a reduction, so results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from migx import dim
from migx.argument import Argument
from migx.dim import Extent, product
from migx.fusion.kernels import Access, FusedKernel, Node, described, name_of
from migx.fusion.stages import Stage, below, effort, is_folded, stages_of, weight
from migx.ir import Instruction
from migx.ops.reduce import (
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
)
from migx.shape import BOOL
from migx.targets.cpu import division, elements
from migx.targets.cpu.emit import F32, I8, I64, Function, Type, Value
from migx.targets.cpu.epilogue import emittable
from migx.targets.cpu.kernel import Frame, Kernel, memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.tile import apart

TILE = 16384
"""Elements of a tile: some microseconds of work, so that sharing costs little."""
LONG = 20
"""Additions of a turn, after which a CPU hardly begins the next one before this one is done."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of what ``described`` describes, where all element types are LLVM's too."""
    fused = described(at)
    if fused is None or not emittable(fused.nodes, machine):
        return None
    return Writer(Frame(at, machine), fused).kernel()


def by_lane(node: Node) -> bool:
    """Whether LLVM computes a node a lane at a time: remainders, and most functions of f64."""
    if isinstance(node.of, Access | Argument) or weight(node) == 1:
        return False
    return node.of.name in ("fmod", "mod") or elements.computing(node.dtype) != F32


@dataclass
class Point:
    """Where an element is: its places on the folded axes, and on the vector axis the first of some
    lanes, of which a mask may say that not all are there.
    """

    places: dict[int, Value]
    first: Value
    lanes: int
    mask: Value | None = None


Body: TypeAlias = Callable[[Point, list[Value]], list[Value]]
"""What a turn does: from its point and what is carried to what the next turn gets."""


class Writer:
    """Writes one fused computation: as a kernel, or as some of the tiles of one. Where elements
    begin may be known: ``origins`` are those of its accesses that differ, in order.
    """

    def __init__(self, frame: Frame, fused: FusedKernel, origins: Sequence[Value] = ()) -> None:
        if not fused.dims:
            fused = fused.with_axis(folded=False)
        self.fused, self.nodes = fused, fused.nodes
        self.frame = frame
        self.f: Function = self.frame.function
        self.last = len(fused.dims) - 1
        self.by_row = fused.folded[self.last]
        self.kept = [
            i
            for i, folded in enumerate(fused.folded)
            if not folded and (self.by_row or i != self.last)
        ]
        self.outer_folds = [i for i, f in enumerate(fused.folded) if f and i != self.last]
        self.inner = fused.dims[self.last]
        self.stages, self.spilled = stages_of(fused)
        self.lanes = self._lanes()
        self.exact = self.inner % self.step == 0
        self.rows: dict[int, Value] = {}
        self.found: dict[int, Value] = {}
        self.origins = dict(zip(dict.fromkeys(fused.accesses), origins, strict=False))
        self.bases: dict[Access, Value] = {}
        self.kept_already: set[int] = set()

    def _lanes(self) -> int:
        """Lanes of one turn: some registers of the widest type, or what makes the fewest turns.

        A truth value counts as the byte it lies in. What may lie apart is gathered by addresses,
        one instruction for each lane that is narrower than 32 bits: more lanes would only be text.
        """
        machine = self.frame.machine
        apart = any(a.strides[self.last] not in (0, 1) for a in self.fused.accesses)
        widest = max((elements.computing(n.dtype).bits for n in self.nodes), default=32)
        one = machine.vector_bytes * 8 // max(widest, 32 if apart else 8)
        lanes = one * self._registers()
        if isinstance(inner := self.inner, int):
            fewer = (1 << k for k in range(lanes.bit_length()))
            lanes = min(fewer, key=lambda n: self._turns(inner, n), default=0)
        return lanes if lanes > 1 else 0

    def _turns(self, count: int, step: int) -> int:
        """How many turns so many elements are: what is left of them is one, or one each."""
        whole, rest = divmod(count, step)
        return whole + (min(rest, 1) if self.frame.machine.masks else rest)

    def _registers(self) -> int:
        """How many registers of each value a turn has.

        Several where little is done, so that the loop itself costs little, and where much is done
        of which each operation waits for the one before it: then others fill the pipelines. Eight
        must have room beside about three values inside an operation. What goes by lanes gains
        nothing.
        """
        if sum(weight(n) for n in self.nodes) <= 4:
            return 4
        efforts = (effort(self.nodes, s.nodes) for s in self.stages)
        work, depth, values = max(efforts, default=(0, 0, 0))
        if work <= LONG:
            return 2
        if any(by_lane(n) for n in self.nodes):
            return 1
        if work < 2 * depth:
            return 8 if 8 * (values + 3) <= self.frame.machine.registers else 4
        return 2 if work < 4 * depth else 1

    @property
    def step(self) -> int:
        """Elements of one turn."""
        return max(1, self.lanes)

    # The loops around.

    def kernel(self) -> Kernel:
        """The whole of it."""
        self.write(self.frame.begin, self.frame.end)
        return self.frame.finished(
            name_of(self.frame.at),
            self.tiles,
            scratch=self._scratch_bytes(),
            flops=self.fused.flops,
            in_place=self._in_place(),
        )

    @property
    def row_count(self) -> Extent:
        """How many rows there are."""
        return product(self.fused.dims[i] for i in self.kept)

    @property
    def tile(self) -> tuple[Extent, Extent, Extent]:
        """How many rows a tile has, how many places of each, and into how many tiles that cuts a
        row.
        """
        folds = product(self.fused.dims[i] for i in self.outer_folds)
        height = dim.maximum(TILE // dim.maximum(folds * self.inner, 1), 1)
        if self.by_row:
            return height, self.inner, 1
        width = self._width(folds)
        return height, width, (self.inner + width - 1) // width

    @property
    def tiles(self) -> Extent:
        """How many tiles there are."""
        height, _, across = self.tile
        return (self.row_count + height - 1) // height * across

    def write(self, begin: Value, end: Value) -> None:
        """Writes the loops over the tiles from one number to before another."""
        f, frame = self.f, self.frame
        height, width, across = self.tile
        with f.loop(begin, end) as tile:
            number, count = tile.index, frame.extent(across)
            top = number // count * frame.extent(height)
            bottom = f.intrinsic("smin", top + frame.extent(height), frame.extent(self.row_count))
            left = number % count * frame.extent(width)
            right = f.intrinsic("smin", left + frame.extent(width), frame.extent(self.inner))
            with f.loop(top, bottom) as row:
                self._row(row.index)
                if self.by_row:
                    self._along_row()
                else:
                    self._along(left, right, [], self._column)

    def _width(self, folds: Extent) -> Extent:
        """How many places of a vector axis that is not folded a tile has."""
        most = TILE // max(1, folds) if isinstance(folds, int) else 1
        most = max(self.step, most // self.step * self.step)
        return max(1, self.inner) if isinstance(self.inner, int) and self.inner <= most else most

    def _row(self, row: Value) -> None:
        """Finds where a row of every operand starts, and reads what is the same all along it."""
        f = self.f
        places = self.frame.places(row, self.fused.dims, self.kept)
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
        return all(access.strides[i] == 0 for i in (self.last, *self.outer_folds))

    def _along(self, begin: Value, end: Value, carry: list[Value], body: Body) -> list[Value]:
        """The turns along the vector axis: those of whole vectors, and what is left under a mask,
        or one by one where the CPU has none.
        """
        f, lanes, step = self.f, self.lanes, self.step
        whole = end if self.exact else begin + (end - begin) // step * step
        if self.exact or not isinstance(self.inner, int) or self.inner > step:
            with f.loop(begin, whole, step, carry) as loop:
                loop.carry(*body(Point({}, loop.index, lanes), loop.carried))
            carry = loop.carried
        if self.exact:
            return carry
        masks = self.frame.machine.masks
        with f.loop(whole, end, step if masks else 1, carry) as loop:
            mask = f.first_lanes(end - loop.index, lanes) if masks else None
            point = Point({}, loop.index, lanes if masks else 0, mask)
            loop.carry(*body(point, loop.carried))
        return loop.carried

    def _column(self, point: Point, carry: list[Value]) -> list[Value]:
        """Some rows side by side, where the vector axis is not folded."""
        self.found, self.kept_already = dict(self.rows), set()
        for stage in self.stages:
            self._between(stage, point)
            totals = self._nest(stage, self.outer_folds, point, self._starts(stage, point.lanes))
            self._finish(stage, totals)
        self._last_outputs(point)
        return carry

    def _along_row(self) -> None:
        """One row, where the vector axis is folded."""
        f = self.f
        self.found, self.kept_already = dict(self.rows), set()
        start = Point({}, f.const(I64, 0), 0)
        for stage in self.stages:
            self._between(stage, start)
            starts = self._starts(stage, self.lanes)
            if self._odd():
                starts += self._starts(stage, 0)
            totals = self._nest(stage, self.outer_folds, start, starts)
            count = len(stage.folds)
            folded = [
                f.fold(self._fold(n)[0], t) for n, t in zip(stage.folds, totals, strict=False)
            ]
            for k, rest in enumerate(totals[count:]):
                folded[k] = self._combined(stage.folds[k], folded[k], rest)
            self._finish(stage, folded)
        self._last_outputs(start)

    def _odd(self) -> bool:
        """Whether what is left of a row is folded one by one."""
        return self.lanes > 0 and not self.exact and not self.frame.machine.masks

    def _nest(
        self, stage: Stage, axes: Sequence[int], point: Point, carry: list[Value]
    ) -> list[Value]:
        """The loops of a stage over the folded axes, and what its reductions come to."""
        if not axes:
            if not self.by_row:
                return self._element(stage, point, carry)
            end = self.frame.extent(self.inner)

            def body(at: Point, totals: list[Value]) -> list[Value]:
                return self._element(stage, replace(at, places=point.places), totals)

            return self._along(self.f.const(I64, 0), end, carry, body)
        extent = self.frame.extent(self.fused.dims[axes[0]])
        with self.f.loop(0, extent, 1, carry) as loop:
            inside = replace(point, places={**point.places, axes[0]: loop.index})
            loop.carry(*self._nest(stage, axes[1:], inside, loop.carried))
        return loop.carried

    def _element(self, stage: Stage, point: Point, carry: list[Value]) -> list[Value]:
        """Computes one place of each lane, writes it, and adds it to the reductions."""
        values = dict(self.found)
        for number in (n for n in stage.nodes if n not in values):
            values[number] = self._value(number, values, point)
            if number in self.spilled and number not in self.kept_already:
                self._spill(number, values[number], point)
        for output in stage.outputs:
            node, access = self.fused.outputs[output]
            self._write(access, values[node], point)
        totals = list(carry)
        first = len(stage.folds) if self.by_row and self._odd() and not point.lanes else 0
        for k, number in enumerate(stage.folds, first):
            (source,) = self.nodes[number].inputs
            value = self._summand(number, self.f.splat(values[source], point.lanes))
            if self.by_row and point.mask is not None:
                value = self.f.select(point.mask, value, self._identity(number, point.lanes))
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
        return elements.apply(self.f, node.of, [values[i] for i in node.inputs], types, node.dtype)

    # Reductions.

    def _between(self, stage: Stage, point: Point) -> None:
        """Computes what a stage needs of values that are the same for all places."""
        written = [self.fused.outputs[o][0] for o in stage.outputs]
        for number in below(self.nodes, stage.nodes + stage.folds + written, self.found):
            if self.nodes[number].folded and not self.nodes[number].folds:
                self._fixed(number, point)

    def _fixed(self, number: int, point: Point) -> None:
        if number not in self.found:
            self.found[number] = self._value(number, self.found, point)

    def _last_outputs(self, point: Point) -> None:
        """Writes the results that have one value for all places."""
        for output, (node, access) in enumerate(self.fused.outputs):
            if is_folded(self.fused, output):
                for number in below(self.nodes, [node], self.found):
                    self._fixed(number, point)
                self._write(access, self.found[node], point)

    def _finish(self, stage: Stage, totals: Sequence[Value]) -> None:
        self.kept_already |= {n for n in stage.nodes if n in self.spilled}
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

    def _total(self, number: int) -> Type:
        """What a reduction adds up in: means of integers in 64 bits, the rest as it is."""
        node = self.nodes[number]
        one = elements.computing(node.dtype)
        return I64 if isinstance(node.of, ReduceMean) and not one.is_float else one

    def _summand(self, number: int, value: Value) -> Value:
        signed = self.nodes[number].dtype.kind == "int"
        return self.f.cast(value, self._total(number), signed=signed)

    def _starts(self, stage: Stage, lanes: int) -> list[Value]:
        return [self._identity(number, lanes) for number in stage.folds]

    def _fold(self, number: int) -> tuple[str, float]:
        """How the lanes of a reduction are folded, and what it starts from."""
        node = self.nodes[number]
        dtype = node.dtype
        unsigned, bits = dtype.kind == "uint", dtype.bits
        low, high = -math.inf, math.inf
        if not dtype.is_float:
            low = 0 if unsigned else -(1 << (bits - 1))
            high = (1 << bits) - 1 if unsigned else (1 << (bits - 1)) - 1
        match node.of:
            case ReduceMax():
                return ("or", 0) if dtype is BOOL else ("umax" if unsigned else "max", low)
            case ReduceMin():
                return ("and", 1) if dtype is BOOL else ("umin" if unsigned else "min", high)
            case ReduceProd():
                return "mul", 1
            case ReduceAll():
                return "and", 1
            case ReduceAny():
                return "or", 0
        return "add", 0

    def _identity(self, number: int, lanes: int) -> Value:
        return self.f.const(self._total(number).times(lanes), self._fold(number)[1])

    def _combined(self, number: int, total: Value, value: Value) -> Value:
        """A total with one more value, which is asked whether it is NaN: that waits for nothing."""
        return self.f.folded(self._fold(number)[0], value, total)

    # Memory.

    def _address(self, access: Access, point: Point) -> Value:
        offset = point.first * self.frame.extent(access.strides[self.last])
        for axis, place in point.places.items():
            offset = offset + place * self.frame.extent(access.strides[axis])
        return self.f.element(self.bases[access], offset, memory_of(access.dtype))

    def _read(self, access: Access, point: Point) -> Value:
        f, stride = self.f, access.strides[self.last]
        memory, at = memory_of(access.dtype), self._address(access, point)
        if not point.lanes or stride == 0:
            found = f.load(at, memory)
        else:
            step = self.frame.extent(stride)
            found = apart(f, at, step, memory.times(point.lanes), point.mask)
        return elements.loaded(f, found, access.dtype)

    def _write(self, access: Access, value: Value, point: Point) -> None:
        f, stride = self.f, access.strides[self.last]
        value = elements.stored(f, value, access.dtype)
        if point.lanes:
            value = f.splat(value, point.lanes)
        at = self._address(access, point)
        if not point.lanes or stride == 1:
            f.store(value, at, mask=point.mask)
        else:
            steps = f.iota(I64.times(point.lanes)) * self.frame.extent(stride)
            f.scatter(value, at, steps, point.mask)

    # Scratch.

    def _width_kept(self) -> Extent:
        """Elements of scratch for one place of the outer folded axes."""
        if not self.by_row:
            return self.step
        return (self.inner + self.step - 1) // self.step * self.step

    def _slot_bytes(self) -> Extent:
        """Bytes of scratch for one node."""
        count = product(self.fused.dims[i] for i in self.outer_folds) * self._width_kept()
        return (count * 8 + 63) // 64 * 64

    def _scratch_bytes(self) -> Extent:
        return self._slot_bytes() * len(self.spilled)

    def _slot(self, number: int, point: Point, one: Type) -> Value:
        f = self.f
        place: Value = f.const(I64, 0)
        for axis in self.outer_folds:
            place = place * self.frame.extent(self.fused.dims[axis]) + point.places[axis]
        place = place * self.frame.extent(self._width_kept())
        if self.by_row:
            place = place + point.first
        start = self.frame.extent(self._slot_bytes() * self.spilled.index(number))
        return f.element(f.element(self.frame.scratch, start, I8), place, one)

    def _spill(self, number: int, value: Value, point: Point) -> None:
        if value.type.scalar == "i1":
            value = self.f.cast(value, I8, signed=False)
        self.f.store(self.f.splat(value, point.lanes), self._slot(number, point, value.type.one))

    def _spilled(self, number: int, point: Point) -> Value:
        one = elements.computing(self.nodes[number].dtype)
        if one.scalar == "i1":
            kept = self.f.load(self._slot(number, point, I8), I8.times(point.lanes))
            return self.f.compare("ne", kept, 0)
        return self.f.load(self._slot(number, point, one), one.times(point.lanes))

    # What the plan is told.

    def _in_place(self) -> tuple[int, ...]:
        """Inputs that lie exactly as the result does."""
        if len(self.fused.outputs) != 1:
            return ()
        _, result = self.fused.outputs[0]
        reads: dict[int, list[Access]] = {}
        for access in self.fused.accesses[:-1]:
            reads.setdefault(access.operand, []).append(access)
        return tuple(
            operand
            for operand, accesses in reads.items()
            if all(
                a.strides == result.strides and a.dtype.bits == result.dtype.bits for a in accesses
            )
        )
