"""From Triton text to binaries, with or without a GPU, in processes of their own.

Binaries are cached on disk under the hash of all that determines them: text, parameters,
architecture and the version of Triton. Missing ones are compiled by workers, each a Python process
that runs ``serve`` with Triton; so this process never loads the compiler, and may load Triton's
interpreter instead, which excludes it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import linecache
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from migx.base import disk_cache, workers
from migx.errors import TargetError
from migx.targets.gpu.architectures import Architecture, architecture
from migx.targets.gpu.code.resources import spilled

if TYPE_CHECKING:
    from migx.targets.gpu.operations import CodeObject

KIND = "gpu"
VERSION = 4
"""The version of how text becomes a binary; changing it invalidates cached binaries."""
HARMLESS = 64
"""Bytes of spilled registers per thread that are not worth compiling again."""
THREADS = 512
"""The most threads of a program compiled again: with more, each has few registers."""
BLACKWELL = 100
"""The first NVIDIA architecture whose binaries only load with drivers of CUDA 13 and later."""
_COMMAND = "from migx.targets.gpu.code.compiling import serve; serve()"


@dataclass(frozen=True)
class Request:
    """All that determines a binary. ``aligned`` are the operands aligned to 16 bytes."""

    source: str
    pointers: tuple[str, ...]
    words: int
    aligned: tuple[int, ...]
    warps: int
    stages: int
    arch: str

    @classmethod
    def of(cls, op: CodeObject, arch: str) -> Request:
        """The request for a kernel; the index of a turn is one word more."""
        words = len(op.words) + (op.turns != 0)
        return cls(op.source, op.pointers, words, op.aligned, op.warps, op.stages, arch)

    @property
    def key(self) -> str:
        """The name of the binary, which depends on the request but not on the version of Triton."""
        said = json.dumps([VERSION, *asdict(self).values()])
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: the bytes a driver loads, the name of its entry, and for each program its
    shared memory in bytes and its threads. ``scratch`` is the number of pointers after its
    parameters to memory that our kernels do not use.
    """

    code: bytes
    entry: str
    shared: int
    threads: int
    scratch: int
    arch: str

    def to_bytes(self) -> bytes:
        """The serialised binary."""
        fields = asdict(self) | {"code": base64.b64encode(self.code).decode()}
        return json.dumps(fields).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Binary:
        """The binary that ``to_bytes`` serialised; raises ``ValueError`` for other bytes."""
        fields = json.loads(content)
        return cls(**(fields | {"code": base64.b64decode(fields["code"])}))


@cache
def triton_version() -> str:
    """The version of Triton installed; raises ``TargetError``, which says how to install it."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        raise TargetError(
            "the gpu target compiles kernels by Triton, which is not installed: "
            "pip install triton (Linux), or the extra: pip install 'migx[gpu]'"
        ) from None


def binaries(requests: Iterable[Request]) -> dict[str, Binary]:
    """The binary of each request, by key: from disk, or compiled now."""
    found: dict[str, Binary] = {}
    missing: dict[str, Request] = {}
    for request in requests:
        key = request.key
        if (content := disk_cache.read(KIND, f"{key} {triton_version()}")) is not None:
            found[key] = Binary.from_bytes(content)
        else:
            missing[key] = request
    return found | _compiled(missing)


def compiled(request: Request) -> Binary:
    """A binary, compiled in this process: with fewer stages if shared memory is too small; a kernel
    that spills registers is also tried with twice the threads and with one stage, and the best is
    kept.
    """
    arch, warps = architecture(request.arch), request.warps
    for stages in range(request.stages, 0, -1):
        found = [_attempt(request, arch, warps, stages)]
        if found[0].shared <= arch.shared:
            break
    else:
        raise TargetError(f"it needs {found[0].shared} bytes of shared memory, of {arch.shared}")
    if _spilled(found[0], arch) > HARMLESS:
        others = [(2 * warps, stages), (2 * warps, 1), (warps, 1)]
        made = [_attempt(request, arch, w, s) for w, s in others if w * arch.warp <= THREADS]
        found += [binary for binary in made if binary.shared <= arch.shared]
    return min(found, key=lambda binary: _spilled(binary, arch))


def _spilled(binary: Binary, arch: Architecture) -> int:
    return spilled(binary.code, arch.code)


def _attempt(request: Request, arch: Architecture, warps: int, stages: int) -> Binary:
    """The binary with so many warps and stages."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = function_of(request.source)
    kinds = [f"*{p}" for p in request.pointers] + ["i32"] * request.words
    signature = dict(zip(function.arg_names, kinds, strict=True))
    attributes = {(i,): [["tt.divisibility", 16]] for i in request.aligned}
    source = ASTSource(function, signature, attrs=attributes)
    options: dict[str, Any] = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    with _settings(arch):
        target = GPUTarget(arch.backend, arch.number, arch.warp)
        made = triton.compile(source, target=target, options=options)
    said = made.metadata
    scratch = [getattr(said, f"{kind}_scratch_size", 0) for kind in ("global", "profile")]
    if any(scratch):
        raise TargetError(f"it needs scratch memory, which it is not given: {scratch} bytes")
    threads = said.num_warps * arch.warp
    return Binary(made.asm[arch.code], said.name, said.shared, threads, len(scratch), arch.name)


@contextmanager
def _settings(arch: Architecture) -> Iterator[None]:
    """Makes Triton use the older of its two assemblers for architectures that it knows, as drivers
    of CUDA 12 refuse binaries of the newer one. Line numbers, which refer to text in no file, are
    left out: they would be most of a binary.
    """
    from triton import knobs

    with knobs.nvidia.scope(), knobs.compilation.scope():
        knobs.compilation.disable_line_info = True
        if isinstance(arch.number, int) and arch.number < BLACKWELL:
            knobs.nvidia.ptxas_blackwell = knobs.nvidia.ptxas.path
        yield


def function_of(source: str) -> Any:
    """The function ``kernel`` that a text defines, as Triton's decorator made it."""
    name = f"<kernel {hashlib.sha256(source.encode()).hexdigest()[:24]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    scope: dict[str, Any] = {"__name__": "migx_kernel"}
    exec(compile(source, name, "exec"), scope)
    return scope["kernel"]


# Workers.


def serve() -> None:
    """Compiles requests until there are no more."""
    workers.serve(_answer)


def _answer(said: str) -> bytes:
    """The binary of a request in JSON, or the error."""
    fields = json.loads(said)
    fields |= {k: tuple(fields[k]) for k in ("pointers", "aligned")}
    try:
        answer = {"made": compiled(Request(**fields)).to_bytes().decode()}
    except Exception as error:  # noqa: BLE001  # whatever the compiler raises is reported
        answer = {"error": f"{type(error).__name__}: {error}"}
    return json.dumps(answer).encode()


def _compiled(missing: Mapping[str, Request]) -> dict[str, Binary]:
    """Compiles by workers, one for each core, or for each kernel if these are fewer."""
    made: dict[str, Binary] = {}

    def heard(key: str, said: bytes) -> None:
        answer, request = json.loads(said), missing[key]
        if "error" in answer:
            why = f"Triton refuses a kernel for {request.arch}: {answer['error']}"
            raise TargetError(f"{why}\n{request.source}")
        content = str(answer["made"]).encode()
        disk_cache.write(KIND, f"{key} {triton_version()}", content)  # this process may be killed
        made[key] = Binary.from_bytes(content)

    requests = {key: json.dumps(asdict(request)) for key, request in missing.items()}
    count = min(len(os.sched_getaffinity(0)), len(missing))
    around = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    try:
        left = workers.ask(
            _COMMAND, requests, count, heard, around | {"TRITON_DEFAULT_FP_FUSION": "1"}
        )
    except OSError as error:
        raise TargetError(f"no process that compiles kernels can be started: {error}") from error
    if left:
        raise TargetError("the process that compiles kernels died")
    return made
