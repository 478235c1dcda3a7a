"""The programs whose kernels ``benchmarks.gpu`` measures: one kernel after another in each, so that
starting a run counts little.
"""

from __future__ import annotations

from collections.abc import Callable

CHAIN = 16
"""Kernels of a program."""


def _chain(
    dims: str,
    step: Callable[[str, int], tuple[list[str], str]],
    head: str = "",
    count: int = CHAIN,
) -> str:
    """A program of a chain of kernels; ``step`` gives the lines and the result of one."""
    lines, value = list[str](), "x"
    for _ in range(count):
        more, value = step(value, len(lines))
        lines += more
    body = "\n".join(f"  {line}" for line in lines)
    return f"module main(x: f16[{dims}]{head}) {{\n{body}\n  return {value}\n}}"


def _apart(rows: int, columns: int, step: Callable[[str, int], tuple[list[str], str]]) -> str:
    """A program of kernels, each with its own input: a chain would be fused into one kernel."""
    lines, results = list[str](), list[str]()
    for number in range(CHAIN):
        more, value = step(f"x{number}", len(lines))
        lines += [f"  {line}" for line in more]
        results.append(value)
    inputs = ", ".join(f"x{number}: f16[{rows}, {columns}]" for number in range(CHAIN))
    return "\n".join([f"module main({inputs}) {{", *lines, f"  return {', '.join(results)}\n}}"])


def pointwise(rows: int, columns: int) -> str:
    """``x * sigmoid(x)``."""
    return _apart(
        rows,
        columns,
        lambda x, n: ([f"%{n} = sigmoid({x})", f"%{n + 1} = mul({x}, %{n})"], f"%{n + 1}"),
    )


def softmax(rows: int, columns: int) -> str:
    """Softmax of each row."""
    return _apart(rows, columns, lambda x, n: ([f"%{n} = softmax({x}) {{axis=1}}"], f"%{n}"))


def norm(rows: int, columns: int) -> str:
    """Each row less its mean, over its standard deviation."""

    def step(x: str, n: int) -> tuple[list[str], str]:
        wide = f"{{out_lens=({rows}, {columns})}}"
        return [
            f"%{n} = reduce_mean({x}) {{axes=(1,)}}",
            f"%{n + 1} = multibroadcast(%{n}) {wide}",
            f"%{n + 2} = sub({x}, %{n + 1})",
            f"%{n + 3} = mul(%{n + 2}, %{n + 2})",
            f"%{n + 4} = reduce_mean(%{n + 3}) {{axes=(1,)}}",
            f"%{n + 5} = rsqrt(%{n + 4})",
            f"%{n + 6} = multibroadcast(%{n + 5}) {wide}",
            f"%{n + 7} = mul(%{n + 2}, %{n + 6})",
        ], f"%{n + 7}"

    return _apart(rows, columns, step)


def gemm(side: int, dtype: str = "f16") -> str:
    """Products of square matrices."""
    text = _chain(
        f"{side}, {side}",
        lambda x, n: ([f"%{n} = dot({x}, w)"], f"%{n}"),
        f", w: f16[{side}, {side}]",
    )
    return text.replace("f16", dtype)


def int4(side: int, count: int = CHAIN) -> str:
    """Products of a row with distinct matrices of four bits, so that no cache holds them."""

    def step(x: str, n: int) -> tuple[list[str], str]:
        blocks = side // 32
        return [
            f"%{n} = {_literal(f'w{n}', side * side // 2)} : u4[{side}, {side}]",
            f"%{n + 1} = {_literal(f's{n}', side * blocks * 2)} : f16[{blocks}, {side}]",
            f"%{n + 2} = unpack_int4(%{n})",
            f"%{n + 3} = dequantizelinear(%{n + 2}, %{n + 1}) {{axis=0, block=32}}",
            f"%{n + 4} = dot({x}, %{n + 3})",
        ], f"%{n + 4}"

    return _chain(f"1, {side}", step, count=count)


def _literal(name: str, nbytes: int) -> str:
    return f'@literal() {{value=bytes("{name}", 0, {nbytes})}}'


def swapped(side: int) -> str:
    """A product with a weight that may be replaced."""
    label = f'@literal() {{value=bytes("w", 0, {side * side * 4}), label="w", replaceable=true}}'
    lines = [f"%0 = {label} : f32[{side}, {side}]", "%1 = dot(x, %0)", "return %1"]
    return f"module main(x: f32[1, {side}]) {{\n" + "\n".join(lines) + "\n}"
