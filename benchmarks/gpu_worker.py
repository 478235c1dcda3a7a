"""A process that owns the device and runs the steps of ``benchmarks.gpu``.

After an illegal access in a kernel the process loses its device, and a kernel that does not end
blocks it. So steps run in a process of their own, each with a time limit, and if the device is lost
the process is restarted for the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.gpu_peers import Missing
from benchmarks.gpu_steps import Bench, Limits
from benchmarks.gpu_table import Line
from migx.errors import TargetError
from migx.targets.gpu.devices.device import Device

START = 60.0
"""Seconds within which a process must have a device."""
END = 10.0
"""Seconds to wait for a killed process to end; a driver may hold it for longer."""


@dataclass
class Found:
    """The outcome of a step: its line, its value, and whether the device is lost."""

    line: Line
    value: Any = None
    lost: bool = False


class Worker:
    """The process, started on first use; ``TargetError`` if it finds no device."""

    def __init__(self, kind: str, *, quick: bool, fast_math: bool = False) -> None:
        self.kind, self.how = kind, {"quick": quick, "fast_math": fast_math}
        self.arch = ""
        self._process: Any = None
        self._ends: Connection | None = None
        self._start()

    def do(self, step: str, line: Line, limits: Limits, seconds: float, *given: Any) -> Found:
        """Runs one step of ``Bench`` for a line, within some seconds."""
        try:
            ends = self._ends or self._start()
            ends.send((step, line.name, limits, given))
            if not ends.poll(seconds):
                found = _failed(line, f"stopped: {step} took more than {seconds:g} s")
            else:
                found = ends.recv()
        except (EOFError, OSError):
            found = _failed(line, f"the process died in {step}")
        except TargetError as error:
            found = _failed(line, str(error))
        if found.lost:
            self.close()
        return found

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join(END)
        self._process, self._ends = None, None

    def _start(self) -> Connection:
        context = get_context("spawn")
        self._ends, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.kind, self.how))
        self._process.start()
        theirs.close()
        try:
            ready = self._ends.poll(START)
            arch, said = self._ends.recv() if ready else ("", "it does not answer")
        except (EOFError, OSError):
            arch, said = "", "the process that asks for it died"
        if said:
            self.close()
            raise TargetError(f"there is no device: {said}")
        self.arch = arch
        return self._ends


def serve(ends: Connection, kind: str, how: dict[str, bool]) -> None:
    """Runs each step received, until the connection is closed."""
    try:
        bench = Bench(device_of(kind), **how)
    except TargetError as error:
        ends.send(("", str(error)))
        return
    ends.send((bench.device.arch, ""))
    while True:
        try:
            step, name, limits, given = ends.recv()
        except EOFError:
            return
        bench.limits = limits
        ends.send(done(bench, step, Line(name), *given))


def done(bench: Bench, step: str, line: Line, *given: Any) -> Found:
    """Runs one step; returns its outcome, with an error noted in its line."""
    found = Found(line)
    try:
        found.value = getattr(bench, step)(line, *given)
    except Missing as error:
        line.say(str(error))
    except Exception as error:  # noqa: BLE001  # what a peer raises is no reason to stop
        line.fail(error)
        try:
            bench.device.synchronize()
        except TargetError:
            found.lost = True
    return found


def device_of(kind: str) -> Device:
    """A new device, by kind."""
    if kind == "interpreter":
        from migx.targets.gpu.devices.interpreter import InterpreterDevice

        return InterpreterDevice()
    from migx.targets.gpu.devices.cupy_device import CupyDevice

    return CupyDevice()


def _failed(line: Line, why: str) -> Found:
    line = Line(line.name)
    line.say(why)
    return Found(line, lost=True)
