"""Control flow on the interpreter: what kernels give and loops carry stays on the device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.ir import Module
from migx.program import Program
from migx.targets.gpu import Gpu
from migx.targets.gpu.devices.interpreter import InterpreterDevice
from migx.targets.gpu.devices.values import DeviceArgument
from tests.targets.flow import EVERY, PAIR, RUNS, TOLD_INSIDE, given, pair, same
from tests.targets.gpu.on_interpreter import DEVICE

STEPS = """
module main(t: i64[], x: f32[n, 4], w: f32[4, 4]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = neg(x)
  %2 = @literal() {value=[0]} : i64[]
  %3 = loop(t, %0, %1, w, %2) {outputs=(f32[n, 4], f32[4, 4], i64[], f32[trips, n, 4])} [body]
  %4 = get_tuple_elem(%3)
  %5 = get_tuple_elem(%3) {index=2}
  %6 = get_tuple_elem(%3) {index=3}
  %7 = neg(x)
  %8 = abs(%7)
  %9 = add(%4, %8)
  return %9, %5, %6, %4
}

module body(i: i64[], c: bool[], h: f32[n, 4], u: f32[4, 4], k: i64[]) {
  %0 = dot(h, u)
  %1 = max(%0, main:x)
  %2 = @literal() {value=[3]} : i64[]
  %3 = add(k, %2)
  %4 = @literal() {value=[12]} : i64[]
  %5 = less(%3, %4)
  return %5, %1, u, %3, %1
}
"""
CHOSEN = """
module main(x: f32[n, 4]) {
  %0 = neg(x)
  %1 = reduce_sum(%0) {axes=(0, 1)}
  %2 = reshape(%1) {dims=()}
  %3 = @literal() {value=[0]} : f32[]
  %4 = less(%2, %3)
  %5 = if(%4) [yes, no]
  %6 = get_tuple_elem(%5)
  %7 = abs(x)
  %8 = add(%6, %7)
  %9 = nonzero(%6) {count=m}
  return %8, %6, %9
}

module yes() {
  return main:%0
}

module no() {
  %0 = relu(main:x)
  return %0
}
"""


class Counting(InterpreterDevice):
    """Counts what goes to the device, from it, and from one place on it to another."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def upload(self, address: int, array: NDArray[Any]) -> None:
        self.counts["up"] += 1
        super().upload(address, array)

    def download(self, address: int, array: NDArray[Any]) -> None:
        self.counts["down"] += 1
        super().download(address, array)

    def move(self, to: int, source: int, nbytes: int) -> None:
        self.counts["moved"] += 1
        super().move(to, source, nbytes)


def compiled(text: str, *, offload_copy: bool = True) -> Program:
    return migx.parse(text).compile(Gpu(device=DEVICE, offload_copy=offload_copy))


def names(module: Module) -> list[str]:
    return [at.name for at in module]


@pytest.mark.parametrize("offload_copy", [True, False])
@pytest.mark.parametrize("text", EVERY)
def test_control_flow_is_as_on_ref(text: str, offload_copy: bool) -> None:
    program, ref = compiled(text, offload_copy=offload_copy), migx.parse(text).compile("ref")
    for n, t, c in RUNS[:-1]:
        inputs = given(program, n, t, c)
        assert same(program.eval(inputs), ref.eval(inputs))


@pytest.mark.parametrize("offload_copy", [True, False])
def test_what_a_loop_carries_stays_on_the_device(offload_copy: bool) -> None:
    program, ref = compiled(STEPS, offload_copy=offload_copy), migx.parse(STEPS).compile("ref")
    w = np.eye(4, dtype=np.float32)[::-1] * 2
    for n, t in ((3, 0), (2, 1), (3, 9)):
        x = np.linspace(-1, 1, 4 * n, dtype=np.float32).reshape(n, 4)
        inputs = {"t": np.array(t), "x": x, "w": w}
        assert same(program.eval(inputs), ref.eval(inputs))
    body = program.compiled.program.modules["body"]
    assert "gpu::copy_from" not in names(body)
    assert "add" in names(body)  # what counts is the host's, and no module there
    assert "less" not in names(body)  # the trips are counted before
    assert len(body.parameters) == 4  # and the weights are read from outside


def test_sizes_inside_a_tuple_may_change() -> None:
    program, ref = compiled(PAIR), migx.parse(PAIR).compile("ref")
    for n in (3, 5, 2, 5):
        assert same(program.eval(pair(n)), ref.eval(pair(n)))


def test_iterations_copy_nothing_but_rows() -> None:
    device = Counting()
    made = migx.parse(STEPS).compile(Gpu(device=device, offload_copy=False)).compiled
    given = {"t": np.array(9), "x": np.ones((3, 4), np.float32), "w": np.eye(4, dtype=np.float32)}
    there = {n: DeviceArgument.of_host(migx.Argument.of(v), device) for n, v in given.items()}
    device.counts.clear()
    results = made.run_async(there)
    assert all(isinstance(r, DeviceArgument) for r in results)
    assert results[2].shape.dims[0] == 4
    assert device.counts == {"down": 1, "up": 1, "moved": 4}  # the trips, a count, four rows


@pytest.mark.parametrize("offload_copy", [True, False])
def test_a_branch_may_give_what_is_made_outside(offload_copy: bool) -> None:
    program, ref = compiled(CHOSEN, offload_copy=offload_copy), migx.parse(CHOSEN).compile("ref")
    for sign in (1, -1):
        x = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4) * sign
        assert same(program.eval({"x": x}), ref.eval({"x": x}))


@pytest.mark.parametrize("chosen", [True, False])
def test_sizes_that_only_a_module_tells(chosen: bool) -> None:
    x = np.array([0, 1, -2, 0, 3, 0, 0, 1, 1], np.float32)
    inputs = {"c": np.array(chosen), "t": np.array(3), "x": x}
    found, wanted = (
        migx.parse(TOLD_INSIDE).compile(t).eval(inputs) for t in (Gpu(device=DEVICE), "ref")
    )
    assert all(map(np.array_equal, found, wanted))
