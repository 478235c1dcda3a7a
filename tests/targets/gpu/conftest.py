"""Every kernel that the interpreter runs here is watched: it reads nothing but its operands, and
writes nothing but its results.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

MOST = 1 << 20
"""Bytes of an arena that is watched."""

_now = threading.local()
"""The ``ranges`` of memory that the kernel which a thread runs may read: where they begin and end.
"""


@pytest.fixture(autouse=True)
def _nothing_else_is_touched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compares an arena before each kernel with that after it, and each place that is read with the
    operands.
    """
    if importlib.util.find_spec("triton") is None:
        yield
        return
    from triton.runtime.interpreter import InterpreterBuilder

    from migx.targets.gpu.devices.interpreter import HostBuffer
    from migx.targets.gpu.runs import running

    enqueue, load = running._Part.enqueue, InterpreterBuilder.create_masked_load

    def watched(part: Any, launches: Sequence[Any]) -> None:
        if not isinstance(part.arena, HostBuffer) or part.arena.nbytes > MOST:
            enqueue(part, launches)
            return
        start = part.arena.address - int(part.arena._raw.ctypes.data)
        memory = part.arena._raw[start : start + part.arena.nbytes]
        for launch in launches:
            before = memory.copy()
            _now.ranges = np.array(list(_readable(part, launch))).reshape(-1, 2).T
            try:
                enqueue(part, [launch])
            finally:
                _now.ranges = None
            for root, begin, end in _written(part, launch):
                if root in part.plan.offsets:
                    before[begin:end] = memory[begin:end]
            wrong = np.flatnonzero(before != memory)
            assert not wrong.size, f"{launch.at} writes beyond its results, at {wrong[:8]}"

    def within(self: Any, places: Any, mask: Any, *options: Any) -> Any:
        ranges = getattr(_now, "ranges", None)
        if ranges is not None:
            begin = places.data[mask.data].astype(np.int64)
            end = begin + places.get_element_ty().primitive_bitwidth // 8
            known = (ranges[0] <= begin[:, None]) & (end[:, None] <= ranges[1])
            assert known.any(axis=1).all(), "a kernel reads beyond its operands"
        return load(self, places, mask, *options)

    monkeypatch.setattr(running._Part, "enqueue", watched)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", within)
    yield


def _readable(part: Any, launch: Any) -> Iterator[tuple[int, int]]:
    """Where the memory of each operand begins and ends; of an empty view, that of what it is of."""
    from migx.targets.gpu.emit.text import operands

    for value, (root, offset) in zip(operands(launch.at), launch.operands, strict=True):
        begin = part.bases[root][1] + offset
        size = int(part.plan.bound(value.shape).nbytes)
        yield begin, begin + (size or int(part.plan.bound(root.shape).nbytes) - offset)


def _written(part: Any, launch: Any) -> Iterator[tuple[Any, int, int]]:
    """The results and the scratch of a kernel: their roots, and where in the arena they are."""
    op = launch.at.op
    count = op.outputs + op.scratch
    values, operands = launch.at.inputs[-count:], launch.operands[-count:]
    for value, (root, offset) in zip(values, operands, strict=True):
        begin = part.plan.offsets.get(root, 0) + offset
        yield root, begin, begin + int(part.plan.bound(value.shape).nbytes)
