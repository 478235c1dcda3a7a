"""What the gpu target asks of a device: memory, copies, kernels, streams, and a way to record and
replay.

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
"""Memory begins at multiples of this, and so does every value in an arena."""
ENQUEUING = 2e-5
"""Seconds that the host takes at most to enqueue a kernel."""


class Buffer(Protocol):
    """Memory of a device, given back when nobody holds it any more."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Device(Protocol):
    """A device, and a stream of its own. What is enqueued runs in order; ``download`` and
    ``synchronize`` wait for it.
    """

    arch: str
    """The architecture its kernels are compiled for; empty where it takes the texts themselves."""
    place: tuple[int, int]
    """What DLPack calls its memory: a kind and a number."""

    @property
    def stream(self) -> int:
        """The stream on which things are enqueued now, as the driver calls it."""
        ...

    def on(self, stream: int) -> AbstractContextManager[None]:
        """Enqueues what this thread does meanwhile to a stream of the caller's: after all that was
        enqueued to the device's own before, and before all that is enqueued there afterwards.
        """
        ...

    def order(self, first: int, then: int) -> None:
        """Has what is enqueued to one stream from now on wait for what has been to another."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """Uninitialised memory, of the stream that is enqueued to now; ``TargetError`` where there
        is not so much.
        """
        ...

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Enqueues a copy of an array in standard layout to the device; it may be changed then."""
        ...

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fills an array in standard layout from the device, when what was enqueued is done."""
        ...

    def move(self, to: int, source: int, nbytes: int) -> None:
        """Enqueues a copy from one place on the device to another."""
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

    def elapsed(self, enqueue: Callable[[], None], host: float = 0.0) -> float:
        """The seconds that the device takes for what a function enqueues, which takes the host so
        many: the device begins when it is there.
        """
        ...

    def synchronize(self) -> None:
        """Waits until all that was enqueued is done; ``TargetError`` where a kernel failed."""
        ...


def handle_of(stream: Any) -> int:
    """What the driver calls a stream of some library. ``InputError`` for what is none."""
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
