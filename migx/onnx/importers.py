"""The importers: functions that lower ONNX operators, found by domain, operator and version."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from migx.onnx.marks import mark, marked

if TYPE_CHECKING:
    from migx.ir import Instruction
    from migx.onnx.node import Node

Importer: TypeAlias = Callable[["Node"], "Instruction | tuple[Instruction, ...]"]
Key: TypeAlias = tuple[str, str]
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
def table() -> dict[Key, list[tuple[int, Importer]]]:
    """Every importer by (domain, operator), the newest version first."""
    found: dict[Key, list[tuple[int, Importer]]] = {}
    for (domain, name, since), function in marked("onnx").items():
        found.setdefault((domain, name), []).append((since, function))
    return {key: sorted(versions, reverse=True) for key, versions in found.items()}


def newest() -> dict[str, int]:
    """The newest version of each domain that has an importer."""
    found: dict[str, int] = {}
    for (domain, _), entries in table().items():
        found[domain] = max(found.get(domain, 1), entries[0][0])
    return found


def find(domain: str, name: str, version: int) -> Importer | None:
    """The importer for an operator at a version of its domain's opset; None if there is none."""
    for since, function in table().get((domain, name), ()):
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
