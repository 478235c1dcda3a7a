"""The exporters: functions that write operations as ONNX nodes, found by the operation's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from migx.errors import OnnxError
from migx.onnx.marks import mark, marked, marks_of

if TYPE_CHECKING:
    from migx.onnx.site import Site, Value

Written: TypeAlias = "Value | str | tuple[Value | str, ...]"
"""What represents an instruction in the file: the name of a value, or a ``Value`` if its type or
dims differ from the instruction's; a tuple of these for a tuple.
"""
Exporter: TypeAlias = Callable[["Site"], Written]


def exporter(*operations: str) -> Callable[[Exporter], Exporter]:
    """Marks a function as the exporter of some operations.

    It is given the ``Site`` of an instruction, adds nodes there, and returns what represents it.
    """

    def marking(function: Exporter) -> Exporter:
        mark(function, [(name,) for name in operations])
        return function

    return marking


@cache
def table() -> dict[str, Exporter]:
    """Every exporter, by the name of its operation."""
    return {name: function for (name,), function in marked("onnx_writing").items()}


def table_with(functions: Iterable[Exporter]) -> dict[str, Exporter]:
    """Every exporter, and before these some that are given; ``OnnxError`` for a function that is
    not marked as one.
    """
    given: dict[str, Exporter] = {}
    for function in functions:
        names = [name for (name,) in marks_of(function)]
        if not names:
            raise OnnxError(f"{function!r} is no exporter: it needs the decorator @exporter(NAME)")
        given |= dict.fromkeys(names, function)
    return table() | given
