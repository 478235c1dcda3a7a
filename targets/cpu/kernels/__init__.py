"""The kernels, one file for each family.

A family's ``kernel_for(at, machine)`` gives the kernel of an instruction, or None if the family has
none for it. ``FAMILIES`` is the order in which they are asked. Files not named there are part of
the family they are named after; what families share is in ``parts``. An operation of another
package has a static method ``cpu_kernel(at, machine)`` instead.
"""

from __future__ import annotations

from collections.abc import Hashable
from importlib import import_module

from migx.base.recent import Recent
from migx.errors import TargetError
from migx.ir import Instruction
from migx.ops.builtin import Literal, Param, Return, Slot
from migx.targets.cpu.code import jit
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
    "coupling",
    "roi_align",
    "nonmaxsuppression",
    "nonzero",
    "recurrent",
    "trees",
    "dims",
)
BUILTIN = (Literal, Param, Return, Slot)
"""Operations whose results exist already when a step runs."""
MOST = 512
"""The size of the cache of kernels, through which like instructions are analysed once."""
_known: Recent[tuple[Hashable, Machine], Kernel | None] = Recent(MOST)


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of an instruction, from its operation or the first family that has one; None sends
    it to ``ref``.

    Of like instructions only one is analysed, in this process or an earlier one; not if the kernel
    is the operation's own, whose code may change.
    """
    if isinstance(at.op, BUILTIN):
        return None
    if (own := getattr(at.op, "cpu_kernel", None)) is not None:
        return _own(at, own(at, machine))
    if (alike := likeness(at)) is None:
        return _made(at, machine)
    found = _known.get((alike, machine))
    if found is None and (alike, machine) not in _known:
        is_kept, found = recalled(at, alike, machine)
        if not is_kept:
            found = _made(at, machine)
            keep(at, alike, machine, found)
            if found is not None:
                jit.expect(found.text)
        _known[alike, machine] = found
    return found


def _own(at: Instruction, kernel: object) -> Kernel | None:
    """The kernel that an operation has made itself; ``TargetError`` if it is none."""
    if kernel is None or isinstance(kernel, Kernel):
        return kernel
    kind = type(kernel).__name__
    raise TargetError(f"{at.name}: cpu_kernel returns a Kernel or None, not of type {kind}")


def _made(at: Instruction, machine: Machine) -> Kernel | None:
    for name in FAMILIES:
        family = import_module(f"{__name__}.{name}")
        found: Kernel | None = family.kernel_for(at, machine)
        if found is not None:
            return None if _reads_packed_otherwise(at, found) else found
    return None


def _reads_packed_otherwise(at: Instruction, kernel: Kernel) -> bool:
    """Whether an operand that a kernel takes packed has several users inside: the others would find
    it packed, too.
    """
    parameters = [list(module.parameters.values()) for module in at.modules]
    return any(inside[i].use_count > 1 for i, _ in kernel.formats for inside in parameters)


def formats_of(at: Instruction, machine: Machine) -> dict[int, str]:
    """The constant inputs that an instruction's kernel wants packed, each with its weight
    format.
    """
    kernel = None if at.op.name in ("pointwise", "fused_reduce") else kernel_for(at, machine)
    return {} if kernel is None else dict(kernel.formats)
