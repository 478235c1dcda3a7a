"""Devices: what CuPy is asked for, by a stand-in for it that notes calls, and what errors say."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from migx.errors import TargetError
from migx.targets.gpu import cupy_device
from migx.targets.gpu.compiling import Binary, Request
from migx.targets.gpu.cupy_device import CupyDevice

REQUEST = Request("", ("fp32", "fp32"), 1, (0, 1), 4, 2, "sm_90")
BINARY = Binary(b"\x7fELF", "kernel", 50_000, 128, 2, "sm_90")


class Failure(RuntimeError):
    """What the stand-in's runtime raises."""


class Stream:
    """Notes what is enqueued on it."""

    ptr = 7

    def __init__(self, calls: list[Any], **_: Any) -> None:
        self.calls = calls

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def begin_capture(self) -> None:
        self.calls.append("begin")

    def end_capture(self) -> Any:
        self.calls.append("end")
        return types.SimpleNamespace(launch=lambda stream: self.calls.append("replay"))

    def synchronize(self) -> None:
        self.calls.append("wait")


class Kernel:
    """A loaded kernel, which notes its launches."""

    max_dynamic_shared_size_bytes = 0

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __call__(self, grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        if grid[0] > 1000:
            raise Failure("invalid configuration")
        self.calls.append((grid, block, arguments, shared_mem))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the stand-in was asked for, in order."""
    noted: list[Any] = []
    cupy: Any = types.ModuleType("cupy")

    def alloc(nbytes: int) -> Any:
        if nbytes > 1 << 40:
            raise Failure("out of memory")
        return types.SimpleNamespace(ptr=4096)

    class Device(contextlib.nullcontext[None]):
        compute_capability = "90"

        def __init__(self, number: int) -> None:
            super().__init__()

        def use(self) -> None: ...

    runtime = types.SimpleNamespace(
        is_hip=False, CUDARuntimeError=Failure, memcpyAsync=lambda *given: noted.append(given)
    )
    cupy.cuda = types.SimpleNamespace(
        Device=Device,
        Stream=lambda **given: Stream(noted, **given),
        alloc=alloc,
        runtime=runtime,
        driver=types.SimpleNamespace(CUDADriverError=Failure),
        memory=types.SimpleNamespace(OutOfMemoryError=Failure),
    )
    cupy.RawModule = lambda path: types.SimpleNamespace(get_function=lambda name: Kernel(noted))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return noted


def test_a_launch_has_addresses_words_and_scratch(calls: list[Any]) -> None:
    device = CupyDevice()
    assert device.arch == "sm_90"
    function = device.function(REQUEST, BINARY)
    assert function[0].max_dynamic_shared_size_bytes == 50_000
    device.launch(function, 3, (256, 512, 9))
    ((grid, block, arguments, shared),) = calls
    assert (grid, block, shared) == ((3,), (128,), 50_000)
    assert arguments == (256, 512, 9, 0, 0)
    assert [type(a) for a in arguments] == [np.uint64, np.uint64, np.int32, np.uint64, np.uint64]


def test_copies_and_graphs_go_to_its_stream(calls: list[Any]) -> None:
    device = CupyDevice()
    array = np.arange(4, dtype=np.float32)
    device.upload(4096, array)
    device.download(4096, array)
    assert calls == [
        (4096, array.ctypes.data, 16, 1, 7),
        (array.ctypes.data, 4096, 16, 2, 7),
        "wait",
    ]
    calls.clear()
    replay = device.captured(lambda: calls.append("kernels"))
    assert replay is not None
    replay()
    assert calls == ["begin", "kernels", "end", "replay"]


def test_failures_are_told(calls: list[Any]) -> None:
    device = CupyDevice()
    with pytest.raises(TargetError, match="no room for 2,199,023,255,552 bytes .* out of memory"):
        device.allocate(1 << 41)
    with pytest.raises(TargetError, match="with 2000 programs could not be launched: invalid"):
        device.launch(device.function(REQUEST, BINARY), 2000, (0, 0, 0))
    with pytest.raises(TargetError, match="compiled for nothing, the device is sm_90"):
        device.function(REQUEST, None)


@pytest.fixture
def _no_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cupy_device.found.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delenv("MIGX_GPU_DEVICE", raising=False)
    yield
    cupy_device.found.cache_clear()


@pytest.mark.usefixtures("_no_device")
def test_without_cupy_it_says_what_to_install() -> None:
    device, why = cupy_device.found()
    assert device is None
    assert "pip install cupy-cuda12x" in why
