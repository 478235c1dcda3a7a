"""A real GPU, by CuPy: CUDA, and HIP where CuPy is built for ROCm."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx.errors import TargetError
from migx.targets.gpu.compiling import Binary, Request
from migx.targets.gpu.device import Buffer, Device, flat

TO_DEVICE, TO_HOST = 1, 2
"""What the runtimes of both makers call the two directions of a copy."""


class CupyBuffer:
    """Memory from CuPy's pool; it goes back there when nobody holds it."""

    def __init__(self, memory: Any, nbytes: int) -> None:
        self._memory, self.address, self.nbytes = memory, int(memory.ptr), nbytes


class CupyDevice:
    """One GPU, and a stream of its own on which everything is enqueued."""

    def __init__(self, number: int = 0) -> None:
        try:
            import cupy
        except ImportError as error:
            raise TargetError(
                f"GPUs are reached by CuPy, which cannot be imported here: {error}. "
                "pip install cupy-cuda12x (or cupy-cuda13x, cupy-rocm-7-0)"
            ) from error
        self._cupy = cupy
        with self._failing("there is no GPU that CuPy can use"):
            self._device = cupy.cuda.Device(number)
            self._device.use()
            self.arch = self._architecture(number)
            self._stream = cupy.cuda.Stream(non_blocking=True)

    def _architecture(self, number: int) -> str:
        runtime = self._cupy.cuda.runtime
        if not runtime.is_hip:
            return f"sm_{self._device.compute_capability}"
        found = runtime.getDeviceProperties(number)["gcnArchName"]
        return str(found.decode() if isinstance(found, bytes) else found).split(":")[0]

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Turns what the runtime and the driver raise into ``TargetError``."""
        cuda = self._cupy.cuda
        kinds = (
            cuda.runtime.CUDARuntimeError,
            cuda.driver.CUDADriverError,
            cuda.memory.OutOfMemoryError,
        )
        try:
            yield
        except kinds as error:
            raise TargetError(f"{what}: {error}") from error

    @contextmanager
    def _current(self, what: str) -> Iterator[None]:
        with self._failing(what), self._device, self._stream:
            yield

    def allocate(self, nbytes: int) -> Buffer:
        with self._current(f"there is no room for {nbytes:,} bytes on the device"):
            return CupyBuffer(self._cupy.cuda.alloc(max(1, nbytes)), nbytes)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        data = flat(array)
        self._copy(address, data.ctypes.data, data.nbytes, TO_DEVICE)

    def download(self, address: int, array: NDArray[Any]) -> None:
        self._copy(array.ctypes.data, address, array.nbytes, TO_HOST)
        self.synchronize()

    def _copy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        if nbytes:
            with self._current(f"a copy of {nbytes:,} bytes failed"):
                runtime = self._cupy.cuda.runtime
                runtime.memcpyAsync(to, source, nbytes, kind, self._stream.ptr)

    def function(self, request: Request, binary: Binary | None) -> Any:
        if binary is None or binary.arch != self.arch:
            made = "nothing" if binary is None else binary.arch
            raise TargetError(f"a kernel is compiled for {made}, the device is {self.arch}")
        with self._current("a kernel cannot be loaded"):
            with tempfile.NamedTemporaryFile(suffix=".bin", delete=False) as file:
                file.write(binary.code)
            try:
                kernel = self._cupy.RawModule(path=file.name).get_function(binary.entry)
                kernel.max_dynamic_shared_size_bytes = binary.shared
            finally:
                os.unlink(file.name)
        kinds = [np.uint64] * len(request.pointers) + [np.int32] * request.words
        return kernel, binary, kinds + [np.uint64] * binary.scratch

    def launch(self, function: Any, grid: int, arguments: Sequence[int]) -> None:
        kernel, binary, kinds = function
        given = [*arguments, *[0] * binary.scratch]
        typed = tuple(kind(value) for kind, value in zip(kinds, given, strict=True))
        with self._current(f"kernel {binary.entry} with {grid} programs could not be launched"):
            kernel((grid,), (binary.threads,), typed, shared_mem=binary.shared)

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        with self._current("kernels could not be recorded as a graph"):
            self._stream.begin_capture()
            try:
                enqueue()
            finally:
                graph = self._stream.end_capture()

        def replay() -> None:
            with self._current("a graph could not be launched"):
                graph.launch(self._stream)

        return replay

    def synchronize(self) -> None:
        with self._failing("a kernel failed"):
            self._stream.synchronize()


@cache
def found() -> tuple[Device | None, str]:
    """The device there is, and why there is none. ``MIGX_GPU_DEVICE=interpreter`` asks for Triton's
    interpreter instead of a GPU.
    """
    if os.environ.get("MIGX_GPU_DEVICE") == "interpreter":
        from migx.targets.gpu.interpreter import InterpreterDevice

        return InterpreterDevice(), ""
    try:
        return CupyDevice(), ""
    except TargetError as error:
        return None, str(error)
