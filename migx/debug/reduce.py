"""Makes a failing program smaller while it still fails.

    small = reduced(program, lambda smaller: crashes(smaller))

Candidates are made by cutting off the end and the beginning, by omitting instructions or replacing
them by parameters, by binding symbols and shrinking dims, and by replacing the program by a
submodule. The search continues from each smaller one that still fails.

If a failure depends on inputs, ``reduced_case`` keeps them: a parameter that replaces an
instruction gets its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.dead_code import remove_dead_code, remove_dead_modules
from migx.debug.bisect import FAULTS, NothingWrong, smallest
from migx.debug.case import Case
from migx.errors import MigxError
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.ops.builtin import Literal, Param, Return
from migx.program import Program
from migx.shape import Shape
from migx.sizes import bare_symbols, symbols_of
from migx.specialise import bound, remade
from migx.structure import copy_instruction
from migx.verify import captures

Fails: TypeAlias = Callable[[Program], bool]
Size: TypeAlias = tuple[int, ...]

SMALL = (1, 2, 3)
"""The sizes that dims are shrunk to, if possible."""

NOT_SIZES = frozenset({"axes", "axis", "permutation", "index", "group"})
"""Attributes whose numbers are not sizes."""


class Draft:
    """A copy of a case's program that is being changed."""

    def __init__(self, case: Case) -> None:
        self.program, self._case = case.program.copy(), case
        self._given: dict[str, Argument] = {}
        self._values: dict[Instruction, Argument] = {}
        if case.inputs is not None:
            pairs = zip(_every(self.program), _every(case.program), strict=True)
            self._values = {at: case.values[old] for at, old in pairs if old in case.values}

    @property
    def main(self) -> Module:
        """The main module."""
        return self.program.main

    def stand_in(self, at: Instruction) -> None:
        """Replaces a value of main by a new parameter, if it is an unpacked tensor."""
        if at.module is not self.main or not at.shape.dtype.is_tensor or at.shape.dtype.is_packed:
            return
        taken = self.main.parameters.keys() | self._given
        name = next(n for i in range(len(taken) + 1) if (n := f"p{i}") not in taken)
        if at in self._values:
            self._given[name] = self._values[at]
        new = self.main.add_parameter(name, Shape(at.shape.dtype, at.shape.dims))
        self.main.replace_instruction(at, new)

    def finished(self) -> Case:
        """The case it makes, without dead code."""
        made = self.program
        remove_dead_code(made.main)
        remove_dead_modules(made)
        for module in list(made.modules.values()):
            remove_dead_code(module)
        for parameter in list(made.main.parameters.values()):
            if not parameter.users and not _gives_a_size(made, parameter):
                made.main.remove_instruction(parameter)
        return self._case.of(made, self._given)


def _gives_a_size(program: Program, parameter: Instruction) -> bool:
    """Whether only this parameter gives the size of a symbol that occurs elsewhere."""
    others = [at for at in _every(program) if at is not parameter]
    wanted = {name for at in others for name in symbols_of(at)}
    given = bare_symbols(p for p in program.main.parameters.values() if p is not parameter)
    return not wanted.isdisjoint(bare_symbols([parameter]) - given)


Edit: TypeAlias = Callable[[Draft], None]


def reduced(
    program: Program, fails: Fails, seen: Callable[[Program], None] | None = None
) -> Program:
    """The smallest program found for which ``fails`` is still true; the given one is not changed.

    A program for which ``fails`` raises a ``MigxError`` does not count as failing. ``seen`` is
    called with each smaller one as it is found. ``NothingWrong`` if the program does not fail.
    """
    return reduced_case(
        Case(program),
        lambda case: fails(case.program),
        None if seen is None else lambda case: seen(case.program),
    ).program


def reduced_case(
    case: Case, fails: Callable[[Case], bool], seen: Callable[[Case], None] | None = None
) -> Case:
    """``reduced`` for a program together with its inputs."""
    search = _Search(case, fails, seen)
    if not search.test(case):
        raise NothingWrong("the program does not fail as it is")
    before = None
    while before != search.size:
        before = search.size
        for step in (end_early, start_late, drop, simplify, shrink):
            step(search)
    return search.best


class _Search:
    """The smallest case so far. Equal candidates are tried once."""

    def __init__(
        self, case: Case, fails: Callable[[Case], bool], seen: Callable[[Case], None] | None
    ) -> None:
        self.best, self.size = case, size(case.program)
        self._fails, self._seen = fails, seen
        self._known: dict[tuple[str, ...], bool] = {}

    @property
    def program(self) -> Program:
        """The smallest program so far."""
        return self.best.program

    def test(self, made: Case | None) -> bool:
        """Whether a candidate fails; one that could not be made does not."""
        if made is None:
            return False
        key = made.fingerprint()
        if key not in self._known:
            try:
                self._known[key] = self._fails(made)
            except MigxError:
                self._known[key] = False
        return self._known[key]

    def accept(self, made: Case | None) -> bool:
        """Accepts a candidate as the best if it is smaller and fails; returns whether it did."""
        if made is None or size(made.program) >= self.size or not self.test(made):
            return False
        self.best, self.size = made, size(made.program)
        if self._seen is not None:
            self._seen(made)
        return True

    def edit(self, edit: Edit) -> bool:
        """Tries a change of the best candidate."""
        return self.accept(_edited(self.best, edit))


def size(program: Program) -> Size:
    """What is minimised, the most important first: instructions, modules, their operands, symbols,
    elements of parameters and literals, and literals that are not all ones.
    """
    every = _every(program)
    given = [at.shape for at in every if type(at.op) in (Param, Literal)]
    elements = sum(int(s.elements) for s in given if s.dtype.is_tensor and s.static)
    fancy = sum(type(at.op) is Literal and not _plain(at.op.value) for at in every)
    edges = sum(len(at.inputs) for at in every)
    return len(every), len(program.modules), edges, len(program.symbols()), elements, fancy


def end_early(search: _Search) -> None:
    """Returns earlier values, and as few results as possible."""
    start = search.best

    def until(k: int) -> Case | None:
        return _edited(start, lambda made: _return_early(made, k))

    count = len(computed(search.program.main))
    search.accept(until(_first(count, lambda k: search.test(until(k)))))
    start = search.best

    def only(kept: Any) -> Case | None:
        return _edited(start, lambda made: _return_only(made, kept))

    outputs = range(len(search.program.main.outputs))
    if len(outputs) > 1:
        search.accept(only(smallest(outputs, lambda kept: search.test(only(kept)))))


def start_late(search: _Search) -> None:
    """Replaces values computed early by parameters."""
    start = search.best
    count = len(computed(search.program.main))

    def since(k: int) -> Case | None:
        return _edited(start, lambda made: _start_at(made, k))

    search.accept(since(count - _first(count, lambda k: search.test(since(count - k)))))


def drop(search: _Search) -> None:
    """Omits runs of instructions, long ones first: each is bypassed, or becomes a parameter."""
    length = max(len(places(search.program)) // 2, 1)
    while length:
        first = 0
        while first < len(places(search.program)):
            if not any(search.edit(partial(each, first=first, count=length)) for each in WAYS):
                first += length
        length //= 2


def simplify(search: _Search) -> None:
    """Takes a submodule for the program, one parameter for two, ones for literals' values."""
    for name in [n for n, m in search.program.modules.items() if m is not search.program.main]:
        if name in search.program.modules:
            search.accept(_made(partial(_taken_out, search.best, name)))
    for index in reversed(range(len(search.program.main.parameters))):
        search.edit(partial(_merged, index=index))
    for index in reversed(range(len(search.program.literals))):
        search.edit(partial(_ones, index=index))


def shrink(search: _Search) -> None:
    """Binds symbols, and shrinks dims, in every shape and attribute at once."""
    for symbol in list(search.program.symbols().values()):
        sizes = [n for n in SMALL if symbol.low <= n <= symbol.bounds[1]] or [symbol.low]
        start = search.best
        any(search.accept(_made(partial(_with, bound, start, {symbol.name: n}))) for n in sizes)
    given = list(search.program.main.parameters.values())
    shapes = [at.shape for at in places(search.program) + given]
    extents = {d for s in shapes for d in s.dims if isinstance(d, int) and d > 1}
    for some in (extents, *({each} for each in sorted(extents, reverse=True))):
        start = search.best
        tried = ({old: min(n, old) for old in some} for n in SMALL)
        any(search.accept(_made(partial(_with, resized, start, sizes))) for sizes in tried)


def _with(sized: Callable[[Program, Any], Program], case: Case, sizes: Any) -> Case:
    """A case with other sizes."""
    return case.of(sized(case.program, sizes))


def computed(module: Module) -> list[Instruction]:
    """The instructions of a module without parameters and the return."""
    return [at for at in module if type(at.op) not in (Param, Return)]


def places(program: Program) -> list[Instruction]:
    """The computed instructions of all modules."""
    return [at for module in program.modules.values() for at in computed(module)]


def _every(program: Program) -> list[Instruction]:
    return [*program.instructions()]


def _first(count: int, fails: Callable[[int], bool]) -> int:
    """The least number up to ``count``, which fails, that fails and whose predecessor does not."""
    passing, failing = 0, count
    while failing - passing > 1:
        middle = (passing + failing) // 2
        passing, failing = (passing, middle) if fails(middle) else (middle, failing)
    return failing


def _made(make: Callable[[], Case]) -> Case | None:
    """A candidate, or None if an operation refuses it."""
    try:
        return make()
    except FAULTS:
        return None


def _edited(case: Case, edit: Edit) -> Case | None:
    """The case after a change and dead code removal; None if the change is refused."""

    def make() -> Case:
        made = Draft(case)
        edit(made)
        return made.finished()

    return _made(make)


def _return_early(made: Draft, k: int) -> None:
    """Returns the values of the first k instructions that none of them reads."""
    first = computed(made.main)[:k]
    inside = set(first)
    ends = [v for v in first if not any(u in inside for u in v.users)]
    made.main.add_return(*[v for v in ends if v.shape.dtype.is_tensor])


def _return_only(made: Draft, kept: Any) -> None:
    names = made.main.returned.op_as(Return).names if made.main.returned is not None else ()
    values = [made.main.outputs[i] for i in kept]
    made.main.add_return(*values, names=[names[i] for i in kept] if names else ())


def _start_at(made: Draft, k: int) -> None:
    """Replaces values of the first k instructions that later ones read by parameters."""
    first = dict.fromkeys(computed(made.main)[:k])
    for at in first:
        if any(u not in first for u in at.users) and not at.constant:
            made.stand_in(at)


def _bypassed(made: Draft, first: int, count: int) -> None:
    """Replaces each of some instructions by its first input of the same type, and a literal by an
    earlier one.
    """
    for at in places(made.program)[first : first + count]:
        literals = [o for o in made.program.literals if o.module is at.module and o.before(at)]
        others = at.inputs if type(at.op) is not Literal else literals
        for other in others:
            if other.shape.same_type(at.shape):
                made.main.replace_instruction(at, other)
                break


def _given(made: Draft, first: int, count: int) -> None:
    """Replaces some instructions by new parameters."""
    for at in places(made.program)[first : first + count]:
        made.stand_in(at)


def _given_alike(made: Draft, first: int, count: int) -> None:
    """Replaces some instructions by existing parameters."""
    for at in places(made.program)[first : first + count]:
        alike = [p for p in made.main.parameters.values() if p.shape.same_type(at.shape)]
        if alike and at.module is made.main:
            made.main.replace_instruction(at, alike[0])


WAYS: tuple[Callable[..., None], ...] = (_bypassed, _given_alike, _given)


def _merged(made: Draft, index: int) -> None:
    """Replaces a parameter by the first one of its type."""
    given = list(made.main.parameters.values())
    first = next(p for p in given if p.shape.same_type(given[index].shape))
    if first is not given[index]:
        made.main.replace_instruction(given[index], first)


def _plain(value: Argument) -> bool:
    """Whether a literal is all ones, or cannot be."""
    dtype = value.shape.dtype
    if dtype.is_packed or dtype.kind == "string" or not value.available or not value.array.size:
        return True
    return bool(value.array.flat[0] == 1 and np.all(value.array == 1))


def _ones(made: Draft, index: int) -> None:
    literal = list(made.program.literals)[index]
    op: Any = literal.op
    if _plain(op.value):
        return
    ones = np.ones(op.value.array.shape, op.value.array.dtype)
    literal.op = operations.with_attributes(op, value=Argument(op.value.shape, ones))


def _taken_out(case: Case, name: str) -> Case:
    """A submodule in place of the program; its inputs and captures become parameters."""
    module = case.program.modules[name]
    given = {f"outside{i}": v for i, v in enumerate(dict.fromkeys(captures(module)))}
    if module.parent is not None:
        given |= dict(zip(module.parameters, module.parent.inputs, strict=False))
    more = {name: case.values[v] for name, v in given.items() if v in case.values}
    return case.of(hoisted(module), more)


def hoisted(module: Module) -> Program:
    """A program whose main module is a copy of another module; its captures become parameters."""
    made, mapping = Program(), dict[Instruction, Instruction]()
    for i, value in enumerate(dict.fromkeys(captures(module))):
        shape = Shape(value.shape.dtype, value.shape.dims)
        mapping[value] = made.main.add_parameter(f"outside{i}", shape)
    modules = {module: made.main}
    inner = module.program.submodules(module)[::-1]
    modules |= {m: made.create_module(m.name) for m in inner if m is not module}
    for each in inner:
        for at in each:
            copy_instruction(at, modules[each], mapping, modules)
    return made


def resized(program: Program, sizes: Mapping[int, int]) -> Program:
    """A copy with some sizes replaced: in parameters, in literals, which are cut to their leading
    part, and in attributes. Shapes are inferred again.
    """
    return remade(program, lambda op: _resized(op, sizes), f"with {sizes}")


def _resized(op: Operation, sizes: Mapping[int, int]) -> Operation:
    if isinstance(op, Literal):
        if sizes.keys().isdisjoint(op.value.shape.dims) or op.value.shape.dtype.is_packed:
            return op
        kept = tuple(slice(sizes.get(n, n)) for n in op.value.array.shape)
        value = Argument.of(np.ascontiguousarray(op.value.array[kept]))
        return operations.with_attributes(op, value=value)
    given = {k: v for k, v in operations.attributes(op).items() if k not in NOT_SIZES}
    changed = {k: _replaced(v, sizes) for k, v in given.items()}
    changed = {k: v for k, v in changed.items() if v != given[k]}
    return operations.with_attributes(op, **changed) if changed else op


def _replaced(value: Any, sizes: Mapping[int, int]) -> Any:
    match value:
        case Shape():
            dims = _replaced(value.dims, sizes)
            return value if dims == value.dims else Shape(value.dtype, dims)
        case tuple():
            return tuple(_replaced(each, sizes) for each in value)
        case int() if type(value) is int:
            return sizes.get(value, value)
    return value
