"""Kernels of pooling: the greatest element or the average of each window; see ``sliding.py``."""

from __future__ import annotations

from math import prod

import numpy as np

from migx.ir import Instruction
from migx.ops._numeric import lowest
from migx.ops.pooling import Pooling
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.sliding import Sliding, Tap, WindowVector
from migx.targets.cpu.parts.windows import Axis, axes_of

Axes = tuple[Axis, Axis, Axis]


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a pooling by maximum or average."""
    op = at.op
    if type(op) is not Pooling or op.mode not in ("max", "average") or not at.shape.standard:
        return None
    axes = axes_known(at, op, machine)
    if axes is None or not isinstance(at.shape.dims[1], int):
        return None
    return _Writer(at, machine, axes).kernel()


def axes_known(at: Instruction, op: Pooling, machine: Machine) -> Axes | None:
    """The axes of windows of constant lengths, over elements that a machine computes with."""
    x, lengths = at.inputs[0].shape, [n for n in op.lengths if isinstance(n, int)]
    if len(lengths) < len(op.lengths) or not elements.computable(x.dtype, machine):
        return None
    return axes_of(x, at.shape.dims[2:], lengths, op.padding, op.stride, op.dilation)


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine, axes: Axes) -> None:
        super().__init__(at, machine)
        self.op, self.axes = at.op_as(Pooling), axes
        self.x, self.dtype = at.inputs[0].shape, at.inputs[0].shape.dtype
        self.computing = elements.computing(self.dtype)
        self.lanes = machine.lanes(self.computing)
        self.max = self.op.mode == "max"
        self.taps = prod(axis.length for axis in axes)

    def kernel(self) -> Kernel:
        channels, dtype = self.x.dims[1], self.dtype
        assert isinstance(channels, int)
        other = lowest(dtype.numpy) if self.max else 0
        start = self.f.const(self.computing.times(self.lanes), other)
        sliding = Sliding(
            self.frame,
            self.axes,
            dtype,
            self.lanes,
            0,
            (self.x.dims[0], channels, 1),
            (self.x.true_strides[0], self.x.true_strides[1]),
            begun=lambda: start,
            fold=self._folded,
            done=self._done,
            other=other,
            joined=self._joined,
        )
        tiles = sliding.write()
        flops = self.at.shape.elements * self.taps
        return self.frame.finished(f"{self.op.mode} pooling", tiles, flops=flops)

    def _folded(self, total: Value, seen: Value, channel: Value, tap: Tap) -> Value:
        return self._joined(total, elements.loaded(self.f, seen, self.dtype))

    def _joined(self, one: Value, other: Value) -> Value:
        ufunc = np.maximum if self.max else np.add
        return elements.combined(self.f, ufunc, one, other, self.dtype)

    def _done(self, at: WindowVector, total: Value) -> None:
        f, e = self.f, self.frame.extent
        _, height, width = self.axes
        if not self.max:
            total = total / self._count(at)
        plane = (at.channel * e(self.axes[0].made) + at.depth) * e(height.made) + at.row
        there = f.element(
            self.frame.operands[1], plane * e(width.made) + at.column, memory_of(self.dtype)
        )
        f.store(elements.stored(f, total, self.dtype), there, mask=at.mask)

    def _count(self, at: WindowVector) -> Value:
        """The number of elements that each window counts."""
        f, axes = self.f, self.axes
        if self.op.count_include_pad:
            depth, height, width = (axis.padded for axis in axes)
        else:
            depth, height, width = axes
        zero = f.const(self.computing.times(self.lanes), 0)
        if not self.op.ceil_mode and all(
            axis.begin == axis.end == 0 for axis in (depth, height, width)
        ):
            return zero + self.taps
        count = f.const(I64, 1)
        for axis, place in ((depth, at.depth), (height, at.row)):
            begin, end = axis.taps(self.frame, place)
            count = count * (end - begin)
        across = zero
        for tap in range(width.length):
            first = width.place(self.frame, at.column, tap)
            inside = width.inside(self.frame, first, self.frame.extent(width.given), self.lanes)
            across = f.select(inside, across + 1, across)
        return across * f.splat(f.cast(count, self.computing), self.lanes)
