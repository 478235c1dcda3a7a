"""Which function writes which operation as ONNX nodes: dispatch by the operation's name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from migx import plugins
from migx.plugins import NameClash

if TYPE_CHECKING:
    from migx.onnx.site import Site, Value

Written: TypeAlias = "Value | str | tuple[Value | str, ...]"
"""What stands for an instruction in the file: the name of a value, or a ``Value`` where its type or
dims are not the instruction's; a tuple of these for a tuple.
"""
Exporter: TypeAlias = Callable[["Site"], Written]


def exporter(*operations: str) -> Callable[[Exporter], Exporter]:
    """Marks a function as the one that writes some operations.

    It is given the ``Site`` of an instruction, adds nodes there, and returns what stands for it.
    """

    def marked(function: Exporter) -> Exporter:
        function.__dict__.setdefault("exports", []).extend(operations)
        return function

    return marked


@cache
def table() -> dict[str, Exporter]:
    """Every exporter by the name of its operation."""
    found: dict[str, Exporter] = {}
    for module in plugins.modules("onnx_writing"):
        for function in vars(module).values():
            if getattr(function, "__module__", None) != module.__name__:
                continue
            for name in getattr(function, "exports", ()):
                if (other := found.setdefault(name, function)) is not function:
                    raise NameClash(f"{name} is in {other.__module__} and {module.__name__}")
    return found


def find(name: str) -> Exporter | None:
    """The exporter of an operation; None where there is none."""
    return table().get(name)
