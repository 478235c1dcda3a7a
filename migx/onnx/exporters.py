"""Which function writes which operation as ONNX nodes: dispatch by the operation's name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from migx.onnx.marks import mark, marked

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

    def marking(function: Exporter) -> Exporter:
        mark(function, [(name,) for name in operations])
        return function

    return marking


@cache
def table() -> dict[str, Exporter]:
    """Every exporter by the name of its operation."""
    return {name: function for (name,), function in marked("onnx_writing").items()}


def find(name: str) -> Exporter | None:
    """The exporter of an operation; None where there is none."""
    return table().get(name)
