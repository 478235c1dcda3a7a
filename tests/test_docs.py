"""Every example in the documents runs: ``python`` blocks, and ``console`` lines ``$ migx ...``.

The blocks of one page run in order, in one namespace, in a folder with a small ``model.onnx``. What
stands in a ``text`` block just behind a ``python`` block is what that prints. Commands of the
README, and those that need a shell, run in one; others in this process, which has imported what
they need.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from migx.cli import main
from migx.testing.small import save_model

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"[|&;<>*?$`~\\]")
"""What a shell has a part in."""
COMMAND = re.compile(r"^\$ (migx\b(?:\\\n|.)*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One example of a page: its language, its text, the line it begins on, and what it prints
    where the page says so.
    """

    language: str
    text: str
    line: int
    prints: str | None = None

    @property
    def commands(self) -> list[str]:
        """The commands of a console block that are migx's own; what they print is not compared."""
        return COMMAND.findall(self.text) if self.language in {"console", "sh"} else []

    @property
    def runs(self) -> bool:
        return self.language == "python" or bool(self.commands)


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, indented ones brought to the margin."""
    for found in FENCE.finditer(page):
        behind = FENCE.match(page[found.end() :].lstrip("\n"))
        prints = _text(behind) if behind and (found[2], behind[2]) == ("python", "text") else None
        yield Block(found[2], _text(found), page.count("\n", 0, found.start(3)) + 1, prints)


def _text(found: re.Match[str]) -> str:
    return re.sub(rf"^{found[1]}", "", found[3], flags=re.MULTILINE)


def test_blocks_are_found_with_their_lines() -> None:
    console_text = "  ```console\n  $ migx read m.onnx \\\n  --stats\n  out\n  ```\n"
    page = f"a\n```python\nx = 1\n```\n* b\n{console_text}"
    shown = "```python\nprint(1)\n```\n\n```text\n1\n```\n"
    assert [block.prints for block in blocks(shown)] == ["1\n", None]
    python, console = blocks(page)
    assert python == Block("python", "x = 1\n", 3)
    assert (console.line, console.commands) == (7, ["migx read m.onnx \\\n--stats"])
    assert not Block("console", "$ make demo\n", 1).runs


def test_the_readme_shows_running_code() -> None:
    assert any(block.language == "python" for block in blocks(PAGES[0].read_text("utf-8")))


def runnable(page: Path) -> list[Block]:
    """The blocks of a page that are executed."""
    return [b for b in blocks(page.read_text("utf-8")) if b.runs] if page.exists() else []


@pytest.mark.parametrize(
    "page", [p for p in PAGES if runnable(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_example_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model.onnx")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in runnable(page):
        if block.language == "python":
            # Blank lines in front, so that a traceback shows the line of the page.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(code, namespace)
            printed = capsys.readouterr().out
            if block.prints is not None:
                assert printed.strip() == block.prints.strip(), f"{page}:{block.line}"
        for command in block.commands:
            if page == PAGES[0] or SHELL.search(command):
                failed, said = in_a_shell(command)
            else:
                failed, said = (
                    main(shlex.split(command, comments=True)[1:]),
                    str(capsys.readouterr()),
                )
            assert not failed, f"{page}:{block.line}: {command}\n{said}"


def in_a_shell(command: str) -> tuple[int, str]:
    """The exit code of a command with this interpreter's own ``migx`` in front; what it says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        shell=True,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
