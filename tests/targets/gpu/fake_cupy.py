"""A stand-in for CuPy and the GPU below it, as strict and as lazy as the real ones may be.

Types of arguments are checked as CuPy's are. What is enqueued does nothing until somebody waits for
its stream, and then only what that stream has to wait for is done: so what is not ordered is seen
to be late. Memory that is freed is taken again by its stream at once. Kernels are run by Triton's
interpreter. What is alive is counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import threading
import types
import weakref
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from migx.targets.gpu.code.compiling import Binary, Request
from tests.targets.gpu.on_interpreter import DEVICE

Names = types.SimpleNamespace
PAGE = 512
SHARED = 48 * 1024


class RuntimeFailure(RuntimeError):
    """``CUDARuntimeError``."""


class DriverFailure(RuntimeError):
    """``CUDADriverError``."""


class NoMemory(MemoryError):
    """``OutOfMemoryError``."""


@dataclass(eq=False)
class Marker:
    """A place in a stream that has been recorded as an event."""

    stream: int
    done: bool = False


@dataclass
class World:
    """The GPU: streams, memory, and what is alive. ``room`` is its memory in bytes; ``broken`` is
    the kernel launch that fails, by number; ``noted`` is what was asked for, ``blocks`` how often
    there was memory in no pool.
    """

    room: int = 1 << 30
    broken: int = -1
    noted: list[str] = field(default_factory=list)
    queues: dict[int, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    recording: dict[int, list[Any]] = field(default_factory=dict)
    held: int = 0
    blocks: int = 0
    pool: dict[tuple[int, int], list[Any]] = field(default_factory=lambda: defaultdict(list))
    modules: int = 0
    current: list[int] = field(default_factory=lambda: [1])
    streams: int = 100
    launches: int = 0
    pinned: dict[int, int] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)
    functions: Any = field(default_factory=weakref.WeakValueDictionary)

    def enqueue(self, stream: int, work: Any) -> None:
        """Puts something at the end of a stream, or of what is recorded from it."""
        handle = stream or 1
        with self.lock:
            if handle in self.recording:
                self.recording[handle].append(work)
            else:
                self.queues[handle].append(work)

    def run(self, stream: int, until: Marker | None = None) -> None:
        """Does what a stream has to do, up to a place, and what that has to wait for."""
        with self.lock:
            self._run(stream, until)

    def _run(self, stream: int, until: Marker | None) -> None:
        queue = self.queues[stream or 1]
        while queue and not (until is not None and until.done):
            work = queue.popleft()
            if isinstance(work, Marker):
                work.done = True
            elif isinstance(work, tuple):
                (marker,) = work
                if not marker.done:
                    self.run(marker.stream, marker)
            else:
                work()


class Stream:
    """``cupy.cuda.Stream``, and ``ExternalStream`` where a handle is given."""

    def __init__(self, world: World, ptr: int) -> None:
        self.world, self.ptr = world, ptr

    def __enter__(self) -> None:
        self.world.current.append(self.ptr)

    def __exit__(self, *_: object) -> None:
        self.world.current.pop()

    def wait_event(self, event: Event) -> None:
        assert event.marker is not None
        self.world.enqueue(self.ptr, (event.marker,))

    def begin_capture(self) -> None:
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.world.recording[self.ptr] = []
        self.world.noted.append("begin")

    def end_capture(self) -> Any:
        work = self.world.recording.pop(self.ptr)
        self.world.noted.append(f"end {len(work)}")

        def launch(stream: Stream) -> None:
            self.world.noted.append("replay")
            for each in work:
                self.world.enqueue(stream.ptr, each)

        return types.SimpleNamespace(launch=launch)

    def synchronize(self) -> None:
        if self.ptr in self.world.recording:
            raise RuntimeFailure("cudaErrorStreamCaptureUnsupported")
        self.world.run(self.ptr)


class Streams:
    """``cupy.cuda.Stream`` where it is called or asked for a stream of others."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, **_: Any) -> Stream:
        self.world.streams += 1
        return Stream(self.world, self.world.streams)

    def from_external(self, given: Any) -> Stream:
        version, handle = given.__cuda_stream__()
        if (type(version), type(handle)) != (int, int) or version != 0:
            raise TypeError("__cuda_stream__() must return (int, int)")
        return Stream(self.world, handle)


class Pinned:
    """``cupy.cuda.PinnedMemoryPointer``: what is copied from there is read when its turn comes."""

    def __init__(self, world: World, nbytes: int) -> None:
        self.world, self.memory = world, np.empty(nbytes, np.uint8)
        self.ptr = int(self.memory.ctypes.data)
        world.pinned[self.ptr] = nbytes

    def __del__(self) -> None:
        del self.world.pinned[self.ptr]


class Event:
    """``cupy.cuda.Event``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.marker: Marker | None = None

    def record(self, stream: Stream) -> None:
        self.marker = Marker(stream.ptr or 1)
        self.world.enqueue(stream.ptr, self.marker)

    @property
    def done(self) -> bool:
        return self.marker is None or self.marker.done

    def synchronize(self) -> None:
        assert self.marker is not None
        self.world.run(self.marker.stream, self.marker)


class Memory:
    """``cupy.cuda.MemoryPointer``: a block of the pool of the stream that was current."""

    def __init__(self, world: World, nbytes: int) -> None:
        assert type(nbytes) is int
        self.world, self.size = world, -(-nbytes // PAGE) * PAGE
        self.key = world.current[-1] or 1, self.size
        if not world.pool[self.key]:
            spare = sum(size * len(blocks) for (_, size), blocks in world.pool.items())
            if world.held + spare + self.size > world.room:
                world.pool.clear()
            if world.held + self.size > world.room:
                raise NoMemory(f"Out of memory allocating {nbytes:,} bytes")
            world.blocks += 1
            world.pool[self.key].append(np.empty(self.size + PAGE, np.uint8))
        self.block = world.pool[self.key].pop()
        self.ptr = -(-self.block.ctypes.data // PAGE) * PAGE
        world.held += self.size
        address, size, block = self.ptr, self.size, self.block

        def spoil() -> None:
            ctypes.memset(address, 0xFF, size)
            assert block is not None

        if world.current[-1] not in world.recording:
            world.enqueue(world.current[-1], spoil)

    def __del__(self) -> None:
        if hasattr(self, "ptr"):
            self.world.held -= self.size
            self.world.pool[self.key].append(self.block)


class Module:
    """``cupy.cuda.function.Module``; its code is JSON of what the interpreter needs."""

    def __init__(self, world: World) -> None:
        self.world, self.kernel = world, None

    def load(self, cubin: bytes) -> None:
        if type(cubin) is not bytes:
            raise TypeError("Expected bytes")
        try:
            said = json.loads(cubin)
        except ValueError:
            raise DriverFailure("CUDA_ERROR_INVALID_IMAGE") from None
        request = Request(said["source"], tuple(said["pointers"]), 0, (), 4, 2, "")
        self.kernel = DEVICE.function(request, None) if said["source"] else None
        self.world.modules += 1
        self.loaded = True

    def __del__(self) -> None:
        if hasattr(self, "loaded"):
            self.world.modules -= 1

    def get_function(self, name: str) -> Function:
        if name != "kernel":
            raise DriverFailure("CUDA_ERROR_NOT_FOUND")
        return Function(self)


class Function:
    """``cupy.cuda.function.Function``, which keeps its module."""

    def __init__(self, module: Module) -> None:
        self.module, self.ptr, self.shared = module, id(self), SHARED
        module.world.functions[self.ptr] = self

    def __call__(
        self, grid: Any, block: Any, args: Any, shared_mem: int = 0, stream: Any = None
    ) -> None:
        world = self.module.world
        if type(grid) is not tuple or type(block) is not tuple:
            raise TypeError("Argument 'grid' has incorrect type")
        if shared_mem > self.shared or block[0] > 1024 or grid[0] > (1 << 31) - 1:
            raise DriverFailure("CUDA_ERROR_INVALID_VALUE: invalid argument")
        if any(type(a) is not int for a in args):
            raise TypeError(f"Unsupported type in {args}")
        world.launches += 1
        if world.launches == world.broken:
            raise DriverFailure("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")
        world.noted.append("launch")
        kernel, numbers = self.module.kernel, list(args)
        if kernel is not None:
            count = len(kernel[1])
            words = numbers[count:-2]  # the last two are of no use to us
            world.enqueue(
                stream.ptr, lambda: DEVICE.launch(kernel, grid[0], [*numbers[:count], *words])
            )


def binaries_of(requests: Any) -> dict[str, Binary]:
    """Binaries that the stand-in runs, in the place of what a compiler makes."""
    return {
        r.key: Binary(
            json.dumps({"source": r.source, "pointers": r.pointers}).encode(),
            "kernel",
            50_000,
            r.warps * 32,
            2,
            r.arch,
        )
        for r in requests
    }


def make(world: World) -> Any:
    """The module ``cupy``."""
    cupy: Any = types.ModuleType("cupy")

    class Device(contextlib.nullcontext[None]):
        compute_capability = "90"

        def __init__(self, number: int) -> None:
            super().__init__()

        def use(self) -> None: ...

    cupy.cuda = Names(
        Device=Device,
        Stream=Streams(world),
        Event=lambda block=False, disable_timing=False: Event(world),
        get_elapsed_time=lambda first, last: float(world.launches or 1),
        alloc=lambda nbytes: Memory(world, nbytes),
        alloc_pinned_memory=lambda nbytes: Pinned(world, nbytes),
        runtime=_runtime(world),
        driver=_driver(world),
        memory=Names(OutOfMemoryError=NoMemory),
        function=Names(Module=lambda: Module(world)),
    )
    return cupy


def _runtime(world: World) -> Any:
    """``cupy.cuda.runtime``."""

    def copy(dst: int, src: int, size: int, kind: int, stream: int) -> None:
        _expect_integers(dst, src, size, kind, stream)

        def work() -> None:
            pinned = any(at <= src < at + room for at, room in world.pinned.items())
            assert pinned or kind != 1, "what is copied may have been changed or given back"
            ctypes.memmove(dst, src, size)

        world.enqueue(stream, work)
        world.noted.append(f"copy {kind} {size}")

    def fill(ptr: int, value: int, size: int, stream: int) -> None:
        _expect_integers(ptr, value, size, stream)
        world.enqueue(stream, lambda: ctypes.memset(ptr, value, size))
        world.noted.append("fill")

    return Names(
        is_hip=False,
        CUDARuntimeError=RuntimeFailure,
        getDevice=lambda: 0,
        memcpyAsync=copy,
        memcpyHostToDevice=1,
        memsetAsync=fill,
    )


def _driver(world: World) -> Any:
    """``cupy.cuda.driver``."""

    def set_attribute(f: int, attribute: int, value: int) -> None:
        assert attribute == 8
        world.functions[f].shared = value

    return Names(
        CUDADriverError=DriverFailure,
        funcSetAttribute=set_attribute,
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
    )


def _expect_integers(*given: Any) -> None:
    if any(type(v) is not int for v in given):
        raise TypeError("an integer is required")
