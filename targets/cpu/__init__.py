"""The CPU target: native code, made from the fused modules by LLVM, without a C++ compiler."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from migx.argument import Argument
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.program import Program
from migx.target import CompileOptions, Context, Executable, Target

SPECTRUM = 160_000
"""The size of a matrix, in bytes, up to which a product with it is no slower than a fast transform
on the host, for up to some 256 rows.
"""
FUSE_INT4 = "fuse_int4{blocks=true}"
PASSES = (
    "eliminate_identity",
    "rewrite_picked_products",
    "simplify_loops",
    "rewrite_convolution_backwards",
    "rewrite_pooling",
    "rewrite_resize",
    "rewrite_indexing",
    "rewrite_deformable_convolution",
    f"rewrite_dft{{most={SPECTRUM}}}",
    "simplify_qdq",
    "optimize_module",
    "rewrite_sequences",
    "fixpoint{max=3}(simplify_counting,simplify_loops)",
    "rewrite_picking{slices=false}",
    "rewrite_convolution",
    "eliminate_pad",
    FUSE_INT4,
    "rewrite_blocks",
    "rewrite_reduce",
    "fuse_attention",
    "optimize_module",
    "hoist_weights",
    "fuse_quantized",
    "fuse_pointwise_reduce",
    "fuse_epilogue",
    "fuse_concat",
    "dissolve{target=cpu}",
    "rewrite_blocks",
    "fuse_pointwise_reduce",
    "dissolve{target=cpu}",
    "auto_contiguous{control=true, across=true}",
)


class Cpu(Target):
    """Runs programs as native code, on the number of threads given by ``num_threads``,
    ``MIGX_NUM_THREADS`` or the physical cores.

    An instruction without a kernel runs on the host by its own meaning, as on ``ref``.
    """

    packs_blocks = True

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        passes = list(PASSES)
        if options.rounds_activations:
            passes.insert(passes.index(FUSE_INT4) + 1, "quantize_activations")
        if options.fast_math:
            passes.insert(passes.index("hoist_weights") + 1, "rewrite_winograd")
        return Pipeline.parse(",".join(passes))

    def compiling(self) -> AbstractContextManager[object]:
        from migx.targets.cpu.code.compiling import ahead

        return ahead()

    def make_executable(self, program: Program, context: Context) -> Executable:
        from migx.targets.cpu.runs.executable import CpuExecutable

        return CpuExecutable(program, context)

    def preferred_weight_format(self, instruction: Instruction, index: int) -> str | None:
        from migx.targets.cpu.kernels import formats_of
        from migx.targets.cpu.machine import host

        return formats_of(instruction, host()).get(index)

    def transform_weight(self, argument: Argument, layout: str) -> Argument:
        from migx.targets.cpu.runs.weights import packed

        return packed(argument, layout)

    def accepts(self, saved: Mapping[str, bytes]) -> bool:
        from migx.targets.cpu.code.saved import is_usable

        return is_usable(saved)

    def supports(self, instruction: Instruction) -> bool:
        from migx.targets.cpu.kernels import kernel_for
        from migx.targets.cpu.machine import host

        return kernel_for(instruction, host()) is not None
