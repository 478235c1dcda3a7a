"""What a compiled program saves to a file, so that loading it compiles nothing: its kernels and
their objects, which are valid for one kind of CPU and one version of LLVM.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from migx.dim import Atom, Call, Dim, Extent
from migx.dims.symbol import Symbol
from migx.ir import Instruction
from migx.program import Program
from migx.targets.cpu.code import jit
from migx.targets.cpu.code.alike import digest
from migx.targets.cpu.kernel import Kernel

ABOUT, KERNELS, OBJECTS = "about", "kernels", "objects/"
SIZES = ("tiles", "scratch", "shared", "flops", "most")
Saved = Mapping[str, bytes]


def is_usable(saved: Saved) -> bool:
    """Whether saved code is complete and runs here."""
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
    """What to save: the kernel of each instruction, None if it has none, and the objects."""
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
        """Whether the kernel of an instruction is saved, and the kernel."""
        name = digest(at)
        if name is None or name not in self._rows:
            return False, None
        if name not in self._made:
            row = self._rows[name]
            self._made[name] = None if row is None else kernel_of(row, self._symbols.values())
        return True, self._made[name]


def row_of(kernel: Kernel) -> dict[str, Any]:
    """A kernel without its text, as JSON. A dim in its extents is a list with its index in
    ``dims``, where common subexpressions stand once.
    """
    row = {f.name: getattr(kernel, f.name) for f in fields(kernel) if f.name != "text"}
    dims: dict[Dim, list[Any]] = {}
    words = [_said(extent, dims) for extent in kernel.words]
    sizes = {name: _said(row[name], dims) for name in SIZES}
    return {**row, **sizes, "words": words, "dims": list(dims.values())}


def _said(extent: Extent, dims: dict[Dim, list[Any]]) -> Any:
    """An extent in terms of ``dims``, to which it is added."""
    if not isinstance(extent, Dim):
        return extent
    if extent not in dims:
        dims[extent] = [[c, *(_factor(f, dims) for f in factors)] for factors, c in extent.terms]
    return [list(dims).index(extent)]


def _factor(atom: Atom, dims: dict[Dim, list[Any]]) -> Any:
    if isinstance(atom, Symbol):
        return atom.name
    return [atom.function, *(_said(argument, dims) for argument in atom.args)]


def kernel_of(row: Mapping[str, Any], symbols: Iterable[Symbol], text: str = "") -> Kernel:
    """The kernel that ``row_of`` described; ``symbols`` are those in its extents."""
    known = {symbol.name: symbol for symbol in symbols}
    dims: dict[int, Extent] = {}

    def extent(said: Any) -> Any:
        return dims[said[0]] if isinstance(said, list) else said

    def atom(said: Any) -> Atom:
        if isinstance(said, str):
            return known[said]
        return Call(said[0], tuple(map(extent, said[1:])))

    for place, terms in enumerate(row["dims"]):
        dims[place] = Dim.of({tuple(map(atom, factors)): c for c, *factors in terms})
    values = {name: _tuple(value) for name, value in row.items() if name != "dims"}
    values |= {name: extent(row[name]) for name in SIZES}
    return Kernel(text=text, **{**values, "words": tuple(map(extent, row["words"]))})


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
