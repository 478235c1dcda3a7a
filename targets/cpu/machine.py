"""What kernel generators ask about the CPU: width and number of vectors, caches, cores."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from migx.dim import Extent
from migx.targets.cpu.emit import Type

LINE = 64
"""Bytes of a cache line."""
PAGE = 4096
"""Addresses that differ by a multiple of so many bytes map to the same set of the L1 cache, whose
ways hold one line of each page.
"""


@dataclass(frozen=True)
class Machine:
    """A CPU. ``vector_bytes`` is the width of a register, ``registers`` their number, ``masks``
    whether masked loads and stores are one instruction. Cache sizes are in bytes per core.
    ``features`` have LLVM's names.
    """

    cpu: str
    features: frozenset[str]
    vector_bytes: int
    registers: int
    masks: bool
    l1: int = 32 * 1024
    l2: int = 512 * 1024
    cores: int = 1

    def lanes(self, type_: Type) -> int:
        """The number of scalars of a type in one register."""
        return max(1, self.vector_bytes // type_.one.nbytes)

    @property
    def halves(self) -> bool:
        """Whether instructions convert f16; elsewhere LLVM would call a library."""
        return self.vector_bytes >= 32 or self.has("neon")

    def has(self, feature: str) -> bool:
        """Whether the CPU has a feature, by LLVM's name: ``avx512vnni``, ``dotprod``."""
        return feature in self.features


@cache
def host() -> Machine:
    """The CPU this process runs on."""
    from migx.targets.cpu.code.jit import host_features

    cpu, features = host_features()
    width, registers, masks = 16, 16, False
    if "avx512f" in features and "avx512vl" in features and "avx512bw" in features:
        width, registers, masks = 64, 32, True
    elif "avx2" in features and "fma" in features:
        width = 32
    elif platform.machine().lower() in ("arm64", "aarch64"):
        registers = 32
    return Machine(
        cpu,
        features,
        width,
        registers,
        masks,
        _cache("level1_dcache", 1, 32 * 1024),
        _cache("level2_cache", 2, 512 * 1024),
        cores(),
    )


def places_apart(step: Extent) -> int:
    """The distance, in bytes modulo a page, between the cache sets of values so many bytes apart:
    ``PAGE`` if they all map to one, 1 if the step is known only at run time.
    """
    return math.gcd(step, PAGE) if isinstance(step, int) else 1


def cores() -> int:
    """The number of physical cores this process may use."""
    allowed = _allowed()
    seen = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            seen.add(topology.read_text().strip())
        except OSError:  # not Linux, or hidden: every logical CPU counts
            return len(allowed)
    return max(1, len(seen))


def logical_cpus(process: int = 0) -> int:
    """The number of threads that can run at once where this thread, or a process's first, may
    run.
    """
    return len(_allowed(process))


def _allowed(process: int = 0) -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(process))
    return set(range(os.cpu_count() or 1))


def _cache(name: str, level: int, unknown: int) -> int:
    """The size of a cache of one core as the system reports it, else a common one."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    for index in folder.glob("index*") if folder.is_dir() else ():
        kind = (index / "type").read_text().strip()
        if kind != "Instruction" and int((index / "level").read_text()) == level:
            size = (index / "size").read_text().strip()
            return int(size.removesuffix("K").removesuffix("M")) * (
                1024 * 1024 if size.endswith("M") else 1024
            )
    try:
        return os.sysconf(f"SC_{name.upper()}_SIZE") or unknown
    except (ValueError, OSError, AttributeError):
        return unknown
