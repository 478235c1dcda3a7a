"""Recurrent layers: rnn, gru and lstm, as ONNX defines them with ``layout=0``.

Inputs: x [time, batch, input], w [directions, gates*hidden, input], r [directions, gates*hidden,
hidden], b [directions, 2*gates*hidden] (of w, then of r), lengths i32 [batch], and initial states
[directions, batch, hidden]; the lstm also takes peepholes [directions, 3*hidden]. Those from b on
may be undefined, or left out at the end. The result is a tuple: the hidden state after each step
[time, directions, batch, hidden], and each state after the last one [directions, batch, hidden].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, TypeAlias

import numpy as np

from migx.argument import Argument
from migx.errors import ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes
from migx.ops._rules import expect, no_warnings, wide
from migx.shape import I32, OPTIONAL, Shape

Activation: TypeAlias = Callable[[Array], Array]
States: TypeAlias = tuple[Array, ...]
Cell: TypeAlias = Callable[[Array, States], States]
"""A step: from its projected input and the previous states to the new ones, hidden first."""

BACKWARD = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Whether each direction of a layer walks backward in time."""


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, tuple[Callable[..., Array], tuple[float, ...]]] = {
    "Relu": (lambda x: np.maximum(x, 0), ()),
    "Tanh": (np.tanh, ()),
    "Sigmoid": (_sigmoid, ()),
    "Affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "LeakyRelu": (lambda x, alpha: np.where(x < 0, alpha * x, x), (0.01,)),
    "ThresholdedRelu": (lambda x, alpha: np.where(x < alpha, 0, x), (1.0,)),
    "ScaledTanh": (lambda x, alpha, beta: alpha * np.tanh(beta * x), (1.0, 1.0)),
    "HardSigmoid": (lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), (0.2, 0.5)),
    "Elu": (lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x), (1.0,)),
    "Softsign": (lambda x: x / (1 + np.abs(x)), ()),
    "Softplus": (lambda x: np.logaddexp(x, 0), ()),
}
"""ONNX's activations, each with the defaults of its alpha and beta."""


class Recurrent(Op, abstract=True):
    """A layer of ``hidden_size`` units; what its cell does is left to the subclass.

    ``activations`` are those of each direction in turn; none means the default. Each that has an
    alpha or beta takes the next one given. Inputs of the gates' activations are clipped to
    [-``clip``, ``clip``]. Narrow floats are computed in f32 and rounded at the end. Beyond the
    length of a sequence its states stay as they are and its results are 0.
    """

    hidden_size: int
    direction: str = "forward"
    activations: tuple[str, ...] = ()
    activation_alpha: tuple[float, ...] = ()
    activation_beta: tuple[float, ...] = ()
    clip: float = math.inf

    gates: ClassVar[int]
    peepholes: ClassVar[int] = 0
    states: ClassVar[tuple[str, ...]] = ("initial_h",)
    defaults: ClassVar[tuple[str, ...]]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, *range(3, len(self._roles()) + 1))
        if self.direction not in BACKWARD:
            raise ShapeError(f"{self.name} runs {', '.join(BACKWARD)}, not {self.direction!r}")
        x, directions = shapes[0], len(BACKWARD[self.direction])
        if x.rank != 3 or not x.dtype.is_float or x.dtype.is_packed:
            raise ShapeError(f"{self.name} needs floats [time, batch, input], got {x}")
        if not self.clip >= 0:
            raise ShapeError(f"{self.name} needs clip to be 0 or more, not {self.clip}")
        self._functions()
        state = x.with_dims((directions, x.dims[1], self.hidden_size))
        for given, (role, shape) in zip(shapes, self._inputs(x, state).items(), strict=False):
            left_out = given.dtype is OPTIONAL and role not in ("w", "r")
            if not (left_out or given.may_match(shape)):
                raise ShapeError(f"{self.name} needs {role} to be {shape}, got {given}")
        return Shape.tuple(x.with_dims((x.dims[0], *state.dims)), *[state] * len(self.states))

    def _inputs(self, x: Shape, state: Shape) -> dict[str, Shape]:
        """The inputs by role, with the shape each must have."""
        directions, batch, hidden = state.dims
        rows = self.gates * self.hidden_size
        dims = {
            "w": (directions, rows, x.dims[2]),
            "r": (directions, rows, hidden),
            "b": (directions, 2 * rows),
            "p": (directions, self.peepholes * self.hidden_size),
        }
        known = {"x": x, "sequence_lens": Shape(I32, (batch,)), **dict.fromkeys(self.states, state)}
        return {role: known.get(role) or x.with_dims(dims[role]) for role in self._roles()}

    def _roles(self) -> tuple[str, ...]:
        peepholes = ("p",) if self.peepholes else ()
        return ("x", "w", "r", "b", "sequence_lens", *self.states, *peepholes)

    def named_activations(self) -> list[list[tuple[str, tuple[float, ...]]]]:
        """The activations of each direction by name, each with its parameters."""
        directions, each = len(BACKWARD[self.direction]), len(self.defaults)
        names = self.activations or self.defaults * directions
        if len(names) < each * directions:
            raise ShapeError(
                f"{self.name} takes {each * directions} activations, got {', '.join(names)}"
            )
        if unknown := [name for name in names if name not in ACTIVATIONS]:
            raise ShapeError(
                f"{self.name} knows no activation {unknown[0]!r}, but {', '.join(ACTIVATIONS)}"
            )
        given = iter(self.activation_alpha), iter(self.activation_beta)
        made = []
        for name in names:
            _, defaults = ACTIVATIONS[name]
            values = [next(g, default) for g, default in zip(given, defaults, strict=False)]
            made.append((name, tuple(values)))
        return [made[i * each : (i + 1) * each] for i in range(directions)]

    def _functions(self) -> list[list[Activation]]:
        """The activations of each direction, as functions with their parameters bound."""
        return [
            [lambda x, f=ACTIVATIONS[name][0], v=values: f(x, *v) for name, values in direction]  # type: ignore[misc]
            for direction in self.named_activations()
        ]

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        given = {
            name: wide(argument.array)
            for name, argument in zip(self._roles(), arguments, strict=False)
            if argument.shape.dtype is not OPTIONAL
        }
        y = np.zeros([int(d) for d in shape.parts[0].dims], given["x"].dtype)
        backward = BACKWARD[self.direction]
        with no_warnings():
            finals = [
                self._run(d, backward[d], functions, given, y[:, d])
                for d, functions in enumerate(self._functions())
            ]
            results = [y, *map(np.stack, zip(*finals, strict=True))]
            parts = zip(shape.parts, results, strict=True)
            rounded = [Argument(part, a.astype(part.dtype.numpy, copy=False)) for part, a in parts]
        return Argument(shape, tuple(rounded))

    def _run(
        self,
        d: int,
        backward: bool,
        functions: Sequence[Activation],
        given: Mapping[str, Array],
        y: Array,
    ) -> States:
        """The states after one direction; fills its results in, y [time, batch, hidden]."""
        (time, batch, features), rows = given["x"].shape, self.gates * self.hidden_size
        b = given["b"][d] if "b" in given else np.zeros(2 * rows, y.dtype)
        projected = given["x"].reshape(time * batch, features) @ given["w"][d].T + b[:rows]
        projected = projected.reshape(time, batch, rows)
        initial = [
            given[name][d] if name in given else np.zeros(y.shape[1:], y.dtype)
            for name in self.states
        ]
        peephole = given["p"][d].reshape(self.peepholes, -1) if "p" in given else None
        cell = self.cell(given["r"][d].T, b[rows:], functions, peephole)
        states, lengths = tuple(initial), given.get("sequence_lens")
        for t in reversed(range(time)) if backward else range(time):
            after = cell(projected[t], states)
            if lengths is None:
                states, y[t] = after, after[0]
            else:
                alive = (t < lengths)[:, None]
                states = tuple(map(partial(np.where, alive), after, states))
                np.copyto(y[t], after[0], where=alive)
        return states

    def cell(
        self, r: Array, b: Array, functions: Sequence[Activation], peephole: Array | None
    ) -> Cell:
        """One step, for r [hidden, gates*hidden] and its bias b [gates*hidden]."""
        raise NotImplementedError(self.name)

    def clipped(self, x: Array) -> Array:
        """The inputs of the gates' activations, clipped."""
        return x if self.clip == math.inf else np.clip(x, -self.clip, self.clip)


class RNN(Recurrent):
    """h = f(x w + h r + b); ONNX RNN 22."""

    gates = 1
    defaults = ("Tanh",)

    def cell(
        self, r: Array, b: Array, functions: Sequence[Activation], peephole: Array | None
    ) -> Cell:
        (f,) = functions
        return lambda x, states: (f(self.clipped(x + states[0] @ r + b)),)


class GRU(Recurrent):
    """h = (1 - z) g(x w + (q h) r + b) + z h of the gates z (update) and q (reset); ONNX GRU 22.

    With ``linear_before_reset`` the reset gate scales h r + b instead. Gates stand in the order
    update, reset, hidden.
    """

    linear_before_reset: bool = False

    gates = 3
    defaults = ("Sigmoid", "Tanh")

    def cell(
        self, r: Array, b: Array, functions: Sequence[Activation], peephole: Array | None
    ) -> Cell:
        f, g = functions
        n = self.hidden_size
        r_gates, r_hidden = np.ascontiguousarray(r[:, : 2 * n]), np.ascontiguousarray(r[:, 2 * n :])
        b_gates, b_hidden = b[: 2 * n], b[2 * n :]

        def step(x: Array, states: States) -> States:
            (h,) = states
            gates = f(self.clipped(x[:, : 2 * n] + h @ r_gates + b_gates))
            z, reset = gates[:, :n], gates[:, n:]
            if self.linear_before_reset:
                hidden = x[:, 2 * n :] + reset * (h @ r_hidden + b_hidden)
            else:
                hidden = x[:, 2 * n :] + (reset * h) @ r_hidden + b_hidden
            candidate = g(self.clipped(hidden))
            return (candidate + z * (h - candidate),)

        return step


class LSTM(Recurrent):
    """c = forget c + i g(x w + h r + b), then h = o tanh(c); ONNX LSTM 22.

    Gates stand in the order input, output, forget, cell; peepholes, by which the first three see c,
    in the order input, output, forget. With ``input_forget`` the forget gate is 1 - i. As in
    onnxruntime, ``clip`` leaves c alone.
    """

    input_forget: bool = False

    gates = 4
    peepholes = 3
    states = ("initial_h", "initial_c")
    defaults = ("Sigmoid", "Tanh", "Tanh")

    def cell(
        self, r: Array, b: Array, functions: Sequence[Activation], peephole: Array | None
    ) -> Cell:
        f, g, h_of = functions
        n = self.hidden_size

        def step(x: Array, states: States) -> States:
            h, c = states
            gates = x + h @ r + b
            i, o, forget, new = (gates[:, k : k + n] for k in range(0, 4 * n, n))
            if peephole is not None:
                i, forget = i + peephole[0] * c, forget + peephole[2] * c
            i = f(self.clipped(i))
            forget = 1 - i if self.input_forget else f(self.clipped(forget))
            c = forget * c + i * g(self.clipped(new))
            if peephole is not None:
                o = o + peephole[1] * c
            return f(self.clipped(o)) * h_of(c), c

        return step
