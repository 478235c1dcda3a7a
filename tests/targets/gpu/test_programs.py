"""Whole programs on the gpu target, run by the interpreter: models, control flow, weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import migx
from benchmarks import models
from migx.errors import InputError, TargetError
from migx.targets.gpu import Gpu, passes
from migx.targets.gpu.devices.interpreter import InterpreterDevice
from migx.targets.gpu.devices.values import DeviceArgument
from migx.targets.gpu.runs.executable import GpuExecutable
from migx.testing.fuzz import fuzz, subjects_for
from tests.targets.gpu.on_interpreter import DEVICE, copies, gpu, inputs_for

BLOCK = """
module main(x: f32[n, s, 32]) {{
  %0 = {w0}
  %1 = multibroadcast(%0) {{out_lens=(n, 32, 96)}}
  %2 = dot(x, %1)
  %3 = reshape(%2) {{dims=(n, s, 3, 4, 8)}}
  %4 = transpose(%3) {{permutation=(2, 0, 3, 1, 4)}}
  %5 = slice(%4) {{axes=(0,), starts=(0,), ends=(1,)}}
  %6 = squeeze(%5) {{axes=(0,)}}
  %7 = slice(%4) {{axes=(0,), starts=(1,), ends=(2,)}}
  %8 = squeeze(%7) {{axes=(0,)}}
  %9 = slice(%4) {{axes=(0,), starts=(2,), ends=(3,)}}
  %10 = squeeze(%9) {{axes=(0,)}}
  %11 = transpose(%8) {{permutation=(0, 1, 3, 2)}}
  %12 = dot(%6, %11)
  %13 = softmax(%12) {{axis=3}}
  %14 = dot(%13, %10)
  %15 = transpose(%14) {{permutation=(0, 2, 1, 3)}}
  %16 = reshape(%15) {{dims=(n, s, 32)}}
  %17 = add(%16, x)
  %18 = reduce_mean(%17) {{axes=(2,)}}
  %19 = multibroadcast(%18) {{out_lens=(n, s, 32)}}
  %20 = sub(%17, %19)
  return %20
}}"""
WEIGHT = '@literal() {value=bytes("w", 0, 12288), label="w", replaceable=true} : f32[32, 96]'


def transformer() -> migx.Program:
    return migx.parse(BLOCK.format(w0=WEIGHT), draw_missing=1)


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    from migx.targets.gpu.devices import cupy_device

    monkeypatch.setattr(cupy_device, "found", lambda: (DEVICE, ""))


@pytest.mark.parametrize("name", ["qonnx_mnist_conv", "script_loop_rnn", "silero_vad"])
def test_models_of_which_some_run_on_the_host_too(name: str) -> None:
    program = migx.parse_onnx(models.make(name))
    given = models.inputs(name)
    expected = program.copy().compile("ref").eval(given)
    for got, wanted in zip(program.compile(gpu()).eval(given), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", [{"n": 1, "s": 1}, {"n": 2, "s": 37}])
def test_a_transformer_block_of_any_size(sizes: dict[str, int]) -> None:
    program = transformer()
    given = inputs_for(program, sizes, {})
    (expected,) = program.copy().compile("ref").eval(given)
    made = program.compile(gpu())
    for _ in range(2):  # memory is used again
        (got,) = made.eval(given)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    executable = made.compiled.executable
    assert isinstance(executable, GpuExecutable)
    assert copies(executable) == (1, 1)


def test_weights_are_swapped_on_the_device_and_back() -> None:
    program, other = transformer().compile(gpu()), np.full((32, 96), 0.25, np.float32)
    given = inputs_for(program, {"n": 1, "s": 5}, {})
    (before,) = program.eval(given)
    assert isinstance(program.compiled.weights.current.slots["w"], DeviceArgument)
    with program.update_weights() as new:
        new["w"] = other
    (after,) = program.eval(given)
    assert not np.array_equal(before, after)
    new.rollback()
    assert np.array_equal(program.eval(given)[0], before)
    with program.update_weights(in_place=True) as new:
        new["w"] = other
    assert np.array_equal(program.eval(given)[0], after)


class Recorder(InterpreterDevice):
    """Records as a GPU does, and counts."""

    recorded = replayed = 0

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            enqueue()

        return replay


def test_what_is_enqueued_alike_again_is_recorded_and_replayed() -> None:
    device, program = Recorder(), transformer()
    given = inputs_for(program, {"n": 1, "s": 5}, {})
    program.compile(Gpu(device=device))
    results = [program.eval(given)[0] for _ in range(4)]
    assert (device.recorded, device.replayed) == (1, 3)
    assert all(np.array_equal(r, results[0]) for r in results)
    with program.update_weights() as new:
        new["w"] = np.ones((32, 96), np.float32)
    program.eval(given)
    assert (device.recorded, device.replayed) == (1, 3)  # the addresses are others now
    program.eval(given)
    assert (device.recorded, device.replayed) == (2, 4)


def test_sizes_that_kernels_cannot_have_are_refused() -> None:
    text = "module main(x: f32[2, n], y: f32[m, 4]) {\n %0 = dot(x, y)\n return %0\n}"
    program = migx.parse(text).compile(gpu())
    with pytest.raises(InputError, match=r"n=3, m=5: dot needs \[..., m, k\]"):
        program.eval({"x": np.ones((2, 3), np.float32), "y": np.ones((5, 4), np.float32)})


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("x: i8[n, 4], s: f32[m]) {\n %0 = dequantizelinear(x, s) {axis=0}", {"n": 5, "m": 2}),
        ("x: f32[n, 4], i: i64[m, 3, 1]) {\n %0 = gathernd(x, i) {batch_dims=1}", {"n": 2, "m": 5}),
    ],
)
def test_kernels_read_nothing_beyond_operands_of_other_sizes(
    text: str, sizes: dict[str, int]
) -> None:
    program = migx.parse(f"module main({text}\n return %0\n}}").compile(gpu())
    with pytest.raises(InputError, match="in module"):
        program.eval(inputs_for(program, sizes, {}))


POOL = 'pooling(x) {mode="max", lengths=(3, 2), stride=(2, 1)%s}'


@pytest.mark.parametrize(
    ("windows", "least"),
    [(POOL % "", 3), (POOL % ", ceil_mode=true", 2), ("convolution(x, w)", 3)],
)
def test_images_smaller_than_a_window_are_refused(windows: str, least: int) -> None:
    text = "module main(x: f32[2, 3, n, 4], w: f32[5, 3, 3, 2]) {"
    program = migx.parse(f"{text}\n %0 = {windows}\n return %0\n}}").compile(gpu())
    for n in range(least):
        with pytest.raises(InputError, match=f"n={n}: "):
            program.eval(inputs_for(program, {"n": n}, {}))
    assert program.eval(inputs_for(program, {"n": least}, {}))[0].shape[2] == 1


def test_results_stay_on_the_device_without_offload_copy() -> None:
    program = transformer()
    given = inputs_for(program, {"n": 1, "s": 5}, {})
    (expected,) = program.copy().compile(gpu()).eval(given)
    made = program.compile(Gpu(device=DEVICE, offload_copy=False)).compiled
    (there,) = made.results(given)
    assert isinstance(there, DeviceArgument)
    np.testing.assert_array_equal(there.array, expected)


def test_a_loaded_program_leaves_results_where_the_saved_one_did(tmp_path: Path) -> None:
    from migx.targets.gpu.devices import cupy_device

    program = transformer().compile(Gpu("sm_90", offload_copy=False))
    migx.save(program, tmp_path / "saved.mxr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy_device, "found", lambda: (DEVICE, ""))
        loaded = migx.load(tmp_path / "saved.mxr")
        given = inputs_for(loaded, {"n": 1, "s": 5}, {})
        (there,) = loaded.compiled.results(given)
    assert isinstance(there, DeviceArgument)
    (expected,) = transformer().compile(gpu()).eval(given)
    np.testing.assert_array_equal(there.array, expected)


def test_random_programs_are_what_ref_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "FEW", -1)  # else the host does what is this small
    report = fuzz(subjects_for(target=gpu()), programs=60, seed=5, enough=1)
    assert not report.failures, report.failures[0]


def test_the_law_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "FEW", -1)
    report = fuzz(subjects_for(target=gpu(), law=True), programs=15, seed=2, enough=1)
    assert not report.failures, report.failures[0]


def test_without_a_device_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from migx.targets.gpu.devices import cupy_device

    monkeypatch.setattr(cupy_device, "found", lambda: (None, "there is no GPU"))
    with pytest.raises(TargetError, match="there is no GPU. To compile for another machine"):
        transformer().compile("gpu")
