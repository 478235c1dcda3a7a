"""The HTML page of a report, self-contained: markup, style, scripts and data."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

FOLDER = Path(__file__).parent / "page"
SCRIPTS = (
    "model",
    "diff",
    "list",
    "parts",
    "pipeline",
    "changes",
    "rewrites",
    "program",
    "nodes",
    "run",
    "graph",
    "details",
    "main",
)
"""The scripts in order of execution; each uses definitions of those before it."""


def document(title: str, data: str) -> str:
    """The page for some data, the JSON of a report."""
    # Inside a script, only `<` could end it or change how it is parsed.
    safe = data.replace("<", "\\u003c")
    return Template(_text("page.html")).substitute(
        title=html.escape(title), style=_text("style.css"), scripts=scripts(), data=safe
    )


def scripts() -> str:
    """All scripts as one."""
    return "\n".join(_text(f"{name}.js") for name in SCRIPTS)


def _text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")
