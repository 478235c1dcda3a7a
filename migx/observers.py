"""Observers of the pass manager: print, time, verify, crash files."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TextIO

from migx.errors import DataError, PassError
from migx.events import EventLog
from migx.manager import Observer, PassManager, Pipeline, Step
from migx.program import Program
from migx.verify import findings


class Print(Observer):
    """Prints the program after each pass; with ``on_change``, only if the pass changed it."""

    def __init__(self, out: TextIO | None = None, on_change: bool = True) -> None:
        self.out, self.on_change = out or sys.stdout, on_change

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        if changed or not self.on_change:
            print(f"# after {step.of}", step.program, sep="\n", file=self.out)


class Time(Observer):
    """Records each pass's time in seconds, and the numbers of instructions before and after."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int, int]] = []
        self._before = 0

    def before(self, step: Step) -> None:
        self._before = step.program.size

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        self.rows.append((str(step.of), seconds, self._before, step.program.size))


class Verify(Observer):
    """Verifies the program after every pass; the error names the pass and lists every finding."""

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        if found := findings(step.program):
            listed = "\n".join(map(str, found[:10]))
            raise PassError(f"pass {step.of} left a program that is not well formed\n{listed}")


class CrashFile(Observer):
    """Writes a reproducer when a pass fails: the program just before it, as a ``.migx`` case with
    the pass in its first line.

    The program is not copied before each pass: passes are deterministic, so the initial program is
    kept, and the passes before the failing one are run again. The pass's error is raised even if no
    file can be written, which a note then says.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        """The folder for the file; by default ``migx`` in the system's temporary folder."""
        self.file: Path | None = None

    def started(self, program: Program, pipeline: Pipeline) -> None:
        self._start = program.copy()

    def failed(self, step: Step, error: Exception) -> None:
        from migx.debug.case import Case

        log = None if step.log is None else EventLog(step.log.skip)
        PassManager(self._start, log=log).run(step.pipeline, stop_after=step.index)
        try:
            folder = self.folder or Path(tempfile.gettempdir()) / "migx"
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{step.of.name}-{self._start.fingerprint()[:12]}.migx"
            Case(self._start).save(file, passes=str(step.of))
        except (OSError, DataError) as cause:
            error.add_note(f"a file that reproduces this could not be written: {cause}")
            return
        self.file = file
        error.add_note(f"reproduce: migx opt {file} --passes '{step.of}' --verify-each")
