"""Modules: functions, and the constants and declarations they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from migx.targets.cpu.emit.function import Function
from migx.targets.cpu.emit.types import VOID, Type, literal


@dataclass
class Module:
    """Functions, constants and declarations; ``text`` is the whole as LLVM reads it. ``features``
    are those of the CPU it is for, by LLVM's names.
    """

    features: frozenset[str] = frozenset()
    functions: list[Function] = field(default_factory=list)
    lines: dict[str, None] = field(default_factory=dict)

    def function(
        self,
        name: str,
        parameters: Sequence[tuple[str, Type]],
        result: Type = VOID,
    ) -> Function:
        """A new function."""
        made = Function(self, name, parameters, result)
        self.functions.append(made)
        return made

    def declare(self, line: str) -> None:
        """Adds a declaration, once."""
        self.lines[line] = None

    def constant(self, type_: Type, numbers: Sequence[float]) -> str:
        """The name of a table of constants, which is made once and aligned to 64 bytes."""
        content = ", ".join(f"{type_} {literal(type_, n)}" for n in numbers)
        start = f"= private unnamed_addr constant [{len(numbers)} x {type_}] [{content}], align 64"
        for line in self.lines:
            if line.endswith(start):
                return line.split(" ", 1)[0]
        name = f"@table{len(self.lines)}"
        self.declare(f"{name} {start}")
        return name

    @property
    def text(self) -> str:
        """The module as text."""
        return "\n".join([*self.lines, *(f.text for f in self.functions)]) + "\n"
