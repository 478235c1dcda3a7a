"""The types of dataclass fields, of the attributes of operations and the options of passes, by
annotation.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from migx.argument import Argument
from migx.dim import Dim, Extent
from migx.errors import FieldError, ShapeError
from migx.shape import DType, Shape


class Kind(NamedTuple):
    """The types a field holds, the types converted to them, and the conversion."""

    held: frozenset[type]
    taken: tuple[type, ...]
    made: Callable[[Any], Any]


class Form(NamedTuple):
    """A value of a kind; or a tuple of such values, of any length if ``length`` is None."""

    kind: Kind
    plural: bool = False
    length: int | None = None


def _itself(value: Any) -> Any:
    return value


_KINDS = {
    "int": Kind(frozenset({int}), (int, np.integer), int),
    "float": Kind(frozenset({float}), (float, int, np.floating, np.integer), float),
    "bool": Kind(frozenset({bool}), (bool, np.bool_), bool),
    "str": Kind(frozenset({str}), (str,), str.__str__),
    "Extent": Kind(
        frozenset({int, Dim}), (int, np.integer, Dim), lambda x: x if isinstance(x, Dim) else int(x)
    ),
    "Shape": Kind(frozenset({Shape}), (Shape,), _itself),
    "DType": Kind(frozenset({DType}), (DType, str, np.dtype, type), DType.of),
    "Argument": Kind(frozenset({Argument}), (Argument,), _itself),
}


@cache
def form(kind: str) -> Form | None:
    """The form for an annotation, such as ``tuple[int, ...]``; None for one not known here, which
    allows any value.
    """
    plain = text_of(kind)
    if (several := re.fullmatch(r"tuple\[(\w+), (?:(\.\.\.)|\1(?:, \1)*)\]", plain)) is None:
        return Form(_KINDS[plain]) if plain in _KINDS else None
    if several[1] not in _KINDS:
        return None
    return Form(_KINDS[several[1]], True, None if several[2] else plain.count(",") + 1)


def brought(whose: str, name: str, kind: str, value: Any) -> Any:
    """A value converted to a field's declared form: lists to tuples, numpy's numbers to Python's,
    integers to floats if those are declared. ``FieldError`` if it is of another kind; a bool is not
    a number.
    """
    wanted = form(kind)
    if wanted is None:
        return value
    if not wanted.plural:
        return _made(whose, name, kind, wanted.kind, value)
    if not isinstance(value, (tuple, list, range, np.ndarray)):
        raise FieldError(f"{whose}: {name} is {kind}, not {value!r}")
    made = tuple(_made(whose, name, kind, wanted.kind, each) for each in value)
    if wanted.length not in (None, len(made)):
        raise FieldError(f"{whose}: {name} is {kind}, not {value!r}")
    return made


def _made(whose: str, name: str, kind: str, wanted: Kind, value: Any) -> Any:
    if type(value) in wanted.held:
        return value
    fits = isinstance(value, wanted.taken) and (bool in wanted.held or not isinstance(value, bool))
    if not fits:
        raise FieldError(f"{whose}: {name} is {kind}, not {value!r}")
    try:
        return wanted.made(value)
    except ShapeError as error:
        raise ShapeError(f"{whose}: {name}: {error}") from error


def declared(cls: type) -> dict[str, str]:
    """The annotations of a class and its bases, by name, as text."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        for name, kind in inspect.get_annotations(each).items():
            found[name] = text_of(kind)
    return found


def text_of(kind: Any) -> str:
    """The text of an annotation, given as text or as a type, without the modules of its names."""
    said = kind.__name__ if type(kind) is type else str(kind)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", said.replace(str(Extent), "Extent"))


def expect_values(cls: type) -> None:
    """``FieldError`` if a class of operations or passes has a field of a mutable type: it could
    neither be compared nor printed.
    """
    for name, kind in inspect.get_annotations(cls).items():
        said = text_of(kind)
        if re.match(
            r"(dict|Dict|Mapping|list|List|set|Set|bytearray|ndarray|NDArray|Array)\b", said
        ):
            raise FieldError(
                f"{cls.__name__}.{name} is declared as {said}: a field is a number, a str, a "
                "DType, a Shape, an Extent, an Argument, or a tuple of these"
            )


class Frozen:
    """A base of frozen dataclasses whose subclasses become such by themselves, so that one which
    says ``@dataclass(frozen=True)`` as well is the same.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(
            f"cannot assign to field {name!r} of {type(self).__name__}: what it is made of are "
            "annotated fields, which do not change; a pass or target with state has its own "
            "__init__"
        )

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


def thaw(cls: type) -> bool:
    """Lets a class with an ``__init__`` of its own assign to its attributes; whether it has one."""
    if "__init__" not in vars(cls):
        return False
    cls.__setattr__ = object.__setattr__  # type: ignore[assignment]
    return True


def required(cls: Any) -> list[str]:
    """The fields of a dataclass without defaults."""
    plain = [f for f in fields(cls) if f.default is MISSING]
    return [f.name for f in plain if f.default_factory is MISSING]


def bring_when_made(cls: type, what: str = "") -> None:
    """Makes a future dataclass convert its fields to their declared forms, before its own
    ``__post_init__``. Errors name it by ``what`` and its name.

    A value already in its form costs only a look at its type.
    """
    kinds = {name: kind for name, kind in declared(cls).items() if not _made_late(cls, name)}
    forms = {name: found for name, kind in kinds.items() if (found := form(kind)) is not None}
    single = [(name, found.kind.held) for name, found in forms.items() if not found.plural]
    several = [
        (name, found.kind.held, found.length) for name, found in forms.items() if found.plural
    ]
    after = getattr(cls, "__post_init__", None)
    after = getattr(after, "after", after)

    def bring(self: Any, name: str) -> None:
        value = brought(f"{what}{self.name}", name, kinds[name], getattr(self, name))
        object.__setattr__(self, name, value)

    def post_init(self: Any) -> None:
        given = self.__dict__
        for name, held in single:
            if type(given[name]) not in held:
                bring(self, name)
        for name, held, length in several:
            value = given[name]
            if type(value) is tuple and (length is None or len(value) == length):
                for each in value:
                    if type(each) not in held:
                        break
                else:
                    continue
            bring(self, name)
        if after is not None:
            after(self)

    if forms:
        post_init.after = after  # type: ignore[attr-defined]
        cls.__post_init__ = post_init  # type: ignore[attr-defined]


def _made_late(cls: type, name: str) -> bool:
    """Whether a field is not a parameter of the constructor."""
    default = getattr(cls, name, None)
    return isinstance(default, Field) and not default.init
