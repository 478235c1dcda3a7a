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
    "power": """

@triton.jit
def power(x, y):
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) * 2 != y)
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    signed = tl.where(odd & (x.to(tl.int64, bitcast=True) < 0), size * -1.0, size)
    none = (x < 0) & (x != -float("inf")) & (whole == 0)
    one = (y == 0) | (x == 1) | ((x == -1) & (tl.abs(y) == float("inf")))
    return tl.where(one, 1.0, tl.where(none, float("nan"), signed))""",
    # The least number stands for what does not fit, as convert says; hardware differs in that.
    "whole_i32": """

@triton.jit
def whole_i32(x):
    return tl.where(tl.abs(x) < 2147483648.0, x.to(tl.int32), -2147483648)""",
    "whole_i64": """

@triton.jit
def whole_i64(x):
    return tl.where(tl.abs(x) < 9223372036854775808.0, x.to(tl.int64), -9223372036854775808)""",
    "whole_u64": """

@triton.jit
def whole_u64(x):
    rest = tl.where(x < 9223372036854775808.0, x, x - 9223372036854775808.0)
    high = (x >= 9223372036854775808.0).to(tl.uint64) << 63
    fits = tl.abs(rest) < 9223372036854775808.0
    low = tl.where(fits, rest.to(tl.int64), -9223372036854775808)
    return low.to(tl.uint64) ^ high""",
}
"""By name: their text."""


def called(text: str) -> list[str]:
    """The functions that a text calls."""
    return [function for name, function in FUNCTIONS.items() if f"{name}(" in text]
