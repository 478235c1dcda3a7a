"""The benchmark of the gpu target goes through to its end, whatever goes wrong on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from benchmarks import gpu, models
from benchmarks.gpu_peers import COMPILED, EAGER, Missing
from benchmarks.gpu_steps import KERNELS, Bench, Limits, moved
from benchmarks.gpu_table import BARS, Line
from benchmarks.gpu_torch import graph_of
from benchmarks.gpu_worker import Found, Worker, done
from migx.argument import Argument
from migx.errors import TargetError
from migx.profile import measured
from migx.targets.gpu import Gpu
from migx.targets.gpu.devices.cupy_device import CupyDevice
from migx.targets.gpu.runs import executable
from tests.targets.gpu.fake_cupy import World, binaries_of, make
from tests.targets.gpu.on_interpreter import DEVICE

WORDS = ["--device", "interpreter", "--quick"]


def lines(to: Path) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in json.loads(to.read_text())["lines"]}


def test_all_of_it_runs_and_says_who_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([*WORDS, "--to", str(tmp_path / "results" / "gpu.json")]) == 0
    found = lines(tmp_path / "results" / "gpu.json")
    for name in (*BARS, "copy on the device", "link to the device", *gpu.QUICK):
        assert found[name]["seconds"], f"{name}: {found[name]['notes']}"
    assert "right" in found["qonnx_mnist_conv"]["notes"]
    said = capsys.readouterr().out
    assert "torch is not installed: " in said
    assert "onnxruntime has no CUDA provider: qonnx_mnist_conv" in said
    assert "transformers against torch.compile: not measured" in said


def test_a_model_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.had("no such model").notes[0].startswith("UnknownModel: ")

    def unreachable(name: str) -> None:
        raise models.NoNetwork("no index")

    def broken(name: str) -> None:
        raise ValueError("another version of onnx")

    monkeypatch.setattr(models, "make", unreachable)
    assert gpu.had("bert_base").notes == ["NoNetwork: no index"]
    monkeypatch.setattr(models, "make", broken)
    assert gpu.had("bert_base").notes == ["ValueError: another version of onnx"]


def test_models_that_are_not_made_in_time_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "MADE", 0.0)
    (line,) = gpu.had_all(["no such model"]).values()
    assert line.notes == ["left out: not made in 0 s"]


def _run(do: Any, budget: float = 100.0) -> gpu.Run:
    return gpu.Run(do, budget, lambda line: None)


def test_what_there_is_no_time_for_is_dropped_and_said() -> None:
    run = _run(lambda *_: pytest.fail("nothing is begun"), budget=0.0)
    run.measure_limits()
    run.measure_peers("kernel_by", KERNELS, (EAGER, COMPILED))
    assert len(run.lines) == 3 + len(KERNELS)
    assert all(line.notes == ["dropped: the time is over"] for line in run.lines.values())


def test_a_step_has_no_more_time_than_is_left() -> None:
    given = []

    def do(step: str, line: Line, limits: Any, seconds: float) -> Found:
        given.append(seconds)
        return Found(Line(line.name))

    run = _run(do, budget=gpu.LAST + 20)
    run.step("softmax", "kernel", 60)
    run.step("softmax", "kernel", 5)
    run.step("softmax", "kernel", 60, least=30)
    assert given == [pytest.approx(20, abs=1), 5]


def test_transformers_go_first_and_what_torch_cannot_do_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def do(step: str, line: Line, limits: Any, seconds: float, peer: str = "ours") -> Found:
        asked.append((line.name, peer))
        if peer == "ours":
            return Found(Line(line.name, seconds=1.0))
        return Found(Line(line.name, peers={} if line.name == "resnet50" else {peer: 1.0}))

    monkeypatch.setattr(gpu, "answers_of_ref", lambda *_: nullcontext({}))
    run = _run(do, budget=1000.0)
    run.measure(["resnet50", "bert_base"])
    at = asked.index(("bert_base", "ours"))
    assert asked[at : at + 3] == [
        ("bert_base", "ours"),
        ("bert_base", "torch.compile"),
        ("resnet50", "ours"),
    ]
    assert asked[at + 3] == (KERNELS[0], "torch")
    assert asked[-4:-2] == [("bert_base", "onnxruntime"), ("bert_base", "torch")]
    assert asked[-2:] == [("resnet50", "onnxruntime"), ("resnet50", "torch")]


def test_what_there_is_is_told_when_somebody_ends_it() -> None:
    with pytest.raises(SystemExit), gpu._ended_in_order():
        os.kill(os.getpid(), signal.SIGTERM)


class Answer:
    """What another process works out."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value, self.error = value, error

    def get(self, timeout: float) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


@pytest.mark.parametrize(
    ("answer", "note", "timed"),
    [
        (Answer([(Argument.of(np.ones(3, np.float32)), np.zeros(3))]), "right", True),
        (Answer([(Argument.of(np.zeros(3, np.float32)), np.zeros(3))]), "wrong: output 0", False),
        (Answer([]), "wrong: ValueError", False),
        (Answer([(Argument.of(np.ones(2, np.float32)), np.zeros(2))]), "wrong: ", False),
        (Answer(error=multiprocessing.TimeoutError()), "not checked: ref takes too long", True),
        (Answer(error=OSError("no file")), "not checked: OSError on ref", True),
    ],
)
def test_a_wrong_answer_has_no_time(answer: Any, note: str, timed: bool) -> None:
    run = _run(None)
    run.lines["m"] = Line("m", seconds=1.0)
    run.check("m", [Argument.of(np.ones(3, np.float32))], answer)
    assert run.lines["m"].notes[0].startswith(note)
    assert (run.lines["m"].seconds is not None) == timed


def test_a_failure_is_noted_and_the_next_step_done(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(DEVICE, quick=True)
    found = done(bench, "model", Line("no such model"))
    assert found.line.notes[0].startswith("UnknownModel: ")
    assert not found.lost

    def gone() -> None:
        raise TargetError("a kernel failed: an illegal memory access")

    monkeypatch.setattr(DEVICE, "synchronize", gone)
    assert done(bench, "model", Line("no such model")).lost


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("copy_on_the_device", "copy"),
        ("link_to_the_device", "link"),
        ("swap_weights", "swap"),
        ("model", "qonnx_mnist_conv"),
        *(("kernel", name) for name in KERNELS),
    ],
)
def test_each_step_goes_by_cupy(step: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setitem(sys.modules, "cupy", make(world))
    monkeypatch.setattr(executable, "binaries", binaries_of)
    bench = Bench(CupyDevice(), quick=True)
    bench.limits = Limits(1e12, 1e10, 1e14)
    line = Line(name)
    getattr(bench, step)(line)
    assert line.seconds
    assert line.amount
    assert step != "model" or line.floor
    assert ("launch" in world.noted) == (step in ("model", "kernel"))


def test_each_program_has_as_many_kernels_as_its_time_is_divided_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, times = Bench(DEVICE, quick=True), 1024.0
    monkeypatch.setattr(bench, "by_events", lambda run, ahead: times)
    launched: list[Any] = []
    monkeypatch.setattr(DEVICE, "launch", lambda *given: launched.append(given))
    prepared = bench.prepared
    monkeypatch.setattr(bench, "prepared", lambda program: prepared(program)())
    for name in KERNELS:
        line = Line(name)
        launched.clear()
        bench.kernel(line)
        assert line.seconds == times / len(launched), name


def test_of_a_table_only_the_rows_that_are_picked_count() -> None:
    text = "module main(x: f32[1000, 8], i: i64[3]) {\n %0 = gather(x, i) {axis=0}\n return %0\n}"
    program = migx.parse(text).compile(Gpu(device=DEVICE))
    given = {"x": np.zeros((1000, 8), np.float32), "i": np.zeros(3, np.int64)}
    costs = measured(program.compiled, program.compiled.arguments(given)).costs
    (cost,) = (c for c in costs if c.kernel)
    assert (cost.nbytes, moved(cost)) == (32_000 + 24 + 96, 24 + 2 * 96)


def test_models_as_graphs_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    given = models.inputs("qonnx_mnist_conv")
    program = migx.parse_onnx(models.make("qonnx_mnist_conv"))
    made = graph_of(program, torch, "cpu")
    found = made(*(torch.as_tensor(given[name]) for name in program.main.parameters))
    for got, wanted in zip(found, program.compile("ref").eval(given), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_torch_compiles_a_place_that_is_a_lone_number_with_the_rest() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    text = """module main(x: f32[3, 4]) {
      %0 = @literal() {value=[2]} : i64[]
      %1 = exp(x)
      %2 = gather(%1, %0) {axis=1}
      return %2
    }"""
    made = torch.compile(
        graph_of(migx.parse(text), torch, "cpu"), backend="aot_eager", fullgraph=True
    )
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    (found,) = made(torch.as_tensor(x))
    np.testing.assert_allclose(found.numpy(), np.exp(x[:, 2]), rtol=1e-6)


def test_what_torch_is_not_asked_for_is_named() -> None:
    text = "module main(x: f32[1, 4, 4]) {\n %0 = lrn(x) {size=3}\n return %0\n}"
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(Missing, match="torch is asked for no lrn"):
        graph_of(migx.parse(text), torch, "cpu")


def test_a_process_that_hangs_or_dies_is_started_again() -> None:
    worker = Worker("interpreter", quick=True)
    try:
        os.kill(worker._process.pid, signal.SIGSTOP)
        late = worker.do("copy_on_the_device", Line("a"), Limits(), 0.2)
        assert late.lost
        assert late.line.notes == ["stopped: copy_on_the_device took more than 0.2 s"]
        again = worker.do("copy_on_the_device", Line("b"), Limits(), 60.0)
        assert again.line.seconds
        process = worker._process
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        dead = worker.do("copy_on_the_device", Line("c"), Limits(), 60.0)
        assert dead.line.notes == ["the process died in copy_on_the_device"]
        assert worker.do("copy_on_the_device", Line("d"), Limits(), 60.0).line.seconds
    finally:
        worker.close()
