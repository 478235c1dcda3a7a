"""What ``benchmarks.gpu`` is held against: torch, eager and compiled, and onnxruntime's CUDA
provider. Each is measured by its own means, with inputs and results on the device; one that is not
installed says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
EAGER, COMPILED, ONNXRUNTIME = "torch", "torch.compile", "onnxruntime"
COUNT = 20
"""Calls between two events."""


class Missing(Exception):
    """A peer cannot be had here; the message says why."""


def torch_module() -> Any:
    """Torch on a GPU; ``Missing`` without."""
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise Missing("torch is not installed") from None
    if not torch.cuda.is_available():
        raise Missing("torch finds no GPU")
    return torch


def seconds(torch: Any, call: Callable[[], Any], count: int = COUNT) -> float:
    """Seconds of a call, by events on torch's stream, in the least of three rounds."""
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
    x = torch.randn(rows, columns, device="cuda", dtype=torch.float16)
    functions: dict[str, Callable[[], Any]] = {
        "pointwise": lambda: torch.nn.functional.silu(x).flip(1),
        "layer norm": lambda: torch.nn.functional.layer_norm(x, (columns,)),
        "softmax": lambda: torch.softmax(x, 1),
        "gemm f16": lambda: x @ x,
    }
    if name not in functions:
        raise Missing(f"torch has no {name}")
    call = functions[name]
    return seconds(torch, torch.compile(call) if compiled else call)


def model(path: Path, given: Arrays, *, compiled: bool) -> float:
    """Seconds of a model by torch, of the ONNX file as onnx2torch reads it."""
    torch = torch_module()
    try:
        import onnx2torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise Missing("onnx2torch is not installed") from None
    try:
        made = onnx2torch.convert(str(path)).eval().cuda()
    except NotImplementedError as error:
        raise Missing(f"onnx2torch: {error}") from error
    inputs = [torch.as_tensor(array, device="cuda") for array in given.values()]
    called = torch.compile(made) if compiled else made
    return seconds(torch, lambda: called(*inputs))


def onnxruntime(path: Path, given: Arrays) -> Callable[[], Any]:
    """A run by onnxruntime on a GPU, with inputs and results there, waited for."""
    try:
        import onnxruntime as runtime
    except ImportError:
        raise Missing("onnxruntime is not installed") from None
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise Missing("onnxruntime has no CUDA provider")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(path, options, providers=["CUDAExecutionProvider"])
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
