"""What a kernel generator asks about the CPU: width and number of vectors, caches, cores."""

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
"""What lies multiples of so many bytes apart shares a place in the first level cache, which has
room there for one line of each of its pages alone.
"""


@dataclass(frozen=True)
class Machine:
    """A CPU. ``vector_bytes`` is the width of a register, ``registers`` how many there are,
    ``masks`` whether loads and stores under a mask are one instruction. Cache sizes are in bytes,
    those of one core. ``features`` are LLVM's names of what it can do.
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
        """How many scalars of a type fill one register."""
        return max(1, self.vector_bytes // type_.one.nbytes)

    @property
    def halves(self) -> bool:
        """Whether f16 is converted by instructions; elsewhere LLVM would call a library."""
        return self.vector_bytes >= 32 or self.has("neon")

    def has(self, feature: str) -> bool:
        """Whether the CPU can do what LLVM calls by this name: ``avx512vnni``, ``dotprod``."""
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
    """How many bytes apart the places in a page are that values so many bytes apart take: ``PAGE``
    where they all share one place, 1 where only the run tells.
    """
    return math.gcd(step, PAGE) if isinstance(step, int) else 1


def cores() -> int:
    """How many physical cores this process may use."""
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
    """How many threads can run at one time where this one may, or the first of a process."""
    return len(_allowed(process))


def _allowed(process: int = 0) -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(process))
    return set(range(os.cpu_count() or 1))


def _cache(name: str, level: int, unknown: int) -> int:
    """The size of a cache of one core, as the system tells; a usual one where it does not."""
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
