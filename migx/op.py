"""What an operation is: a name, attributes, a shape rule, traits and, mostly, a meaning.

``Operation`` is the protocol; any value that has it can stand in a program. ``Op`` is the base
class of migx's operations: a subclass is a frozen dataclass of its attributes, and the operation's
name is the class's in snake case.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Protocol,
    TypeAlias,
    dataclass_transform,
    runtime_checkable,
)

import numpy as np
from numpy.typing import NDArray

from migx import dim
from migx.argument import Argument, read_only
from migx.dim import Dim, Extent
from migx.dims.symbol import Symbol
from migx.errors import EvaluationError, FieldError, ShapeError, there_are
from migx.fields import Frozen, bring_when_made, expect_values
from migx.shape import DType, Shape

if TYPE_CHECKING:
    from migx.ir import Module

Array: TypeAlias = NDArray[Any]
Shapes: TypeAlias = Sequence[Shape]
Modules: TypeAlias = Sequence["Module"]
Arguments: TypeAlias = Sequence[Argument]
Runnable: TypeAlias = Callable[[Arguments], list[Argument]]
"""A submodule at run time: a function from its arguments to its results."""
Runnables: TypeAlias = Sequence[Runnable]
Evaluate: TypeAlias = Callable[[Any, Any, Shape, Arguments, Runnables], Argument]
FULL_FORM = ("context", "shape", "arguments", "modules")
"""What a meaning that takes no arrays may ask for by the names of its parameters."""


@dataclass(frozen=True)
class Traits:
    """The properties of an operation that passes query.

    ``pointwise``: each element of the result is computed from the elements at its own index.
    ``commutative``: two inputs may be swapped. ``reduction``: keeps one element on each axis of its
    attribute ``axes``. ``view``: the input the result aliases if that input's layout allows, or
    None. ``standard_inputs``: every input must have standard layout. ``pure``: no effect but its
    result, so it may be removed without users. ``foldable``: may be evaluated at compile time when
    its inputs are known. ``packs``: puts constants into the form that a kernel of the target reads,
    so that it is computed before any run, whatever the size of the result. ``any_sizes``: the shape
    rule depends on no size, so its result for symbols holds for all sizes.
    """

    pointwise: bool = False
    commutative: bool = False
    reduction: bool = False
    view: int | None = None
    standard_inputs: bool = False
    pure: bool = True
    foldable: bool = True
    packs: bool = False
    any_sizes: bool = False


UNDECLARED = Traits(pure=False, foldable=False)
"""The traits assumed of a foreign operation that declares none."""


@runtime_checkable
class Operation(Protocol):
    """Anything with a name and a shape rule. Attributes are its dataclass fields, or else its
    instance variables.
    """

    @property
    def name(self) -> str: ...

    def compute_shape(self, shapes: Shapes, modules: Modules) -> Shape:
        """The shape of the result, or ``ShapeError``."""
        ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
@dataclass(frozen=True)
class Op(Frozen):
    """Base class of operations. ``compute(*arrays)``, if defined, is the meaning on numpy arrays,
    which are read-only. Values of fields are converted to the declared type (a list to a tuple, the
    name of an element type to that type), or ``FieldError`` is raised.

    An operation that needs more defines ``compute(context, shape, arguments, modules)`` instead:
    the context of the target, the shape of its result with every dim bound, its arguments, and its
    submodules as functions. Only ``arguments`` is required.
    """

    name: ClassVar[str]
    traits: ClassVar[Traits] = Traits()

    def __init_subclass__(cls, abstract: bool = False) -> None:
        expect_values(cls)
        freeze(cls)
        if not abstract and "name" not in cls.__dict__:
            cls.name = snake_case(cls.__name__)
        if cls.traits.reduction and "axes" not in (f.name for f in dataclasses.fields(cls)):
            raise _without_axes(cls)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        raise ShapeError(f"{self.name} has no shape rule: it needs compute_shape(shapes, modules)")


def freeze(cls: type, what: str = "") -> None:
    """Makes a subclass of a frozen dataclass one too, with fields converted to their declared
    types. ``what`` precedes its name in errors. A class without fields of its own needs nothing:
    generating methods for many such classes would take half of their import time.
    """
    if inspect.get_annotations(cls) or len(cls.__bases__) > 1:
        bring_when_made(cls, what)
        dataclass(frozen=True)(cls)
        del cls.__setattr__, cls.__delattr__  # Frozen has them; with its own, none may follow
        know_fields(cls, what)


def know_fields(cls: type, what: str = "") -> None:
    """Makes a dataclass's constructor name the known fields when it is given an unknown one, or too
    many values.
    """
    made: Callable[..., None] = cls.__init__  # type: ignore[misc]

    @functools.wraps(made)
    def init(self: Any, *values: Any, **given: Any) -> None:
        try:
            made(self, *values, **given)
        except TypeError:
            known = [field.name for field in dataclasses.fields(self) if field.init]
            kind, there = "option" if what else "attribute", f"{what}{self.name}"
            if name := next((n for n in given if n not in known), None):
                said = f"{there} has no {kind} {name!r}; {there_are(name, known)}"
                plain = vars(type(self)).get(name)
                if isinstance(plain, (int, float)):  # a class variable, not a field
                    said += f"; it lacks an annotation, as {name}: {type(plain).__name__} = {plain}"
            elif len(values) > len(known):
                names = ", ".join(known) or "none"
                said = f"{there} was given {len(values)} values for its {kind}s ({names})"
                said += "" if what else "; its inputs go to add_instruction"
            else:
                raise
            raise FieldError(said) from None

    cls.__init__ = init  # type: ignore[misc]


know_fields(Op)


def snake_case(name: str) -> str:
    """The snake case of a class's name: ``ReduceMean`` is ``reduce_mean``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def traits(op: Operation | type) -> Traits:
    """The traits that an operation, or a class of operations, declares; a foreign one that declares
    none counts as effectful.
    """
    found: Traits = getattr(op, "traits", UNDECLARED)
    return found


def reduced_axes(op: Operation) -> tuple[int, ...]:
    """The axes on which a reduction keeps one element; ``FieldError`` if it has no ``axes``."""
    found = attributes(op).get("axes")
    if found is None:
        raise _without_axes(type(op))
    return tuple(found)


def _without_axes(cls: type) -> FieldError:
    return FieldError(
        f"{cls.__name__} declares that it is a reduction, so it needs the attribute axes, "
        "as axes: tuple[int, ...]"
    )


def attributes(op: Operation) -> dict[str, Any]:
    """The attributes of an operation by name, in the order they are declared."""
    names = _field_names(type(op))
    if names is not None:
        return {name: getattr(op, name) for name in names}
    return dict(vars(op)) if hasattr(op, "__dict__") else {}


@cache
def _field_names(cls: type) -> tuple[str, ...] | None:
    """The fields of a dataclass; None for another class."""
    if not dataclasses.is_dataclass(cls):
        return None
    return tuple(f.name for f in dataclasses.fields(cls))


def key(op: Operation, *, digests: bool = False) -> tuple[Any, ...]:
    """A hashable value that is equal for two operations exactly if they are the same, bit for bit.

    NaN equals itself, -0.0 differs from 0.0, and 1 from True and from 1.0. With ``digests`` the key
    is stable between processes: literals are represented by hashes of their bytes.
    """
    return (op.name, *((name, exact(value, digests)) for name, value in attributes(op).items()))


def exact(value: object, digests: bool = False) -> Any:
    """A value that is equal for two attributes exactly if they are the same; see ``key``."""
    if isinstance(value, float):
        return "float", struct.pack("<d", value)
    if isinstance(value, (tuple, list)):
        return tuple(exact(v, digests) for v in value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if digests and isinstance(value, Argument):
        return value.shape.text, value.digest()
    return type(value).__name__, value


def symbols(op: Operation) -> Iterator[Symbol]:
    """The symbols in an operation's attributes, with repetition."""
    return _symbols(attributes(op).values())


def _symbols(values: Iterable[object]) -> Iterator[Symbol]:
    for value in values:
        if isinstance(value, Dim):
            yield from dim.symbols(value)
        elif isinstance(value, Shape):
            yield from value.symbols()
        elif isinstance(value, tuple):
            yield from _symbols(value)


def bind(op: Operation, sizes: Mapping[str, int]) -> Operation:
    """The operation with the symbols in its attributes bound; itself if there are none."""
    return binding(op)(sizes)


def binding(op: Operation) -> Callable[[Mapping[str, int]], Operation]:
    """A function that binds the operation, for repeated use."""
    symbolic = _symbolic(op)
    return lambda sizes: _mapped(op, symbolic, lambda extent: dim.evaluate(extent, sizes))


def substitute(op: Operation, extents: Mapping[str, Extent]) -> Operation:
    """The operation with symbols in its attributes replaced by extents; itself if it has none of
    those symbols.
    """
    if not any(symbol.name in extents for symbol in symbols(op)):
        return op
    return _mapped(op, _symbolic(op), lambda extent: dim.substitute(extent, extents))


def _symbolic(op: Operation) -> dict[str, Any]:
    """The attributes that contain symbols."""
    return {n: v for n, v in attributes(op).items() if any(True for _ in _symbols([v]))}


def _mapped(
    op: Operation, symbolic: Mapping[str, Any], change: Callable[[Extent], Extent]
) -> Operation:
    """The operation with ``change`` applied to the extents in its symbolic attributes."""
    changed = {name: _changed(value, change) for name, value in symbolic.items()}
    return with_attributes(op, **changed) if changed else op


def _changed(value: Any, change: Callable[[Extent], Extent]) -> Any:
    if isinstance(value, Dim):
        return change(value)
    if isinstance(value, Shape):
        return value.mapped(change)
    return tuple(_changed(v, change) for v in value) if isinstance(value, tuple) else value


def with_attributes(op: Operation, **changed: Any) -> Operation:
    """The operation with some attributes replaced."""
    if dataclasses.is_dataclass(op):
        made: Operation = dataclasses.replace(op, **changed)
        return made
    made = copy.copy(op)
    vars(made).update(changed)
    return made


def can_evaluate(op: Operation) -> bool:
    """Whether an operation has a meaning of its own, rather than only being lowered."""
    return hasattr(op, "compute")


def result_of(
    op: Operation,
    shape: Shape,
    arguments: Arguments,
    context: Any = None,
    modules: Runnables = (),
) -> Argument:
    """The result of an operation, of a shape whose dims are bound, by its meaning."""
    kind: type = type(op)
    return evaluator(kind)(op, context, shape, arguments, modules)


def asked_by_name(compute: Callable[..., Any]) -> tuple[str, ...] | None:
    """Which of ``FULL_FORM`` a meaning asks for; None if it takes arrays. ``EvaluationError`` if it
    asks for ``arguments`` and for something unknown.
    """
    asked = list(inspect.signature(compute).parameters.values())[1:]
    names = tuple(each.name for each in asked if each.kind is not each.VAR_POSITIONAL)
    if "arguments" not in names:
        return None
    if other := [name for name in names if name not in FULL_FORM]:
        raise EvaluationError(
            f"{compute.__qualname__} asks for arguments and {', '.join(other)}: it may ask for "
            f"{', '.join(FULL_FORM)} by name, or take an array for each input, named otherwise"
        )
    return names


@cache
def evaluator(cls: type) -> Evaluate:
    """The meaning of a class of operations in the full form. Its arguments are read-only."""
    if not hasattr(cls, "compute"):
        raise EvaluationError(
            f"{cls.__name__} has no meaning of its own, compute: it only exists to be lowered"
        )
    compute, asked = cls.compute, asked_by_name(cls.compute)
    wanted = [(name, FULL_FORM.index(name)) for name in asked or ()]

    def full(
        op: Any, context: Any, shape: Shape, arguments: Arguments, modules: Runnables
    ) -> Argument:
        held = context, shape, [a.read_only() for a in arguments], modules
        made = compute(op, **{name: held[i] for name, i in wanted})
        if not isinstance(made, Argument):
            raise TypeError(
                f"compute must return an Argument of {shape.text}, not {type(made).__name__}"
            )
        return made

    def adapted(
        op: Any, context: Any, shape: Shape, arguments: Arguments, modules: Runnables
    ) -> Argument:
        made = compute(op, *[read_only(a.array) for a in arguments])
        if not isinstance(made, np.ndarray | np.generic):
            raise TypeError(
                f"compute must return an array of {shape.text}, not {type(made).__name__}"
            )
        return Argument(shape, made)

    return adapted if asked is None else full


__all__ = [
    "Arguments",
    "Array",
    "DType",
    "Modules",
    "Op",
    "Operation",
    "Runnable",
    "Runnables",
    "Shape",
    "Shapes",
    "Traits",
]
