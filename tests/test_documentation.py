"""The documents agree with the code: made pages, links, the map, the lists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from docs import generate
from migx import errors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("**/*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
HIDDEN = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", generate.PAGES)
def test_a_made_page_is_up_to_date(page: str) -> None:
    there = (generate.FOLDER / page).read_text("utf-8")
    assert there == generate.PAGES[page](), "run python -m docs.generate"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and most others make them."""
    titles = HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_gives_the_score_of_the_conformance_page() -> None:
    page = (DOCS / "reference" / "onnx.md").read_text("utf-8")
    (score,) = re.findall(r"^\| all \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert "{} of {} cases".format(*score) in PAGES[0].read_text("utf-8")


def test_every_environment_variable_is_listed() -> None:
    page = (DOCS / "reference" / "environment.md").read_text("utf-8")
    code = (p for folder in ("migx", "passes", "targets") for p in (ROOT / folder).rglob("*.py"))
    read = {name for path in code for name in re.findall(r"MIGX_[A-Z_]+", path.read_text("utf-8"))}
    assert not {name for name in read if f"| `{name}` |" not in page}


def test_every_page_is_in_an_index() -> None:
    for index, pages in {
        DOCS / "README.md": [p for p in DOCS.glob("*/*.md") if p.parent.name != "decisions"],
        DOCS / "decisions" / "README.md": list(DOCS.glob("decisions/0*.md")),
    }.items():
        linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
        assert not [name(p) for p in pages if p.resolve() not in linked]


def test_the_map_shows_every_file_of_the_core_and_nothing_that_is_gone() -> None:
    entries = dict(mapped())
    assert not [name(path) for path in entries if not path.exists()]
    core, onnx = ROOT / "migx", ROOT / "migx" / "onnx"
    there = {p for folder in (core, onnx) for p in folder.iterdir() if p.name not in HIDDEN}
    listed = {p for p in there if not p.is_symlink()}
    assert not sorted(name(p) for p in listed - entries.keys())
    made = {ROOT / folder for folder in ("build", "dist", "fuzz")}
    folders = {p for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))}
    assert not sorted(name(p) for p in folders - entries.keys() - made)
    rooms = {p.parent for p in (ROOT / "targets").rglob("*.py")}
    assert not sorted(name(p) for p in rooms - entries.keys())
    assert all(entries.values())


def mapped() -> list[tuple[Path, str]]:
    """The paths in the README's map, each with what is said of it."""
    text = (ROOT / "README.md").read_text("utf-8")
    block = text.split("## The map")[1].split("```text\n")[1].split("```")[0]
    found, around = [], [ROOT]
    for line in block.splitlines():
        path, said = re.fullmatch(r"( *\S+)\s+(.+)", line).groups()  # type: ignore[union-attr]
        depth = (len(path) - len(path.lstrip())) // 2
        around[depth + 1 :] = [around[depth] / path.strip().rstrip("/")]
        found.append((around[-1], said))
    return found


def test_every_kind_of_error_has_an_example() -> None:
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    kinds = [c.__name__ for _, c in inspect.getmembers(errors, inspect.isclass)]
    assert not [k for k in kinds if f"**{k}**" not in page and k != "MigxError"]
