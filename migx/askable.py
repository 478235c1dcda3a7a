"""Checks, when a pattern is made, that what it asks of an operation exists: otherwise it would
never match, and nobody would know.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

from migx import plugins
from migx.errors import UnknownName, there_are
from migx.fields import brought, declared
from migx.op import Op, Traits, asked_by_name


def classes(given: Iterable[Any]) -> list[type[Op]]:
    """The operation classes given, as such or by name."""
    found = list(given)
    if not found:
        raise TypeError("a pattern needs an operation; having(...) matches any")
    return [_named(each) if isinstance(each, str) else _class(each) for each in found]


def _class(given: Any) -> type[Op]:
    if isinstance(given, type) and isinstance(getattr(given, "name", None), str):
        return given
    raise TypeError(
        f"a pattern takes a class of operations or its name, not {given!r}; attributes are "
        "keywords, as in on(ops.Softmax, axis=1)"
    )


def _named(name: str) -> type[Op]:
    """The class of an operation's name: those imported so far are tried before all others."""
    for cls in _derived(Op):
        if cls.__dict__.get("name") == name:
            return cls
    found: type[Op] = plugins.operation(name)
    return found


def _derived(cls: type[Op]) -> Iterator[type[Op]]:
    for each in cls.__subclasses__():
        yield each
        yield from _derived(each)


def trait(name: str) -> str:
    """The name of a trait; ``UnknownName`` if it does not exist."""
    known = [field.name for field in dataclasses.fields(Traits)]
    if name not in known:
        raise UnknownName(f"no trait named {name!r}; {there_are(name, known)}")
    return name


def name_and_test(name: Any, test: Any = None) -> None:
    """``TypeError`` unless the name is a string and the test is a function."""
    if not isinstance(name, str):
        raise TypeError(f"a pattern catches by a name, a string, not {name!r}")
    if name == "at":
        raise TypeError("the name 'at' is reserved for the cursor of a rule")
    if test is not None and not callable(test):
        raise TypeError(f"the test of {name or 'a value'} must be a function of it, not {test!r}")


def apart(name: str, read: Collection[Any], all_of_it: Collection[Any]) -> None:
    """``TypeError`` if an instruction has the name of something it reads, or of an attribute:
    catches of one name must be equal, and these never are. ``read`` has the (name, kind) pairs that
    its inputs catch, ``all_of_it`` those that the whole pattern catches.
    """
    if (name, "instruction") in read:
        raise TypeError(f"{name} names an instruction and something it reads, which never matches")
    for each, of in all_of_it:
        if of == "attribute" and (each, "instruction") in all_of_it:
            raise TypeError(f"{each} names an attribute and an instruction, which never matches")


def attribute(of: Sequence[type[Op]], name: str) -> Callable[[Any], Any]:
    """The conversion to the type that the first of some classes with this attribute declares for
    it; ``UnknownName`` if none has it.
    """
    for cls in of:
        kinds = _kinds(cls)
        if kinds is not None and name in kinds:
            return partial(brought, f"a pattern of {cls.name}", name, kinds[name])
        if kinds is None or hasattr(cls, name):
            return lambda value: value
    known = [name for cls in of for name in _kinds(cls) or ()]
    whose = " or ".join(cls.name for cls in of)
    raise UnknownName(f"{whose} has no attribute {name!r}; {there_are(name, known)}")


def _kinds(cls: type[Op]) -> dict[str, str] | None:
    """The attributes of a class and their types; None if only its instances know them."""
    if not dataclasses.is_dataclass(cls):
        return None
    kinds = declared(cls)
    return {field.name: kinds[field.name] for field in dataclasses.fields(cls)}


def inputs(of: Sequence[type[Op]], count: int) -> None:
    """``TypeError`` if none of some classes takes this number of inputs."""
    known = [_taken(getattr(cls, "compute", None)) for cls in of]
    if any(few <= count and (many is None or count <= many) for few, many in known):
        return
    said = " or ".join(f"{cls.name} takes {_said(*n)}" for cls, n in zip(of, known, strict=True))
    raise TypeError(f"{said}; a pattern of {count} never matches")


def _said(few: int, many: int | None) -> str:
    if few == many:
        return f"{few} input{'s' * (few != 1)}"
    return f"{few} to {many} inputs" if many is not None else f"{few} inputs or more"


@cache
def _taken(compute: Callable[..., Any] | None) -> tuple[int, int | None]:
    """The fewest and the most inputs that an operation's meaning takes; any number if it has no
    meaning or does not name them.
    """
    if compute is None or asked_by_name(compute) is not None:
        return 0, None
    names = list(inspect.signature(compute).parameters.values())[1:]
    open_ended = any(each.kind is each.VAR_POSITIONAL for each in names)
    few = sum(each.default is each.empty and each.kind is not each.VAR_POSITIONAL for each in names)
    return few, None if open_ended else len(names)
