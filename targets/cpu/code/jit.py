"""From IR text to addresses of machine code, by LLVM through llvmlite.

Objects are cached on disk (``migx.base.disk_cache``) under the hash of their text, the CPU and the
version of LLVM, so later processes only load them.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

from migx.base import disk_cache
from migx.base.mapping import GIVE_BACK
from migx.errors import TargetError

VERSION = 6
"""The version of how text becomes an object and of how kernels are serialised; changing it
invalidates what has been cached.
"""
KIND = "objects"
NOTHING: Mapping[str, bytes] = MappingProxyType({})
_lock = threading.RLock()
_locks: list[Any] = []
"""The lock that llvmlite takes for every call, once it is imported."""


def _before_fork() -> None:
    """Waits until no thread is in LLVM: nobody would release that thread's lock in the child."""
    _lock.acquire()
    for lock in _locks:
        lock.__enter__()


def _after_fork() -> None:
    for lock in _locks:
        lock.__exit__(None, None, None)
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )


class Code:
    """Machine code in memory, which stays loaded while this object lives; ``address`` is its
    entry.
    """

    def __init__(self, library: Any, address: int) -> None:
        self._library, self.address = library, address


_loaded: WeakValueDictionary[str, Code] = WeakValueDictionary()


def symbol(text: str) -> str:
    """The symbol of a text; equal texts have equal symbols."""
    return "k" + hashlib.sha256(text.encode()).hexdigest()[:24]


def load(texts: Iterable[str]) -> dict[str, Code]:
    """The code of each text, each of which defines ``@kernel``. Equal texts are compiled once."""
    wanted = {symbol(text): text for text in texts}
    made = codes(wanted)
    return {text: made[name] for name, text in wanted.items()}


def codes(texts: Mapping[str, str], known: Mapping[str, bytes] = NOTHING) -> dict[str, Code]:
    """The code of texts by their symbols. ``known`` are objects that need not be looked up."""
    with _lock:
        found = {name: code for name in texts if (code := _loaded.get(name)) is not None}
        missing = {name: text for name, text in texts.items() if name not in found}
        made = _linked(objects(missing, known))
        _loaded.update(made)
    return found | made


def objects(texts: Mapping[str, str], known: Mapping[str, bytes] = NOTHING) -> dict[str, bytes]:
    """The object of each text by its symbol, which names its entry: from ``known``, from disk, or
    compiled and cached.
    """
    from migx.targets.cpu.code import compiling

    found = {name: known[name] for name in texts if name in known}
    old = {name: _cached(name) for name in texts if name not in found}
    found |= {name: content for name, content in old.items() if content is not None}
    made = compiling.objects({n: _named(n, t) for n, t in texts.items() if n not in found})
    for name, content in made.items():
        disk_cache.write(KIND, f"{about()} {name}", content)
    return found | made


def expect(text: str) -> None:
    """Within ``compiling.ahead``, begins to compile a text whose code will be needed."""
    from migx.targets.cpu.code import compiling

    if (around := compiling.current()) is None or (name := symbol(text)) in around:
        return
    if name not in _loaded and _cached(name) is None:
        around.expect(name, _named(name, text))


def _cached(name: str) -> bytes | None:
    return disk_cache.read(KIND, f"{about()} {name}")


def _named(name: str, text: str) -> str:
    """A text whose entry has its symbol."""
    return text.replace("@kernel(", f"@{name}(")


_TO_HALF = b"__truncdfhf2"
"""A function LLVM calls to round f64 to f16 on x86, and expects from a C compiler's runtime."""
_ROUNDING = """
define weak_odr half @__truncdfhf2(double %x) {
  %near = fptrunc double %x to float
  %back = fpext float %near to double
  %exact = fcmp ueq double %back, %x
  %given = bitcast double %x to i64
  %found = bitcast double %back to i64
  %size = shl i64 %given, 1
  %rounded = shl i64 %found, 1
  %up = icmp ugt i64 %rounded, %size
  %one = zext i1 %up to i32
  %bits = bitcast float %near to i32
  %below = sub i32 %bits, %one
  %odd = or i32 %below, 1
  %kept = select i1 %exact, i32 %bits, i32 %odd
  %sticky = bitcast i32 %kept to float
  %half = fptrunc float %sticky to half
  ret half %half
}
"""
"""f64 to f16, rounded once: via f32 rounded to odd, which keeps what decides a tie."""


def compiled(text: str) -> bytes:
    """The object of a text, compiled now."""
    made = _emitted(text)
    return _emitted(text + _ROUNDING) if _TO_HALF in made else made


def _emitted(text: str) -> bytes:
    machine = _llvm()[1]
    made: bytes = machine.emit_object(_optimised(text, machine))
    return made


def assembly(text: str, cpu: str = "", triple: str = "") -> str:
    """The machine code of a text as assembly, for human readers: that of this CPU, or of another,
    which LLVM calls ``cpu``, on the system of ``triple``.
    """
    machine = _elsewhere(cpu, triple) if cpu else _llvm()[1]
    return str(machine.emit_assembly(_optimised(text, machine)))


def _elsewhere(cpu: str, triple: str) -> Any:
    """The target machine of a CPU unlike this one."""
    llvm = _binding()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3, reloc="pic")


def _optimised(text: str, machine: Any) -> Any:
    """The module of a text after those LLVM passes that vector code needs: the ones that tidy each
    function.
    """
    llvm = _binding()
    header = f'target triple = "{machine.triple}"\ntarget datalayout = "{machine.target_data}"\n'
    try:
        module = llvm.parse_assembly(header + text)
        module.verify()
    except RuntimeError as error:
        raise TargetError(f"the cpu target wrote IR that LLVM refuses: {error}\n{text}") from error
    options = llvm.create_pipeline_tuning_options(1)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getFunctionPassManager()
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return module


@cache
def host_features() -> tuple[str, frozenset[str]]:
    """The name and features of this CPU, in LLVM's words."""
    llvm = _binding()
    features: Mapping[str, bool] = llvm.get_host_cpu_features()
    return llvm.get_host_cpu_name(), frozenset(f for f, has in features.items() if has)


@cache
def about() -> str:
    """What cached objects depend on: the version of this file, that of LLVM, and the CPU."""
    cpu, features = host_features()
    return f"{VERSION} {_binding().__version__} {cpu} {sorted(features)}"


def _linked(objects: Mapping[str, bytes]) -> dict[str, Code]:
    if not objects:
        return {}
    llvm, _, jit = _llvm()
    builder = llvm.JITLibraryBuilder().add_current_process()
    for name, made in objects.items():
        builder = builder.add_object_img(made).export_symbol(name)
    library = builder.link(jit, f"migx{next(_numbers)}")
    return {name: Code(library, library[name]) for name in objects}


_numbers = itertools.count()


def give_back() -> None:
    """Evicts LLVM's library from memory until it is called again: starting it reads 40 MB, of which
    most calls need little, and a program that only runs needs none. Linux only.
    """
    for start, size in _unwritten():
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), GIVE_BACK)


@cache
def _unwritten() -> list[tuple[int, int]]:
    """The addresses and sizes of the mappings of LLVM's library that are read-only and unmodified,
    so can be read from the file again.
    """
    try:
        mapped = Path("/proc/self/smaps").read_bytes()
    except OSError:
        return []
    found = [(int(start, 16), int(end, 16)) for start, end in _READ_ONLY.findall(mapped)]
    return [(start, end - start) for start, end in found]


_READ_ONLY = re.compile(
    rb"^(\w+)-(\w+) r-.p .*/lib(?:llvmlite|LLVM)[^/\n]*\n"
    rb"(?:[A-Z].*\n)*?Anonymous: +0 kB\n",
    re.MULTILINE,
)


@cache
def _binding() -> Any:
    try:
        import llvmlite
        import llvmlite.binding
    except ImportError as error:
        raise TargetError(
            f"the cpu target compiles with llvmlite, which cannot be imported here: {error}. "
            "`pip install llvmlite` where it has wheels; the ref target runs without it"
        ) from error
    llvm: Any = llvmlite.binding
    llvm.__version__ = llvmlite.__version__
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    with _lock:
        _locks.append(llvm.ffi.lib._lock)
    give_back()
    return llvm


@cache
def _llvm() -> tuple[Any, Any, Any]:
    """The binding, the target machine and the linker."""
    llvm = _binding()
    cpu, _ = host_features()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic")
    jit = llvm.create_lljit_compiler(machine, use_jit_link=False, suppress_errors=False)
    return llvm, machine, jit
