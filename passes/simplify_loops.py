"""Simplifies and removes the values that loops carry between iterations."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from migx.builders import Builder
from migx.dim import Dim, Extent, bounds, substitute, symbols
from migx.errors import DimError, ShapeError
from migx.ir import Instruction, Module
from migx.iterations import Iterations, changing_dims, free, is_undefined
from migx.manager import Pass, PassManager
from migx.op import Operation
from migx.ops.builtin import GetTupleElem, Return
from migx.ops.control import Loop
from migx.ops.layout import Concat, Contiguous, Multibroadcast, Reshape, Transpose
from migx.ops.sequences import ConcatFromSequence, SequenceConstruct, SequenceInsert
from migx.program import Program
from migx.shape import BOOL, Shape
from migx.sizes import given_symbols, known_symbols, symbols_in
from migx.specialise import substitute_symbols


class SimplifyLoops(Pass):
    """Takes values out of a ``loop`` that it need not carry.

    A value that the body passes on unchanged is read from outside. One that only grows by a piece
    in each iteration becomes a scan output, whose pieces are concatenated after the loop, so that
    carried values keep their dims. So does an initially empty sequence that gets one member of the
    same dims each time, if only ``concat_from_sequence`` uses it; for no iterations that makes a
    tensor without elements.

    Dims of carried values that never change become the initial ones. Dims that start equal and grow
    by the same amount in each iteration, like those of all layers' attention caches, become one
    symbol. A carried value that no iteration reads starts as zeros of the dims it has after the
    first iteration, if there surely is one.
    """

    def apply(self, module: Module, manager: PassManager) -> bool:
        loops = [at for at in module if isinstance(at.op, Loop)]
        changed = [simplified(at) for at in loops if is_own(at)]
        changed += [filled(at) for at in module if isinstance(at.op, Loop) and is_own(at)]
        sized = [_sized(at) for at in module if isinstance(at.op, Loop) and is_own(at)]
        return any((*changed, *sized))


def _sized(at: Instruction) -> bool:
    """Replaces the symbols of a loop's carried dims, where they are known, in the whole program."""
    if not (extents := told_sizes(at)):
        return False
    try:
        substitute_symbols(at.owner.program, extents)
    except (DimError, ShapeError):  # every run will fail, with a better message
        return False
    return True


def told_sizes(at: Instruction) -> dict[str, Extent]:
    """The symbols of a loop's body and results that equal other extents, by name."""
    loop = Carrying(at)
    dims = list(changing_dims(zip(loop.carried, at.shape.parts, strict=False), loop.known))
    stays: dict[str, Extent] = {name: start for name, start, _, _ in dims}
    while changing := [
        name
        for name, start, then, _ in dims
        if name in stays and not stays[name] == start == substitute(then, stays)
    ]:
        stays = {name: start for name, start in stays.items() if name not in changing}
    found = dict(stays)
    alike: dict[tuple[Extent, Extent], tuple[str, str | None]] = {}
    for name, start, then, end in dims:
        if name in stays:
            if end is not None:
                found.setdefault(end, start)
            continue
        same, after = alike.setdefault((start, then - Dim(name)), (name, end))
        found[name] = Dim(same)
        if end is not None and after is not None:
            found.setdefault(end, Dim(after))
    return {name: extent for name, extent in found.items() if extent != Dim(name)}


def is_own(at: Instruction) -> bool:
    """Whether the loop owns its body, and only ``get_tuple_elem`` reads its results."""
    return at.modules[0].parent is at and all(isinstance(u.op, GetTupleElem) for u in at.users)


def simplified(at: Instruction) -> bool:
    """Replaces a loop by one that carries less, if there is one."""
    loop = Carrying(at)
    every = range(loop.count)
    passed_on = [i for i in every if loop.is_passed_on(i)]
    grown, collected = ([i for i in every if holds(i)] for holds in (loop.grows, loop.collects))
    gone = {*passed_on, *grown, *collected}
    if not gone:
        return False
    results: dict[int, Instruction] = {i: loop.from_outside(i) for i in passed_on}
    rows = [loop.carried[i].again.inputs[1] for i in (*grown, *collected)]
    kept = [i for i in range(len(at.shape.parts)) if i not in gone]
    made = loop.replaced(kept, rows)
    places = enumerate((*kept, *grown, *collected))
    elements = {i: loop.add(GetTupleElem(place), made) for place, i in places}
    results |= {i: elements[i] for i in kept}
    results |= {i: loop.grown(elements[i], i) for i in grown}
    joined = [loop.concatenated(elements[i], u) for i in collected for u in loop.readers(i)]
    for user in list(at.users):
        if (index := user.op_as(GetTupleElem).index) in results:
            loop.module.replace_instruction(user, results[index])
        loop.module.remove_instruction(user)
    loop.module.remove_instruction(at)
    for value in (*(results[i] for i in grown), *joined):
        say_length(value)
    return True


def filled(at: Instruction) -> bool:
    """Initialises carried values that no iteration reads to zeros of the dims they have after the
    first iteration, if there always is one.
    """
    loop = Carrying(at)
    unread = [i for i in range(loop.count) if loop.runs() and loop.is_unread(i)]
    for i in unread:
        shape = loop.carried[i].again.shape
        zero = loop.add.literal(np.zeros((), shape.dtype.numpy), shape.dtype)
        zeros = loop.add(Contiguous(), loop.add(Multibroadcast(shape.dims), zero))
        loop.module.replace_input(at, 2 + i, zeros)
    return bool(unread)


def say_length(at: Instruction) -> None:
    """Replaces the length of a grown value in the whole program. An operation that refuses it would
    refuse every run: that error is left to the run.
    """
    (joined,) = at.inputs
    pairs = zip(at.shape.dims, joined.shape.dims, strict=True)
    extents = {s.name: known for mine, known in pairs if mine != known for s in symbols(mine)}
    try:
        substitute_symbols(at.owner.program, extents)
    except (DimError, ShapeError):
        return
    if at.shape.dims == joined.shape.dims:
        at.owner.replace_instruction(at, joined)
        at.owner.remove_instruction(at)


def known_before(at: Instruction) -> frozenset[str]:
    """The symbols of the program's inputs, and of values before an instruction in its module."""
    before = symbols_in(*(value.shape for value in at.owner.preceding(at)))
    return given_symbols(at.owner.program) | before


class Carrying:
    """A loop, its body, and the values it carries."""

    def __init__(self, at: Instruction) -> None:
        self.at, self.module, self.iterations = at, at.owner, Iterations.of(at)
        self.add = Builder.before(at)
        self.body, self.carried = self.iterations.body, self.iterations.carried
        self.count, ends = len(self.carried), self.body.returned
        self.named = ends is not None and isinstance(ends.op, Return) and bool(ends.op.names)

    @cached_property
    def known(self) -> frozenset[str]:
        """The symbols that are the same in all iterations."""
        return known_before(self.at) | known_symbols(self.module)

    def length(self) -> Extent:
        """The number of iterations; a new symbol if it is unknown."""
        stacks = self.at.shape.parts[self.count :]
        if stacks:
            return stacks[0].dims[0]
        known = self.iterations.count
        return fresh(self.module.program, f"{self.body.name}.trips") if known is None else known

    def runs(self) -> bool:
        """Whether every run has at least one iteration."""
        told, endless = self.iterations.told_trips, is_undefined(self.at.inputs[0])
        return self.iterations.begins and (endless if told is None else bounds(told)[0] > 0)

    def is_unread(self, i: int) -> bool:
        """Whether no iteration reads a numeric value whose initial dims differ from later ones."""
        parameter, first, again = self.carried[i]
        shape = again.shape
        numbers = shape.dtype.is_float or shape.dtype.is_integer or shape.dtype is BOOL
        return (
            parameter.use_count == 0
            and numbers
            and shape.dims != first.shape.dims
            and symbols_in(shape) <= self.known
        )

    def is_passed_on(self, i: int) -> bool:
        """Whether the body returns a value unchanged."""
        parameter, first, again = self.carried[i]
        shape = parameter.shape
        same = shape.same_type(first.shape) and shape.same_type(self.at.shape.parts[i])
        return same and again is parameter

    def from_outside(self, i: int) -> Instruction:
        """Makes the body read the initial value instead of the parameter; returns it."""
        parameter, first, _ = self.carried[i]
        if first.shape != parameter.shape:
            first = self.add(Contiguous(), first)
        return self.body.replace_instruction(parameter, first)

    def axis(self, i: int) -> int:
        """The axis along which a value grows."""
        return self.carried[i].again.op_as(Concat).axis

    def grows(self, i: int) -> bool:
        """Whether the body only appends a piece of the same dims to a value in each iteration."""
        piece = self._appended(i, Concat)
        return (
            piece is not None
            and piece is not self.carried[i].parameter
            and self.carried[i].again.use_count == 1
            and symbols_in(piece.shape) <= self.known
            and self._is_longer(i, piece.shape)
        )

    def _appended(self, i: int, kind: type[Operation]) -> Instruction | None:
        """What the body appends to a value that it does not read otherwise, by an operation of that
        kind; None if it does something else.
        """
        parameter, _, value = self.carried[i]
        appends = isinstance(value.op, kind) and len(value.inputs) == 2
        if not appends or value.inputs[0] is not parameter or parameter.use_count != 1:
            return None
        return value.inputs[1]

    def _is_longer(self, i: int, piece: Shape) -> bool:
        """Whether a loop changes only the length along the axis, to a free symbol."""
        dims = [s.dims for s in (self.carried[i].first.shape, piece, self.at.shape.parts[i])]
        first, *others = [(*d[: self.axis(i)], *d[self.axis(i) + 1 :]) for d in dims]
        return all(other == first for other in others) and self._is_open(i)

    def _is_open(self, i: int) -> bool:
        """Whether the length after the loop is a symbol of its own."""
        firsts = (each.first.shape for each in self.carried)
        given = symbols_in(*firsts) | given_symbols(self.module.program)
        return free(self.at.shape.parts[i].dims[self.axis(i)], given) is not None

    def collects(self, i: int) -> bool:
        """Whether a value is a sequence of members of the same dims that is read as one tensor."""
        member = self.member(i)
        return (
            member is not None
            and self.carried[i].again.use_count == 1
            and member.shape.dtype.is_tensor
            and symbols_in(member.shape) <= self.known
            and all(self.joins(read, member.shape) for read in self.readers(i))
        )

    def member(self, i: int) -> Instruction | None:
        """What the body appends to an initially empty sequence; None if that is not all it does."""
        first = self.carried[i].first
        is_empty = isinstance(first.op, SequenceConstruct) and not first.inputs
        return self._appended(i, SequenceInsert) if is_empty else None

    def readers(self, i: int) -> list[Instruction]:
        """The users of a value after the loop."""
        elements = [u for u in self.at.users if u.op == GetTupleElem(i)]
        return [reader for element in elements for reader in element.users]

    def joins(self, read: Instruction, member: Shape) -> bool:
        """Whether an instruction concatenates members of a shape to a tensor whose dims are theirs
        or new symbols.
        """
        op = read.op
        if not isinstance(op, ConcatFromSequence) or read.module is not self.module:
            return False
        if op.output.dtype is not member.dtype or op.output.rank != member.rank + op.new_axis:
            return False
        axis = op.axis % op.output.rank
        wanted: list[Extent | None] = list(member.dims)
        wanted[axis : axis + (not op.new_axis)] = [None]
        known = known_before(read)
        pairs = zip(op.output.dims, wanted, strict=True)
        return all(mine == theirs or free(mine, known) is not None for mine, theirs in pairs)

    def grown(self, rows: Instruction, i: int) -> Instruction:
        """The grown value, with the dims of the loop's result."""
        joined = self.joined(rows, self.axis(i), self.carried[i].first)
        return self.add(Reshape(self.at.shape.parts[i].dims), joined)

    def concatenated(self, rows: Instruction, read: Instruction) -> Instruction:
        """Replaces a ``concat_from_sequence`` by views of the scan output; returns the result."""
        op = read.op_as(ConcatFromSequence)
        axis = op.axis % op.output.rank
        joined = self.turned(rows, axis) if op.new_axis else self.joined(rows, axis)
        made = self.add(Reshape(op.output.dims), joined)
        self.module.replace_instruction(read, made)
        self.module.remove_instruction(read)
        return made

    def replaced(self, kept: list[int], rows: list[Instruction]) -> Instruction:
        """The loop with only the ``kept`` values, and ``rows`` as new scan outputs."""
        parts, names = self.at.shape.parts, self.body.output_names
        stacks = [Shape(v.shape.dtype, (self.length(), *v.shape.dims)) for v in rows]
        outputs = [self.body.outputs[0], *(self.body.outputs[1 + i] for i in kept), *rows]
        named = [names[0], *(names[1 + i] for i in kept), *(f"rows.{i}" for i in range(len(rows)))]
        self.body.add_return(*outputs, names=named if self.named else ())
        carried = [self.carried[i].first for i in kept if i < self.count]
        self._drop(kept)
        op = Loop((*(parts[i] for i in kept), *stacks))
        return self.add(op, *self.at.inputs[:2], *carried, modules=[self.body])

    def _drop(self, kept: list[int]) -> None:
        """Removes the parameters that are not kept from the body, and their users."""
        for i, (parameter, _, _) in enumerate(self.carried):
            if i in kept:
                continue
            for user in list(parameter.users):
                self.body.remove_instruction(user)
            self.body.remove_instruction(parameter)

    def turned(self, rows: Instruction, axis: int) -> Instruction:
        """A scan output with the axis of iterations moved to ``axis``."""
        order = (*range(1, axis + 1), 0, *range(axis + 1, rows.shape.rank))
        return self.add(Transpose(order), rows) if axis else rows

    def joined(self, rows: Instruction, axis: int, *before: Instruction) -> Instruction:
        """The pieces of all iterations concatenated, after the value ``before``, if given."""
        dims = rows.shape.dims
        whole = (*dims[1 : axis + 1], dims[0] * dims[axis + 1], *dims[axis + 2 :])
        pieces = self.add(Reshape(whole), self.turned(rows, axis))
        return self.add(Concat(axis), *before, pieces) if before else pieces


def fresh(program: Program, name: str) -> Dim:
    """A symbol that the program does not have yet."""
    taken, count = program.symbols(), 0
    found = name
    while found in taken:
        count += 1
        found = f"{name}.{count}"
    return Dim(found)
