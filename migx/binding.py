"""From arguments to sizes: binds every symbol to the dims a module's parameters are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from migx import dim
from migx.argument import Argument
from migx.base.files import member
from migx.base.recent import Recent
from migx.dim import Dim
from migx.errors import DimError, InputError, ShapeError
from migx.ir import Instruction, Module
from migx.shape import MAP, OPTIONAL, TUPLE, DType, Shape

if TYPE_CHECKING:
    from migx.target import PreparedRun

Sizes = dict[str, int]
Kind = Shape | tuple[np.dtype[Any], tuple[int, ...]]
"""The shape of an argument, or the type and dims of an array."""
REMEMBERED = 64
"""How many combinations of types and dims are cached as valid."""
UNTYPED = (int, float, list, tuple, range)
"""Values whose numbers have no element type of their own, such as those read from JSON."""


def check_inputs(
    module: Module, given: Mapping[str, Any], weights: Callable[[], Iterable[str]] = tuple
) -> dict[str, Argument]:
    """The arguments for a module's parameters, in their order.

    Raises ``InputError`` naming every input that is missing, unknown, or of the wrong type, rank or
    dims; for an unknown one it says whether it is one of the ``weights``.
    """
    parameters = module.parameters
    if not isinstance(given, Mapping):
        _refuse(given, parameters, weights)
    if given.keys() != parameters.keys():
        _refuse(given, parameters, weights)
    found: dict[str, Argument] = {}
    for name, parameter in parameters.items():
        found[name] = made = _argument(name, given[name], parameter.shape)
        check_type(name, made.shape, parameter.shape)
    return found


def _refuse(
    given: Any, parameters: Mapping[str, Instruction], weights: Callable[[], Iterable[str]]
) -> NoReturn:
    """Raises ``InputError`` listing the inputs that are missing or unknown."""
    wanted = {name: parameter.shape for name, parameter in parameters.items()}
    listed = ", ".join(f"{name}: {shape}" for name, shape in wanted.items()) or "none"
    if not isinstance(given, Mapping):
        raise InputError(f"inputs are given by name, as a dict; the inputs are {listed}")
    if unknown := [name for name in given if name not in wanted]:
        held = {*weights()}.intersection(unknown)
        names = ", ".join(repr(name) for name in unknown if name in held)
        said = (
            f"; the program has weights {names}, which program.update_weights() replaces: those "
            "inside the model's file, if program.make_replaceable() came before program.compile()"
        )
        raise InputError(
            f"there is no input {', '.join(map(repr, unknown))}; the inputs are {listed}"
            f"{said if held else ''}"
        )
    missing = [name for name in wanted if name not in given]
    raise InputError(f"missing input {', '.join(map(repr, missing))}; the inputs are {listed}")


class Known(NamedTuple):
    """What is known of inputs of some types and dims, which are valid: their shapes, and a run
    prepared for these, if there is one and all are arrays.
    """

    shapes: list[Shape]
    run: PreparedRun | None


class Inputs:
    """A cached ``check_inputs`` for one module: types and dims of arrays that have been found valid
    are not checked again, and ``prepare`` is asked once for a run for their shapes.
    """

    def __init__(
        self,
        module: Module,
        weights: Callable[[], Iterable[str]] = tuple,
        prepare: Callable[[Sequence[Shape]], PreparedRun | None] = lambda shapes: None,
    ) -> None:
        self._module, self._weights, self._prepare = module, weights, prepare
        self._wanted = [p.shape for p in module.parameters.values()]
        self._known = lru_cache(REMEMBERED)(self._checked)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Argument]:
        """The arguments for the parameters. Raises the errors of ``check_inputs``."""
        return self.checked(given, *self.read(given))

    def read(self, given: Mapping[str, Any]) -> tuple[list[Any], Known | None]:
        """The values given for the parameters, and what is known of them: None if they need the
        full check.
        """
        names = self._module.parameters
        values: list[Any] = []
        if type(given) is not dict or given.keys() != names.keys():
            return values, None
        kinds: list[Kind] = []
        for name in names:
            value = given[name]
            values.append(value)
            if type(value) is np.ndarray:
                kinds.append((value.dtype, value.shape))
            elif isinstance(value, Argument):
                kinds.append(value.shape)
            else:
                return values, None
        return values, self._known(*kinds)

    def checked(
        self, given: Mapping[str, Any], values: Sequence[Any], known: Known | None
    ) -> dict[str, Argument]:
        """The arguments for what ``read`` has read. Raises the errors of ``check_inputs``."""
        if known is None:
            return check_inputs(self._module, given, self._weights)
        found: dict[str, Argument] = {}
        for i, name in enumerate(self._module.parameters):
            value = values[i]
            found[name] = Argument(known.shapes[i], value) if type(value) is np.ndarray else value
        return found

    def _checked(self, *kinds: Kind) -> Known | None:
        """What is known of values that need no conversion; None if any needs the full check."""
        found = []
        for wanted, kind in zip(self._wanted, kinds, strict=True):
            if isinstance(kind, Shape):
                if not wanted.dtype.is_tensor:
                    return None
                found.append(kind)
            else:
                dtype, dims = kind
                as_it_is = wanted.dtype.bits >= 8  # neither packed nor strings, which are checked
                if not as_it_is or wanted.strides is not None or dtype != wanted.dtype.numpy:
                    return None
                found.append(wanted if dims == wanted.dims else Shape(wanted.dtype, dims))
            try:
                check_type("", found[-1], wanted)
            except InputError:
                return None  # check_inputs reports it by name, with whatever else is wrong
        arrays = not any(isinstance(kind, Shape) for kind in kinds)
        return Known(found, self._prepare(found) if arrays else None)


def _argument(name: str, value: Any, shape: Shape) -> Argument:
    if shape.dtype is TUPLE:
        return _tuple(name, value, shape)
    try:
        if shape.dtype.kind == "opaque":
            return _host_value(value, shape)
        made = Argument.of(value)
        untyped = isinstance(value, UNTYPED) and not isinstance(value, np.generic)
        differs = untyped and made.shape.dtype is not shape.dtype
        return Argument.of(value, shape.dtype) if differs and _may_be(made, shape.dtype) else made
    except (ShapeError, TypeError, ValueError) as error:
        what = "array" if shape.dtype.is_tensor else shape.dtype.name
        raise InputError(f"input {name!r} is no {what}: {error}") from error


def _may_be(made: Argument, wanted: DType) -> bool:
    """Whether Python numbers, of the type given by default, may be an input of another type. None
    at all may be of any.
    """
    given, integers = made.shape.dtype.kind, ("int", "uint")
    if not made.shape.elements:
        return wanted.kind in (*integers, "float", "bool")
    if given in integers:
        return wanted.kind in (*integers, "float")
    return given == wanted.kind == "float"


def _tuple(name: str, value: Any, shape: Shape) -> Argument:
    """A tuple or list as a tuple of arguments, each of its declared type."""
    is_tuple = isinstance(value, Argument) and value.shape.dtype is TUPLE
    given = value.parts if is_tuple else value
    if not isinstance(given, tuple | list) or len(given) != len(shape.parts):
        what = f"{len(given)} values" if isinstance(given, tuple | list) else type(value).__name__
        raise InputError(
            f"input {name!r} is {what}, but a tuple of {len(shape.parts)} is wanted, {shape.text}"
        )
    made = []
    for i, (each, part) in enumerate(zip(given, shape.parts, strict=True)):
        made.append(_argument(member(name, i), each, part))
        check_type(member(name, i), made[-1].shape, part)
    return value if is_tuple else Argument.tuple(made)


def _host_value(value: Any, shape: Shape) -> Argument:
    """A list as a sequence; a dict as a map; None or a value as an optional."""
    if isinstance(value, Argument):
        return value
    if shape.dtype is MAP:
        if not isinstance(value, Mapping):
            raise ShapeError(f"{type(value).__name__} is no dict")
        columns = zip(([*value], [*value.values()]), shape.parts, strict=True)
        return Argument(shape, tuple(Argument.of(v, part.dtype) for v, part in columns))
    if shape.dtype is OPTIONAL:
        held: Sequence[Any] = () if value is None else (value,)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        held = value
    else:
        raise ShapeError(f"{type(value).__name__} is no list")
    part = shape.parts[0] if shape.parts else None
    members = [Argument.of(v) if part is None else _member(v, part) for v in held]
    return Argument(shape, tuple(members))


def _member(value: Any, part: Shape) -> Argument:
    made = _host_value(value, part) if part.dtype.kind == "opaque" else Argument.of(value)
    if made.shape.dtype is not part.dtype:
        raise ShapeError(f"it holds {made.shape}, but {part} is wanted")
    return made


def check_type(name: str, got: Shape, wanted: Shape) -> None:
    """``InputError`` unless a value has the type, rank and numeric dims a parameter declares."""
    if got.dtype is not wanted.dtype:
        remedy = f"convert it to {wanted.dtype}"
        if wanted.dtype.is_packed or not wanted.dtype.is_tensor:
            remedy = "give a migx.Argument of that shape"
        raise InputError(f"input {name!r} is {got}, but {wanted} is wanted: {remedy}")
    if got.dims == wanted.dims:
        return
    if got.rank != wanted.rank:
        raise InputError(
            f"input {name!r} is {got}, of rank {got.rank}; {wanted} has rank {wanted.rank}"
        )
    for axis, (is_, should) in enumerate(zip(got.dims, wanted.dims, strict=True)):
        if not isinstance(should, Dim) and is_ != should:
            raise InputError(
                f"input {name!r} is {got}: dim {axis} must be {should}, as in {wanted}"
            )


class Told:
    """The sizes that follow from the arguments of a module, cached by their shapes."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._any = any(p.shape.symbols() for p in module.parameters.values())
        self._known: Recent[tuple[Shape, ...], Sizes] = Recent(REMEMBERED)

    def __call__(self, arguments: Sequence[Argument]) -> Sizes:
        """The sizes. Raises the errors of ``sizes_told``, but does not check numeric dims again."""
        if not self._any:
            return {}
        key = tuple([argument.shape for argument in arguments])
        sizes = self._known.get(key)
        if sizes is None:
            sizes = self._known[key] = sizes_told(self._module, arguments)
        return sizes


def sizes_told(
    module: Module, arguments: Sequence[Argument], known: Mapping[str, int] | None = None
) -> Sizes:
    """The size of every symbol that follows from a module's arguments; see ``sizes_of``."""
    pairs = zip(module.parameters.items(), arguments, strict=True)
    return sizes_of(((name, p.shape, a.shape) for (name, p), a in pairs), known)


def _apart(pairs: Iterable[tuple[str, Shape, Shape]]) -> Iterator[tuple[str, Shape, Shape]]:
    """The input of ``sizes_of`` with tuples replaced by their members."""
    for name, declared, actual in pairs:
        if declared.dtype is TUPLE:
            members = enumerate(zip(declared.parts, actual.parts, strict=False))
            yield from _apart((member(name, i), part, value) for i, (part, value) in members)
        else:
            yield name, declared, actual


def sizes_of(
    pairs: Iterable[tuple[str, Shape, Shape]], known: Mapping[str, int] | None = None
) -> Sizes:
    """The size of every symbol, from (name, declared shape, actual shape); sizes in ``known`` are
    fixed.

    Raises ``InputError`` if two values disagree on a symbol, one is outside its bounds, or an
    expression over symbols does not equal the actual size.
    """
    sizes: Sizes = dict(known or {})
    given_by: dict[str, str] = {}
    composed = []
    for name, declared, actual in _apart(pairs):
        if declared.dims == actual.dims:  # then they are numbers: actual dims have no symbols
            continue
        for axis, (extent, size) in enumerate(zip(declared.dims, actual.dims, strict=True)):
            if not isinstance(extent, Dim):
                if extent != size:
                    raise InputError(f"dim {axis} of {name} is {size}, not {extent}")
            elif (symbol := extent.symbol) is None:
                composed.append((name, axis, extent, int(size)))
            else:
                before = sizes.setdefault(symbol.name, int(size))
                if before != size:
                    first = given_by.get(symbol.name, "elsewhere")
                    raise InputError(f"dim {symbol} is {before} in {first} and {size} in {name}")
                given_by.setdefault(symbol.name, name)
                low, high = symbol.bounds
                if not low <= int(size) <= high:
                    raise InputError(
                        f"dim {symbol} is {size} in {name}, outside its bounds {low}..{high}"
                    )
    for name, axis, extent, size in composed:
        try:
            wanted = dim.evaluate(extent, sizes)
        except DimError as error:
            raise InputError(f"dim {axis} of {name} is {extent}: {error}") from error
        if wanted != size:
            raise InputError(f"dim {axis} of {name} is {size}, but {extent} is {wanted}")
    return sizes
