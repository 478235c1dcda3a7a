"""User commands that judge a program, each run in a process that can be killed."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from migx.cli import _options

if TYPE_CHECKING:
    from migx.debug.bisect import Symptom
    from migx.debug.case import Case


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Declares the time limit of a command."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_options.seconds,
        default=60.0,
        help="time limit for each run of COMMAND (60); a timeout is a kind of failure by itself",
    )


def judged(
    case: Case, command: Sequence[str], timeout: float, passes: str | None = None
) -> Symptom:
    """The symptom of a command's exit on a case; exit code 0 is success.

    The case is saved in a ``.migx`` file, whose path replaces ``{}`` in the command, or is
    appended. ``CannotJudge`` if the command cannot be run.
    """
    from migx.debug.bisect import Symptom

    with tempfile.TemporaryDirectory(prefix="migx-") as folder:
        path = Path(folder, "case.migx")
        case.save(path, passes)
        words = [word.replace("{}", str(path)) for word in command]
        if words == list(command):
            words.append(str(path))
        with open(Path(folder, "stderr"), "w+b") as errors:
            code = _ended(words, timeout, errors.fileno())
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
    if code is None:
        return Symptom("timeout", f"no end within {timeout:g} s")
    return Symptom(f"exit code {code}", said) if code else Symptom()


def _ended(words: Sequence[str], timeout: float, errors: int) -> int | None:
    """The exit code of a command; None if it had to be killed, with its children."""
    from migx.debug.bisect import CannotJudge

    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    except OSError as error:
        raise CannotJudge(f"cannot run {words[0]}: {error.strerror}") from error
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
