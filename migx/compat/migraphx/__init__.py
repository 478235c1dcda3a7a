"""MIGraphX's Python API over migx: ``import migx.compat.migraphx as migraphx``.

Names, keywords, defaults and the integers of enums are those of MIGraphX 2.16. What migx does not
support is a ``CompatError`` that says what to do instead; no option is accepted and ignored.
Lowercase classes are MIGraphX's; the migx value they wrap is their attribute ``program``,
``module``, ``instruction`` or ``value``.
"""

import migx
from migx.compat.migraphx.arguments import (
    argument,
    argument_from_pointer,
    create_argument,
    fill_argument,
    generate_argument,
)
from migx.compat.migraphx.data import (
    allocate_gpu,
    from_gpu,
    gpu_sync,
    load,
    load_buffer,
    save,
    save_buffer,
    to_gpu,
)
from migx.compat.migraphx.operations import macro, op
from migx.compat.migraphx.programs import (
    compile_modes,
    get_target,
    instruction_ref,
    module,
    program,
    target,
)
from migx.compat.migraphx.quantizing import (
    autocast_fp8,
    quantize_bf16,
    quantize_fp8,
    quantize_fp16,
    quantize_int8,
)
from migx.compat.migraphx.reading import get_onnx_operators, parse_onnx, parse_onnx_buffer, parse_tf
from migx.compat.migraphx.shapes import shape

__version__ = f"2.16+migx.{migx.__version__}"
__all__ = [
    "allocate_gpu",
    "argument",
    "argument_from_pointer",
    "autocast_fp8",
    "compile_modes",
    "create_argument",
    "fill_argument",
    "from_gpu",
    "generate_argument",
    "get_onnx_operators",
    "get_target",
    "gpu_sync",
    "instruction_ref",
    "load",
    "load_buffer",
    "macro",
    "module",
    "op",
    "parse_onnx",
    "parse_onnx_buffer",
    "parse_tf",
    "program",
    "quantize_bf16",
    "quantize_fp8",
    "quantize_fp16",
    "quantize_int8",
    "save",
    "save_buffer",
    "shape",
    "target",
    "to_gpu",
]
