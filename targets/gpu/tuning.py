"""Measures the tiles that the cost model ranks best, and keeps the fastest.

A measurement depends only on texts, launches and the device, and is cached under their hash beside
the binaries: so no kernel is measured twice, in this process or a later one. Unknown sizes are
taken to be ``USUAL``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace

from migx import dim
from migx.base import disk_cache
from migx.dims.symbol import Symbol
from migx.errors import TargetError
from migx.ir import Instruction
from migx.planning import results
from migx.targets.gpu.code.compiling import Request, binaries
from migx.targets.gpu.cost_model import choosing, chosen
from migx.targets.gpu.devices.device import ENQUEUING, Buffer, Device
from migx.targets.gpu.emit.text import Kernel, operands
from migx.targets.gpu.kernels import kernel_for

KIND = "gpu-tiles"
CANDIDATES = 6
"""The number of tiles that are measured, best first by the model."""
USUAL = 128
"""The stand-in for an unknown size, clamped to its bounds."""
REPEATS, LAUNCHES = 3, 5
"""How often a kernel is measured, of which the least counts, and the launches of each
measurement.
"""


@dataclass
class Tuner:
    """Finds kernels that are fast on a device, and remembers them."""

    device: Device
    known: dict[str, int] = field(default_factory=dict)

    def kernel(self, at: Instruction) -> Kernel | None:
        """The fastest kernel of an instruction; None if it has none."""
        found = candidates(at)
        if len(found) < 2:
            return found[0] if found else None
        key = json.dumps([self.device.arch, *(repr(astuple(k)) for k in found)])
        if key not in self.known:
            said = disk_cache.read(KIND, key)
            best = int(said) if said is not None and said.isdigit() else -1
            if not 0 <= best < len(found):
                best = self._measured(at, found)
                disk_cache.write(KIND, key, str(best).encode())
            self.known[key] = best
        return found[self.known[key]]

    def _measured(self, at: Instruction, found: Sequence[Kernel]) -> int:
        """The index of the fastest kernel, on uninitialised memory."""
        sizes = {s.name: int(min(s.bounds[1], max(s.low, USUAL))) for s in _symbols(at)}
        shapes = [v.shape for v in operands(at)] + list(results(at))
        buffers = [self.device.allocate(int(shape.bind(sizes).nbytes)) for shape in shapes]
        times: dict[int, float] = {}
        refused: list[TargetError] = []
        for number, kernel in enumerate(found):
            try:
                times[number] = self._time(kernel, buffers, sizes)
            except TargetError as error:  # this device has no room for the tile
                refused.append(error)
        if not times:
            raise refused[0]
        return min(times, key=lambda number: times[number])

    def _time(self, kernel: Kernel, buffers: Sequence[Buffer], sizes: dict[str, int]) -> float:
        """The seconds of ``LAUNCHES`` launches."""
        op = replace(kernel.op, aligned=tuple(range(len(kernel.op.pointers))))
        request = Request.of(op, self.device.arch)
        binary = binaries([request]).get(request.key) if self.device.arch else None
        function = self.device.function(request, binary)
        words = [dim.evaluate(word, sizes) for word in op.words]
        scratch = [self.device.allocate(int(s.bind(sizes).nbytes)) for s in kernel.scratch]
        arguments = [*(b.address for b in (*buffers, *scratch)), *words]
        grid, turns = dim.evaluate(op.grid, sizes), dim.evaluate(op.turns, sizes)
        given = [[*arguments, turn] for turn in range(turns)] or [arguments]

        def launches(count: int = LAUNCHES) -> None:
            for turn in given * count:
                self.device.launch(function, grid, turn)

        launches(1)
        self.device.synchronize()
        host = LAUNCHES * len(given) * ENQUEUING
        return min(self.device.elapsed(launches, host) for _ in range(REPEATS))


def candidates(at: Instruction) -> list[Kernel]:
    """The kernels of an instruction with different tiles, the most promising first."""
    found: dict[Kernel, None] = {}
    for rank in range(CANDIDATES):
        with choosing(replace(chosen(), rank=rank)):
            kernel = kernel_for(at)
        if kernel is None:
            return []
        found[kernel] = None
    return list(found)


def _symbols(at: Instruction) -> set[Symbol]:
    """The symbols in the shapes of an instruction and its inputs."""
    return {s for v in (*at.inputs, at) for s in v.shape.symbols()}
