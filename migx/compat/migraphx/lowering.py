"""Lowers a MIGraphX operation with its attributes to migx instructions."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from migx import plugins
from migx.compat.migraphx.by_values import FORMS
from migx.compat.migraphx.forms import (
    ABSENT,
    ALIKE,
    DEFAULTS,
    OURS,
    RENAMED,
    Site,
    axes_of,
    axis_of,
)
from migx.compat.migraphx.shapes import DTYPES, type_t
from migx.errors import CompatError, MigxError, ShapeError, UnknownName, there_are
from migx.fields import brought, text_of
from migx.ir import Instruction
from migx.shape import DType

Given: TypeAlias = Mapping[str, Any]
REQUIRED = object()
"""Stands for a missing default."""


@cache
def names() -> frozenset[str]:
    """The operations that can be added."""
    return ALIKE | FORMS.keys()


def attributes(name: str) -> Given:
    """The attributes of an operation with their defaults. ``CompatError`` if migx does not have it,
    ``UnknownName`` if MIGraphX does not either.
    """
    if name in ABSENT:
        raise CompatError(f"operation {name} cannot be added by hand: {ABSENT[name]}")
    if name not in names():
        raise UnknownName(f"no operation is named {name!r}; {there_are(name, sorted(names()))}")
    if name in FORMS:
        taken = inspect.signature(FORMS[name].lower).parameters.values()
        keywords = [p for p in taken if p.kind is p.KEYWORD_ONLY]
        defaults = {p.name: REQUIRED if p.default is p.empty else p.default for p in keywords}
        return {**defaults, **FORMS[name].flags}
    told = {new: old for old, new in RENAMED.get(name, {}).items()}
    fields = dataclasses.fields(plugins.operation(name))
    theirs = [f for f in fields if f.name not in OURS.get(name, ())]
    return {told.get(f.name, f.name): _default(name, f) for f in theirs}


def _default(name: str, field: dataclasses.Field[Any]) -> Any:
    told = DEFAULTS.get(name, {}).get(field.name, field.default)
    return REQUIRED if told is dataclasses.MISSING else told


def lowered(at: Site, given: Given, inputs: Sequence[Instruction]) -> Instruction:
    """The result of an operation at a site, with the given attributes."""
    known = attributes(at.name)
    held = {key: given.get(key, default) for key, default in known.items()}
    if missing := [key for key, value in held.items() if value is REQUIRED]:
        raise ShapeError(f"{at.name} requires {', '.join(missing)}")
    make = _formed if at.name in FORMS else _plain
    try:
        return make(at, held, inputs)
    except MigxError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        shapes = ", ".join(value.shape.text for value in inputs) or "none"
        message = f"{at.name}: its inputs ({shapes}) or attributes do not fit it: {error}"
        raise ShapeError(message) from error


def _formed(at: Site, held: Given, inputs: Sequence[Instruction]) -> Instruction:
    """The result of an operation by its form."""
    form = FORMS[at.name]
    taken = inspect.signature(form.lower).parameters
    kinds = {key: "bool" if key in form.flags else str(taken[key].annotation) for key in held}
    kinds = {key: {"Ints": "tuple[int, ...]"}.get(kind, kind) for key, kind in kinds.items()}
    return form.lower(at, *inputs, **{k: _fitting(at, k, kinds[k], v) for k, v in held.items()})


def _plain(at: Site, held: Given, inputs: Sequence[Instruction]) -> Instruction:
    """An operation that is also migx's, except for names of attributes and negative axes."""
    told, cls = RENAMED.get(at.name, {}), plugins.operation(at.name)
    kinds = {f.name: text_of(f.type) for f in dataclasses.fields(cls)}
    rank = inputs[0].shape.rank if inputs else 0
    made = {}
    for key, value in held.items():
        field = told.get(key, key)
        value = _fitting(at, key, kinds[field], value)
        if field == "axis":
            value = axis_of(value, rank)
        elif field == "axes":
            value = axes_of(value, rank) or tuple(range(rank))
        made[field] = value
    return at(cls(**made), *inputs, modules=at.modules)


def _fitting(at: Site, key: str, kind: str, value: Any) -> Any:
    """A value converted to the type of an attribute; ``FieldError`` if it is of another type."""
    if kind == "DType" and not isinstance(value, DType):
        value = DTYPES[type_t(value)]
    elif kind == "bool" and value in (0, 1):
        value = bool(value)
    elif kind == "int" or kind.startswith("tuple[int,"):
        value = tuple(map(_whole, value)) if isinstance(value, tuple) else _whole(value)
    return brought(at.name, key, kind, value)


def _whole(value: Any) -> Any:
    """An integral float as an integer: arrays of sizes may be floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
