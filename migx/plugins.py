"""Lookup by name: passes, operations, targets, ONNX importers and exporters. The only place that
reads entry points.

An entry point (group ``migx.passes``, ``migx.ops``, ``migx.targets``, ``migx.onnx`` or
``migx.onnx_writing``) names a package; its files are what it offers, listed without importing them.
migx's own packages are always searched.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from migx.errors import MigxError, UnknownName, there_are
from migx.op import snake_case

OWN = {
    "passes": "migx.passes",
    "ops": "migx.ops",
    "targets": "migx.targets",
    "onnx": "migx.onnx.ops",
    "onnx_writing": "migx.onnx.writing",
}
BASES = {"passes": ("migx.manager", "Pass"), "targets": ("migx.target", "Target")}


class NameClash(MigxError):
    """Two packages offer the same name."""


class BrokenPlugin(MigxError):
    """A file of an installed package cannot be imported, or holds a class that cannot be used."""


def packages(kind: str) -> list[str]:
    """The packages that offer this kind of thing, migx's own first."""
    others = sorted(point.value for point in entry_points(group=f"migx.{kind}"))
    return list(dict.fromkeys([OWN[kind], *others]))


def files(package: str) -> list[str]:
    """The public files and folders of a package, without importing them."""
    try:
        spec = importlib.util.find_spec(package)
    except ImportError as error:
        raise UnknownName(f"an entry point names the package {package!r}: {error}") from error
    if spec is None or spec.submodule_search_locations is None:
        raise UnknownName(f"an entry point names the package {package!r}, which is not installed")
    found = {
        path.stem
        for folder in spec.submodule_search_locations
        for path in Path(folder).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    return sorted(name for name in found if not name.startswith("_"))


@cache
def _listed(kind: str) -> tuple[list[str], list[str]]:
    """The files of all packages of a kind, and messages about packages that are missing."""
    found, wrong = list[str](), list[str]()
    for package in packages(kind):
        try:
            found += [f"{package}.{name}" for name in files(package)]
        except UnknownName as error:
            wrong.append(str(error))
    return found, wrong


@cache
def _table(kind: str) -> dict[str, list[str]]:
    """The modules for each name (there should be one), for kinds with one thing per file."""
    table: dict[str, list[str]] = {}
    for module in _listed(kind)[0]:
        table.setdefault(module.rpartition(".")[2], []).append(module)
    return table


def names(kind: str) -> list[str]:
    """The names of all passes or targets."""
    return sorted(_table(kind))


def everything(kind: str) -> tuple[dict[str, type[Any]], list[str]]:
    """The classes of all passes, targets or operations by name, and a message for each that cannot
    be loaded.
    """
    if kind == "ops":
        table, clashes, wrong = _operations()
        return table, [*wrong, *map(str, clashes.values())]
    found: dict[str, type[Any]] = {}
    wrong = list(_listed(kind)[1])
    for name in names(kind):
        try:
            found[name] = load(kind, name)
        except MigxError as error:
            wrong.append(str(error))
    return found, wrong


@contextmanager
def blamed(module: str, what: str) -> Iterator[None]:
    """Makes an exception from another package's module, or its exit, a ``BrokenPlugin``."""
    try:
        yield
    except MigxError:
        raise
    except (Exception, SystemExit) as error:
        if module.startswith("migx."):
            raise
        raise BrokenPlugin(f"{module} {what}: {type(error).__name__}: {error}") from error


def _import(module: str) -> ModuleType:
    with blamed(module, "cannot be imported"):
        return importlib.import_module(module)


def load(kind: str, name: str) -> Any:
    """The class of the pass or target with this name; ``UnknownName`` lists similar ones.

    ``gpu::lower`` is a pass of the target ``gpu``, in the target's file ``passes``.
    """
    if (own := _of_target(kind, name)) is not None:
        return own
    table = _table(kind)
    if name not in table:
        raise UnknownName(_missing(kind, name))
    module, *others = table[name]
    if others:
        raise NameClash(f"both {module} and {others[0]} are {kind} named {name!r}")
    held = {snake_case(cls.__name__): cls for cls in _classes(_import(module))}
    if name not in held:
        there = ", ".join(f"{cls.__name__}, whose name is {of!r}" for of, cls in held.items())
        raise UnknownName(
            f"{module} holds no class whose name is {name!r}, as its file's; it holds "
            f"{there or 'none'}; a file that holds none has a name that begins with '_'"
        )
    where, base = BASES[kind]
    if not issubclass(held[name], getattr(importlib.import_module(where), base)):
        raise BrokenPlugin(f"{module}.{held[name].__name__} does not derive from {where}.{base}")
    return held[name]


def operations() -> dict[str, type[Any]]:
    """The class of every operation, by name; if two have the same name, the first, migx's own."""
    return _operations()[0]


@cache
def _operations() -> tuple[dict[str, type[Any]], dict[str, NameClash], list[str]]:
    """The operations by name, names defined twice, and messages about omitted files."""
    table, clashes = dict[str, type[Any]](), dict[str, NameClash]()
    for module in modules("ops"):
        for cls in _classes(module):
            name = cls.__dict__.get("name")
            if not isinstance(name, str):
                continue
            if (other := table.setdefault(name, cls)) is not cls:
                clashes[name] = NameClash(
                    f"both {other.__module__} and {cls.__module__} hold an operation named {name!r}"
                )
    return table, clashes, wrong_with("ops")


def operation(name: str) -> type[Any]:
    """The class of the operation with this name; ``UnknownName`` lists similar ones.

    ``gpu::allocate`` is an operation of the target ``gpu``, in the target's file ``operations``.
    """
    table, clashes, wrong = _operations()
    if name in clashes:
        raise clashes[name]
    if name not in table and (own := _of_target("operations", name)) is not None:
        return own
    if name not in table:
        there = "; ".join([there_are(name, sorted(table)), *wrong])
        raise UnknownName(f"no operation named {name!r}; {there}")
    return table[name]


def _missing(kind: str, name: str) -> str:
    """The error message for an unknown name of a kind, also for ``target::name``."""
    what = "pass" if kind == "passes" else kind.removesuffix("s")
    target, mark, _ = name.partition("::")
    if not mark or kind == "targets":
        return f"no {what} named {name!r}; {there_are(name, sorted(_table(kind)))}"
    if target in _table("targets"):
        return f"no {what} named {name!r}; {there_are(name, own(kind, target))}"
    return f"no {what} named {name!r}: no target {target!r}; {there_are(target, _table('targets'))}"


def _of_target(kind: str, name: str) -> type[Any] | None:
    """A target's own pass or operation by the name ``target::name``; None if there is none."""
    target, mark, _ = name.partition("::")
    return own(kind, target).get(name) if mark and target in _table("targets") else None


def own(kind: str, target: str) -> dict[str, type[Any]]:
    """The classes in a target's own file ``passes`` or ``operations``, by name: ``gpu::lower``."""
    package = _import(_table("targets")[target][0])
    if not hasattr(package, "__path__") or kind not in files(package.__name__):
        return {}
    classes = _classes(_import(f"{package.__name__}.{kind}"))
    mark = f"{target}::"
    return {c.name: c for c in classes if str(c.__dict__.get("name")).startswith(mark)}


def modules(kind: str) -> list[ModuleType]:
    """Every file of every package of a kind, imported; other packages' files that fail are left
    out, see ``wrong_with``.
    """
    return _imported(kind)[0]


def wrong_with(kind: str) -> list[str]:
    """A message for each package or file of a kind that was left out."""
    return [*_listed(kind)[1], *_imported(kind)[1]]


@cache
def _imported(kind: str) -> tuple[list[ModuleType], list[str]]:
    found, wrong = list[ModuleType](), list[str]()
    for module in _listed(kind)[0]:
        try:
            found.append(_import(module))
        except MigxError as error:
            if module.startswith(f"{OWN[kind]}."):
                raise
            wrong.append(str(error))
    return found, wrong


def _classes(module: ModuleType) -> Iterator[type[Any]]:
    """The classes a module defines itself."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield value
