"""Everything found by name: passes, operations, targets, ONNX importers and exporters. The only
place that reads entry points.

An entry point (group ``migx.passes``, ``migx.ops``, ``migx.targets``, ``migx.onnx`` or
``migx.onnx_writing``) names a package; the files of the package are what it offers, listed without
importing them. migx's own packages are always searched.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
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


class NameClash(MigxError):
    """Two packages offer the same name."""


def packages(kind: str) -> list[str]:
    """The packages that offer this kind of thing, ours first."""
    found = {OWN[kind]: None}
    found.update(
        {
            point.value: None
            for point in sorted(entry_points(group=f"migx.{kind}"), key=lambda p: p.value)
        }
    )
    return list(found)


def files(package: str) -> list[str]:
    """The public files and folders of a package, none of them imported."""
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
def _table(kind: str) -> dict[str, str]:
    """The module of each name, for kinds in which a file is one thing."""
    table: dict[str, str] = {}
    for package in packages(kind):
        for name in files(package):
            if name in table:
                raise NameClash(
                    f"both {table[name]} and {package}.{name} are {kind} named {name!r}"
                )
            table[name] = f"{package}.{name}"
    return table


def names(kind: str) -> list[str]:
    """The names of all passes or targets there are."""
    return sorted(_table(kind))


def load(kind: str, name: str) -> Any:
    """The class of the pass or target of this name; ``UnknownName`` lists those like it.

    ``gpu::lower`` is a pass of the target ``gpu``, in its own file ``passes``.
    """
    if (own := _of_target(kind, name)) is not None:
        return own
    table = _table(kind)
    if name not in table:
        what = "pass" if kind == "passes" else kind.removesuffix("s")
        raise UnknownName(f"no {what} named {name!r}; {there_are(name, sorted(table))}")
    for cls in _classes(importlib.import_module(table[name])):
        if snake_case(cls.__name__) == name:
            return cls
    wanted = "".join(part.title() for part in name.split("_"))
    raise UnknownName(
        f"{table[name]} holds no class {wanted}; a file that holds none has a name that begins "
        "with '_'"
    )


@cache
def operations() -> dict[str, type[Any]]:
    """The class of every operation, by name."""
    table: dict[str, type[Any]] = {}
    for module in modules("ops"):
        for cls in _classes(module):
            name = cls.__dict__.get("name")
            if not isinstance(name, str):
                continue
            if (other := table.setdefault(name, cls)) is not cls:
                raise NameClash(
                    f"both {other.__module__} and {cls.__module__} hold an operation named {name!r}"
                )
    return table


def operation(name: str) -> type[Any]:
    """The class of the operation of this name; ``UnknownName`` lists the nearest.

    ``gpu::allocate`` is an operation of the target ``gpu``, in its own file ``operations``.
    """
    table = operations()
    if name not in table and (own := _of_target("operations", name)) is not None:
        return own
    if name not in table:
        raise UnknownName(f"no operation named {name!r}; {there_are(name, sorted(table))}")
    return table[name]


def _of_target(kind: str, name: str) -> type[Any] | None:
    """What a target has for itself under a name, ``target::name``; None where there is no such."""
    target, mark, _ = name.partition("::")
    if not mark or target not in _table("targets"):
        return None
    own = importlib.import_module(_table("targets")[target])
    if not hasattr(own, "__path__") or kind not in files(own.__name__):
        return None
    classes = _classes(importlib.import_module(f"{own.__name__}.{kind}"))
    return next((cls for cls in classes if cls.__dict__.get("name") == name), None)


def modules(kind: str) -> Iterator[ModuleType]:
    """Every file of every package of a kind, imported."""
    for package in packages(kind):
        for name in files(package):
            yield importlib.import_module(f"{package}.{name}")


def _classes(module: ModuleType) -> Iterator[type[Any]]:
    """The classes a module defines itself."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield value
