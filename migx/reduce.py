"""Makes a program that shows a failure as small as it can be.

    small = reduced(program, lambda smaller: crashes(smaller))

Candidates are made by cutting off the end and the beginning, by letting instructions out or
parameters stand in for them, by binding symbols and shrinking dims, and by taking a submodule for
the whole. One that still fails and is smaller is where the search goes on from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.bisect import FAULTS, NothingWrong, smallest
from migx.dead_code import remove_dead_code, remove_dead_modules
from migx.errors import MigxError
from migx.ir import Instruction, Module, Program
from migx.op import Operation
from migx.ops.builtin import Literal, Param, Return
from migx.shape import Shape
from migx.specialise import bound
from migx.structure import copy_instruction
from migx.verify import captures
from migx.weights import is_constant

Fails: TypeAlias = Callable[[Program], bool]
Edit: TypeAlias = Callable[[Program], None]
Size: TypeAlias = tuple[int, ...]

SMALL = (1, 2, 3)
"""The sizes that dims are shrunk to, where they can be."""

NOT_SIZES = frozenset({"axes", "axis", "permutation", "index", "group"})
"""Attributes whose numbers are no sizes."""


def reduced(
    program: Program, fails: Fails, seen: Callable[[Program], None] | None = None
) -> Program:
    """The smallest program found for which ``fails`` is true still; the one given is not changed.

    One for which ``fails`` raises a ``MigxError`` does not count as failing. ``seen`` is called
    with each smaller one as it is found. ``NothingWrong`` where the program does not fail.
    """
    search = _Search(program, fails, seen)
    if not search.test(program):
        raise NothingWrong("the program does not fail as it is")
    before = None
    while before != search.size:
        before = search.size
        for step in (end_early, start_late, drop, simplify, shrink):
            step(search)
    return search.best


class _Search:
    """The smallest program so far. Programs that are equal are tried once."""

    def __init__(
        self, program: Program, fails: Fails, seen: Callable[[Program], None] | None
    ) -> None:
        self.best, self.size = program, size(program)
        self._fails, self._seen = fails, seen
        self._known: dict[str, bool] = {}

    def test(self, made: Program | None) -> bool:
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

    def accept(self, made: Program | None) -> bool:
        """Whether a candidate is smaller than the best and fails; it is then the best."""
        if made is None or size(made) >= self.size or not self.test(made):
            return False
        self.best, self.size = made, size(made)
        if self._seen is not None:
            self._seen(made)
        return True

    def edit(self, edit: Edit) -> bool:
        """Accepts the best with a change, if it is smaller and fails."""
        return self.accept(_edited(self.best, edit))


def size(program: Program) -> Size:
    """What is to become less, the most important first: instructions, modules, what they read,
    symbols, elements of parameters and literals, literals that are not all ones.
    """
    every = [at for module in program.modules.values() for at in module]
    given = [at.shape for at in every if type(at.op) in (Param, Literal)]
    elements = sum(int(s.elements) for s in given if s.dtype.is_tensor and s.static)
    fancy = sum(type(at.op) is Literal and not _plain(at.op.value) for at in every)
    edges = sum(len(at.inputs) for at in every)
    return len(every), len(program.modules), edges, len(program.symbols()), elements, fancy


def end_early(search: _Search) -> None:
    """Returns what is computed early, and as few results as possible."""
    start = search.best

    def until(k: int) -> Program | None:
        return _edited(start, lambda made: _return_early(made, k))

    search.accept(until(_first(len(computed(start.main)), lambda k: search.test(until(k)))))
    start = search.best

    def only(kept: Any) -> Program | None:
        return _edited(start, lambda made: _return_only(made, kept))

    outputs = range(len(start.main.outputs))
    if len(outputs) > 1:
        search.accept(only(smallest(outputs, lambda kept: search.test(only(kept)))))


def start_late(search: _Search) -> None:
    """Takes what is computed early for given: parameters stand in for it."""
    start = search.best
    count = len(computed(start.main))

    def since(k: int) -> Program | None:
        return _edited(start, lambda made: _start_at(made, k))

    search.accept(since(count - _first(count, lambda k: search.test(since(count - k)))))


def drop(search: _Search) -> None:
    """Lets out runs of instructions, long ones first: each is bypassed, or a parameter."""
    length = max(len(places(search.best)) // 2, 1)
    while length:
        first = 0
        while first < len(places(search.best)):
            if not any(search.edit(partial(each, first=first, count=length)) for each in WAYS):
                first += length
        length //= 2


def simplify(search: _Search) -> None:
    """Takes a submodule for the whole, one parameter for two, and ones for the values of
    literals.
    """
    for name in [n for n, m in search.best.modules.items() if m is not search.best.main]:
        if name in search.best.modules:
            search.accept(_made(partial(hoisted, search.best.modules[name])))
    for index in reversed(range(len(search.best.main.parameters))):
        search.edit(partial(_merged, index=index))
    for index in reversed(range(len(search.best.literals))):
        search.edit(partial(_ones, index=index))


def shrink(search: _Search) -> None:
    """Binds symbols, and makes dims small, in every shape and attribute at once."""
    for symbol in list(search.best.symbols().values()):
        sizes = [n for n in SMALL if symbol.low <= n <= symbol.bounds[1]] or [symbol.low]
        start = search.best
        any(search.accept(_made(partial(bound, start, {symbol.name: n}))) for n in sizes)
    shapes = [at.shape for at in places(search.best) + list(search.best.main.parameters.values())]
    extents = {d for s in shapes for d in s.dims if isinstance(d, int) and d > 1}
    for some in (extents, *({each} for each in sorted(extents, reverse=True))):
        start = search.best
        tried = ({old: min(n, old) for old in some} for n in SMALL)
        any(search.accept(_made(partial(resized, start, sizes))) for sizes in tried)


def computed(module: Module) -> list[Instruction]:
    """The instructions of a module but for parameters and the return."""
    return [at for at in module if type(at.op) not in (Param, Return)]


def places(program: Program) -> list[Instruction]:
    """Those of all modules."""
    return [at for module in program.modules.values() for at in computed(module)]


def _first(count: int, fails: Callable[[int], bool]) -> int:
    """The least number up to ``count``, which fails, that fails while the one before does not."""
    passing, failing = 0, count
    while failing - passing > 1:
        middle = (passing + failing) // 2
        passing, failing = (passing, middle) if fails(middle) else (middle, failing)
    return failing


def _made(make: Callable[[], Program]) -> Program | None:
    """A candidate, or None where an operation refuses it."""
    try:
        return make()
    except FAULTS:
        return None


def _edited(program: Program, edit: Edit) -> Program | None:
    """A copy with a change and without what is dead after it; None where the change is refused."""

    def make() -> Program:
        made = program.copy()
        edit(made)
        remove_dead_code(made.main)
        remove_dead_modules(made)
        for module in list(made.modules.values()):
            remove_dead_code(module)
        for parameter in list(made.main.parameters.values()):
            if not parameter.users:
                made.main.remove_instruction(parameter)
        return made

    return _made(make)


def _return_early(made: Program, k: int) -> None:
    """Returns what the first k instructions compute and do not read."""
    first = computed(made.main)[:k]
    inside = set(first)
    ends = [v for v in first if not any(u in inside for u in v.users)]
    made.main.add_return(*[v for v in ends if v.shape.dtype.is_tensor])


def _return_only(made: Program, kept: Any) -> None:
    names = made.main.returned.op.names if made.main.returned is not None else ()  # type: ignore[attr-defined]
    values = [made.main.outputs[i] for i in kept]
    made.main.add_return(*values, names=[names[i] for i in kept] if names else ())


def _start_at(made: Program, k: int) -> None:
    """Makes parameters of what the first k instructions compute and later ones read."""
    known: dict[Instruction, bool] = {}
    first = dict.fromkeys(computed(made.main)[:k])
    for at in first:
        if any(u not in first for u in at.users) and not is_constant(at, known):
            _stand_in(made, at)


def _stand_in(made: Program, at: Instruction) -> None:
    """Puts a new parameter of main in the place of a value, where there can be one."""
    if at.module is made.main and at.shape.dtype.is_tensor and not at.shape.dtype.is_packed:
        count = len(made.main.parameters)
        name = next(n for i in range(count + 1) if (n := f"p{i}") not in made.main.parameters)
        new = made.main.add_parameter(name, Shape(at.shape.dtype, at.shape.dims))
        made.main.replace_instruction(at, new)


def _bypassed(made: Program, first: int, count: int) -> None:
    """Puts its first input of the same type in the place of each of some instructions, and an
    earlier literal in that of a literal.
    """
    for at in places(made)[first : first + count]:
        literals = [o for o in made.literals if o.module is at.module and o.before(at)]
        others = at.inputs if type(at.op) is not Literal else literals
        for other in others:
            if other.shape.same_type(at.shape):
                made.main.replace_instruction(at, other)
                break


def _given(made: Program, first: int, count: int) -> None:
    """Puts parameters in the place of some instructions."""
    for at in places(made)[first : first + count]:
        _stand_in(made, at)


def _given_alike(made: Program, first: int, count: int) -> None:
    """Puts parameters there that are there already."""
    for at in places(made)[first : first + count]:
        alike = [p for p in made.main.parameters.values() if p.shape.same_type(at.shape)]
        if alike and at.module is made.main:
            made.main.replace_instruction(at, alike[0])


WAYS: tuple[Callable[..., None], ...] = (_bypassed, _given_alike, _given)


def _merged(made: Program, index: int) -> None:
    """Puts the first parameter of its type in the place of a parameter."""
    given = list(made.main.parameters.values())
    first = next(p for p in given if p.shape.same_type(given[index].shape))
    if first is not given[index]:
        made.main.replace_instruction(given[index], first)


def _plain(value: Argument) -> bool:
    """Whether a literal is ones, or cannot be."""
    dtype = value.shape.dtype
    if dtype.is_packed or dtype.kind == "string" or not value.available or not value.array.size:
        return True
    return bool(value.array.flat[0] == 1 and np.all(value.array == 1))


def _ones(made: Program, index: int) -> None:
    literal = list(made.literals)[index]
    op: Any = literal.op
    if _plain(op.value):
        return
    ones = np.ones(op.value.array.shape, op.value.array.dtype)
    literal.op = operations.with_attributes(op, value=Argument(op.value.shape, ones))


def hoisted(module: Module) -> Program:
    """A program whose main module is a copy of another; what that reads from outside is
    parameters.
    """
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
    """A copy with some sizes replaced: in parameters, in literals, of which the beginning is kept,
    and in attributes. Shapes are inferred again.
    """
    made, mapping = Program(), dict[Instruction, Instruction]()
    modules = {m: made.create_module(m.name) for m in program.modules.values() if m.name != "main"}
    modules[program.main] = made.main

    def build(module: Module) -> None:
        if len(modules[module]):
            return
        modules[module].bypass = module.bypass
        for at in module:
            for inner in at.modules:
                build(inner)
            inputs = tuple(mapping[v] for v in at.inputs)
            arguments = tuple(modules[m] for m in at.modules)
            op = _resized(at.op, sizes)
            shape = op.compute_shape([v.shape for v in inputs], arguments)
            mapping[at] = modules[module].append_known(op, inputs, arguments, shape, at.origins)

    for module in (program.main, *program.modules.values()):
        build(module)
    return made


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
