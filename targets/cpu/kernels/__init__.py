"""The kernels there are, one file for each family.

It has ``kernel_for(at, machine)``: the kernel of an instruction, or None where the family has none
for it. ``FAMILIES`` is the order in which they are asked. Files that are not named there are a
part of the family they are named after; what families have in common is in ``parts``.
"""

from __future__ import annotations

from collections.abc import Hashable
from importlib import import_module

from migx.base.recent import Recent
from migx.ir import Instruction
from migx.ops.builtin import Literal, Param, Return, Slot
from migx.targets.cpu.code.alike import likeness
from migx.targets.cpu.code.recalled import keep, recalled
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.machine import Machine

FAMILIES = (
    "quantized_gemm",
    "weight_only",
    "gemm",
    "quantized_depthwise",
    "depthwise",
    "quantized_convolution",
    "convolution",
    "winograd",
    "pooling",
    "pooled_places",
    "int4_unpacking",
    "attention",
    "interleave",
    "transposed",
    "fused",
    "regions",
    "gather",
    "scatter",
    "places",
    "lines",
    "topk",
    "resize",
    "sampling",
    "columns",
    "determinant",
    "roi_align",
    "nonmaxsuppression",
    "nonzero",
    "recurrent",
    "trees",
    "dims",
)
BUILTIN = (Literal, Param, Return, Slot)
"""What is there already when a step runs."""
MOST = 512
"""How many kernels are remembered, so that instructions that are alike are looked at once."""
_known: Recent[tuple[Hashable, Machine], Kernel | None] = Recent(MOST)


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of an instruction by the first family that has one; None sends it to ``ref``.

    Of instructions that are alike one is looked at, in this process or an earlier one.
    """
    if isinstance(at.op, BUILTIN):
        return None
    if (alike := likeness(at)) is None:
        return _made(at, machine)
    found = _known.get((alike, machine))
    if found is None and (alike, machine) not in _known:
        is_kept, found = recalled(at, alike, machine)
        if not is_kept:
            found = _made(at, machine)
            keep(at, alike, machine, found)
        _known[alike, machine] = found
    return found


def _made(at: Instruction, machine: Machine) -> Kernel | None:
    for name in FAMILIES:
        family = import_module(f"{__name__}.{name}")
        found: Kernel | None = family.kernel_for(at, machine)
        if found is not None:
            return None if _reads_packed_otherwise(at, found) else found
    return None


def _reads_packed_otherwise(at: Instruction, kernel: Kernel) -> bool:
    """Whether what a kernel takes packed is read by more than one instruction inside: the others
    would find it packed, too.
    """
    parameters = [list(module.parameters.values()) for module in at.modules]
    return any(inside[i].use_count > 1 for i, _ in kernel.formats for inside in parameters)


def formats_of(at: Instruction, machine: Machine) -> dict[int, str]:
    """The weight format in which an instruction's kernel reads each of its constant inputs that it
    wants packed.
    """
    kernel = None if at.op.name in ("pointwise", "fused_reduce") else kernel_for(at, machine)
    return {} if kernel is None else dict(kernel.formats)
