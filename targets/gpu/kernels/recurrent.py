"""Kernels of recurrent layers: ``lstm``, ``gru`` and ``rnn``.

A kernel is one step, launched once for each: every program has some units of some members of the
batch, for one direction, and computes all their gates. So a step is spread over the whole device,
and the weights stay in its cache between steps; the order of launches ensures that a step is done
before the next begins. States are passed between steps in scratch, in their computing type. Those
that other programs read are double-buffered, for even and for odd steps.

A gru whose reset gates are applied before the product takes two turns per step: the gates, and the
product of the reset states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from migx.dim import Extent, maximum
from migx.ir import Instruction
from migx.ops.pointwise import Elu, LeakyRelu, Relu, Sigmoid, Tanh
from migx.ops.rnn import ACTIVATIONS, BACKWARD, GRU, LSTM, RNN, Recurrent
from migx.shape import F32, F64, OPTIONAL, Shape
from migx.targets.gpu.emit.expressions import BOTH, Expr, expr
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.emit.types import COMPUTING, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.sums import dot
from migx.targets.gpu.tiles import tiles

MEMBERS, UNITS, DEPTH = 16, 16, 32
"""Members of the batch and units of a program; the depth of a product taken at a time."""
WARPS = 8
"""So many that each thread has one unit of one member, which leaves nothing to vectorise."""
FORMULAS: dict[str, str] = {
    "Affine": "{0} * {x} + {1}",
    "ThresholdedRelu": "tl.where({x} < {0}, 0.0, {x})",
    "HardSigmoid": f"tl.clamp({{0}} * {{x}} + {{1}}, 0.0, 1.0, {elements.ALL})",
    "Softsign": "{x} / (1.0 + tl.abs({x}))",
    "Softplus": "tl.maximum({x}, 0.0) + tl.log(1.0 + tl.exp(-tl.abs({x})))",
}
"""Activations without operations of their own, as formulas of x and their parameters."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a layer of floats."""
    if not isinstance(at.op, LSTM | GRU | RNN) or not storable(at.inputs[0].shape.dtype):
        return None
    return _Writer(at, at.op).kernel()


class _Writer:
    """Writes the kernel of one layer."""

    def __init__(self, at: Instruction, op: Recurrent) -> None:
        self.at, self.op = at, op
        x = at.inputs[0].shape
        self.time, self.batch, self.features = x.dims
        self.hidden, self.directions = op.hidden_size, len(BACKWARD[op.direction])
        self.wide = F64 if x.dtype is F64 else F32
        self.kind = COMPUTING[self.wide.name]
        self.resets_first = isinstance(op, GRU) and not op.linear_before_reset
        slots = 2 if isinstance(op, RNN) or (isinstance(op, GRU) and not self.resets_first) else 3
        state = (self.directions, self.batch, self.hidden)
        self.scratch = Shape(self.wide, (slots, *state))
        self.writer = Writer(at, scratch=(self.scratch,))
        given = [
            role
            for role, value in zip(op._roles(), at.inputs, strict=False)
            if value.shape.dtype is not OPTIONAL
        ]
        results = ["y", *(f"last {name}" for name in op.states)]
        self.operands = {role: number for number, role in enumerate([*given, *results, "scratch"])}

    def kernel(self) -> Kernel:
        """The kernel."""
        w = self.writer
        across, down = tiles(self.hidden, UNITS), tiles(self.batch, MEMBERS)
        rest = w.let(w.program // w.extent(across))
        unit = w.let(w.program % w.extent(across)) * UNITS
        self.direction = expr(0)
        if self.directions > 1:
            self.direction = w.let(rest // w.extent(down))
            rest = w.let(rest % w.extent(down))
        self.row = w.numbers(0, 2, MEMBERS, w.let(rest * MEMBERS))
        self.unit = w.numbers(1, 2, UNITS, w.let(unit))
        self.rows = w.there(self.row, self.batch, MEMBERS)
        self.units = w.there(self.unit, self.hidden, UNITS)
        self._when()
        with w.masked({0: self.rows, 1: self.units}):
            if self.resets_first:
                self._two_turns()
            else:
                self._step({RNN: self._rnn, GRU: self._gru, LSTM: self._lstm}[type(self.op)])
        each = 2 if self.resets_first else 1
        rows = self.op.gates * self.hidden * self.directions
        return w.finished(
            self.at.name,
            across * down * self.directions,
            warps=WARPS,
            flops=2 * self.time * self.batch * rows * (self.features + self.hidden),
            turns=maximum(self.time, 1) * each,
        )

    def _when(self) -> None:
        """Sets the step of a turn, and for which sequences it is one: not those that have ended."""
        w = self.writer
        turn = Expr("turn")
        self.step = w.let(turn // 2) if self.resets_first else turn
        self.first = w.let(f"({self.step.text} == 0)")
        self.there = w.let(self.step.below(w.extent(self.time)))
        backward = w.let(w.let(w.extent(self.time) - 1) - self.step)
        self.now = {
            "forward": self.step,
            "reverse": backward,
            "bidirectional": Expr(
                f"tl.where({self.direction.text} == 1, {backward.text}, {self.step.text})"
            ),
        }[self.op.direction]
        self.now = w.let(self.now)
        self.alive = self.there
        if "sequence_lens" in self.operands:
            with w.masked({0: self.rows}):
                length = self._read("sequence_lens", [self.row])
            self.alive = w.let(self.there & self.now.below(length))

    # Steps.

    def _step(self, cell: Callable[[Expr], list[Expr]]) -> None:
        """A step that is one turn."""
        before = self._begun("initial_h", self._half("turn % 2"), self._place)
        after, *cells = cell(before)
        self._keep("initial_h", before, after, self._half("(turn + 1) % 2"))
        for made in cells:
            self._keep("initial_c", self.cell, made, expr(2))
        self._result(after)

    def _half(self, text: str) -> Expr:
        return self.writer.let(f"({text})")

    def _rnn(self, h: Expr) -> list[Expr]:
        (total,) = self._gates([0])
        return [self._activated(0, self._clipped(total))]

    def _lstm(self, h: Expr) -> list[Expr]:
        w, op = self.writer, self.op
        assert isinstance(op, LSTM)
        c = self.cell = self._begun("initial_c", expr(2), self._place)
        i, o, forget, new = self._gates([0, 1, 2, 3])
        i = self._activated(0, self._clipped(self._seen(i, 0, c)))
        if op.input_forget:
            kept = w.let(f"(1.0 - {i.text})", BOTH)
        else:
            kept = self._activated(0, self._clipped(self._seen(forget, 2, c)))
        made = self._activated(1, self._clipped(new))
        c = w.let(f"({kept.text} * {c.text} + {i.text} * {made.text})", BOTH)
        o = self._activated(0, self._clipped(self._seen(o, 1, c)))
        return [w.let(o * self._activated(2, c)), c]

    def _seen(self, gate: Expr, hole: int, c: Expr) -> Expr:
        """A gate plus its peephole's term, if there are peepholes."""
        if "p" not in self.operands:
            return gate
        hole_ = self._read("p", [self.direction, self._of_gate(hole)])
        return self.writer.let(gate + hole_ * c)

    def _gru(self, h: Expr) -> list[Expr]:
        w = self.writer
        update, reset = (self._activated(0, self._clipped(g)) for g in self._gates([0, 1]))
        given, recurrent = self._gates([2], recurrent=False)[0], self._gates([2], given=False)[0]
        hidden = w.let(given + reset * recurrent)
        return [self._blended(update, h, self._activated(1, self._clipped(hidden)))]

    def _blended(self, update: Expr, h: Expr, made: Expr) -> Expr:
        return self.writer.let(made + update * self.writer.let(h - made))

    def _two_turns(self) -> None:
        """A step of a gru that resets first: slot 0 of scratch has the states, 1 the states times
        the reset gates, and 2 the update gates.
        """
        w = self.writer
        h = self._begun("initial_h", expr(0), self._place)
        with w.block("if turn % 2 == 0:"):
            update, reset = (self._activated(0, self._clipped(g)) for g in self._gates([0, 1]))
            self._store("scratch", [expr(1), *self._place], w.let(reset * h))
            self._store("scratch", [expr(2), *self._place], update)
        with w.block("if turn % 2 == 1:"):
            (hidden,) = self._gates([2], source=expr(1))
            update = self._read("scratch", [expr(2), *self._place])
            after = self._blended(update, h, self._activated(1, self._clipped(hidden)))
            self._keep("initial_h", h, after, expr(0))
            self._result(after)

    # Products.

    def _gates(
        self,
        numbers: Sequence[int],
        *,
        given: bool = True,
        recurrent: bool = True,
        source: Expr | None = None,
    ) -> list[Expr]:
        """The sums of some gates: of the inputs of this step (if ``given``), of the states, or of a
        slot of scratch in their place, and of the biases.
        """
        w = self.writer
        totals = []
        for number in numbers:
            start = w.variable(f"tl.zeros([{MEMBERS}, {UNITS}], {self.kind})", BOTH)
            for half, wanted in enumerate((given, recurrent)):
                if wanted and "b" in self.operands:
                    place = self._of_gate(number + half * self.op.gates)
                    bias = self._read("b", [self.direction, place])
                    w.line(f"{start.text} += {bias.text}")
            totals.append(start)
        if given:
            self._multiply(totals, numbers, "w", self.features, self._input)
        if recurrent:
            self._multiply(totals, numbers, "r", self.hidden, lambda k: self._before(k, source))
        return totals

    def _multiply(
        self,
        totals: Sequence[Expr],
        numbers: Sequence[int],
        role: str,
        depth: Extent,
        left: Callable[[Expr], Expr],
    ) -> None:
        """Adds the products with the weights to the sums of gates. A product no deeper than a tile
        is accumulated element by element: its loop would be unrolled, into more than LLVM can
        vectorise, which crashes the process.
        """
        w = self.writer
        units = self.wide is F32 and not (isinstance(depth, int) and depth <= DEPTH)
        size = DEPTH if units else 1
        with w.loop(depth, size) as begin:
            across, down = (w.numbers(axis, 2, size, begin) for axis in (1, 0))
            inside = [w.there(k, depth, size) for k in (across, down)]
            with w.masked({0: self.rows, 1: inside[0]}):
                x = w.spread(left(across), (MEMBERS, size))
            for number, total in zip(numbers, totals, strict=True):
                with w.masked({0: inside[1], 1: self.units}):
                    y = self._read(role, [self.direction, self._of_gate(number), down])
                if units:
                    y = w.spread(y, (size, UNITS))
                    added = dot("ieee", x.text, y.text, total.text)
                else:
                    added = f"{total.text} + {x.text} * {y.text}"
                w.line(f"{total.text} = {added}")

    def _input(self, k: Expr) -> Expr:
        """The inputs of this step."""
        return self._read("x", [self.now, self.row, k], also=self.there)

    def _before(self, k: Expr, source: Expr | None) -> Expr:
        """The states before this step, of all units."""
        if source is not None:
            return self._read("scratch", [source, self.direction, self.row, k])
        slot = expr(0) if self.resets_first else self._half("turn % 2")
        return self._begun("initial_h", slot, [self.direction, self.row, k])

    # States.

    @property
    def _place(self) -> list[Expr]:
        return [self.direction, self.row, self.unit]

    def _of_gate(self, number: int) -> Expr:
        """The rows of the weights that belong to a gate's units."""
        return self.writer.let(self.unit + number * self.hidden)

    def _begun(self, role: str, slot: Expr, place: Sequence[Expr]) -> Expr:
        """A state before the step: the initial one or 0 before the first, then that in scratch."""
        w = self.writer
        later = w.let(f"({self.step.text} > 0)")
        state = self._read("scratch", [slot, *place], also=later)
        if role not in self.operands:
            return state
        start = self._read(role, place, also=self.first)
        return w.let(f"tl.where({self.first.text}, {start.text}, {state.text})", state.over)

    def _keep(self, role: str, before: Expr, after: Expr, slot: Expr) -> None:
        """Stores a state for the next step, and as a result; an ended sequence keeps the one
        before.
        """
        w = self.writer
        text = f"tl.where({self.alive.text}, {after.text}, {before.text})"
        kept = w.let(text, BOTH)
        self._store("scratch", [slot, *self._place], kept)
        self._store(f"last {role}", self._place, kept)

    def _result(self, after: Expr) -> None:
        """Writes the output of a step: 0 for sequences that have ended."""
        w = self.writer
        value = w.let(f"tl.where({self.alive.text}, {after.text}, 0.0)", BOTH)
        self._store("y", [self.now, *self._place], value, also=self.there)

    # Arithmetic.

    def _clipped(self, x: Expr) -> Expr:
        """The clipped input of an activation."""
        if self.op.clip == math.inf:
            return x
        low, high = (elements.number_of(s * self.op.clip, self.wide) for s in (-1, 1))
        bounded = elements.combined(np.maximum, x.text, low, self.wide)
        return self.writer.let(elements.combined(np.minimum, bounded, high, self.wide), BOTH)

    def _activated(self, number: int, x: Expr) -> Expr:
        """The activation of this direction."""
        w = self.writer
        texts = [self._activation(*each[number], x.text) for each in _activations(self.op)]
        text = texts[0]
        if len(set(texts)) > 1:
            text = f"tl.where({self.direction.text} == 1, {texts[1]}, {text})"
        return w.let(f"({text})", BOTH)

    def _activation(self, name: str, values: Sequence[float], x: str) -> str:
        if name in FORMULAS:
            given = [elements.number_of(v, self.wide) for v in values]
            return FORMULAS[name].format(*given, x=x)
        if name == "ScaledTanh":
            alpha, beta = (elements.number_of(v, self.wide) for v in values)
            inner = self.writer.let(f"({beta} * {x})", BOTH).text
            return f"{alpha} * ({elements.apply(Tanh(), [inner], [self.wide], self.wide)})"
        op = {
            "Sigmoid": Sigmoid,
            "Tanh": Tanh,
            "Relu": Relu,
            "LeakyRelu": LeakyRelu,
            "Elu": Elu,
        }[name](*values)
        return elements.apply(op, [x], [self.wide], self.wide)

    # Memory.

    def _read(self, role: str, places: Sequence[Expr], also: Expr | None = None) -> Expr:
        """The elements of an operand at some indices."""
        w, number = self.writer, self.operands[role]
        return w.load(number, w.place(number, places), w.shapes[number].dtype, also=also)

    def _store(
        self, role: str, places: Sequence[Expr], value: Expr, also: Expr | None = None
    ) -> None:
        w, number = self.writer, self.operands[role]
        where = w.place(number, places)
        value, where = (w.spread(e, (MEMBERS, UNITS)) for e in (value, where))
        w.store(number, where, value, w.shapes[number].dtype, also)


def _activations(op: Recurrent) -> list[list[tuple[str, list[float]]]]:
    """The activations of each direction by name, with their parameters."""
    names = op.activations or op.defaults * len(BACKWARD[op.direction])
    given = iter(op.activation_alpha), iter(op.activation_beta)
    made = []
    for name in names:
        _, defaults = ACTIVATIONS[name]
        made.append((name, [next(g, d) for g, d in zip(given, defaults, strict=False)]))
    each = len(op.defaults)
    return [made[i : i + each] for i in range(0, len(BACKWARD[op.direction]) * each, each)]
