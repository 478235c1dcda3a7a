"""Every kernel that the interpreter runs here is watched: it writes nothing but its results."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

MOST = 1 << 20
"""Bytes of an arena that is watched."""


@pytest.fixture(autouse=True)
def _nothing_else_is_written(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compares an arena before each kernel with that after it."""
    if importlib.util.find_spec("triton") is None:
        yield
        return
    from migx.targets.gpu.devices.interpreter import HostBuffer
    from migx.targets.gpu.runs import running

    enqueue = running._Part.enqueue

    def watched(part: Any, launches: Sequence[Any]) -> None:
        if not isinstance(part.arena, HostBuffer) or part.arena.nbytes > MOST:
            enqueue(part, launches)
            return
        start = part.arena.address - int(part.arena._raw.ctypes.data)
        memory = part.arena._raw[start : start + part.arena.nbytes]
        for launch in launches:
            before = memory.copy()
            enqueue(part, [launch])
            for root, begin, end in _written(part, launch):
                if root in part.plan.offsets:
                    before[begin:end] = memory[begin:end]
            wrong = np.flatnonzero(before != memory)
            assert not wrong.size, f"{launch.at} writes beyond its results, at {wrong[:8]}"

    monkeypatch.setattr(running._Part, "enqueue", watched)
    yield


def _written(part: Any, launch: Any) -> Iterator[tuple[Any, int, int]]:
    """The results and the scratch of a kernel: their roots, and where in the arena they are."""
    op = launch.at.op
    count = op.outputs + op.scratch
    values, operands = launch.at.inputs[-count:], launch.operands[-count:]
    for value, (root, offset) in zip(values, operands, strict=True):
        begin = part.plan.offsets.get(root, 0) + offset
        yield root, begin, begin + int(part.plan.bound(value.shape).nbytes)
