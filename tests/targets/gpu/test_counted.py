"""On the gpu, results that only their kernel counts: ``nonzero`` and ``nonmaxsuppression``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.targets.gpu import Gpu
from migx.targets.gpu.operations import CopyFrom, Counted
from migx.targets.gpu.runs.executable import GpuExecutable
from migx.targets.gpu.runs.plan import Batch, Plan
from tests.targets.gpu.on_interpreter import DEVICE, Array, gpu, holds


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64", "bool", "i8", "u8", "i64"])
@pytest.mark.parametrize("dims", ["n", "n, 7", "4, n, 3", "n, 1, m"])
def test_nonzero(dims: str, dtype: str) -> None:
    text = f"module main(x: {dtype}[{dims}]) {{\n %0 = nonzero(x) {{count=k}}\n return %0\n}}"
    for rows in (0, 5, 700):
        holds(text, {"n": rows, "m": 9})


def test_nonzero_of_all_none_and_special_values() -> None:
    text = "module main(x: f32[n, 3]) {\n %0 = nonzero(x) {count=k}\n return %0\n}"
    holds(text, {"n": 2000}, x=np.zeros((2000, 3), np.float32))
    holds(text, {"n": 2000}, x=np.ones((2000, 3), np.float32))
    holds(text, {"n": 1}, x=np.array([[np.nan, -0.0, 1e-45]], np.float32))


def test_nonzero_of_a_view() -> None:
    text = "module main(x: f32[n, 5, 8]) {\n"
    text += " %0 = relu(x)\n %1 = transpose(%0) {permutation=(2, 0, 1)}\n"
    text += " %2 = slice(%1) {axes=(0,), starts=(1,), ends=(6,)}\n"
    holds(text + " %3 = nonzero(%2) {count=k}\n return %3\n}", {"n": 90})


def test_what_was_found_is_read_on_the_device_and_only_its_number_on_the_host() -> None:
    text = """
module main(x: f32[n, 7]) {
  %0 = relu(x)
  %1 = nonzero(%0) {count=k}
  %2 = transpose(%1) {permutation=(1, 0)}
  %3 = gathernd(%0, %2)
  %4 = neg(%3)
  return %4
}"""
    holds(text, {"n": 50})
    program = migx.parse(text).compile(gpu())
    lowered = program.compiled.program.main
    (found,) = (at for at in lowered if isinstance(at.op, Counted))
    back = [at for at in lowered if isinstance(at.op, CopyFrom)]
    assert [at.shape.text for at in back] == ["i64[1]", "f32[k]"]
    assert found.inputs[1] is back[0]
    x = np.zeros((4, 7), np.float32)
    for count in (0, 3, 1):
        x.flat[:count] = 2
        x.flat[count:] = 0
        (y,) = program.eval({"x": x})
        assert np.array_equal(y, np.full(count, -2, np.float32))


def test_a_result_of_the_program() -> None:
    text = "module main(x: i32[6]) {\n %0 = nonzero(x) {count=k}\n return %0, %0\n}"
    x = np.array([0, 3, 0, 0, 1, 2], np.int32)
    for offload in (True, False):
        target = Gpu(device=DEVICE, offload_copy=offload)
        first, second = migx.parse(text).compile(target).eval({"x": x})
        assert np.array_equal(np.asarray(first), [[1, 4, 5]])
        assert np.array_equal(np.asarray(second), [[1, 4, 5]])


def test_in_modules_that_the_host_runs() -> None:
    text = """
module main(c: bool[], x: f32[9], trips: i64[]) {
  %0 = neg(x)
  %1 = if(c) [some, none]
  %2 = get_tuple_elem(%1)
  %3 = @literal() {value=[true]} : bool[]
  %4 = @literal() {value=[0]} : i64[]
  %5 = loop(trips, %3, %4) {outputs=(i64[],)} [each]
  %6 = get_tuple_elem(%5)
  return %2, %6
}

module some() {
  %0 = nonzero(main:%0) {count=k}
  %1 = reduce_sum(%0) {axes=(1,)}
  return %1
}

module none() {
  %0 = relu(main:x)
  %1 = nonzero(%0) {count=l}
  %2 = reduce_sum(%1) {axes=(1,)}
  return %2
}

module each(i: i64[], going: bool[], last: i64[]) {
  %0 = less(i, last)
  %1 = nonzero(main:x) {count=m}
  %2 = reduce_sum(%1) {axes=(0, 1)}
  %3 = reshape(%2) {dims=()}
  %4 = add(last, %3)
  return going, %4
}"""
    x = np.array([0, -3, 0, 0, 1, 2, 0, 0, 1], np.float32)
    for chosen in (True, False):
        holds(text, c=np.array(chosen), x=x, trips=np.array(3, np.int64))


def boxes(count: int, classes: int, *, centred: bool) -> tuple[Array, Array]:
    """Boxes that overlap, and scores of which many are equal."""
    dice = np.random.default_rng(count)
    place, size = dice.random((2, count, 2)) * 60, dice.random((2, count, 2)) * 20 + 1
    scores = dice.integers(0, 40, (2, classes, count)) / 40
    ends = size if centred else place + size
    return np.concatenate([place, ends], -1).astype("f4"), scores.astype("f4")


TEXT = """
module main(b: f32[2, n, 4], s: f32[2, c, n], most: i64[1], over: f32[1], least: f32[1]) {{
  %0 = nonmaxsuppression(b, s, {given}) {{center_point_box={centred}, count=k}}
  return %0
}}"""


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("given", ["most", "most, over", "most, over, least"])
def test_nonmaxsuppression(given: str, *, centred: bool) -> None:
    text = TEXT.format(given=given, centred=str(centred).lower())
    for count, classes, most in ((20, 3, 2), (20, 3, 99), (300, 1, 7), (1, 2, 1), (20, 3, 0)):
        b, s = boxes(count, classes, centred=centred)
        limits = {"over": np.array([0.3], "f4"), "least": np.array([0.6], "f4")}
        sizes = {"n": count, "c": classes}
        holds(text, sizes, b=b, s=s, most=np.array([most], np.int64), **limits)


def test_nonmaxsuppression_of_many() -> None:
    b, s = boxes(2500, 1, centred=False)
    given = {"most": np.array([9], np.int64), "over": np.array([0.1], "f4")}
    text = TEXT.format(given="most, over, least", centred="false")
    holds(text, {"n": 2500, "c": 1}, b=b, s=s, least=np.array([-1], "f4"), **given)


@pytest.mark.parametrize("given", ["most, over", "most, over, least"])
def test_nonmaxsuppression_of_special_values(given: str) -> None:
    b, s = boxes(40, 2, centred=False)
    b[0, 9, 1] = b[1, 3, 2] = np.nan
    b[0, 12] = np.inf
    s[0, 0, 5] = np.nan
    s[0, 1, 7] = -np.inf
    s[1] *= -1  # and zeros of both signs
    s[1, 0, :9] = 0
    text = TEXT.format(given=given, centred="false")
    limits = {"over": np.array([0.4], "f4"), "least": np.array([-0.5], "f4")}
    holds(text, {"n": 40, "c": 2}, b=b, s=s, most=np.array([40], np.int64), **limits)


def test_a_known_limit_bounds_the_room() -> None:
    text = """
module main(b: f32[1, 500, 4], s: f32[1, 3, 500]) {
  %0 = @literal() {value=[4]} : i64[]
  %1 = @literal() {value=[0.5]} : f32[]
  %2 = nonmaxsuppression(b, s, %0, %1) {center_point_box=false, count=k}
  return %2
}"""
    b, s = boxes(500, 3, centred=False)
    holds(text, b=b[:1], s=s[:1])
    lowered = migx.parse(text).compile(gpu()).compiled.program.main
    (found,) = (at for at in lowered if isinstance(at.op, Counted))
    assert found.inputs[0].shape.text == "i64[12, 3]"


def test_numbers_are_read_when_all_kernels_are_enqueued() -> None:
    text = """
module main(x: f32[n, 7], y: f32[n]) {
  %0 = relu(x)
  %1 = nonzero(%0) {count=k}
  %2 = neg(y)
  %3 = nonzero(%2) {count=m}
  %4 = concat(%1, %1) {axis=1}
  return %4, %3
}"""
    holds(text, {"n": 50})
    compiled = migx.parse(text).compile(gpu()).compiled
    executable = compiled.executable
    assert isinstance(executable, GpuExecutable)
    first, second = executable.pieces[compiled.program.main]
    steps = Plan(first._form, {"n": 50}).steps
    assert sum(isinstance(step, Batch) for step in steps) == 1
    assert [at.name for at in first.late] == ["gpu::counted"] * 2
    assert not second.late
