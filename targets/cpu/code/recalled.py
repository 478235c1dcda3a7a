"""The cache of kernels on disk, so that an instruction is analysed once for all processes.

The key (``migx.base.disk_cache``) has all that decides a kernel: the likeness of the instructions
that share it, the bounds of their symbols, the machine, and the sources of this generator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import migx
from migx import op as operations
from migx.base import disk_cache
from migx.dims.symbol import Symbol
from migx.ir import Instruction
from migx.planning import viewed
from migx.targets.cpu.code.saved import kernel_of, row_of
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.machine import Machine

KIND = "kernels"
CORE = Path(migx.__file__).parent


def deciding() -> list[Path]:
    """The files of the code that decides what a kernel is."""
    parts = ("dims", "fusion", "ops", "weights", "targets/cpu")
    found = [path for part in parts for path in (CORE / part).rglob("*.py")]
    return sorted([*CORE.glob("*.py"), *found])


def _sources() -> str:
    """A hash of that code."""
    found = hashlib.sha256(migx.__version__.encode())
    for path in deciding():
        found.update(path.read_bytes())
    return found.hexdigest()


SOURCES = _sources()
"""Computed at import: later the files may differ from what this process runs."""


def recalled(at: Instruction, alike: Hashable, machine: Machine) -> tuple[bool, Kernel | None]:
    """Whether the kernel of an instruction is cached, and the kernel."""
    content = disk_cache.read(KIND, _decided_by(at, alike, machine))
    if content is None:
        return False, None
    row, text = json.loads(content)
    return True, None if row is None else kernel_of(row, _symbols(at), text)


def keep(at: Instruction, alike: Hashable, machine: Machine, kernel: Kernel | None) -> None:
    """Caches the kernel of an instruction; None if it has none."""
    said = (None, "") if kernel is None else (row_of(kernel), kernel.text)
    disk_cache.write(KIND, _decided_by(at, alike, machine), json.dumps(said).encode())


def _decided_by(at: Instruction, alike: Hashable, machine: Machine) -> str:
    bounds = sorted({(s.name, s.low, s.high) for s in _symbols(at)})
    return f"{SOURCES} {_described(machine)} {bounds} {alike!r}"


@cache
def _described(machine: Machine) -> str:
    return str(sorted((asdict(machine) | {"features": sorted(machine.features)}).items()))


def _symbols(at: Instruction) -> Iterator[Symbol]:
    """The symbols a kernel may read."""
    yield from at.shape.symbols()
    yield from operations.symbols(at.op)
    for value in at.inputs:
        below: Instruction | None = value
        while below is not None:
            yield from below.shape.symbols()
            yield from operations.symbols(below.op)
            below = viewed(below)
    for module in at.modules:
        for each in module:
            yield from _symbols(each)
