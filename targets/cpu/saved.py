"""What a compiled program keeps in a file, so that loading it compiles nothing: its kernels and
their objects, which are good for one kind of CPU and one version of LLVM.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from migx.dim import Dim, Extent, Symbol
from migx.ir import Instruction
from migx.program import Program
from migx.syntax import Reader
from migx.targets.cpu import jit
from migx.targets.cpu.alike import digest
from migx.targets.cpu.kernel import Kernel

ABOUT, KERNELS, OBJECTS = "about", "kernels", "objects/"
EXTENTS = ("tiles", "words", "scratch", "flops")
Saved = Mapping[str, bytes]


def is_usable(saved: Saved) -> bool:
    """Whether what has been saved runs here, and is whole."""
    if saved.get(ABOUT) != jit.about().encode() or KERNELS not in saved:
        return False
    rows = json.loads(saved[KERNELS]).values()
    return all(row is None or OBJECTS + row["symbol"] in saved for row in rows)


def objects_of(saved: Saved) -> dict[str, bytes]:
    """The objects by their symbols."""
    named = {name: content for name, content in saved.items() if name.startswith(OBJECTS)}
    return {name.removeprefix(OBJECTS): content for name, content in named.items()}


def saved_as(
    kernels: Mapping[Instruction, Kernel | None], objects: Mapping[str, bytes]
) -> dict[str, bytes]:
    """What to keep: which kernel instructions have, None for those that have none."""
    rows: dict[str, Any] = {}
    for at, kernel in kernels.items():
        if (name := digest(at)) is not None and name not in rows:
            rows[name] = None if kernel is None else row_of(kernel)
    return {
        ABOUT: jit.about().encode(),
        KERNELS: json.dumps(rows).encode(),
        **{OBJECTS + name: content for name, content in objects.items()},
    }


class Kernels:
    """The kernels that have been saved for a program."""

    def __init__(self, saved: Saved, program: Program) -> None:
        self._rows: dict[str, Any] = json.loads(saved[KERNELS])
        self._symbols = program.symbols()
        self._made: dict[str, Kernel | None] = {}

    def find(self, at: Instruction) -> tuple[bool, Kernel | None]:
        """Whether it is known what kernel an instruction has, and the kernel."""
        name = digest(at)
        if name is None or name not in self._rows:
            return False, None
        if name not in self._made:
            row = self._rows[name]
            self._made[name] = None if row is None else kernel_of(row, self._symbols.values())
        return True, self._made[name]


def row_of(kernel: Kernel) -> dict[str, Any]:
    """A kernel but for its text, as JSON can say it."""
    row = {f.name: getattr(kernel, f.name) for f in fields(kernel) if f.name != "text"}
    return {**row, **{name: _text(row[name]) for name in EXTENTS}}


def _text(value: Extent | tuple[Extent, ...]) -> str:
    return f"[{', '.join(map(str, value if isinstance(value, tuple) else (value,)))}]"


def kernel_of(row: Mapping[str, Any], symbols: Iterable[Symbol], text: str = "") -> Kernel:
    """The kernel that ``row_of`` has described; ``symbols`` are those in its extents."""
    values = {name: _tuple(value) for name, value in row.items() if name not in EXTENTS}
    for name in EXTENTS:
        reader = Reader(row[name], _no_files)
        reader.symbols = {s.name: Dim(s.name, s.low, s.high, s.optimals) for s in symbols}
        found = tuple(reader.extents("[", "]"))
        values[name] = found if name == "words" else found[0]
    return Kernel(text=text, **values)


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _no_files(name: str, offset: int, length: int) -> Any:
    raise LookupError(f"an extent refers to {name} at {offset}, {length} bytes")
