"""The importers: functions that lower ONNX operators, found by domain, operator and version."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, TypeAlias

from migx.errors import OnnxError
from migx.onnx.marks import Entry, mark, marked, marks_of

if TYPE_CHECKING:
    from migx.ir import Instruction
    from migx.onnx.node import Node

Importer: TypeAlias = Callable[["Node"], "Instruction | tuple[Instruction, ...]"]
Key: TypeAlias = tuple[str, str]
Table: TypeAlias = dict[Key, list[tuple[int, Importer]]]
OF_ONE_MACHINE = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
"""onnxruntime's domains whose operators use layouts for one processor."""


def importer(*operators: str, since: int = 1, domain: str = "") -> Callable[[Importer], Importer]:
    """Marks a function as the importer of some ONNX operators from the version ``since`` on.

    It is given the ``Node`` and returns the value, or tuple of values, of the node's outputs.
    """

    def marking(function: Importer) -> Importer:
        mark(function, [(domain, name, since) for name in operators])
        return function

    return marking


@cache
def table() -> Table:
    """Every importer that is found by (domain, operator), the newest version first."""
    return _by_operator(marked("onnx").items())


def table_of(functions: Iterable[Importer]) -> Table:
    """The table of some importers alone; ``OnnxError`` for a function that is not marked as one."""
    found: list[tuple[Entry, Importer]] = []
    for function in functions:
        entries = marks_of(function)
        if not entries:
            raise OnnxError(f"{function!r} is no importer: it needs the decorator @importer(NAME)")
        found += [(entry, function) for entry in entries]
    return _by_operator(found)


def _by_operator(entries: Iterable[tuple[Entry, Importer]]) -> Table:
    found: dict[Key, list[tuple[int, Importer]]] = {}
    for (domain, name, since), function in entries:
        found.setdefault((domain, name), []).append((since, function))
    newest_first = partial(sorted, key=lambda version: version[0], reverse=True)
    return {key: newest_first(versions) for key, versions in found.items()}


def newest() -> dict[str, int]:
    """The newest version of each domain that has an importer."""
    found: dict[str, int] = {}
    for (domain, _), entries in table().items():
        found[domain] = max(found.get(domain, 1), entries[0][0])
    return found


def find(domain: str, name: str, version: int, among: Table | None = None) -> Importer | None:
    """The importer for an operator at a version of its domain's opset, by default of all that are
    found; None if there is none.
    """
    for since, function in (table() if among is None else among).get((domain, name), ()):
        if since <= version:
            return function
    return None


def advice(domains: Iterable[str]) -> list[str]:
    """What to do about operators of domains that are private to a program."""
    return [
        f"{domain} is what onnxruntime makes of a model for one processor: save the model with"
        " graph_optimization_level ORT_ENABLE_EXTENDED at most, or give the one it was made from"
        for domain in OF_ONE_MACHINE
        if domain in domains
    ]
