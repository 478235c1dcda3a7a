"""What a run of a program costs, instruction by instruction: what ``migx perf`` shows.

An executable that can tell has ``profile(arguments, slots)``, which runs the program once and gives
a ``Profile``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from migx.argument import Argument
from migx.errors import TargetError
from migx.ir import Instruction

if TYPE_CHECKING:
    from migx.compiler import Compiled


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
    and what the machine could do at best in a second: operations on f32, and bytes moved. What is
    not known is 0.
    """

    costs: tuple[Cost, ...]
    arena: int = 0
    weights: int = 0
    peak_flops: float = 0.0
    peak_bytes: float = 0.0


@runtime_checkable
class Profiled(Protocol):
    """An executable that can tell what its runs cost."""

    def profile(self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument]) -> Profile:
        """Runs once."""
        ...


def measured(made: Compiled, arguments: Mapping[str, Argument], runs: int = 1) -> Profile:
    """The costs of a run that is not the first, on arguments that have been checked: of the
    quickest of so many.

    ``TargetError`` where the target cannot tell.
    """
    executable = made.executable
    if not isinstance(executable, Profiled):
        raise TargetError(f"target {made.context.target.name} does not say what its runs cost")
    made.results(arguments)
    with made.weights.reading() as slots:
        found = [executable.profile(arguments, slots) for _ in range(runs)]
    return min(found, key=lambda profile: sum(cost.seconds for cost in profile.costs))
