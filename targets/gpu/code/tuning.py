"""Measures the tiles that the model of ``tiles.py`` thinks well of, and keeps the fastest.

What is measured depends on nothing but texts, launches and the device, and is kept under the hash
of these beside the binaries: so no kernel is measured twice, in this process or a later one. Sizes
that are not known are taken to be ``USUAL``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from migx import dim
from migx.base import disk_cache
from migx.dims.symbol import Symbol
from migx.errors import TargetError
from migx.ir import Instruction
from migx.planning import results
from migx.targets.gpu import tiles
from migx.targets.gpu.code.compiling import Request, binaries
from migx.targets.gpu.devices.device import ENQUEUING, Buffer, Device
from migx.targets.gpu.emit.text import Kernel, operands
from migx.targets.gpu.kernels import kernel_for

KIND = "gpu-tiles"
CANDIDATES = 6
"""How many tiles are measured, from the one that the model likes best on."""
USUAL = 128
"""What a size that is not known is measured as, unless it must be more or less."""
REPEATS, LAUNCHES = 3, 5
"""How often a kernel is measured, of which the least counts, and how often launched for that."""


@dataclass
class Tuner:
    """Finds kernels that are fast on a device; what it has found before, it knows."""

    device: Device
    fast_math: bool = False
    known: dict[str, int] = field(default_factory=dict)

    def kernel(self, at: Instruction) -> Kernel | None:
        """The fastest kernel of an instruction; None where it has none."""
        found = candidates(at, self.device.arch, fast_math=self.fast_math)
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
        """Which kernel takes the least time, on memory that holds anything."""
        sizes = {s.name: int(min(s.bounds[1], max(s.low, USUAL))) for s in _symbols(at)}
        shapes = [v.shape for v in operands(at)] + list(results(at))
        buffers = [self.device.allocate(int(shape.bind(sizes).nbytes)) for shape in shapes]
        times: dict[int, float] = {}
        refused: list[TargetError] = []
        for number, kernel in enumerate(found):
            try:
                times[number] = self._time(kernel, buffers, sizes)
            except TargetError as error:  # a tile that this device has no room for
                refused.append(error)
        if not times:
            raise refused[0]
        return min(times, key=lambda number: times[number])

    def _time(self, kernel: Kernel, buffers: Sequence[Buffer], sizes: dict[str, int]) -> float:
        """The seconds that so many launches take."""
        aligned = tuple(range(len(kernel.pointers)))
        request = Request.of(kernel, aligned, self.device.arch)
        binary = binaries([request]).get(request.key) if self.device.arch else None
        function = self.device.function(request, binary)
        words = [dim.evaluate(word, sizes) for word in kernel.words]
        scratch = [self.device.allocate(int(s.bind(sizes).nbytes)) for s in kernel.scratch]
        arguments = [*(b.address for b in (*buffers, *scratch)), *words]
        grid, turns = dim.evaluate(kernel.grid, sizes), dim.evaluate(kernel.turns, sizes)
        given = [[*arguments, turn] for turn in range(turns)] or [arguments]

        def launches(count: int = LAUNCHES) -> None:
            for turn in given * count:
                self.device.launch(function, grid, turn)

        launches(1)
        self.device.synchronize()
        host = LAUNCHES * len(given) * ENQUEUING
        return min(self.device.elapsed(launches, host) for _ in range(REPEATS))


def candidates(at: Instruction, arch: str, *, fast_math: bool = False) -> list[Kernel]:
    """The kernels of an instruction with different tiles, the most promising first."""
    found: dict[Kernel, None] = {}
    for rank in range(CANDIDATES):
        with tiles.around(arch, rank=rank, fast_math=fast_math):
            kernel = kernel_for(at)
        if kernel is None:
            return []
        found[kernel] = None
    return list(found)


def _symbols(at: Instruction) -> set[Symbol]:
    """The symbols that sizes of an instruction are made of."""
    return {s for v in (*at.inputs, at) for s in v.shape.symbols()}
