"""A real GPU, by CuPy: CUDA, and HIP where CuPy is built for ROCm."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from numpy.typing import NDArray

from migx.errors import TargetError
from migx.targets.gpu.code.compiling import Binary, Request
from migx.targets.gpu.devices import staging
from migx.targets.gpu.devices.device import Buffer, Device, flat
from migx.targets.gpu.devices.dlpack import CUDA, ROCM

INSIDE = 3
"""What both vendors' runtimes call a copy on the device."""
USUAL_SHARED = 48 * 1024
"""Bytes of shared memory that a CUDA kernel has without asking."""

FILLER = 1 << 28
"""Bytes that do not fit in L2."""
FILLED = 3e-5
"""The least seconds in which a device writes them."""


Kinds = tuple[type[BaseException], ...]


class CupyBuffer:
    """Memory from CuPy's pool, returned when nobody holds it."""

    def __init__(self, memory: Any, nbytes: int) -> None:
        self._memory, self.address, self.nbytes = memory, int(memory.ptr), nbytes


@dataclass(frozen=True)
class Foreign:
    """A stream of a caller's, in the protocol that CuPy expects."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


class _Failing:
    """A context that wraps another, and turns CuPy's exceptions into a ``TargetError`` that says
    ``what`` failed, formatted with ``given``.
    """

    __slots__ = ("_given", "_inside", "_kinds", "_what")

    def __init__(self, kinds: Kinds, inside: Any, what: str, given: tuple[Any, ...]) -> None:
        self._kinds, self._inside, self._what, self._given = kinds, inside, what, given

    def __enter__(self) -> None:
        try:
            self._inside.__enter__()
        except self._kinds as error:
            raise self._told(error) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._inside.__exit__(kind, error, trace)
        if isinstance(error, self._kinds):
            raise self._told(error) from error

    def _told(self, error: BaseException) -> TargetError:
        return TargetError(f"{self._what.format(*self._given)}: {error}")


class CupyDevice:
    """One GPU, and a stream of its own."""

    def __init__(self, number: int = 0) -> None:
        try:
            import cupy
        except ImportError as error:
            raise TargetError(
                f"GPUs are reached by CuPy, which cannot be imported here: {error}. "
                "pip install cupy-cuda12x (or cupy-cuda13x, cupy-rocm-7-0)"
            ) from error
        self._cuda = cupy.cuda
        self._kinds: Kinds = (
            cupy.cuda.runtime.CUDARuntimeError,
            cupy.cuda.driver.CUDADriverError,
            cupy.cuda.memory.OutOfMemoryError,
        )
        self._hip = bool(cupy.cuda.runtime.is_hip)
        with self._failing("there is no GPU that CuPy can use"):
            self._device = cupy.cuda.Device(number)
            self._device.use()
            self.arch = self._architecture(number)
            self._own, self._recording = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        self.place = (ROCM if self._hip else CUDA), number
        self._thread, self._one_recording = threading.local(), threading.Lock()
        self._staging = staging.Staging(self._cuda, self._current)

    def _architecture(self, number: int) -> str:
        if not self._hip:
            return f"sm_{self._device.compute_capability}"
        found = self._cuda.runtime.getDeviceProperties(number)["gcnArchName"]
        return str(found.decode() if isinstance(found, bytes) else found).split(":")[0]

    def _failing(self, what: str, *given: Any) -> _Failing:
        """Turns exceptions of the runtime and the driver into ``TargetError``."""
        return _Failing(self._kinds, nullcontext(), what, given)

    def _current(self, what: str, *given: Any) -> _Failing:
        """The same, with this device current."""
        return _Failing(self._kinds, self._device, what, given)

    # Streams.

    @property
    def _now(self) -> Any:
        """The stream that this thread enqueues to."""
        return getattr(self._thread, "stream", self._own)

    @property
    def stream(self) -> int:
        return int(self._now.ptr)

    @contextmanager
    def _enqueuing(self, stream: Any) -> Iterator[None]:
        before = self._now
        self._thread.stream = stream
        try:
            yield
        finally:
            self._thread.stream = before

    def _stream_of(self, handle: int) -> Any:
        """CuPy's object for a stream, which does not destroy one of a caller's."""
        if handle == int(self._own.ptr):
            return self._own
        if hasattr(self._cuda.Stream, "from_external"):  # from CuPy 14 on, replacing:
            return self._cuda.Stream.from_external(Foreign(handle))
        return self._cuda.ExternalStream(handle, self.place[1])

    @contextmanager
    def on(self, stream: int) -> Iterator[None]:
        own = int(self._own.ptr)
        self.order(own, stream)
        with self._current("a stream cannot be used"):
            given = self._stream_of(stream)
        try:
            with self._enqueuing(given):
                yield
        finally:
            self.order(stream, own)

    def order(self, first: int, then: int) -> None:
        if first != then:
            with self._current("one stream cannot wait for another"):
                event = self._cuda.Event(disable_timing=True)
                event.record(self._stream_of(first))
                self._stream_of(then).wait_event(event)

    # Memory.

    def allocate(self, nbytes: int) -> Buffer:
        with self._current("there is no room for {:,} bytes on the device", nbytes), self._now:
            return CupyBuffer(self._cuda.alloc(max(1, nbytes)), nbytes)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        data = flat(array)
        self._staging.upload(address, data.ctypes.data, data.nbytes, self._now)

    def download(self, address: int, array: NDArray[Any]) -> None:
        if array.nbytes >= staging.LARGE:
            self._staging.download(array.ctypes.data, address, array.nbytes, self._now)
        else:
            self._copy(array.ctypes.data, address, array.nbytes, staging.TO_HOST)
        self.synchronize()

    def move(self, to: int, source: int, nbytes: int) -> None:
        self._copy(to, source, nbytes, INSIDE)

    def _copy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        if nbytes:
            with self._current("a copy of {:,} bytes failed", nbytes):
                self._cuda.runtime.memcpyAsync(to, source, nbytes, kind, self.stream)

    # Kernels.

    def function(self, request: Request, binary: Binary | None) -> Any:
        if binary is None or binary.arch != self.arch:
            made = "nothing" if binary is None else binary.arch
            raise TargetError(f"a kernel is compiled for {made}, the device is {self.arch}")
        with self._current("a kernel cannot be loaded"):
            module = self._cuda.function.Module()  # RawModule would never unload it
            module.load(binary.code)
            kernel = module.get_function(binary.entry)
            if binary.shared > USUAL_SHARED and not self._hip:
                most = self._cuda.driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                self._cuda.driver.funcSetAttribute(kernel.ptr, most, binary.shared)
        return kernel, binary, (0,) * binary.scratch

    def launch(self, function: Any, grid: int, arguments: Sequence[int]) -> None:
        """Enqueues a kernel. CuPy passes each argument in 8 bytes, of which the driver reads as
        many as the kernel's parameter has, the lower ones.
        """
        kernel, binary, scratch = function
        threads, shared = (binary.threads,), binary.shared
        failure = "kernel {} with {} programs could not be launched"
        with self._current(failure, binary.entry, grid):
            kernel((grid,), threads, (*arguments, *scratch), shared_mem=shared, stream=self._now)

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        if self._hip:  # where CuPy records no graphs
            return None
        stream = self._recording
        with self._one_recording, self._current("kernels could not be recorded as a graph"):
            stream.begin_capture()
            try:
                with self._enqueuing(stream):
                    enqueue()
            except BaseException:
                with suppress(self._cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                raise
            graph = stream.end_capture()

        def replay() -> None:
            with self._current("a graph could not be launched"):
                graph.launch(self._now)

        return replay

    def elapsed(self, enqueue: Callable[[], None], host: float = 0.0) -> float:
        with self._current("a measurement failed"):
            first, last = (self._cuda.Event() for _ in range(2))
            self._keep_busy(host)
            first.record(self._now)
            enqueue()
            last.record(self._now)
            last.synchronize()
            return float(self._cuda.get_elapsed_time(first, last)) / 1e3

    def _keep_busy(self, seconds: float) -> None:
        """Keeps the device busy for so long, so that whatever is enqueued next is queued before it
        starts, and finds L2 cold.
        """
        filler = self.allocate(FILLER)
        for _ in range(1 + math.ceil(seconds / FILLED)):
            self._cuda.runtime.memsetAsync(filler.address, 0, FILLER, self.stream)

    def synchronize(self) -> None:
        with self._failing("a kernel failed"):
            self._now.synchronize()


@cache
def found() -> tuple[Device | None, str]:
    """The device, or why there is none. ``MIGX_GPU_DEVICE=interpreter`` selects Triton's
    interpreter instead of a GPU.
    """
    if os.environ.get("MIGX_GPU_DEVICE") == "interpreter":
        from migx.targets.gpu.devices.interpreter import InterpreterDevice

        return InterpreterDevice(), ""
    try:
        return CupyDevice(), ""
    except TargetError as error:
        return None, str(error)
