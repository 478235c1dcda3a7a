"""The report: what a pipeline did to a program, pass by pass, as one HTML page.

    migx.view.report(program, target="cpu", inputs=inputs).write("report.html")

``data`` is its content, ``recorder`` the observer that collects it, ``document`` the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migx.binding import sizes_told
from migx.compiler import compiled
from migx.manager import PassManager
from migx.observers import Time
from migx.profile import can_tell, measured
from migx.program import Program
from migx.target import Target, asked_for, get_target, passes_for
from migx.view.data import Report
from migx.view.recorder import Recorder

__all__ = ["Recorder", "Report", "report"]


RUNS = 5
"""A run is measured this many times and the fastest shown, the least disturbed one."""


def report(
    program: Program,
    target: Target | str = "cpu",
    *,
    inputs: Mapping[str, Any] | None = None,
    title: str = "program",
    **options: Any,
) -> Report:
    """What the passes of a target, or those of ``passes="..."``, did to a program, which is
    unchanged.

    With ``inputs`` it is compiled, and run if the target can measure its runs: the report then has
    the time of each instruction. The other options are those of ``Program.compile``.
    """
    chosen, timer = get_target(target), Time()
    passes = passes_for(chosen, asked=asked_for(**options))
    PassManager(program.copy(), (timer,)).run(passes)
    recorder = Recorder([row[1] for row in timer.rows])
    if inputs is None:
        PassManager(program.copy(), (recorder,), recorder.log).run(passes)
        return recorder.report(title, "" if options.get("passes") is not None else chosen.name)
    made = compiled(program, chosen, observers=(recorder,), log=recorder.log, **options)
    recorder.finished(made.program, "compile", "Constants are packed, and weights put in slots.")
    if not can_tell(made):
        return recorder.report(title, chosen.name)
    arguments = made.arguments(inputs)
    sizes = sizes_told(made.program.main, [*arguments.values()])
    run = recorder.run(measured(made, arguments, RUNS), sizes)
    return recorder.report(title, chosen.name, run)
