"""What the gpu target asks of a device: memory, copies, kernels, and a way to record and replay.

Addresses are numbers in the device's memory. ``CupyDevice`` is a real one; ``InterpreterDevice``
runs the same texts by Triton's interpreter in the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from migx.targets.gpu.compiling import Binary, Request

ALIGNMENT = 256
"""Memory begins at multiples of this, and so does every value in an arena."""


class Buffer(Protocol):
    """Memory of a device, given back when nobody holds it any more."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Device(Protocol):
    """A device. What is enqueued runs in order; ``download`` and ``synchronize`` wait for it."""

    arch: str
    """The architecture its kernels are compiled for; empty where it takes the texts themselves."""

    def allocate(self, nbytes: int) -> Buffer:
        """Uninitialised memory; ``TargetError`` where there is not so much."""
        ...

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Enqueues a copy of an array in standard layout to the device; it may be changed then."""
        ...

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fills an array in standard layout from the device, when what was enqueued is done."""
        ...

    def function(self, request: Request, binary: Binary | None) -> Any:
        """A kernel, loaded."""
        ...

    def launch(self, function: Any, grid: int, arguments: Sequence[int]) -> None:
        """Enqueues a kernel: so many programs, with addresses and words as its arguments."""
        ...

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """What enqueues again all that a function enqueues, at once; None where there is no such
        way.
        """
        ...

    def synchronize(self) -> None:
        """Waits until all that was enqueued is done; ``TargetError`` where a kernel failed."""
        ...


def flat(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array in standard layout."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
