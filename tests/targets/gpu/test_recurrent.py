"""Recurrent layers on the gpu: every kind, direction and element type; lengths and peepholes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.targets.gpu.on_interpreter import holds

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
LENGTHS = np.array([3, 0, 4, 1, 2] * 4, np.int32)


def layer(
    kind: str,
    attributes: str = "",
    *,
    dtype: str = "f32",
    hidden: int = 9,
    directions: int = 1,
    given: str = "xwrblic",
    batch: str = "n",
) -> str:
    """A layer over t steps, whose optional inputs are those ``given`` by their letters."""
    rows = GATES[kind] * hidden
    state = f"{dtype}[{directions}, {batch}, {hidden}]"
    shapes = {
        "x": f"{dtype}[t, {batch}, 5]",
        "w": f"{dtype}[{directions}, {rows}, 5]",
        "r": f"{dtype}[{directions}, {rows}, {hidden}]",
        "b": f"{dtype}[{directions}, {2 * rows}]",
        "l": f"i32[{batch}]",
        "i": state,
        "c": state,
        "p": f"{dtype}[{directions}, {3 * hidden}]",
    }
    roles = "xwrblicp" if kind == "lstm" else "xwrbli"
    parameters = ", ".join(f"{r}: {shapes[r]}" for r in roles if r in given)
    names = ", ".join(r if r in given else "%0" for r in roles)
    text = f"module main({parameters}) {{\n %0 = undefined()\n"
    text += f" %1 = {kind}({names}) {{hidden_size={hidden}{attributes}}}\n"
    count = 3 if kind == "lstm" else 2
    parts = [f" %{i + 2} = get_tuple_elem(%1) {{index={i}}}\n" for i in range(count)]
    results = ", ".join(f"%{i + 2}" for i in range(count))
    return text + "".join(parts) + f" return {results}\n}}"


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("kind", GATES)
def test_each_kind_on_sizes_that_do_not_fill_tiles(kind: str, dtype: str) -> None:
    holds(layer(kind, dtype=dtype), {"t": 4, "n": 5}, l=LENGTHS[:5])


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", GATES)
def test_directions(kind: str, direction: str) -> None:
    text = layer(
        kind,
        f', direction="{direction}"',
        directions=2 if direction == "bidirectional" else 1,
        hidden=20,
        given="xwrbl",
    )
    holds(text, {"t": 4, "n": 17}, l=LENGTHS[:17])


@pytest.mark.parametrize("given", ["xwr", "xwri", "xwrc", "xwrbp"])
def test_what_is_left_out(given: str) -> None:
    for kind in GATES:
        if kind == "lstm" or not set(given) & set("cp"):
            holds(layer(kind, given=given, batch="2"), {"t": 3})


def test_a_gru_that_resets_after_the_product() -> None:
    holds(layer("gru", ", linear_before_reset=true"), {"t": 4, "n": 5}, l=LENGTHS[:5])


def test_no_steps_leave_the_states() -> None:
    for kind in GATES:
        holds(layer(kind, given="xwrbic"), {"t": 0, "n": 2})


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_other_activations_with_their_parameters(kind: str) -> None:
    names = ("HardSigmoid", "Affine", "ScaledTanh", "Softsign", "LeakyRelu", "Softplus")
    more = ("Elu", "ThresholdedRelu", "Relu", "Tanh", "Sigmoid", "HardSigmoid")
    each = 3 if kind == "lstm" else 1
    chosen = [names[i : i + 2 * each] for i in range(0, 6, 2 * each)]
    chosen += [more[i : i + 2 * each] for i in range(0, 6, 2 * each)]
    for pair in chosen:
        listed = ", ".join(f'"{name}"' for name in pair)
        attributes = f', direction="bidirectional", activations=({listed}), clip=0.5'
        attributes += ", activation_alpha=(0.3, 0.7, 1.5), activation_beta=(0.4, 0.2)"
        attributes += ", input_forget=true" if kind == "lstm" else ""
        holds(layer(kind, attributes, directions=2, given="xwrb"), {"t": 2, "n": 3})
