"""The peers of ``benchmarks.gpu``: torch, eager and compiled, and onnxruntime's CUDA provider. Each
is measured by its own means, with inputs and results on the device; one that is not installed says
so.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx.program import Program

Arrays = Mapping[str, NDArray[Any]]
EAGER, COMPILED, ONNXRUNTIME = "torch", "torch.compile", "onnxruntime"
COUNT = 20
"""Calls between two events."""


class Missing(Exception):
    """A peer is not available here; the message says why."""


def torch_module(*, fast_math: bool = False) -> Any:
    """Torch on a GPU, with products and convolutions of f32 as exact as ours, or in tf32, too;
    ``Missing`` without one.
    """
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise Missing("torch is not installed") from None
    if not torch.cuda.is_available():
        raise Missing("torch finds no GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast_math
    return torch


def pinned(to: int, nbytes: int, stream: int) -> Callable[[], Any]:
    """A copy to the device from pinned memory, enqueued by CuPy."""
    cupy = cupy_module()
    held = cupy.cuda.alloc_pinned_memory(nbytes)
    ctypes.memset(held.ptr, 0, nbytes)
    copy = cupy.cuda.runtime.memcpyAsync
    return lambda: copy(to, held.ptr, nbytes, cupy.cuda.runtime.memcpyHostToDevice, stream)


def cublas(side: int) -> float:
    """Seconds of a square product of f16 by the vendor's library, through CuPy. Its operand comes
    from the host: to fill one on the device, CuPy would compile a kernel, by a compiler that may
    not be installed.
    """
    cupy = cupy_module()
    x = cupy.asarray(_small(side))
    first, last = (cupy.cuda.Event() for _ in range(2))
    found = []
    for count in (3, COUNT, COUNT, COUNT):
        first.record()
        for _ in range(count):
            cupy.matmul(x, x)
        last.record()
        last.synchronize()
        found.append(cupy.cuda.get_elapsed_time(first, last) / 1e3 / count)
    return float(min(found[1:]))


def torch_product(side: int) -> float:
    """Seconds of the same product through torch."""
    torch = torch_module()
    x = torch.as_tensor(_small(side), device="cuda")
    return seconds(torch, lambda: x @ x)


def _small(side: int) -> NDArray[np.float16]:
    """A matrix whose powers are no larger than itself."""
    drawn = np.random.default_rng(0).standard_normal((side, side), np.float32)
    return (drawn / math.sqrt(side)).astype(np.float16)


def cupy_module() -> Any:
    """CuPy on a GPU; ``Missing`` without one."""
    try:
        import cupy

        cupy.cuda.runtime.getDevice()
    except (ImportError, RuntimeError) as error:
        raise Missing(f"CuPy: {error}") from error
    return cupy


def seconds(torch: Any, call: Callable[[], Any], count: int = COUNT) -> float:
    """Seconds of a call, by events on torch's stream: the least of three rounds."""
    with torch.inference_mode():
        for _ in range(3):
            call()
        found = []
        for _ in range(3):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(count):
                call()
            last.record()
            last.synchronize()
            found.append(first.elapsed_time(last) / 1e3 / count)
    return float(min(found))


def kernel(name: str, rows: int, columns: int, *, compiled: bool) -> float:
    """Seconds of torch for one kernel of ``gpu_texts``, by its name in the table."""
    torch = torch_module()
    dtype = torch.float32 if name == "gemm f32" else torch.float16
    x = torch.randn(rows, columns, device="cuda", dtype=dtype) / math.sqrt(columns)
    functions: dict[str, Callable[[], Any]] = {
        "pointwise": lambda: torch.nn.functional.silu(x),
        "layer norm": lambda: torch.nn.functional.layer_norm(x, (columns,)),
        "softmax": lambda: torch.softmax(x, 1),
        "gemm f16": lambda: x @ x,
        "gemm f32": lambda: x @ x,
    }
    if name not in functions:
        raise Missing(f"torch has no {name}")
    call = functions[name]
    return seconds(torch, torch.compile(call) if compiled else call)


def model(program: Program, given: Arrays, *, compiled: bool, fast_math: bool) -> float:
    """Seconds of a model by torch: the program as a torch graph."""
    from benchmarks.gpu_torch import graph_of

    torch = torch_module(fast_math=fast_math)
    made = graph_of(program, torch, "cuda")
    inputs = [torch.as_tensor(given[name], device="cuda") for name in program.main.parameters]
    called = torch.compile(made) if compiled else made
    return seconds(torch, lambda: called(*inputs))


def onnxruntime(path: Path, given: Arrays, *, fast_math: bool) -> Callable[[], Any]:
    """A synchronous run by onnxruntime on a GPU, with inputs and results there; in f32 as exact as
    ours.
    """
    try:
        import onnxruntime as runtime
    except ImportError:
        raise Missing("onnxruntime is not installed") from None
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise Missing("onnxruntime has no CUDA provider")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    provider = ("CUDAExecutionProvider", {"use_tf32": str(int(fast_math))})
    session = runtime.InferenceSession(path, options, providers=[provider])
    binding = session.io_binding()
    for name, array in given.items():
        value = runtime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
