"""The kernels, one file for each family.

Each file has ``kernel_for(at)``, which gives the kernel of an instruction, or None if the family
has none for it. ``FAMILIES`` is the order in which they are asked. A family knows no other: what
several are made of is in ``parts/``.
"""

from __future__ import annotations

from importlib import import_module

from migx.ir import Instruction
from migx.targets.gpu.emit.text import Kernel

FAMILIES = (
    "product",
    "convolution",
    "attention",
    "fused",
    "regions",
    "moving",
    "pooling",
    "scatter",
    "nonzero",
    "nonmaxsuppression",
    "lines",
    "resize",
    "recurrent",
    "sampling",
    "roi_align",
    "trees",
)


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of an instruction, from the first family that has one; None sends it to the
    host.
    """
    for name in FAMILIES:
        family = import_module(f"{__name__}.{name}")
        found: Kernel | None = family.kernel_for(at)
        if found is not None:
            return found
    return None
