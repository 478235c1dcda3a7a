"""Whole programs on ``cpu``: compiled from texts, looked at, and run from several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

import migx
from migx.program import Program
from migx.targets.cpu.runs.executable import CpuExecutable

T = TypeVar("T")


def compiled(text: str, target: str = "cpu", passes: str = "", threads: int = 2) -> Program:
    """A program as it stands, or after some passes."""
    given = threads if target == "cpu" else None
    return migx.parse(text).compile(target, passes=passes, num_threads=given)


def executable(program: Program) -> CpuExecutable:
    """What runs a program."""
    found = program.executable
    assert isinstance(found, CpuExecutable)
    return found


def native(program: Program) -> CpuExecutable:
    """What runs a program that has a kernel for all."""
    found = executable(program)
    assert not found.fallbacks()
    return found


def at_once(work: Callable[[T], None], cases: Iterable[T]) -> None:
    """Does the work for all cases at the same time, each in a thread of its own."""
    workers = [threading.Thread(target=work, args=(case,)) for case in cases]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
