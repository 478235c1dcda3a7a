"""Runs on a GPU that does nothing before it must: streams, graphs, values of other libraries, and
what is left when something fails. CuPy and the GPU are the stand-ins of ``fake_cupy``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.errors import EvaluationError, InputError, TargetError
from migx.ops.builtin import Literal
from migx.program import Program
from migx.shape import Shape
from migx.targets.gpu import Gpu
from migx.targets.gpu.devices import cupy_device
from migx.targets.gpu.devices.cupy_device import CupyDevice
from migx.targets.gpu.devices.values import DeviceArgument
from migx.targets.gpu.runs import executable
from tests.targets.gpu.fake_cupy import World, binaries_of, make
from tests.targets.gpu.on_interpreter import DEVICE, gpu

WEIGHT = '@literal() {value=bytes("w", 0, 64), label="w", replaceable=true} : f32[4, 4]'
TEXT = f"""
module main(x: f32[n, 4]) {{
  %0 = {WEIGHT}
  %1 = dot(x, %0)
  %2 = exp(%1)
  %3 = softmax(%2) {{axis=1}}
  return %3
}}"""
HOST = """
module main(x: f32[n, 4]) {
  %0 = exp(x)
  %1 = unique(%0) {axis=0, count=m}
  %2 = get_tuple_elem(%1) {index=2}
  return %2, %0
}"""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The GPU behind the stand-in."""
    made = World()
    monkeypatch.setitem(sys.modules, "cupy", make(made))
    monkeypatch.setattr(executable, "binaries", binaries_of)
    yield made
    gc.collect()
    assert (made.held, made.modules) == (0, 0), "something is left on the device"


def program(weight: float = 0.5, text: str = TEXT) -> Program:
    made = migx.parse(text, draw_missing=1)
    for at in made.literals:
        at.op = Literal(
            migx.Argument.of(np.full((4, 4), weight, np.float32)), label="w", replaceable=True
        )
    return made


def expected(x: Any, weight: float = 0.5) -> Any:
    (found,) = program(weight).compile("ref").eval({"x": x})
    return found


X = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


@pytest.mark.parametrize("offload_copy", [True, False])
def test_a_program_is_right_recorded_and_replayed(world: World, offload_copy: bool) -> None:
    made = program().compile(Gpu(device=CupyDevice(), offload_copy=offload_copy))
    for turn in range(5):
        (found,) = made.eval({"x": X + turn})
        np.testing.assert_allclose(found, expected(X + turn), rtol=1e-6)
    recorded = 1 if offload_copy else 2  # of what the caller has, two buffers go by turns
    assert world.noted.count("begin") == recorded
    assert world.noted.count("replay") == 5 - recorded


def test_two_sets_of_weights_each_have_their_graph(world: World) -> None:
    made = program().compile(Gpu(device=CupyDevice()))
    weights = {value: np.full((4, 4), value, np.float32) for value in (0.5, 0.25)}
    old = made.compiled.weights.current.slots["w"]
    for value in (0.5, 0.25, 0.5, 0.25, 0.5, 0.25):
        with made.update_weights() as new:
            new["w"] = weights[value]
        for _ in range(2):
            (found,) = made.eval({"x": X})
            np.testing.assert_allclose(found, expected(X, value), rtol=1e-6)
    assert isinstance(old, DeviceArgument)
    assert world.noted.count("begin") <= 3  # where memory comes and goes by turns


def test_weights_that_are_written_over_are_uploaded_once(world: World) -> None:
    made = program().compile(Gpu(device=CupyDevice(), offload_copy=False))
    there = DeviceArgument.of_host(migx.Argument.of(X), made.executable.device)
    held = world.held
    with made.update_weights(in_place=True) as new:
        new["w"] = np.full((4, 4), 0.25, np.float32)
    assert world.held == held
    world.noted.clear()
    (found,) = made.compiled.run_async({"x": there})
    assert not any(n.startswith("copy") for n in world.noted)
    np.testing.assert_allclose(found.array, expected(X, 0.25), rtol=1e-6)


def test_nobody_waits_but_all_comes_in_order(world: World) -> None:
    made = program().compile(Gpu(device=CupyDevice(), offload_copy=False)).compiled
    theirs = 77
    (first,) = made.run_async({"x": X}, theirs)
    (second,) = made.run_async({"x": first}, SimpleNamespace(__cuda_stream__=lambda: (0, theirs)))
    with made.weights.update() as new:  # while neither has run
        new["w"] = np.full((4, 4), 0.25, np.float32)
    (third,) = made.run_async({"x": second}, SimpleNamespace(cuda_stream=0))
    assert not any(kind == "copy 2" for kind in world.noted), "something was waited for"
    assert all(isinstance(v, DeviceArgument) for v in (first, second, third))
    one = expected(X)
    two = expected(one)
    np.testing.assert_allclose(third.array, expected(two, 0.25), rtol=1e-6)
    np.testing.assert_allclose(second.array, two, rtol=1e-6)
    np.testing.assert_allclose(first.array, one, rtol=1e-6)


class Foreign:
    """An array of another library on the device, written by a stream of its own."""

    def __init__(self, world: World, values: Any, *, shift: int = 0, stream: int = 55) -> None:
        self.held = np.zeros(values.nbytes + 64, np.uint8)
        start = -(-self.held.ctypes.data // 16) * 16 + shift
        content = values.tobytes()
        world.enqueue(stream, lambda: ctypes.memmove(start, content, len(content)))
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (start, False),
            "strides": None,
            "stream": stream,
            "version": 3,
        }


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("offload_copy", [True, False])
def test_arrays_of_others_are_read_where_they_are(
    world: World, shift: int, offload_copy: bool
) -> None:
    made = program().compile(Gpu(device=CupyDevice(), offload_copy=offload_copy))
    world.noted.clear()
    given: Any = Foreign(world, X, shift=shift)
    (found,) = made.eval({"x": given})
    np.testing.assert_allclose(found, expected(X), rtol=1e-6)
    assert not any(n.startswith("copy 1") for n in world.noted), "it went over the link"
    assert ("copy 3 48" in world.noted) == (offload_copy or shift != 0)


def test_what_cannot_be_read_there_is_refused(world: World) -> None:
    made = program().compile(Gpu(device=CupyDevice(), offload_copy=False)).compiled
    turned = Foreign(world, X)
    turned.__cuda_array_interface__["strides"] = (4, 12)
    with pytest.raises(InputError, match="'x' is laid out as .* make it contiguous first"):
        made.run_async({"x": turned})
    turned.__cuda_array_interface__["strides"] = (-16, 4)
    with pytest.raises(InputError, match="'x': its strides .* make it contiguous first"):
        made.run_async({"x": turned})
    turned.__cuda_array_interface__["typestr"] = "<V3"
    with pytest.raises(InputError, match="input 'x': its elements are <V3"):
        made.run_async({"x": turned})
    elsewhere = SimpleNamespace(__dlpack_device__=lambda: (2, 3), __dlpack__=None)
    with pytest.raises(InputError, match="input 'x': it lies on GPU 3, but .* runs on 0"):
        made.run_async({"x": elsewhere})
    with pytest.raises(InputError, match="str is no stream"):
        made.run_async({"x": X}, "default")


def test_results_are_given_to_others(world: World) -> None:
    made = program().compile(Gpu(device=CupyDevice(), offload_copy=False)).compiled
    (found,) = made.run_async({"x": X}, 77)
    assert isinstance(found, DeviceArgument)
    said = found.__cuda_array_interface__
    assert (said["shape"], said["typestr"], said["version"]) == ((3, 4), "<f4", 3)
    assert found.__dlpack_device__() == (2, 0)
    capsule = found.__dlpack__(stream=33)
    del found
    world.run(33)  # the taker's stream waits for the values
    space = (ctypes.c_float * 12).from_address(said["data"][0])
    np.testing.assert_allclose(np.reshape(space, (3, 4)), expected(X), rtol=1e-6)
    del capsule


def test_a_step_of_the_host_waits_for_what_it_reads(world: World) -> None:
    made = program(text=HOST).compile(Gpu(device=CupyDevice(), offload_copy=False)).compiled
    places, values = made.run_async({"x": X}, 77)
    assert isinstance(places, DeviceArgument)  # brought there, though the host made it
    np.testing.assert_allclose(values.array, np.exp(X), rtol=1e-6)
    assert places.shape.dims == (3,)


def test_results_that_are_copied_cannot_be_had_without_waiting(world: World) -> None:
    made = program().compile(Gpu(device=CupyDevice())).compiled
    with pytest.raises(TargetError, match="compile it for Gpu.offload_copy=False."):
        made.run_async({"x": X})
    with pytest.raises(TargetError, match="target ref has no streams: .* call eval"):
        program().compile("ref").compiled.run_async({"x": X})


@pytest.mark.parametrize("room", [0, 512, 1024, 2048, 4096])
def test_where_memory_ends_nothing_is_left(world: World, room: int) -> None:
    world.room = room
    made = program()
    with pytest.raises(TargetError, match=r"no room for [\d,]+ bytes on the device: Out of memory"):
        for turn in range(1, 9):
            made = made if turn > 1 else made.compile(Gpu(device=CupyDevice()))
            made.eval({"x": np.ones((turn * 256, 4), np.float32)})
    if room == 4096:  # it goes on where less is asked for
        (found,) = made.eval({"x": X})
        np.testing.assert_allclose(found, expected(X), rtol=1e-6)


def test_memory_that_no_run_has_is_given_back_where_it_is_needed(world: World) -> None:
    made = program().compile(Gpu(device=CupyDevice(), offload_copy=False)).compiled
    world.room = 1 << 17  # for the largest, but not for all of them together
    for turn in range(1, 9):
        x = np.full((turn * 256, 4), turn / 8, np.float32)
        (found,) = made.run_async({"x": x}, 200 + turn)  # each stream has an arena of its own
        np.testing.assert_allclose(found.array, expected(x), rtol=1e-6)


def test_sizes_that_grow_find_memory_there(world: World) -> None:
    device = CupyDevice()
    made = program().compile(Gpu(device=device, offload_copy=False)).compiled
    arrays = [np.full((rows, 4), rows / 4096, np.float32) for rows in range(1025, 1089, 4)]
    inputs = [DeviceArgument.of_host(migx.Argument.of(x), device) for x in arrays]
    before = world.blocks
    for x, there in zip(arrays, inputs, strict=True):
        (found,) = made.run_async({"x": there})
        np.testing.assert_allclose(found.array, expected(x), rtol=1e-6)
    assert world.blocks - before <= 4  # an arena, and two results by turns


def test_a_launch_that_fails_is_told_and_the_next_run_is_right(world: World) -> None:
    made = program().compile(Gpu(device=CupyDevice()))
    world.broken = world.launches + 2
    with pytest.raises(TargetError, match="kernel kernel with .* could not be launched: CUDA_ERR"):
        made.eval({"x": X})
    world.broken = -1
    for _ in range(3):
        (found,) = made.eval({"x": X})
        np.testing.assert_allclose(found, expected(X), rtol=1e-6)


def test_a_profile_names_kernels_and_what_the_host_does(world: World) -> None:
    made = program(text=HOST).compile(Gpu(device=CupyDevice())).compiled
    profile = made.executable.profile(made.arguments({"x": X}), {})  # type: ignore[attr-defined]
    named = {(c.at.name, c.kernel) for c in profile.costs}
    assert ("gpu::code_object", "exp") in named
    assert ("unique", "") in named
    (kernel,) = (c for c in profile.costs if c.kernel)
    assert (kernel.nbytes, kernel.flops) == (2 * X.nbytes, X.size)
    assert profile.arena > 0


def test_perf_measures_kernels_and_names_what_the_host_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from migx.cli import main

    monkeypatch.setattr(cupy_device, "found", lambda: (DEVICE, ""))
    (tmp_path / "model.migx").write_text(HOST)
    words = ["--target", "gpu", "--repeat", "1", "--json"]
    assert main(["perf", str(tmp_path / "model.migx"), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    (kernel,) = found["kernels"]
    assert (kernel["name"], kernel["count"], kernel["bytes"]) == ("exp", 1, 32)
    assert kernel["seconds"] > 0
    assert "unique" in [entry["name"] for entry in found["host"]]
    assert found["peak"]["flops"] > 0


class Tensor:
    """An array that speaks DLPack, and nothing else."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()  # type: ignore[no-any-return]

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)


def test_dlpack_on_the_interpreter_shares_memory() -> None:
    made = program().compile(Gpu(device=DEVICE, offload_copy=False)).compiled
    given = made.arguments({"x": Tensor(X)})["x"]
    assert isinstance(given, DeviceArgument)
    assert given.address == X.ctypes.data
    (there,) = made.run_async({"x": given})
    assert isinstance(there, DeviceArgument)
    taken = np.from_dlpack(there)
    assert taken.ctypes.data == there.address
    del there, given
    gc.collect()
    np.testing.assert_allclose(taken, expected(X), rtol=1e-6)


@pytest.mark.parametrize("kind", ["f16", "bf16", "f64", "i8", "u16", "i64", "bool"])
def test_dlpack_has_every_type(kind: str) -> None:
    array = np.ones((2, 3), migx.shape.DType.of(kind).numpy)
    there = DeviceArgument.of_host(migx.Argument.of(array), DEVICE)
    again = DeviceArgument.borrowed(there, DEVICE)
    assert isinstance(again, DeviceArgument)
    assert again.shape == there.shape
    assert again.array.dtype == array.dtype
    assert again.array.astype(np.float64).tolist() == np.ones((2, 3)).tolist()


def test_what_is_repeated_has_room_on_the_device() -> None:
    row = np.arange(3, dtype=np.float32)
    repeated = Argument(Shape("f32", (5, 3), (0, 1)), np.broadcast_to(row, (5, 3)))
    there = gpu().copy_to(repeated)
    assert isinstance(there, DeviceArgument)
    assert there.buffer.nbytes == 60
    assert np.array_equal(there.array, np.tile(row, (5, 1)))


def test_dlpack_refuses_what_it_has_no_type_for() -> None:
    there = DeviceArgument.of_host(migx.Argument.of(np.ones(2, ml_dtypes.float8_e4m3fn)), DEVICE)
    with pytest.raises(BufferError, match="DLPack has no element type"):
        there.__dlpack__()


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_host_targets_take_arrays_as_they_lie_and_give_their_own(target: str) -> None:
    text = "module main(x: f32[n, 4]) {\n %0 = transpose(x) {permutation=(1, 0)}\n return %0\n}"
    given: Any = Tensor(X)
    made = migx.parse(text).compile(target).compiled
    assert np.shares_memory(made.arguments({"x": given})["x"].array, X)
    (found,) = made.eval({"x": given})
    assert np.array_equal(found, X.T)
    assert not np.shares_memory(found, X)
    assert np.shares_memory(np.from_dlpack(found), found)


def test_a_gpu_without_streams_of_its_own_takes_any(world: World) -> None:
    made = program().compile(gpu()).compiled
    with pytest.raises(TargetError, match="offload_copy=False"):
        made.run_async({"x": X}, 5)


def test_a_result_of_other_dims_than_were_said_is_refused() -> None:
    text = """module main(x: i64[3, 1], pads: i64[4]) {
  %0 = dynamic_pad(x, pads) {out_lens=(3, 2)} : i64[3, 2]
  %1 = abs(%0)
  return %1
}"""
    given = {"x": np.arange(3).reshape(3, 1), "pads": np.array([1, 0, 0, 0])}
    with pytest.raises(EvaluationError, match=r"computed int64 \[4, 1\], its shape rule says"):
        migx.parse(text).compile(gpu()).eval(given)
