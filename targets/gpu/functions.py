"""Functions in Triton that the text of a kernel has where it calls them: formulas that name what
they use twice.
"""

from __future__ import annotations

import math

LOG2_E = math.log2(math.e)
WITHIN = 128.0
"""Beyond this and its negative, powers of e are infinite or 0 in f32, and their roots are not."""
FUNCTIONS = {
    # What is multiplied by log2(e) is rounded, and the last digit of a great exponent is many of
    # the power's. A fused product finds what is left over, for which the power is mended.
    "exp_f32": f"""

@triton.jit
def exp_f32(x):
    half = x * {LOG2_E / 2!r}
    root = tl.exp2(half)
    rest = tl.fma(half, {-2 / LOG2_E!r}, x)
    return root * tl.where(tl.abs(x) < {WITHIN}, tl.fma(root, rest, root), root)""",
}
"""By name: their text."""


def called(text: str) -> list[str]:
    """The functions that a text calls."""
    return [function for name, function in FUNCTIONS.items() if f"{name}(" in text]
