"""The output streams of a command: open, safe to write any name to, and showing progress."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

QUIET = 1.0
"""Seconds of silence before progress is shown."""

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys instead of showing them."""


def open_all() -> None:
    """Replaces streams that were closed before the start, which are None, by the null device; the
    others write with escapes what they cannot encode.
    """
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # open until the end
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def escaping() -> Iterator[None]:
    """Both streams escape control characters during the block: those of names in a model's file."""
    out, err = (cast(TextIO, _Escaping(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


class _Escaping:
    """A text stream that escapes control characters, but for the ends of lines and tabs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(escaped(text, but="\n\t"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def escaped(text: str, but: str = "") -> str:
    """A text with escapes for control characters, as in JSON and in the text of programs."""
    return CONTROL.sub(lambda c: c[0] if c[0] in but else f"\\u{ord(c[0]):04x}", text)


def animated() -> TextIO:
    """The error stream as it is, for what moves the cursor."""
    return cast(TextIO, getattr(sys.stderr, "stream", sys.stderr))


@contextmanager
def progress(message: str) -> Iterator[Callable[[str], None]]:
    """On a terminal, shows what is being done, and for how long, if it takes more than a second;
    yields a function that shows the progress.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    shown = Progress(*columns, console=Console(file=animated()), transient=True)
    task = shown.add_task(escaped(message), total=None)
    timer = threading.Timer(QUIET, shown.start)
    timer.start()
    try:
        yield lambda done: shown.update(task, description=f"{message}: {done}")
    finally:
        timer.cancel()
        timer.join()
        shown.stop()
