"""Reductions over the lanes of a vector, by names: ``add``, ``mul``, ``min``, ``max`` (NaN if any
is), ``and``, ``or``. Integers are signed; ``umin`` and ``umax`` are not.
"""

from __future__ import annotations

from migx.targets.cpu.emit.function import Function
from migx.targets.cpu.emit.values import Value


def fold(f: Function, name: str, x: Value, rows: int = 1) -> Value:
    """All lanes combined, as a tree, so always in the same order. Several ``rows`` of lanes give a
    vector with the result of each.
    """
    if not x.type.lanes:
        return x
    while (far := x.type.lanes // rows // 2) >= 1:
        half = far * rows
        a, b = (f.shuffle(x, x, range(k, k + half)) for k in (0, half))
        if rows > 1:  # from halves as wide as the result, which LLVM shuffles well
            low = [2 * row * far + k for row in range(rows) for k in range(far)]
            a, b = f.shuffle(a, b, low), f.shuffle(a, b, [k + far for k in low])
        # The last halves of a single row are scalars, where LLVM distinguishes zeros in any case.
        x = combined(f, name, a, b, signed_zeros=far == 1)
    return x if rows > 1 else f.extract(x, 0)


def combined(f: Function, name: str, x: Value, y: Value, *, signed_zeros: bool = False) -> Value:
    """Two values combined; -0.0 may be distinguished from 0.0."""
    match name:
        case "min" | "max" if signed_zeros and x.type.is_float:
            return f.intrinsic(f"{name}imum", x, y)
        case "min":
            return f.minimum(x, y)
        case "max":
            return f.maximum(x, y)
        case "umin" | "umax":
            return f.intrinsic(name, x, y)
        case "and" | "or":
            return f.op(name, x, y)
    return f.arithmetic(name, x, y)
