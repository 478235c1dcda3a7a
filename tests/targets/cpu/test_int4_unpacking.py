"""Elements of 2 and 4 bits, unpacked by a kernel on the cpu."""

from __future__ import annotations

import pytest

from migx.ir import Instruction
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels.int4_unpacking import kernel_for
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced

CONTAINERS = {"i4": "i8", "u4": "u8", "i2": "i8", "u2": "u8"}


def whole(dtype: str, *dims: int) -> str:
    """A literal of a packed type, unpacked."""
    count = 1
    for extent in dims:
        count *= extent
    nbytes = -(-count * int(dtype[1]) // 8)
    held = f'@literal() {{value=bytes("w", 0, {nbytes}), label="w"}}'
    shape = ", ".join(map(str, dims))
    return f"""
module main() {{
  %0 = {held} : {dtype}[{shape}]
  %1 = unpack_int{dtype[1]}(%0)
  return %1
}}
"""


def along(dtype: str, rows: int | str, held: int, length: int) -> str:
    """Bytes that come in, unpacked along their last axis."""
    return f"""
module main(x: {CONTAINERS[dtype]}[{rows}, {held}]) {{
  %0 = unpack_int{dtype[1]}(x) {{axis=1, length={length}}}
  return %0
}}
"""


@pytest.mark.parametrize("dtype", CONTAINERS)
@pytest.mark.parametrize("dims", [(), (1,), (3, 5), (64,), (7, 33, 3), (300, 171)])
def test_whole(dtype: str, dims: tuple[int, ...]) -> None:
    assert not problem(kernel_for, parsed(whole(dtype, *dims)))


@pytest.mark.parametrize("dtype", CONTAINERS)
@pytest.mark.parametrize("held", [1, 5, 40])
@pytest.mark.parametrize("short", [0, 1])
def test_along_the_last_axis(dtype: str, held: int, short: int) -> None:
    length = held * 8 // int(dtype[1]) - short
    program = parsed(along(dtype, "n", held, length))
    for rows in (0, 1, 3, 700):
        assert not problem(kernel_for, program, {"n": rows})


@pytest.mark.parametrize("name", OTHER_MACHINES)
def test_other_vectors(name: str) -> None:
    def kernel(at: Instruction, machine: Machine) -> Kernel | None:
        return kernel_for(at, OTHER_MACHINES[name])

    for dtype in CONTAINERS:
        assert not problem(kernel, parsed(whole(dtype, 7, 33, 3)))


def test_along_another_axis_is_left() -> None:
    text = "\nmodule main(x: u8[3, 4]) {\n  %0 = unpack_int4(x) {axis=0}\n  return %0\n}\n"
    assert kernel_for(produced(parsed(text)), host()) is None
