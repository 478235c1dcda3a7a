"""Recurrent layers on the cpu: every cell, direction, length and size, against ``ref``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from migx.dim import evaluate
from migx.program import Program
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels.recurrent import kernel_for
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced, random

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def layer(
    op: str,
    batch: int | str = 1,
    features: int = 5,
    hidden: int = 20,
    *,
    direction: str = "forward",
    dtype: str = "f32",
    options: str = "",
    lengths: bool = False,
    states: bool = True,
) -> str:
    d, g = 2 if direction == "bidirectional" else 1, GATES[op]
    size = 4 if dtype == "f32" else 2

    def weight(name: str, *dims: int) -> str:
        count = size
        for n in dims:
            count *= n
        shape = ", ".join(map(str, dims))
        return (
            f'@literal() {{value=bytes("{name}", 0, {count}), label="{name}"}} : {dtype}[{shape}]'
        )

    state = f"{dtype}[{d}, {batch}, {hidden}]"
    given = [f"x: {dtype}[time, {batch}, {features}]"]
    last = ["%3", "n" if lengths else "%4"]
    if lengths:
        given.append(f"n: i32[{batch}]")
    if states:
        given.append(f"h: {state}")
        last.append("h")
        if op == "lstm":
            given.append(f"c: {state}")
            last += ["c", "%5"]
    return f"""
module main({", ".join(given)}) {{
  %1 = {weight("w", d, g * hidden, features)}
  %2 = {weight("r", d, g * hidden, hidden)}
  %3 = {weight("b", d, 2 * g * hidden)}
  %4 = undefined()
  %5 = {weight("p", d, 3 * hidden)}
  %6 = {op}(x, %1, %2, {", ".join(last)}) {{hidden_size={hidden}, direction="{direction}"{options}}}
  return %6
}}
"""


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_cells_and_directions(op: str, direction: str) -> None:
    program = parsed(layer(op, "batch", direction=direction))
    for time, batch in ((1, 1), (4, 3), (0, 2), (3, 0)):
        assert not problem(kernel_for, program, {"time": time, "batch": batch}), (time, batch)


@pytest.mark.parametrize(
    ("op", "hidden", "options"),
    [
        ("gru", 33, ", linear_before_reset=true"),
        ("gru", 64, ", clip=0.5"),
        ("lstm", 3, ", clip=0.0"),
        ("gru", 100, ""),
        ("lstm", 48, ", input_forget=true"),
        ("lstm", 3, ', activations=("Sigmoid", "Relu", "Tanh")'),
        ("rnn", 130, ', activations=("Relu",)'),
    ],
)
def test_options_and_sizes(op: str, hidden: int, options: str) -> None:
    program = parsed(layer(op, 2, 17, hidden, options=options))
    assert not problem(kernel_for, program, {"time": 3})


@pytest.mark.parametrize("op", GATES)
def test_narrow_floats(op: str) -> None:
    assert not problem(kernel_for, parsed(layer(op, 2, dtype="f16")), {"time": 3})
    assert not problem(kernel_for, parsed(layer(op, 2, dtype="bf16", states=False)), {"time": 3})


def test_activations_without_a_kernel_are_left() -> None:
    program = parsed(layer("rnn", 1, options=', activations=("Softsign",)'))
    assert kernel_for(produced(program), host()) is None


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("batch", [0, 9])
def test_sequences_of_their_own_lengths(op: str, batch: int) -> None:
    text = layer(op, batch, direction="bidirectional", lengths=True)
    for program in (parsed(text), parsed(text.replace("f32[time,", "f32[5,"))):
        assert not problem(kernel_for, program, {"time": 5})


@pytest.mark.parametrize(
    "lengths", ["0, 0, 0", "2, 1, 0", "1, 0, 1", "341, 342, 2", "5000, 1, 400"]
)
@pytest.mark.parametrize("op", GATES)
def test_no_step_is_done_after_the_longest_sequence(op: str, lengths: str) -> None:
    """And what such steps would have given is 0, from block to block of steps."""
    text = layer(op, 3, hidden=3, direction="bidirectional", lengths=True)
    text = text.replace(", n: i32[3]", "").replace(
        "  %1 =", f"  %7 = @literal() {{value=[{lengths}]}} : i32[3]\n  %1 =", 1
    )
    text = text.replace("%3, n,", "%3, %7,")
    for time in (3, 4, 400):
        for program in (parsed(text), parsed(text.replace("f32[time,", f"f32[{time},"))):
            assert not problem(kernel_for, program, {"time": time})


def test_inputs_that_do_not_lie_step_after_step() -> None:
    text = layer("lstm", 3).replace("x: f32[time, 3, 5]", "u: f32[3, time, 5]")
    text = text.replace("  %1 =", "  %0 = transpose(u) {permutation=(1, 0, 2)}\n  %1 =", 1)
    assert not problem(kernel_for, parsed(text.replace("lstm(x", "lstm(%0")), {"time": 4})


def known_later(op: str, hidden: int, lies: str, dtype: str) -> str:
    """A layer in two directions whose weights are parameters, given by rows or by columns."""
    wide, direction = GATES[op] * hidden, "bidirectional"
    lines = layer(op, "batch", 7, hidden, direction=direction, dtype=dtype).splitlines()
    for number, depth in ((1, 7), (2, hidden)):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"  %{number} ="))
        dims = (2, wide, depth) if lies == "rows" else (2, depth, wide)
        given = f"w{number}: {dtype}[{', '.join(map(str, dims))}]"
        lines[1] = lines[1].replace("main(", f"main({given}, ")
        order = "(0, 2, 1)" if lies == "columns" else "(0, 1, 2)"
        lines[at] = f"  %{number} = transpose(w{number}) {{permutation={order}}}"
    return "\n".join(lines)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("hidden", [20, 130])
@pytest.mark.parametrize(
    ("lies", "dtype"), [("rows", "f32"), ("columns", "f32"), ("rows", "f16"), ("columns", "bf16")]
)
def test_weights_known_at_run_time(op: str, hidden: int, lies: str, dtype: str) -> None:
    program = parsed(known_later(op, hidden, lies, dtype))
    assert not kernel_for_known(program).formats
    for time, batch in ((3, 2), (1, 1), (0, 2)):
        assert not problem(kernel_for, program, {"time": time, "batch": batch}), (time, batch)


ONE_KNOWN = (
    layer("gru", 60, 7, 33).replace("main(", "main(v: f32[1, 99, 7], ", 1).replace("%1,", "v,")
)
"""A layer whose recurrent weights alone are constants."""


def test_one_weight_known_at_run_time() -> None:
    program = parsed(ONE_KNOWN)
    assert [number for number, _ in kernel_for_known(program).formats] == [2]
    assert not problem(kernel_for, program, {"time": 2})


@pytest.mark.parametrize(
    ("op", "options"),
    [("lstm", ""), ("gru", ""), ("gru", ", linear_before_reset=true"), ("rnn", "")],
)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_layers_that_several_threads_share(op: str, options: str, direction: str) -> None:
    """With a step that is too little to be shared, and with one that is."""
    machine = replace(host(), cores=6)
    program = parsed(layer(op, "batch", 40, 100, direction=direction, options=options))
    made = kernel_for(produced(program), machine)
    assert made is not None
    sizes = {"time": 20, "batch": 4}
    assert evaluate(made.tiles, sizes) == 6
    for batch in (4, 1):
        sizes["batch"] = batch
        assert not problem(lambda at, _: kernel_for(at, machine), program, sizes), batch


@pytest.mark.parametrize("lies", ["rows", "columns"])
def test_weights_known_at_run_time_on_several_threads(lies: str) -> None:
    machine, program = replace(host(), cores=3), parsed(known_later("lstm", 96, lies, "f32"))
    assert not problem(lambda at, _: kernel_for(at, machine), program, {"time": 2, "batch": 60})


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_more_steps_than_are_multiplied_at_once(direction: str) -> None:
    program = parsed(layer("lstm", 3, 2, 4, direction=direction))
    assert not problem(kernel_for, program, {"time": 700})


@pytest.mark.parametrize("op", GATES)
def test_bits_do_not_depend_on_threads(op: str) -> None:
    program = parsed(layer(op, "batch", 60, 200))
    shapes = program.main.parameters.items()
    dice = np.random.default_rng(0)
    sizes = {"time": 30, "batch": 2}
    inputs = {name: random(dice, p.shape.bind(sizes)) for name, p in shapes}
    results = []
    for threads in (1, 2, 3):
        program.compile("cpu", num_threads=threads)
        results += [[r.tobytes() for r in program.eval(inputs)[0]] for _ in range(5)]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("machine", OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_other_machines(machine: Machine) -> None:
    """Panels for other registers are right too, though compiled for this machine here."""
    program = parsed(ONE_KNOWN)
    assert not problem(lambda at, _: kernel_for(at, machine), program, {"time": 2})


def kernel_for_known(program: Program) -> Kernel:
    """The kernel of a program's output, which has one."""
    kernel = kernel_for(produced(program), host())
    assert kernel is not None
    return kernel
