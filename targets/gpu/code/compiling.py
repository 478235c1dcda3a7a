"""From Triton text to binaries, with or without a GPU, in processes of their own.

Binaries are kept on disk under the hash of what decides them: text, parameters, architecture and
the version of Triton. What is missing is compiled by helpers, each this Python running ``serve``
with Triton in it; so this process never loads the compiler, and may load Triton's interpreter
instead, which rules it out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import linecache
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from migx.base import kept
from migx.errors import TargetError
from migx.targets.gpu.architectures import Architecture, architecture
from migx.targets.gpu.code.resources import spilled

if TYPE_CHECKING:
    from migx.targets.gpu.emit.text import Kernel
    from migx.targets.gpu.operations import CodeObject

KIND = "gpu"
VERSION = 4
"""Counts changes to how text becomes a binary, which make binaries kept before worthless."""
HARMLESS = 64
"""Bytes of memory for a thread's registers that are not worth compiling again."""
THREADS = 512
"""The most threads that a program gets instead: with more, each has few registers."""
BLACKWELL = 100
"""The first architecture of NVIDIA whose binaries only drivers of CUDA 13 and later load."""
_COMMAND = "from migx.targets.gpu.code.compiling import serve; serve()"


@dataclass(frozen=True)
class Request:
    """What decides a binary. ``aligned`` are the operands that begin at multiples of 16 bytes."""

    source: str
    pointers: tuple[str, ...]
    words: int
    aligned: tuple[int, ...]
    warps: int
    stages: int
    arch: str

    @classmethod
    def of(cls, kernel: Kernel | CodeObject, aligned: tuple[int, ...], arch: str) -> Request:
        """What decides the binary of a kernel; the number of a turn is one word more."""
        words = len(kernel.words) + (kernel.turns != 0)
        how = aligned, kernel.warps, kernel.stages, arch
        return cls(kernel.source, kernel.pointers, words, *how)

    @property
    def key(self) -> str:
        """The name of the binary: the same for all that must be the same, whatever Triton made
        it.
        """
        said = json.dumps([VERSION, *asdict(self).values()])
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: the bytes a driver loads, the name of its entry, its shared memory in
    bytes and threads for a program. ``scratch`` says how many pointers to memory that no kernel of
    ours uses follow its parameters.
    """

    code: bytes
    entry: str
    shared: int
    threads: int
    scratch: int
    arch: str

    def to_bytes(self) -> bytes:
        """The binary as it is kept."""
        fields = asdict(self) | {"code": base64.b64encode(self.code).decode()}
        return json.dumps(fields).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Binary:
        """The binary that ``to_bytes`` gave; ``ValueError`` for other bytes."""
        fields = json.loads(content)
        return cls(**(fields | {"code": base64.b64decode(fields["code"])}))


@cache
def triton_version() -> str:
    """The version of Triton that is installed; ``TargetError`` says how to get one."""
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
        if (content := kept.read(KIND, f"{key} {triton_version()}")) is not None:
            found[key] = Binary.from_bytes(content)
        else:
            missing[key] = request
    return found | _compiled(missing)


def compiled(request: Request) -> Binary:
    """A binary, compiled in this process: with fewer loads that run ahead where shared memory is
    small, and of kernels that do not fit their registers with twice the threads or without such
    loads, if they fit better then.
    """
    arch, warps = architecture(request.arch), request.warps
    for stages in range(request.stages, 0, -1):
        found = [_attempt(request, arch, warps, stages)]
        if found[0].shared <= arch.shared:
            break
    else:
        raise TargetError(f"it takes {found[0].shared} bytes of shared memory")
    if _spilled(found[0], arch) > HARMLESS:
        others = [(2 * warps, stages), (2 * warps, 1), (warps, 1)]
        made = [_attempt(request, arch, w, s) for w, s in others if w * arch.warp <= THREADS]
        found += [binary for binary in made if binary.shared <= arch.shared]
    return min(found, key=lambda binary: _spilled(binary, arch))


def _spilled(binary: Binary, arch: Architecture) -> int:
    return spilled(binary.code, arch.code)


def _attempt(request: Request, arch: Architecture, warps: int, stages: int) -> Binary:
    """The binary with so many warps, and loads that run ahead."""
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
        raise TargetError(f"it takes scratch memory, which none of ours may: {scratch} bytes")
    threads = said.num_warps * arch.warp
    return Binary(made.asm[arch.code], said.name, said.shared, threads, len(scratch), arch.name)


@contextmanager
def _settings(arch: Architecture) -> Iterator[None]:
    """Has Triton use the older of the assemblers that it brings wherever that knows the
    architecture: what the newer one makes, drivers of CUDA 12 refuse to load. The numbers of
    lines, which are of text that lies in no file, are left out: most of a binary would be they.
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


# Helpers.


def serve() -> None:
    """Compiles each request that comes in, a line of JSON, until nothing more does."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        fields = json.loads(line)
        fields |= {k: tuple(fields[k]) for k in ("pointers", "aligned")}
        try:
            answer = {"made": compiled(Request(**fields)).to_bytes().decode()}
        except Exception as error:  # noqa: BLE001  # whatever a compiler raises goes to who asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _compiled(missing: Mapping[str, Request]) -> dict[str, Binary]:
    """What helpers compile; as many of them as there are cores, or kernels if these are fewer."""
    waiting = iter(missing.items())
    made: dict[str, Binary] = {}
    failed: list[TargetError] = []
    count = min(len(os.sched_getaffinity(0)), len(missing))
    threads = [threading.Thread(target=_work, args=(waiting, made, failed)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return made


def _work(
    waiting: Iterator[tuple[str, Request]], made: dict[str, Binary], failed: list[TargetError]
) -> None:
    """Has a helper of its own compile one request after another, until one of any helper fails."""
    try:
        with _started() as helper:
            for key, request in waiting:
                if failed:
                    return
                content = _answer(helper, request)
                kept.write(KIND, f"{key} {triton_version()}", content)  # this process may be ended
                made[key] = Binary.from_bytes(content)
    except TargetError as error:
        failed.append(error)


def _answer(helper: subprocess.Popen[str], request: Request) -> bytes:
    """The binary of a request, as bytes; ``TargetError`` says why there is none."""
    assert helper.stdin is not None
    assert helper.stdout is not None
    try:
        helper.stdin.write(json.dumps(asdict(request)) + "\n")
        helper.stdin.flush()
        answer = json.loads(helper.stdout.readline())
    except (OSError, ValueError) as error:
        raise TargetError("the process that compiles kernels died") from error
    if "error" in answer:
        said = f"Triton refuses a kernel for {request.arch}: {answer['error']}"
        raise TargetError(f"{said}\n{request.source}")
    return str(answer["made"]).encode()


@contextmanager
def _started() -> Iterator[subprocess.Popen[str]]:
    """A helper, for as long as it is needed; ``TargetError`` where there can be none."""
    paths = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"PYTHONPATH": paths, "TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    try:
        helper = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
    except OSError as error:
        raise TargetError(f"no process that compiles kernels can be started: {error}") from error
    try:
        yield helper
    finally:
        helper.kill()
        helper.communicate()
