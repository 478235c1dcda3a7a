"""A pytest plugin for cases of passes in ``*.migx`` files. ``pytest_plugins =
["migx.testing.cases"]`` in the topmost ``conftest.py`` of a package collects its own.

A case is a program, the passes to run on it, and the program they must leave, exactly:

    # What the case shows.
    # passes: dead_code_elimination
    module main(x: f32[2]) { ... }
    # becomes
    module main(x: f32[2]) { ... }

Both programs are also run on ``ref`` with random inputs and must agree; ``atol=`` after a comma in
the line of the passes loosens that. The passes must find nothing to do when run again. ``pytest
--bless`` rewrites the program as it is printed, and what the passes leave.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.errors import ParseError, UnknownName
from migx.manager import Pipeline
from migx.observers import Verify
from migx.parser import drawn
from migx.shape import Shape

HEAD = re.compile(r"# passes: *(?P<passes>.*)\n")
BECOMES = "# becomes\n"
SIZE = 3
"""The size that symbols are bound to when a case is run, within their bounds."""


class Written(NamedTuple):
    """A case in its file: the text from the program to the case's end."""

    title: str
    passes: str
    text: str
    line: int
    """The line of the passes, counted from 1."""
    head: str
    """The text of that line."""


class CaseFailure(AssertionError):
    """A failed case, reported without a traceback."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--bless``."""
    parser.addoption("--bless", action="store_true", help="rewrite what *.migx cases expect")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses ``--bless`` if pytest-xdist would have several processes write one file."""
    if config.getoption("--bless") and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--bless rewrites files: run it in one process, without -n")


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> pytest.Collector | None:
    """Collects the files of cases."""
    if file_path.suffix != ".migx":
        return None
    made: CaseFile = CaseFile.from_parent(parent, path=file_path)
    return made


class CaseFile(pytest.File):
    """A file of cases, split at their ``# passes:`` lines and the comments before these."""

    def collect(self) -> Iterator[pytest.Item]:
        for written in cases(self.path.read_text("utf-8")):
            name = written.title or written.passes
            made: Case = Case.from_parent(self, name=name, written=written)
            yield made


class Case(pytest.Item):
    """One case: text in, passes, text out, and the same results before and after."""

    def __init__(self, *, written: Written, **rest: Any) -> None:
        super().__init__(**rest)
        self.written = written
        self.passes, _, atol = written.passes.partition(", atol=")
        self.atol = float(atol or 1e-6)

    def runtest(self) -> None:
        given, becomes, wanted = self.written.text.partition(BECOMES)
        above = "\n" * self.written.line  # so that errors give the line in the file
        printed, folder = str(migx.parse(above + given)), self.path.parent
        before, after = (migx.parse(given, folder=folder, draw_missing=0) for _ in "ab")
        migx.run_passes(after, self.passes, [Verify()])
        if self.config.getoption("--bless"):
            self.bless(printed, str(after))
        else:
            expect_text("the program is not as it is printed", printed, given)
            if not becomes:
                raise CaseFailure("the case has no expected result: run with --bless")
            expect_text("it becomes something else", str(after), wanted)
        agree(before, after, self.atol)
        again = after.copy()
        if migx.run_passes(again, Pipeline.parse(self.passes)):
            expect_text("not idempotent: run again, it becomes", str(again), str(after))

    def bless(self, given: str, after: str) -> None:
        """Writes the program and the result of the passes into the file."""
        head, whole = self.written.head, self.path.read_text("utf-8")
        blessed = f"{head}{given}{BECOMES}{after}".rstrip()
        whole = whole.replace(f"{head}{self.written.text.rstrip()}", blessed)
        self.path.write_text(whole, "utf-8")

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.written.line - 1, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        place = f"{self.path}:{self.written.line}: {self.written.head}"
        if isinstance(excinfo.value, (CaseFailure, ParseError, UnknownName)):
            return f"{place}{excinfo.value}"
        excinfo.traceback = excinfo.traceback.cut(path=__file__)
        return f"{place}{super().repr_failure(excinfo, style or 'short')}"


def cases(text: str) -> Iterator[Written]:
    """The cases of a file."""
    heads = list(HEAD.finditer(text))
    for i, head in enumerate(heads):
        end = heads[i + 1].start() if i + 1 < len(heads) else len(text)
        body = text[head.end() : end]
        while i + 1 < len(heads) and body.rstrip().rpartition("\n")[2].startswith("#"):
            body = body.rstrip().rpartition("\n")[0] + "\n"
        title = text[: head.start()].rstrip().rpartition("\n")[2]
        title = title.lstrip("# ") if title.startswith("#") else ""
        line = text.count("\n", 0, head.start()) + 1
        yield Written(title, head["passes"].strip(), body, line, head.group())


def expect_text(what: str, found: str, wanted: str) -> None:
    """``CaseFailure`` with the lines that differ, unless two texts of programs are equal."""
    there, new = (text.strip().splitlines() for text in (wanted, found))
    if there != new:
        told = list(difflib.unified_diff(there, new, lineterm=""))[3:]
        raise CaseFailure(
            "\n".join([f"{what} (+), not as expected (-); --bless accepts it", *told])
        )


def agree(before: migx.Program, after: migx.Program, atol: float = 1e-6) -> None:
    """Fails unless two programs give the same results on ``ref`` for random inputs."""
    sizes = {
        name: max(symbol.low, min(SIZE, symbol.high or SIZE))
        for name, symbol in before.symbols().items()
    }
    inputs = {
        name: draw(parameter.shape.bind(sizes), i)
        for i, (name, parameter) in enumerate(before.main.parameters.items())
    }
    first, second = (p.compile("ref", passes="").eval(inputs) for p in (before, after))
    for got, wanted in zip(second, first, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=atol)


def draw(shape: Shape, seed: int) -> Argument:
    """An input with a shape, the same for the same seed."""
    return drawn(shape.as_standard(), [seed])
