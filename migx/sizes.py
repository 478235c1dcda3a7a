"""The symbols of instructions, and shape inference once sizes are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from migx import op as operations
from migx.base.memory import installed
from migx.dim import Extent
from migx.dims.extents import Extents, Latest, Numbers
from migx.dims.symbol import listed
from migx.errors import DimError, EvaluationError, InputError, ShapeError
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.ops.builtin import Param, Return, Slot
from migx.ops.fused import Composite
from migx.ops.layout import Multibroadcast, Transpose
from migx.ops.linear import Dot
from migx.ops.reduce import Reduce, Softmax
from migx.program import Program
from migx.shape import Shape
from migx.text import draw_instruction


def symbols_of(at: Instruction) -> frozenset[str]:
    """The symbols in an instruction's shape and attributes."""
    return symbols_in(at.shape) | {s.name for s in operations.symbols(at.op)}


def symbols_in(*shapes: Shape) -> frozenset[str]:
    """The symbols in some shapes."""
    return frozenset(s.name for shape in shapes for s in shape.symbols())


def given_symbols(program: Program) -> frozenset[str]:
    """The symbols in a program's inputs, whose sizes the caller chooses."""
    return symbols_in(*(p.shape for p in program.main.parameters.values()))


def bare_symbols(instructions: Iterable[Instruction]) -> set[str]:
    """The symbols that are by themselves a dim of some value, which then tells their size."""
    return set[str]().union(*(at.shape.bare_symbols() for at in instructions))


def known_symbols(module: Module) -> set[str]:
    """The symbols whose sizes are known before a module's first instruction runs: from its
    parameters, those of ``main``, or what comes before it in the enclosing modules.
    """
    given = (*module.program.main.parameters.values(), *module.parameters.values())
    runners = (inner.parent for inner in module.enclosing())
    return bare_symbols(given).union(
        *(bare_symbols(at.owner.preceding(at)) for at in runners if at)
    )


def read_symbols(at: Instruction) -> frozenset[str]:
    """The symbols in an instruction and in its inputs."""
    return symbols_of(at).union(*(symbols_of(v) for v in at.inputs))


def symbols_within(module: Module) -> set[str]:
    """The symbols in the instructions of a module and its submodules, and in their inputs."""
    found = set[str]()
    for at in module:
        found |= read_symbols(at)
        for inner in at.modules:
            found |= symbols_within(inner)
    return found


def bound_now(op: Operation, shape: Shape, sizes: Mapping[str, int]) -> tuple[Operation, Shape]:
    """An operation and its shape with known sizes bound. If a symbol of the operation has no size
    yet, the operation stays as it is, and its shape is bound as far as possible.
    """
    names = symbols_in(shape) | {s.name for s in operations.symbols(op)}
    known = {name: sizes[name] for name in names if name in sizes}
    if len(known) == len(names):
        return operations.bind(op, sizes), shape.bind(sizes)
    return op, shape.substitute(known)


def bound(at: Instruction, sizes: Mapping[str, int]) -> tuple[Operation, Shape]:
    """``bound_now`` for an instruction; ``InputError``, drawn, if an extent has no value."""
    with drawn(at, sizes):
        return bound_now(at.op, at.shape, sizes)


def asked_again(instructions: Iterable[Instruction]) -> list[Instruction]:
    """The instructions whose shape rules must run again when sizes are known, those in composite
    ones included; only one of several equal ones.
    """
    found: dict[object, Instruction] = {}
    for at in _with_parts(instructions):
        plain = not at.modules and type(at.op) not in (Param, Slot, Return)
        if plain and not _is_decided(at) and any(map(symbols_of, (at, *at.inputs))):
            key = (operations.key(at.op), tuple(v.shape for v in at.inputs), at.shape)
            found.setdefault(key, at)
    return list(found.values())


def _with_parts(instructions: Iterable[Instruction]) -> Iterator[Instruction]:
    """Instructions, each made of others followed by these."""
    for at in instructions:
        yield at
        for module in at.modules if isinstance(at.op, Composite) else ():
            yield from _with_parts(module)


def _is_decided(at: Instruction) -> bool:
    """Whether no sizes can be refused: pointwise operations on equal dims, products of matrices
    that fit, broadcasts of equal dims or 1, reductions, and transposes.
    """
    dims = at.shape.dims
    if isinstance(at.op, Multibroadcast) and len(at.inputs) == 1:
        pairs = zip(reversed(at.inputs[0].shape.dims), reversed(dims), strict=False)
        return all(given in (1, made) for given, made in pairs)
    if isinstance(at.op, Dot):
        x, y = (v.shape.dims for v in at.inputs)
        return x[:-2] == y[:-2] and x[-1] == y[-2] and dims == (*x[:-1], y[-1])
    pointwise = operations.traits(at.op).pointwise
    return isinstance(at.op, (Reduce, Softmax, Transpose)) or (
        pointwise and all(v.shape.dims == dims for v in at.inputs)
    )


def check_sizes(at: Instruction, sizes: Mapping[str, int]) -> None:
    """Raises ``InputError``, drawn, if a shape rule refuses some sizes. For host values, more may
    be known now than their shapes say.
    """
    with drawn(at, sizes):
        given = [v.shape.bind(sizes) for v in at.inputs]
        expect_shape(at, operations.bind(at.op, sizes), given, lambda: at.shape.bind(sizes))


def expect_shape(
    at: Instruction, op: Operation, given: Sequence[Shape], wanted: Callable[[], Shape]
) -> None:
    """Raises ``ShapeError`` if the shape rule of an instruction's operation, with sizes bound,
    refuses its inputs or infers another shape than expected.
    """
    inferred = op.compute_shape(given, ())
    if at.shape.dtype.kind != "opaque" and not inferred.same_type(wanted()):
        raise ShapeError(f"{inferred} instead of {wanted()}")


@contextmanager
def drawn(at: Instruction, sizes: Mapping[str, int]) -> Iterator[None]:
    """Turns shape and dim errors into ``InputError``, with the instruction drawn."""
    try:
        yield
    except (ShapeError, DimError) as error:
        found = _listed(_read(at, sizes))
        raise InputError(draw_instruction(f"with {found}: {error}", at)) from error


def _read(at: Instruction, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of the symbols that an instruction reads, in order of occurrence."""
    shapes = (v.shape for v in (*at.inputs, at))
    symbols = (*(s for shape in shapes for s in shape.symbols()), *operations.symbols(at.op))
    names = dict.fromkeys(symbol.name for symbol in symbols)
    return {name: sizes[name] for name in names if name in sizes}


class ShapeRules:
    """Shapes and shape rules for sizes that vary between runs: each is evaluated again only if the
    size of one of its symbols has changed.
    """

    def __init__(self, instructions: Iterable[Instruction]) -> None:
        self._shapes: dict[Shape, Latest[Shape]] = {}
        self._checks = [
            Latest(sorted(read_symbols(at)), self._check(at)) for at in asked_again(instructions)
        ]

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raises ``InputError``, drawn, if a rule refuses these sizes."""
        for check in self._checks:
            check.at(sizes)

    def latest(self, shape: Shape) -> Latest[Shape]:
        """A shape, bound to the latest sizes."""
        if shape not in self._shapes:
            self._shapes[shape] = Latest(sorted(symbols_in(shape)), shape.bind)
        return self._shapes[shape]

    def bound(self, shape: Shape, sizes: Mapping[str, int]) -> Shape:
        """A shape with the sizes bound."""
        return shape if shape.static else self.latest(shape).at(sizes)

    def _check(self, at: Instruction) -> Callable[[Mapping[str, int]], None]:
        if operations.traits(at.op).any_sizes:
            return self._check_dims(at)
        names = sorted({symbol.name for symbol in operations.symbols(at.op)})
        op = Latest(names, operations.binding(at.op))
        given, wanted = [self.latest(v.shape) for v in at.inputs], self.latest(at.shape)

        def check(sizes: Mapping[str, int]) -> None:
            with drawn(at, sizes):
                shapes = [shape.at(sizes) for shape in given]
                expect_shape(at, op.at(sizes), shapes, partial(wanted.at, sizes))

        return check

    def _check_dims(self, at: Instruction) -> Callable[[Mapping[str, int]], None]:
        """A check that the result's dims are valid, which is all that ``any_sizes`` rules need."""
        wanted = self.latest(at.shape)

        def check(sizes: Mapping[str, int]) -> None:
            with drawn(at, sizes):
                wanted.at(sizes)

        return check


class Numbered:
    """What the plans of some instructions share, for any sizes: their shape rules, and extents that
    are evaluated together, each by its index among the numbers.
    """

    def __init__(self, instructions: Iterable[Instruction]) -> None:
        self.rules, self._extents = ShapeRules(instructions), Extents()

    def place(self, extent: Extent) -> int:
        """The index of an extent among the numbers."""
        return self._extents.place(extent)

    def numbers(self, sizes: Mapping[str, int]) -> Numbers:
        """All extents evaluated at these sizes, which the shape rules have checked."""
        self.rules.check(sizes)
        return self._extents.at(sizes)


def check_room(nbytes: int, sizes: Mapping[str, int]) -> None:
    """``EvaluationError`` if values exceed the machine's memory, before any is allocated."""
    if nbytes > installed():
        raise EvaluationError(
            f"with {_listed(sizes)}: values that are needed at one time take {nbytes:,} bytes, the "
            f"machine has {installed():,}"
        )


def _listed(sizes: Mapping[str, int]) -> str:
    return listed(sizes) or "these sizes"
