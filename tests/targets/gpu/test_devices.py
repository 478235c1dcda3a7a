"""Devices: what CuPy is asked for, by a strict stand-in for it, and what errors say."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from migx.errors import TargetError
from migx.targets.gpu.code.compiling import Binary, Request
from migx.targets.gpu.devices import cupy_device, staging
from migx.targets.gpu.devices.cupy_device import CupyDevice
from tests.targets.gpu.fake_cupy import Stream, World, make

REQUEST = Request("", ("fp32", "fp32"), 1, (0, 1), 4, 2, "sm_90")
CODE = json.dumps({"source": "", "pointers": []}).encode()
BINARY = Binary(CODE, "kernel", 50_000, 128, 2, "sm_90")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The GPU behind the stand-in."""
    made = World()
    monkeypatch.setitem(sys.modules, "cupy", make(made))
    return made


def test_cupy_has_all_that_the_stand_in_has() -> None:
    names = list(_names("cuda", make(World()).cuda))
    look = (
        "import functools, sys, cupy\n"
        "for name in sys.argv[1:]: functools.reduce(getattr, name.split('.'), cupy)\n"
        "cupy.cuda.function.Module().load, cupy.cuda.function.Function.ptr\n"
        "cupy.cuda.Graph.launch, cupy.cuda.Event.done\n"
        "getattr(cupy.cuda.Stream, 'from_external', None) or cupy.cuda.ExternalStream"
    )
    run = [sys.executable, "-W", "ignore", "-c", look, *names]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if "No module named 'cupy'" in done.stderr:
        pytest.skip("CuPy is not installed")
    assert done.returncode == 0, done.stderr


def _names(before: str, given: Any) -> Iterator[str]:
    """The names in a module of the stand-in, and in those inside it."""
    for name, value in vars(given).items():
        if isinstance(value, types.SimpleNamespace):
            yield from _names(f"{before}.{name}", value)
        else:
            yield f"{before}.{name}"


def test_a_launch_has_addresses_words_and_scratch(world: World) -> None:
    device = CupyDevice()
    assert device.arch == "sm_90"
    function = device.function(REQUEST, BINARY)
    device.launch(function, 3, (256, 512, 9))  # of types that the stand-in checks
    kernel, _, scratch = function
    assert kernel.shared == 50_000
    assert scratch == (0, 0)
    assert world.noted == ["launch"]


def test_copies_go_to_its_stream_and_downloads_wait(world: World) -> None:
    device = CupyDevice()
    array, found = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    first, second = device.allocate(16), device.allocate(16)
    device.upload(first.address, array)
    array[:] = 9  # it may be changed when upload returns
    device.move(second.address, first.address, 16)
    device.download(second.address, found)
    assert found.tolist() == [0, 1, 2, 3]
    assert world.noted == ["copy 1 16", "copy 3 16", "copy 2 16"]
    assert world.held == 2 * 512


@pytest.mark.parametrize(("count", "kept"), [(4, 5), (staging.SMALL, 1)])
def test_pinned_memory_is_kept_until_its_copy_is_done(world: World, count: int, kept: int) -> None:
    device, turns = CupyDevice(), 5
    array, found = np.empty(count, np.float32), np.empty(count, np.float32)
    places = [device.allocate(array.nbytes) for _ in range(turns)]
    for turn, place in enumerate(places):
        array[:] = turn
        device.upload(place.address, array)
    assert len(world.pinned) == turns
    for turn, place in enumerate(places):
        device.download(place.address, found)
        assert (found == turn).all()
    device.upload(places[0].address, array)
    device.upload(places[0].address, array[:0])
    assert len(world.pinned) == kept, "what is small is used again"


def test_what_is_large_goes_through_pinned_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LARGE", 1000)
    monkeypatch.setattr(staging, "BLOCK", 1000)
    device = CupyDevice()
    many = staging.BLOCKS * 2500  # each block is used again before anybody waits for the end
    array = np.random.default_rng(0).integers(0, 256, many + 7).astype(np.uint8)
    given, found, there = array.copy(), np.zeros_like(array), device.allocate(array.nbytes)
    device.upload(there.address, given)
    given[:] = 9
    device.download(there.address, found)
    np.testing.assert_array_equal(found, array)
    assert len(world.pinned) == staging.BLOCKS
    assert world.noted.count("copy 1 1000") == world.noted.count("copy 2 1000") == many // 1000
    assert world.noted.count("copy 1 7") == 1


def test_a_copy_through_pinned_memory_that_fails_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LARGE", 1)
    device, cuda = CupyDevice(), sys.modules["cupy"].cuda

    def refused(*_: Any) -> None:
        raise cuda.runtime.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(cuda, "alloc_pinned_memory", refused)
    with pytest.raises(TargetError, match="no 67,108,864 bytes of pinned memory: cudaErrorMemory"):
        device.upload(0, np.zeros(9, np.uint8))
    monkeypatch.undo()
    monkeypatch.setattr(staging, "LARGE", 1)
    monkeypatch.setattr(cuda.runtime, "memcpyAsync", refused)
    for _ in range(2 * staging.BLOCKS):  # no block is lost
        with pytest.raises(TargetError, match="a copy of 9 bytes failed: cudaError"):
            device.upload(0, np.zeros(9, np.uint8))


def test_streams_of_others_by_an_older_cupy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = sys.modules["cupy"].cuda
    monkeypatch.delattr(type(cuda.Stream), "from_external")
    cuda.ExternalStream = lambda handle, device: (Stream(world, handle), device)[0]
    device = CupyDevice()
    with device.on(77):
        assert device.stream == 77


def test_graphs_are_recorded_on_a_stream_of_their_own(world: World) -> None:
    device = CupyDevice()
    function = device.function(REQUEST, BINARY)
    with device.on(0):  # where nothing can be recorded
        replay = device.captured(lambda: device.launch(function, 1, (0, 0, 0)))
        assert replay is not None
        replay()
    assert world.noted == ["begin", "launch", "end 0", "replay"]


def test_a_recording_that_fails_is_ended(world: World) -> None:
    device = CupyDevice()
    function = device.function(REQUEST, BINARY)
    with pytest.raises(TargetError, match="with 0 programs could not be launched"):
        world.broken = 1
        device.captured(lambda: device.launch(function, 0, (0, 0, 0)))
    assert not world.recording
    device.synchronize()


def test_a_callers_stream_comes_after_and_before_the_devices_own(world: World) -> None:
    device = CupyDevice()
    there, theirs = device.allocate(8), 77
    found = np.zeros(2, np.float32)
    device.upload(there.address, np.ones(2, np.float32))
    with device.on(theirs):
        assert device.stream == theirs
        inside = device.allocate(8)
        device.move(inside.address, there.address, 8)
    device.upload(there.address, np.zeros(2, np.float32))
    world.run(theirs)  # nobody has waited for anything until now
    device.download(inside.address, found)
    assert found.tolist() == [1, 1]


def test_modules_and_memory_go_when_nobody_has_them(world: World) -> None:
    device = CupyDevice()
    function, buffer = device.function(REQUEST, BINARY), device.allocate(100)
    assert (world.modules, world.held) == (1, 512)
    del function, buffer
    assert (world.modules, world.held) == (0, 0)


def test_what_is_measured_waits_until_the_host_has_enqueued_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy_device, "FILLER", 64)
    device = CupyDevice()
    function = device.function(REQUEST, BINARY)
    device.elapsed(lambda: device.launch(function, 1, (0, 0, 0)))
    assert world.noted == ["fill", "launch"]
    device.elapsed(lambda: None, 2.5 * cupy_device.FILLED)
    assert world.noted[2:] == ["fill"] * 4


def test_failures_are_told(world: World) -> None:
    device = CupyDevice()
    with pytest.raises(TargetError, match="no room for 2,199,023,255,552 bytes .* Out of memory"):
        device.allocate(1 << 41)
    with pytest.raises(TargetError, match="with 3000000000 programs could not be launched: CUDA"):
        device.launch(device.function(REQUEST, BINARY), 3_000_000_000, (0, 0, 0))
    with pytest.raises(TargetError, match="compiled for nothing, the device is sm_90"):
        device.function(REQUEST, None)
    with pytest.raises(TargetError, match="a kernel cannot be loaded: CUDA_ERROR_INVALID_IMAGE"):
        device.function(REQUEST, Binary(b"\x7fELF", "kernel", 0, 128, 2, "sm_90"))
    with pytest.raises(TargetError, match="a kernel cannot be loaded: CUDA_ERROR_NOT_FOUND"):
        device.function(REQUEST, Binary(CODE, "other", 0, 128, 2, "sm_90"))
    assert (world.modules, world.held) == (0, 0)


def test_hip_records_no_graphs(world: World) -> None:
    sys.modules["cupy"].cuda.runtime.is_hip = True
    runtime = sys.modules["cupy"].cuda.runtime
    runtime.getDeviceProperties = lambda number: {"gcnArchName": b"gfx942:sramecc+:xnack-"}
    device = CupyDevice()
    assert (device.arch, device.place) == ("gfx942", (10, 0))
    assert device.captured(lambda: None) is None


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


def test_without_a_driver_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = sys.modules["cupy"].cuda

    def none(number: int) -> None:
        raise cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver: too old")

    cuda.Device = none
    monkeypatch.delenv("MIGX_GPU_DEVICE", raising=False)
    cupy_device.found.cache_clear()
    device, why = cupy_device.found()
    cupy_device.found.cache_clear()
    assert device is None
    assert "no GPU that CuPy can use: cudaErrorInsufficientDriver" in why
