"""Which function lowers which ONNX operator: dispatch by domain, operator and version."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from migx import plugins
from migx.plugins import NameClash

if TYPE_CHECKING:
    from migx.ir import Instruction
    from migx.onnx.node import Node

Importer: TypeAlias = Callable[["Node"], "Instruction | tuple[Instruction, ...]"]
Key: TypeAlias = tuple[str, str]


def importer(*operators: str, since: int = 1, domain: str = "") -> Callable[[Importer], Importer]:
    """Marks a function as the importer of some ONNX operators from the version ``since`` on.

    It is given the ``Node`` and returns the value, or a tuple of values, that the node's outputs
    stand for.
    """

    def marked(function: Importer) -> Importer:
        entries = [(domain, name, since) for name in operators]
        function.__dict__.setdefault("imports", []).extend(entries)
        return function

    return marked


@cache
def table() -> dict[Key, list[tuple[int, Importer]]]:
    """Every importer by (domain, operator), the newest version first."""
    found: dict[Key, dict[int, Importer]] = {}
    for module in plugins.modules("onnx"):
        for function in vars(module).values():
            if not callable(function) or function.__module__ != module.__name__:
                continue
            for domain, name, since in getattr(function, "imports", ()):
                versions = found.setdefault((domain, name), {})
                if (other := versions.setdefault(since, function)) is not function:
                    raise NameClash(
                        f"{domain} {name} {since} is in {other.__module__} and {module.__name__}"
                    )
    return {key: sorted(versions.items(), reverse=True) for key, versions in found.items()}


def newest() -> dict[str, int]:
    """The newest version of each domain that some importer is for."""
    found: dict[str, int] = {}
    for (domain, _), entries in table().items():
        found[domain] = max(found.get(domain, 1), entries[0][0])
    return found


def find(domain: str, name: str, version: int) -> Importer | None:
    """The importer for an operator at a version of its domain's opset; None where there is none."""
    for since, function in table().get((domain, name), ()):
        if since <= version:
            return function
    return None
