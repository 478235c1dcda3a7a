"""What a run of a program costs, instruction by instruction: what ``migx perf`` shows.

An executable that can tell has ``profile(arguments, slots)``, which runs the program once and gives
a ``Profile``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from migx.argument import Argument
from migx.ir import Instruction


@dataclass(frozen=True)
class Cost:
    """One instruction in one run: the kernel it ran as, "" where it ran on the host; the seconds it
    took itself, the arithmetic it did, and the bytes of its operands.
    """

    at: Instruction
    kernel: str
    seconds: float
    flops: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Profile:
    """One run: its costs in order, the bytes of the memory it worked in and of the weights it read,
    and what the machine could do at best in a second: operations on f32, and bytes moved.
    """

    costs: tuple[Cost, ...]
    arena: int
    weights: int
    peak_flops: float
    peak_bytes: float


@runtime_checkable
class Profiled(Protocol):
    """An executable that can tell what its runs cost."""

    def profile(self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument]) -> Profile:
        """Runs once."""
        ...
