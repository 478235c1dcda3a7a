"""The device without hardware: kernels run by Triton's interpreter, in the host's memory."""

from __future__ import annotations

import ctypes
import dataclasses
import inspect
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx.errors import TargetError
from migx.targets.gpu.code.compiling import Binary, Request, function_of, triton_version
from migx.targets.gpu.devices.device import ALIGNMENT, flat
from migx.targets.gpu.devices.dlpack import CPU

_lock = threading.Lock()


class HostBuffer:
    """Aligned host memory."""

    def __init__(self, nbytes: int) -> None:
        self._raw = np.empty(nbytes + ALIGNMENT, np.uint8)
        start = int(self._raw.ctypes.data)
        self.address, self.nbytes = -(-start // ALIGNMENT) * ALIGNMENT, nbytes


class InterpreterDevice:
    """Runs the text of each kernel, program by program, on numpy. It is slow: for tests of what a
    kernel computes, on machines without a GPU. One kernel runs at a time.
    """

    arch = ""
    place = CPU, 0
    stream = 0

    def __init__(self) -> None:
        triton_version()
        if "triton" not in sys.modules:
            os.environ["TRITON_INTERPRET"] = "1"
        import triton

        if not triton.knobs.runtime.interpret:
            raise TargetError(
                "Triton was imported to compile, so it cannot interpret in this process: set "
                "TRITON_INTERPRET=1 before Python starts"
            )
        _mend()

    def on(self, stream: int) -> AbstractContextManager[None]:
        return nullcontext()

    def order(self, first: int, then: int) -> None:
        """Does nothing, as there is one stream."""

    def allocate(self, nbytes: int) -> HostBuffer:
        return HostBuffer(nbytes)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        data = flat(array)
        ctypes.memmove(address, data.ctypes.data, data.nbytes)

    def download(self, address: int, array: NDArray[Any]) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def move(self, to: int, source: int, nbytes: int) -> None:
        ctypes.memmove(to, source, nbytes)

    def function(self, request: Request, binary: Binary | None) -> Any:
        return _loaded(request.source), request.pointers, request.source

    def launch(self, function: Any, grid: int, arguments: Sequence[int]) -> None:
        kernel, pointers, source = function
        count = len(pointers)
        given = [_Pointer(a, t) for a, t in zip(arguments[:count], pointers, strict=True)]
        from triton.runtime.errors import InterpreterError

        try:
            with _lock, np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about NaN, which kernels may meet
                kernel[(grid,)](*given, *arguments[count:])
        except InterpreterError as error:
            cause = error.__cause__ or error
            raise TargetError(
                f"Triton's interpreter refuses a kernel: {cause}\n{source}"
            ) from error

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        return None

    def elapsed(self, enqueue: Callable[[], None], host: float = 0.0) -> float:
        begin = time.perf_counter()
        enqueue()
        return time.perf_counter() - begin

    def synchronize(self) -> None:
        """Does nothing, as nothing runs asynchronously."""


@cache
def _mend() -> None:
    """Patches the interpreter where it differs from devices."""
    _mend_bf16()
    _mend_comparisons()
    _mend_loops()
    _mend_fused_products()
    _mend_reductions()
    _mend_speed()


def _mend_bf16() -> None:
    """Rounds bf16 to nearest, widens it exactly and multiplies it as numbers: the interpreter holds
    it as integers, truncates instead of rounding, changes subnormals, and would multiply the
    integers.
    """
    import ml_dtypes
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounding(self: Any, source: Any, to: Any) -> Any:
        given, wanted = source.dtype.scalar, to.scalar
        if wanted == tl.bfloat16 and given in (tl.float32, tl.float64):
            return TensorHandle(source.data.astype(ml_dtypes.bfloat16).view(np.uint16), wanted)
        if given == tl.bfloat16:
            wide = source.data.astype(np.uint32) << 16
            source = TensorHandle(wide.view(np.float32), tl.float32)
            if wanted == tl.float32:
                return source
        return cast(self, source, to)

    def multiplied(self: Any, x: Any, y: Any, total: Any, *options: Any) -> Any:
        if x.dtype.scalar == tl.bfloat16:
            x, y = (self.cast_impl(v, tl.float32) for v in (x, y))
        return dot(self, x, y, total, *options)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = rounding, multiplied


def _mend_comparisons() -> None:
    """Types the results of comparisons as single bits, which the interpreter forgets when it
    broadcasts one over a tile.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    binary = InterpreterBuilder.binary_op

    def compared(self: Any, x: Any, y: Any, op: Any) -> Any:
        made = binary(self, x, y, op)
        return TensorHandle(made.data, tl.int1) if made.data.dtype == np.bool_ else made

    InterpreterBuilder.binary_op = compared


def _mend_loops() -> None:
    """Lets loops end at words: Triton 3.6 converts an array of one element to a number, which numpy
    no longer allows.
    """
    from triton.runtime import interpreter

    patched = interpreter._patch_lang_tensor

    def counting(tensor: Any, scope: Any) -> None:
        patched(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = counting


def _mend_fused_products() -> None:
    """Rounds a fused multiply-add once."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def fused(self: Any, x: Any, y: Any, z: Any) -> Any:
        wide = x.data.astype(np.float64) * y.data + z.data  # the product of f32 is exact
        return TensorHandle(wide.astype(x.data.dtype), x.dtype)

    InterpreterBuilder.create_fma = fused


def _mend_reductions() -> None:
    """Reduces tiles by our own functions half a tile at a time; the interpreter would do so element
    by element, in Python.
    """
    from triton.runtime.interpreter import ReduceOps

    def reduced(self: Any, given: Sequence[Any]) -> list[Any]:
        values, kinds = [v.handle.data for v in given], [v.dtype for v in given]
        while values[0].shape[self.axis] > 1:
            halves = zip(*(np.split(v, 2, self.axis) for v in values), strict=True)
            parts = [map(self.to_tensor, half, kinds) for half in halves]
            made = self.combine_fn.fn(*parts[0], *parts[1])
            values = [v.handle.data for v in (made if isinstance(made, tuple) else (made,))]
        if not self.keep_dims:
            values = [np.squeeze(v, self.axis) for v in values]
        return [self.to_tensor(v, kind) for v, kind in zip(values, kinds, strict=True)]

    ReduceOps.generic_reduce = reduced


def _mend_speed() -> None:
    """Skips half of the interpreter's work, which has no effect: it searches the whole language for
    each call of a function, and checks integers for overflow without reporting any.
    """
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    @cache
    def builtins(package: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if is_builtin(member)]

    def patched(package: Any, builder: Any, scope: Any) -> None:
        for name in builtins(package):
            if is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = patched
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


@cache
def _loaded(source: str) -> Any:
    return function_of(source)


class _Pointer:
    """A tensor for the interpreter: an address and an element type."""

    def __init__(self, address: int, dtype: str) -> None:
        self._address, self.dtype = address, dtype

    def data_ptr(self) -> int:
        return self._address

    def untyped_storage(self) -> _Pointer:
        return self

    def cpu(self) -> _Pointer:
        return self

    def new_empty(self, *_: Any, **__: Any) -> _Pointer:
        return _Pointer(self._address, self.dtype)

    def set_(self, *_: Any) -> None:
        """Does nothing, as the memory is the same already."""

    def copy_(self, other: _Pointer) -> None:
        """Does nothing, as the contents are here already."""

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return ()

    def stride(self) -> tuple[int, ...]:
        return ()
