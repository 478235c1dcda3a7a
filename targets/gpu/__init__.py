"""The GPU target: Triton kernels for NVIDIA and AMD, compiled ahead of time or where they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from migx.argument import Argument
from migx.errors import TargetError
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.program import Program
from migx.target import CompileOptions, Context, Executable, Target

if TYPE_CHECKING:
    from migx.targets.gpu.devices.device import Device

SHAPES = ("eliminate_identity", "normalize_ops", "simplify_loops", "simplify_dyn_ops")
"""Makes known sizes explicit, and removes loop-carried values that do not change."""
REQUIRED = (
    "rewrite_rnn",
    "rewrite_convolution_backwards",
    "rewrite_resize",
    "rewrite_deformable_convolution",
    "rewrite_dft",
)
"""Rewrites what the device has no kernel for into what it has."""
OPTIMISATION = (
    "simplify_qdq",
    "optimize_module",
    "rewrite_sequences",
    "fixpoint{max=3}(simplify_counting,simplify_loops)",
    "rewrite_picking",
    "rewrite_convolution",
    "fuse_int4",
    "rewrite_blocks",
    "rewrite_reduce",
    "rewrite_topk",
    "fuse_attention",
    "optimize_module",
    "layout_convolution{layout=nhwc}",
    "simplify_reshapes",
    "auto_contiguous{channels=true}",
)
"""Folds and simplifies arithmetic, and finds patterns before fusion hides them."""
FUSION = (
    "rewrite_concat",
    "hoist_weights",
    "layout_weights",
    "fuse_quantized",
    "fuse_pointwise_reduce",
    "fuse_epilogue",
    "fuse_concat",
    "dissolve{target=gpu}",
    "fuse_pointwise_reduce",
    "dissolve{target=gpu}",
)
"""Forms fused kernels; a group without a kernel as a whole is dissolved."""


class GpuOptions(Target):
    """The options of ``Gpu`` that can be told in text, as a saved program does."""

    offload_copy: bool = True
    tune: bool = False


class Gpu(GpuOptions):
    """Runs programs on a GPU.

    ``arch`` names architectures to compile for, on any machine; the default is that of the device.
    ``device`` runs programs: an ``InterpreterDevice``, or by default the first GPU found. With
    ``offload_copy`` (the default) parameters and results are in host memory, and copied; without,
    they stay on the device. ``tune`` measures tiles on the device, and keeps the fastest; without
    it, a model chooses, for the first architecture, among the tiles that fit all.
    """

    def __init__(
        self,
        arch: str | tuple[str, ...] = (),
        *,
        device: Device | None = None,
        offload_copy: bool = True,
        tune: bool = False,
    ) -> None:
        from migx.targets.gpu.architectures import architecture

        super().__init__(offload_copy=offload_copy, tune=tune)
        self.archs = (arch,) if isinstance(arch, str) else tuple(arch)
        for name in self.archs:
            architecture(name)
        self.given, self.missing = device, ""

    @property
    def device(self) -> Device | None:
        """The device that runs programs; None on a machine without one."""
        if self.given is None:
            from migx.targets.gpu.devices.cupy_device import found

            self.given, self.missing = found()
        return self.given

    def for_architectures(self, names: tuple[str, ...]) -> Gpu:
        return Gpu(names, device=self.given, offload_copy=self.offload_copy, tune=self.tune)

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        said = [f"offload_copy={str(self.offload_copy).lower()}"]
        archs = self.archs
        if not archs and self.device is not None and self.device.arch:
            archs = (self.device.arch,)
        said += [f"arch=({','.join(archs)})"] if archs else []
        said += ["tune=true"] if self.tune else []
        said += ["fast_math=true"] if options.fast_math else []
        lowering = f"gpu::lower{{{', '.join(said)}}}"
        parts = (*SHAPES, *REQUIRED, *OPTIMISATION, *FUSION, lowering)
        return Pipeline.parse(",".join(parts))

    def get_lower_literals_passes(self, context: Context) -> Pipeline:
        return Pipeline.parse("lower_baked_literals{to=gpu::literal}")

    def make_executable(self, program: Program, context: Context) -> Executable:
        from migx.targets.gpu.runs.executable import GpuExecutable

        if self.device is None and not self.archs and not context.saved:
            raise TargetError(
                f"{self.missing}. To compile for another machine, say for which architecture: "
                "migx compile --target gpu --arch sm_90, or Gpu(arch='sm_90'). To run without a "
                "GPU, slowly, set MIGX_GPU_DEVICE=interpreter"
            )
        return GpuExecutable(program, context, self)

    def supports(self, instruction: Instruction) -> bool:
        from migx.targets.gpu.kernels import kernel_for

        return kernel_for(instruction) is not None

    def copy_to(self, argument: Argument) -> Argument:
        from migx.targets.gpu.devices.values import DeviceArgument

        return DeviceArgument.of_host(argument, self.device) if self.device else argument

    def taken(self, inputs: Any) -> Any:
        from migx.targets.gpu.devices.values import borrowed

        return borrowed(inputs, self.device) if isinstance(inputs, Mapping) else inputs

    def copy_from(self, argument: Argument) -> Argument:
        from migx.targets.gpu.devices.values import DeviceArgument

        return argument.on_host() if isinstance(argument, DeviceArgument) else argument
