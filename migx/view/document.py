"""One HTML file of a report: its markup, style, scripts and data, and nothing from elsewhere."""

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
"""The scripts in the order they are run; each uses what those before it define."""


def document(title: str, data: str) -> str:
    """The page that shows some data, which is the JSON of a report."""
    # Inside of a script, only these could end it or change how it is read.
    safe = data.replace("<", "\\u003c")
    return Template(_text("page.html")).substitute(
        title=html.escape(title), style=_text("style.css"), scripts=scripts(), data=safe
    )


def scripts() -> str:
    """All scripts as one."""
    return "\n".join(_text(f"{name}.js") for name in SCRIPTS)


def _text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")
