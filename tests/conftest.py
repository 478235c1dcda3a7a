"""What all tests share: hypothesis without deadlines, and the cases in ``*.migx`` files.

Hypothesis draws the same examples each time, so that a change passes or fails, and others with
``pytest --hypothesis-profile=explore``.

A case is a program, the passes to run on it, and the program they must leave, exactly:

    # What the case shows.
    # passes: dead_code_elimination
    module main(x: f32[2]) { ... }
    # becomes
    module main(x: f32[2]) { ... }

Both programs are also run on ``ref`` with drawn inputs and must agree; ``atol=`` after a comma in
the first line loosens that. ``pytest --bless`` rewrites what the passes leave.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

os.environ["MIGX_DEBUG"] = "1"

import migx
from migx import plugins
from migx.argument import Argument
from migx.manager import Pass, Pipeline
from migx.observers import Verify
from migx.parser import drawn
from migx.shape import Shape

hypothesis.settings.register_profile("migx", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=60)
hypothesis.settings.load_profile("migx")

HEAD = re.compile(r"# passes: *(?P<passes>.*)\n")
SIZE = 3
"""What symbols are bound to where a case is run; within their bounds."""


@pytest.fixture
def found_by_name(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets passes be found by their names for a test, beside those there are."""
    load = plugins.load

    def add(*passes: type[Pass]) -> None:
        ours = {p.name: p for p in passes}
        monkeypatch.setattr(plugins, "load", lambda kind, name: ours.get(name) or load(kind, name))

    return add


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="rewrite what *.migx cases expect")
    parser.addoption(
        "--whole-grid", action="store_true", help="hold packed weights of all types to every pass"
    )


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> pytest.Collector | None:
    if file_path.suffix != ".migx":
        return None
    made: CaseFile = CaseFile.from_parent(parent, path=file_path)
    return made


class CaseFile(pytest.File):
    """A file of cases, parted by their ``# passes:`` lines and the comments before these."""

    def collect(self) -> Iterator[pytest.Item]:
        for title, passes, program in cases(self.path.read_text("utf-8")):
            made: Case = Case.from_parent(self, name=title or passes, passes=passes, text=program)
            yield made


class Case(pytest.Item):
    """One case: text in, passes, text out, and the same results before and after."""

    def __init__(self, *, passes: str, text: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.head, self.text = f"# passes: {passes}\n", text
        self.passes, _, atol = passes.partition(", atol=")
        self.atol = float(atol or 1e-6)

    def runtest(self) -> None:
        given, becomes, wanted = self.text.partition("# becomes\n")
        before, after = (migx.parse(given, folder=self.path.parent, draw_missing=0) for _ in "ab")
        assert str(migx.parse(given)) == given.strip() + "\n", "the program is not as it is printed"
        migx.run_passes(after, self.passes, [Verify()])
        if self.config.getoption("--bless"):
            blessed = f"{given.rstrip()}\n# becomes\n{after}".rstrip()
            whole = self.path.read_text("utf-8")
            whole = whole.replace(self.head + self.text.rstrip(), self.head + blessed)
            self.path.write_text(whole, "utf-8")
        else:
            assert becomes, "the case does not say what it becomes: run with --bless"
            assert str(after) == wanted.strip() + "\n"
        agree(before, after, self.atol)
        again = after.copy()
        assert not migx.run_passes(again, Pipeline.parse(self.passes)), "not idempotent"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        return str(super().repr_failure(excinfo, style or "short"))


def cases(text: str) -> Iterator[tuple[str, str, str]]:
    """The cases of a file: title, passes, and the text from the program to the case's end."""
    heads = list(HEAD.finditer(text))
    for i, head in enumerate(heads):
        end = heads[i + 1].start() if i + 1 < len(heads) else len(text)
        body = text[head.end() : end]
        while i + 1 < len(heads) and body.rstrip().rpartition("\n")[2].startswith("#"):
            body = body.rstrip().rpartition("\n")[0] + "\n"
        title = text[: head.start()].rstrip().rpartition("\n")[2]
        yield title.lstrip("# ") if title.startswith("#") else "", head["passes"].strip(), body


def agree(before: migx.Program, after: migx.Program, atol: float = 1e-6) -> None:
    """Fails unless two programs give the same results on ``ref`` for drawn inputs."""
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
    """An input of a shape, the same for the same seed."""
    return drawn(shape.as_standard(), [seed])
