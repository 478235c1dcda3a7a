"""Simplifies and removes the values that loops carry between iterations."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import takewhile

import numpy as np

from migx.builders import Builder
from migx.dim import Dim, Extent, bounds, maximum, substitute, symbols
from migx.errors import DimError, ShapeError
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.ops.builtin import GetTupleElem, Literal, Return
from migx.ops.control import Loop
from migx.ops.dims import DimLiteral
from migx.ops.layout import Concat, Contiguous, Multibroadcast, Reshape, Transpose
from migx.ops.pointwise import Identity
from migx.ops.sequences import ConcatFromSequence, SequenceConstruct, SequenceInsert
from migx.program import Program
from migx.shape import BOOL, OPTIONAL, Shape
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
    dims = list(_open_dims(at))
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


def _open_dims(at: Instruction) -> Iterator[tuple[str, Extent, Extent, str | None]]:
    """The dims of carried values that are symbols of the body: the name, the initial extent, that
    in the next iteration, and the symbol of the result's dim, if there is one.
    """
    loop = Carrying(at)
    known = loop.known
    for i, parameter in enumerate(loop.parameters):
        shapes = (loop.firsts[i].shape, loop.returned[1 + i].shape, at.shape.parts[i])
        four = zip(parameter.shape.dims, *(shape.dims for shape in shapes), strict=False)
        for here, start, then, end in four:
            name, after = _free(here, known), _free(end, known)
            if name is not None and here == Dim(name):  # and may be any size
                yield name, start, then, after if after and end == Dim(after) else None


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
    rows = [loop.returned[1 + i].inputs[1] for i in (*grown, *collected)]
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


def goes_on(at: Instruction) -> bool:
    """Whether a loop, once begun, ends by its trip count alone."""
    (body,) = at.modules
    ends = body.outputs[0]
    while isinstance(ends.op, Identity):
        (ends,) = ends.inputs
    return ends is list(body.parameters.values())[1] or is_true(ends)


def trip_count(at: Instruction) -> Extent | None:
    """The iterations of a loop, if known and the condition does not end it earlier."""
    return Carrying(at).trips()


def filled(at: Instruction) -> bool:
    """Initialises carried values that no iteration reads to zeros of the dims they have after the
    first iteration, if there always is one.
    """
    loop = Carrying(at)
    unread = [i for i in range(loop.count) if loop.runs() and loop.is_unread(i)]
    for i in unread:
        shape = loop.returned[1 + i].shape
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
    before = takewhile(lambda value: value is not at, at.owner)
    return given_symbols(at.owner.program) | symbols_in(*(value.shape for value in before))


class Carrying:
    """A loop, its body, and the values it carries."""

    def __init__(self, at: Instruction) -> None:
        self.at, self.module, self.body = at, at.owner, at.modules[0]
        self.add = Builder.before(at)
        self.firsts = at.inputs[2:]
        self.count = len(self.firsts)
        self.parameters = list(self.body.parameters.values())[2:]
        self.returned, ends = self.body.outputs, self.body.returned
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
        known = self.trips()
        return fresh(self.module.program, f"{self.body.name}.trips") if known is None else known

    def trips(self) -> Extent | None:
        """The iterations, if known and the condition does not end the loop earlier."""
        told = self._told_trips() if goes_on(self.at) and self._begins() else None
        return None if told is None else maximum(told, 0)

    def runs(self) -> bool:
        """Whether every run has at least one iteration."""
        told = self._told_trips()
        endless = self.at.inputs[0].shape.dtype is OPTIONAL
        return self._begins() and (endless if told is None else bounds(told)[0] > 0)

    def _told_trips(self) -> Extent | None:
        """The trip count operand, if it is known."""
        match self.at.inputs[0].op:
            case DimLiteral(values=[extent]):
                return extent
            case Literal(value=value, replaceable=False):
                return int(value.array)
        return None

    def _begins(self) -> bool:
        """Whether only the trip count can prevent a first iteration."""
        starts = self.at.inputs[1]
        return starts.shape.dtype is OPTIONAL or is_true(starts)

    def is_unread(self, i: int) -> bool:
        """Whether no iteration reads a numeric value whose initial dims differ from later ones."""
        shape = self.returned[1 + i].shape
        numbers = shape.dtype.is_float or shape.dtype.is_integer or shape.dtype is BOOL
        return (
            self.parameters[i].use_count == 0
            and numbers
            and shape.dims != self.firsts[i].shape.dims
            and symbols_in(shape) <= self.known
        )

    def is_passed_on(self, i: int) -> bool:
        """Whether the body returns a value unchanged."""
        shape = self.parameters[i].shape
        same = shape.same_type(self.firsts[i].shape) and shape.same_type(self.at.shape.parts[i])
        return same and self.returned[1 + i] is self.parameters[i]

    def from_outside(self, i: int) -> Instruction:
        """Makes the body read the initial value instead of the parameter; returns it."""
        first = self.firsts[i]
        if first.shape != self.parameters[i].shape:
            first = self.add(Contiguous(), first)
        return self.body.replace_instruction(self.parameters[i], first)

    def axis(self, i: int) -> int:
        """The axis along which a value grows."""
        return self.returned[1 + i].op_as(Concat).axis

    def grows(self, i: int) -> bool:
        """Whether the body only appends a piece of the same dims to a value in each iteration."""
        value, parameter = self.returned[1 + i], self.parameters[i]
        if not isinstance(value.op, Concat) or len(value.inputs) != 2:
            return False
        before, piece = value.inputs
        return (
            before is parameter
            and parameter.use_count == value.use_count == 1
            and piece is not parameter
            and symbols_in(piece.shape) <= self.known
            and self._is_longer(i, piece.shape)
        )

    def _is_longer(self, i: int, piece: Shape) -> bool:
        """Whether a loop changes only the length along the axis, to a free symbol."""
        dims = [s.dims for s in (self.firsts[i].shape, piece, self.at.shape.parts[i])]
        first, *others = [(*d[: self.axis(i)], *d[self.axis(i) + 1 :]) for d in dims]
        return all(other == first for other in others) and self._is_open(i)

    def _is_open(self, i: int) -> bool:
        """Whether the length after the loop is a symbol of its own."""
        given = symbols_in(*(v.shape for v in self.firsts)) | given_symbols(self.module.program)
        return _is_free(self.at.shape.parts[i].dims[self.axis(i)], given)

    def collects(self, i: int) -> bool:
        """Whether a value is an initially empty sequence to which the body only appends a member of
        the same dims in each iteration, and that is read as one tensor.
        """
        value, parameter = self.returned[1 + i], self.parameters[i]
        if not isinstance(value.op, SequenceInsert) or len(value.inputs) != 2:
            return False
        before, member = value.inputs
        return (
            before is parameter
            and parameter.use_count == value.use_count == 1
            and isinstance(self.firsts[i].op, SequenceConstruct)
            and not self.firsts[i].inputs
            and member.shape.dtype.is_tensor
            and symbols_in(member.shape) <= self.known
            and all(self.joins(read, member.shape) for read in self.readers(i))
        )

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
        return all(mine == theirs or _is_free(mine, known) for mine, theirs in pairs)

    def grown(self, rows: Instruction, i: int) -> Instruction:
        """The grown value, with the dims of the loop's result."""
        joined = self.joined(rows, self.axis(i), self.firsts[i])
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
        carried = [self.firsts[i] for i in kept if i < self.count]
        self._drop(kept)
        op = Loop((*(parts[i] for i in kept), *stacks))
        return self.add(op, *self.at.inputs[:2], *carried, modules=[self.body])

    def _drop(self, kept: list[int]) -> None:
        """Removes the parameters that are not kept from the body, and their users."""
        for i, parameter in enumerate(self.parameters):
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


def _free(extent: Extent, known: Collection[str]) -> str | None:
    """The name of a dim that is a symbol not ``known``; else None."""
    symbol = extent.symbol if isinstance(extent, Dim) else None
    return None if symbol is None or symbol.name in known else symbol.name


def _is_free(extent: Extent, known: Collection[str]) -> bool:
    """Whether a dim is a symbol that is not ``known``."""
    return _free(extent, known) is not None


def is_true(value: Instruction) -> bool:
    """Whether a condition is known to hold."""
    op = value.op
    return isinstance(op, Literal) and not op.replaceable and bool(op.value.array.all())


def fresh(program: Program, name: str) -> Dim:
    """A symbol that the program does not have yet."""
    taken, count = program.symbols(), 0
    found = name
    while found in taken:
        count += 1
        found = f"{name}.{count}"
    return Dim(found)
