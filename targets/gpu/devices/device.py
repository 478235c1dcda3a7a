"""The interface of a device: memory, copies, kernels, streams, and recording and replaying
launches.

Addresses are numbers in the device's memory. ``CupyDevice`` is a real one; ``InterpreterDevice``
runs the same texts by Triton's interpreter in the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from migx.errors import InputError
from migx.targets.gpu.code.compiling import Binary, Request

ALIGNMENT = 256
"""The alignment of allocations, and of every value in an arena."""
ENQUEUING = 2e-5
"""The most seconds that the host takes to enqueue a kernel."""


class Buffer(Protocol):
    """Device memory, freed when nobody holds it."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Device(Protocol):
    """A device, and a stream of its own. Enqueued work runs in order; ``download`` and
    ``synchronize`` wait for it.
    """

    arch: str
    """The architecture its kernels are compiled for; empty if it takes the texts themselves."""
    place: tuple[int, int]
    """DLPack's name of its memory: a kind and a number."""

    @property
    def stream(self) -> int:
        """The driver's handle of the stream that work is enqueued to now."""
        ...

    def on(self, stream: int) -> AbstractContextManager[None]:
        """A context in which this thread enqueues to a stream of the caller's: after all work
        enqueued to the device's own before, and before all that is enqueued there afterwards.
        """
        ...

    def order(self, first: int, then: int) -> None:
        """Makes later work on one stream wait for what has been enqueued to another."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """Uninitialised memory, of the current stream; raises ``TargetError`` if there is not so
        much.
        """
        ...

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Enqueues a copy of an array in standard layout to the device; the array may be changed on
        return.
        """
        ...

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fills an array in standard layout from the device, after all enqueued work."""
        ...

    def move(self, to: int, source: int, nbytes: int) -> None:
        """Enqueues a copy within the device."""
        ...

    def function(self, request: Request, binary: Binary | None) -> Any:
        """Loads a kernel."""
        ...

    def launch(self, function: Any, grid: int, arguments: Sequence[int]) -> None:
        """Enqueues a kernel: so many programs, with addresses and words as its arguments."""
        ...

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """A function that enqueues again, as one graph, all that another enqueues; None if not
        supported.
        """
        ...

    def elapsed(self, enqueue: Callable[[], None], host: float = 0.0) -> float:
        """The device time in seconds of what a function enqueues; the device waits for the ``host``
        seconds that enqueuing takes.
        """
        ...

    def synchronize(self) -> None:
        """Waits for all enqueued work; raises ``TargetError`` if a kernel failed."""
        ...


def handle_of(stream: Any) -> int:
    """The driver's handle of some library's stream. Raises ``InputError`` for other objects."""
    if isinstance(stream, int):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        _, handle = stream.__cuda_stream__()
        return int(handle)
    for name in ("cuda_stream", "ptr", "handle"):
        if isinstance(handle := getattr(stream, name, None), int):
            return handle
    raise InputError(
        f"{type(stream).__name__} is no stream: give one of CuPy or torch, an object that has "
        "__cuda_stream__, or the handle as a number"
    )


def flat(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array in standard layout."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
