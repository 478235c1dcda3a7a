"""State that grows: sizes in the body of a loop that depend on the iteration number.

A carried value may grow by a constant amount per iteration: the tokens chosen so far, or a cache of
keys and values. Its memory is planned for a maximal number of iterations, and each iteration begins
with a kernel made for the loop, which rewrites all that depends on sizes in the steps of the body:
their words, their numbers of tiles, and the addresses of their operands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from migx import dim
from migx import op as operations
from migx.binding import Sizes
from migx.dim import Atom, Call, Dim, Extent, maximum
from migx.dims.symbol import Symbol
from migx.ir import Instruction
from migx.iterations import ENDLESS, Carried, changing_dims
from migx.planning import is_alias, results
from migx.shape import Shape
from migx.sizes import asked_again
from migx.targets.cpu.emit import I64, PTR, Module, Type, Value
from migx.targets.cpu.kernel import PARAMETERS, Kernel
from migx.targets.cpu.machine import host
from migx.targets.cpu.plans.outline import Cell, KernelOf, Reference, Work
from migx.targets.cpu.threads.runtime import STEP_WORDS, TILES_WORD


@dataclass(frozen=True)
class Growth:
    """The symbols of a body that are dims of carried values: their values in the ``first``
    iteration, and how much ``more`` they are in each later one. The symbols in ``ends`` are the
    same dims of the loop's results.
    """

    first: Mapping[str, Extent] = field(default_factory=dict)
    more: Mapping[str, Extent] = field(default_factory=dict)
    ends: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, carried: Iterable[Carried], made: Sequence[Shape], known: set[str]) -> Growth:
        """The growth of carried values, from which the loop makes results of these shapes; the
        ``known`` sizes are invariant.
        """
        first: dict[str, Extent] = {}
        more: dict[str, Extent] = {}
        ends: dict[str, str] = {}
        pairs = (pair for pair in zip(carried, made, strict=False) if not _is_packed(pair[0]))
        for name, start, then, end in changing_dims(pairs, known):
            first.setdefault(name, start)
            more.setdefault(name, then - Dim(name))
            if end is not None:
                ends.setdefault(end, name)
        return cls(first, more, ends)

    @property
    def names(self) -> set[str]:
        """The symbols, of the body and of the results."""
        return {*self.first, *self.ends}

    @property
    def room(self) -> Extent:
        """The number of iterations there is room for, in terms of a plan's sizes."""
        for end, name in self.ends.items():
            if (more := self.more[name]) != 0:
                return (Dim(end) - self.first[name]) // maximum(more, 1)
        return ENDLESS

    def first_of(self, shape: Shape) -> Shape:
        """The shape of a parameter in the first iteration."""
        return shape.substitute(self.first)

    def next_of(self, shape: Shape) -> Shape:
        """The shape of a parameter in the next iteration, in terms of this one's."""
        return shape.substitute({name: Dim(name) + more for name, more in self.more.items()})

    def inside(self, shape: Shape) -> Shape:
        """The shape of a parameter, for one of a result."""
        return shape.substitute({end: Dim(name) for end, name in self.ends.items()})

    def after(self, iterations: int, sizes: Mapping[str, int]) -> Sizes:
        """The sizes after so many iterations."""
        found = dict(sizes)
        for name, first in self.first.items():
            more = dim.evaluate(self.more[name], sizes)
            found[name] = dim.evaluate(first, sizes) + more * iterations
        for end, name in self.ends.items():
            found[end] = found[name]
        return found

    def suits(self, body: Sequence[Instruction], known: set[str], kernel_of: KernelOf) -> bool:
        """Whether a body can be run this way: memory for the last iteration suffices for all, a
        shape rule that holds for a few iterations holds for all, and nothing is divided by zero.
        """
        rates = [*self.first.values(), *self.more.values()]
        kernels = [k for k in map(kernel_of, body) if k is not None]
        rooms = [shape.nbytes for at in body if not is_alias(at) for shape in results(at)]
        rooms += [extent for k in kernels for extent in (k.scratch, k.shared)]
        words = [extent for k in kernels for extent in (k.tiles, *k.words)]
        words += [extent for at in body for extent in _extents(_read(at))]
        asked = [e for at in asked_again(body) for e in _extents(_read(at))]
        return (
            all(_names(rate) <= known and dim.bounds(rate)[0] >= 0 for rate in rates)
            and all(map(self._grows, rooms))
            and all(map(self._is_straight, asked))
            and all(map(self._is_number, (*rooms, *words)))
        )

    def moves(self, extent: Extent) -> bool:
        """Whether an extent may vary between iterations."""
        return not _names(extent).isdisjoint(self.first)

    def _grows(self, extent: Extent) -> bool:
        """Whether an extent never decreases."""
        return not self.moves(extent) or all(
            coefficient >= 0 and all(map(self._atom_grows, monomial))
            for monomial, coefficient in dim.terms(extent)
            if any(self.moves(dim.of_atom(atom)) for atom in monomial)
        )

    def _atom_grows(self, atom: Atom) -> bool:
        """Whether an atom never decreases, and is never negative."""
        if isinstance(atom, Symbol):
            return True
        over = atom.args[:1] if atom.function == "floordiv" else atom.args
        under = atom.args[1:] if atom.function == "floordiv" else ()
        return (
            atom.bounds[0] >= 0
            and all(map(self._grows, over))
            and not any(map(self.moves, under))
            and (atom.function != "broadcast" or not any(map(self.moves, over)))
        )

    def _is_straight(self, extent: Extent) -> bool:
        """Whether an extent is linear in the iteration number."""
        for monomial, _ in dim.terms(extent):
            moving = [atom for atom in monomial if self.moves(dim.of_atom(atom))]
            if len(moving) > 1 or any(isinstance(atom, Call) for atom in moving):
                return False
        return True

    def _is_number(self, extent: Extent) -> bool:
        """Whether an extent has a value in each iteration, which a kernel can compute."""
        atoms = [atom for monomial, _ in dim.terms(extent) for atom in monomial]
        calls = [atom for atom in atoms if isinstance(atom, Call) and self.moves(dim.of_atom(atom))]
        return all(
            all(map(self._is_number, call.args))
            and call.function != "broadcast"
            and (call.function != "floordiv" or dim.bounds(call.args[1])[0] > 0)
            for call in calls
        )


def beginning(
    growth: Growth,
    at: Instruction,
    body: Sequence[Work],
    after: Sequence[Work],
    number: Reference,
    turns: Mapping[Cell, Cell],
) -> Work:
    """The step that begins an iteration: it writes what depends on sizes into the steps of the
    body, which follow it, and into those ``after`` the last iteration. In the body, the two cells
    of each pair in ``turns`` swap between iterations.
    """
    read = (r.cell.root for work in (*body, *after) for r in work.operands)
    cells = [*dict.fromkeys((number.cell, *read))]
    made = _Beginning(growth, cells)
    for work in body:
        made.step(work, {**turns, **{second: first for first, second in turns.items()}})
    for work in after:
        made.step(work, {})
    reads = tuple(Reference(cell, 0, cell.shape) for cell in cells)
    return Work(at, made.finished(), reads, (), knows_itself=True)


class _Beginning:
    """The kernel of such a step being written. Its operands are cells, the first of which is the
    iteration number. What is invariant is one of its words.
    """

    def __init__(self, growth: Growth, cells: Sequence[Cell]) -> None:
        self.growth, self.place = growth, {cell: i for i, cell in enumerate(cells)}
        self.function = f = Module(host().features).function("kernel", PARAMETERS)
        self.words: list[Extent] = []
        self._found: dict[Extent, Value] = {}
        self._number = f.load(self._given(0, PTR), I64)
        self._is_odd = f.compare("ne", self._number & 1, 0)
        self._in_steps: list[tuple[int, Value]] = []
        self._in_words: list[tuple[int, Value]] = []
        self._step = self._word = 0

    def step(self, work: Work, other: Mapping[Cell, Cell]) -> None:
        """Writes the next step; ``other`` replaces some cells in every second iteration."""
        assert work.kernel is not None
        self._step += 1
        if self.growth.moves(work.kernel.tiles):
            place = STEP_WORDS * self._step + TILES_WORD
            self._in_steps.append((place, self._value(work.kernel.tiles)))
        for reference in work.operands:
            cell = reference.cell.root
            if cell in other or self.growth.moves(reference.offset):
                start = self._address(cell, other.get(cell, cell))
                bits = self._value(reference.offset) * reference.shape.dtype.bits
                self._in_words.append((self._word, start + bits // 8))
            self._word += 1
        for extent in work.kernel.words:
            if self.growth.moves(extent):
                self._in_words.append((self._word, self._value(extent)))
            self._word += 1
        self._word += work.finds is not None

    def finished(self) -> Kernel:
        """The kernel: its own words come before those of the steps, and are followed by the address
        of its step.
        """
        f, own = self.function, len(self.place) + len(self.words)
        behind = f.element(f.parameters[0], own + 1, I64)
        for start, values in ((behind, self._in_words), (self._given(own, PTR), self._in_steps)):
            for index, value in values:
                f.store(value, f.element(start, index, I64))
        return Kernel("sizes", f.module.text, tiles=1, words=tuple(self.words))

    def _given(self, index: int, type_: Type) -> Value:
        """A word of the block of arguments."""
        f = self.function
        return f.load(f.element(f.parameters[0], index, I64), type_)

    def _address(self, cell: Cell, other: Cell) -> Value:
        """The address of a cell, or in every second iteration of the other."""
        here = self._given(self.place[cell], I64)
        if other is cell:
            return here
        return self.function.select(self._is_odd, self._given(self.place[other], I64), here)

    def _value(self, extent: Extent) -> Value:
        """An extent in this iteration."""
        if not isinstance(extent, Dim):
            return self.function.const(I64, extent)
        if extent not in self._found:
            self._found[extent] = self._sum(extent)
        return self._found[extent]

    def _sum(self, extent: Dim) -> Value:
        if not self.growth.moves(extent):
            self.words.append(extent)
            return self._given(len(self.place) + len(self.words) - 1, I64)
        total = self._value(0)
        for monomial, coefficient in extent.terms:
            product = self._value(coefficient)
            for atom in monomial:
                product = self._atom(atom) * product
            total = product + total
        return total

    def _atom(self, atom: Atom) -> Value:
        f, alone = self.function, dim.of_atom(atom)
        if not self.growth.moves(alone):
            return self._value(alone)
        if isinstance(atom, Symbol):
            first, more = self.growth.first[atom.name], self.growth.more[atom.name]
            return self._value(more) * self._number + self._value(first)
        first_of, *others = map(self._value, atom.args)
        if atom.function == "floordiv":
            (divisor,) = others
            quotient = f.op("sdiv", first_of, divisor)
            below = f.compare("lt", first_of, quotient * divisor)
            return quotient - f.cast(below, I64, signed=False)
        return reduce(f.minimum if atom.function == "min" else f.maximum, others, first_of)


def _is_packed(value: Carried) -> bool:
    return value.parameter.shape.dtype.is_packed


def _names(extent: Extent) -> set[str]:
    return {symbol.name for symbol in dim.symbols(extent)}


def _read(at: Instruction) -> tuple[object, ...]:
    """What the shape rule of an instruction depends on."""
    return (at.shape, *(v.shape for v in at.inputs), *operations.attributes(at.op).values())


def _extents(values: Iterable[object]) -> Iterator[Dim]:
    """The symbolic extents in some attributes and shapes."""
    for value in values:
        if isinstance(value, Dim):
            yield value
        elif isinstance(value, Shape):
            yield from _extents((value.dims, value.strides, value.parts))
        elif isinstance(value, tuple):
            yield from _extents(value)
