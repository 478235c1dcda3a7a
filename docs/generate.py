"""Writes the reference pages that are lists of what the code holds: ``python -m docs.generate``.

``tests/test_documentation.py`` fails while a page in the repository differs from what this writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import migx
from benchmarks import page as speeds
from migx import cli, plugins
from migx.compiler import Compiled
from migx.onnx import importers
from migx.op import UNDECLARED, Traits, can_evaluate
from migx.shape import DType
from migx.target import CompileOptions
from migx.weights.update import Update

FOLDER = Path(__file__).parent / "reference"
MADE = "<!-- Made by python -m docs.generate: mend the docstrings, not this page. -->\n"
OURS = {kind: plugins.OWN[kind] for kind in ("ops", "onnx", "passes", "targets")}

OPERATIONS = """\
There are {}, in the files of `migx/ops/`. Names are MIGraphX's where it has the operation.
Inputs of elementwise operations must have equal dims: a broadcast is an instruction of its own.

The traits tell passes what they may do: *pointwise*, *commutative*, *reduction*, *view of N*
(may alias input N), *standard inputs*, *effectful* (never removed), *not folded* (never
evaluated at compile time), *packs* (constants, before any run). *No meaning*: it exists to be
replaced, or the executor of the program handles it."""
ONNX_OPERATORS = """\
The {} operators that `migx.parse_onnx` reads. An importer serves every opset version from the
one given until the next in its row; older versions are refused. The last column is the file in
`migx/onnx/ops/`."""
COMMAND_LINE = """\
`migx VERB --help` prints the same. Exit codes: 0 for success, 1 for a negative result, such as a
failed comparison, 2 for an error, with one message on stderr. `--json` prints output for programs.
Settings of a process: [environment variables](environment.md)."""
RULES = """\
The rules each pass applies, in the order in which they are tried at an instruction; `migx passes
NAME` says the same, with the file and line of each. [Patterns](patterns.md) says how to read a
pattern. Passes that are not in this list are functions, described by their
[docstrings](passes-and-targets.md)."""
PYTHON = """\
What `import migx` offers, and the classes that its functions return. Interfaces for extending migx
are imported from their modules:"""
EXTENDING = """\
What passes, operations, targets, importers and tests are written with. The
[tutorials](../tutorials/2-write-a-pass.md) and how-to guides show them at work;
[patterns](patterns.md) and [pipelines](pipelines.md) have pages of their own; the methods that
an executable may have are
[in a table](../how-to/write-a-target.md#what-else-an-executable-may-do)."""
EXTENSIONS = {
    "migx.op": ("Op", "Traits"),
    "migx.manager": ("Pass", "PassManager", "Observer"),
    "migx.pipeline": ("Pipeline",),
    "migx.rewrite": ("rule", "RuleSet", "Cursor", "Declined", "rewrite"),
    "migx.events": ("EventLog", "Event"),
    "migx.weights": ("value_of",),
    "migx.target": ("Target", "Context", "Executable"),
    "migx.meaning": ("run_with_kernels", "by_meaning", "laid_out"),
    "migx.fusion.kernels": ("described", "FusedKernel", "Node", "Access"),
    "migx.builders": ("Arithmetic",),
    "migx.onnx.node": ("Node",),
    "migx.onnx.site": ("Site", "Value"),
    "migx.parts": ("part",),
    "migx.testing": ("check_pass", "check_target", "check_conformance"),
    "migx.debug.inputs": ("drawn_inputs",),
    "migx.debug.compared": ("compared",),
    "migx.debug.departures": ("departure",),
    "migx.debug.layers": ("layers",),
    "migx.debug.whynot": ("why_not",),
}
"""What extensions import, by module."""
ELEMENT_TYPES = """\
`DType.of(name)` finds one. The *roundoff* is the largest relative error of rounding to
nearest. A packed type is storage: it is flat, low bits first, has no views, and only the
`unpack_...` operations compute with it; its numpy type is that of its bytes. Types that numpy
lacks come from `ml_dtypes`."""


def operations() -> str:
    """The page of all operations, family by family."""
    found = [cls for cls in plugins.operations().values() if _ours(cls, "ops")]
    page = [
        "# Operations",
        OPERATIONS.format(len(found)),
    ]
    for family in plugins.files(OURS["ops"]):
        module = importlib.import_module(f"{OURS['ops']}.{family}")
        members = sorted((c for c in found if c.__module__ == module.__name__), key=_name)
        rows = [(f"`{_name(c)}`", _attributes(c), _sentence(c), _traits(c)) for c in members]
        page += [f"## {family}", _paragraph(module)]
        page += [_table(("operation", "attributes", "result", "traits"), rows)]
    return _page(page)


def onnx_operators() -> str:
    """The page of all ONNX operators that can be read."""
    rows = []
    for (domain, name), versions in sorted(importers.table().items()):
        ours = sorted((since, f) for since, f in versions if _ours(f, "onnx"))
        if ours:
            where = ours[-1][1].__module__.rpartition(".")[2]
            since = ", ".join(str(version) for version, _ in ours)
            rows.append((f"`{name}`", domain or "ai.onnx", since, f"`{where}`"))
    return _page(
        [
            "# ONNX operators",
            ONNX_OPERATORS.format(len(rows)),
            _table(("operator", "domain", "from version", "file"), rows),
        ]
    )


def element_types() -> str:
    """The page of all element types."""
    rows = [
        (
            f"`{t}`",
            t.kind,
            str(t.bits or ""),
            f"`{t.numpy.name}`" if t.is_tensor else "",
            f"2^-{t.digits}" if t.digits else "",
            "packed storage" if t.is_packed else "" if t.is_tensor else "host value",
        )
        for t in DType.known.values()
    ]
    return _page(
        [
            "# Element types",
            ELEMENT_TYPES,
            _table(("name", "kind", "bits", "numpy", "roundoff", ""), rows),
        ]
    )


def passes() -> str:
    """The page of all passes and targets."""
    page = ["# Passes and targets"]
    for kind in ("passes", "targets"):
        rows = []
        for name in plugins.names(kind):
            cls = plugins.load(kind, name)
            if _ours(cls, kind):
                rows.append((f"`{name}`", _attributes(cls), _sentence(cls)))
        page += [f"## {kind.capitalize()}", _table(("name", "options", "what it does"), rows)]
    return _page(page)


def rules() -> str:
    """The page of all rules, pass by pass."""
    page = ["# Rules", RULES]
    for name in plugins.names("passes"):
        cls = plugins.load("passes", name)
        if _ours(cls, "passes") and cls.rules:
            rows = [(f"`{r.name}`", _paragraph(r.function), f"`{r.pattern}`") for r in cls.rules]
            page += [f"## {name}", _table(("rule", "what it does", "pattern"), rows)]
    return _page(page)


def command_line() -> str:
    """The page of all verbs of the command line."""
    page = ["# The command line", COMMAND_LINE]
    for name in cli.verbs():
        verb = cli.load(name)
        parser = argparse.ArgumentParser(add_help=False)
        verb.configure(parser)
        rows = [(_argument(action), action.help or "") for action in parser._actions]
        page += [f"## migx {name}", _prose(verb), _table(("argument", ""), rows)]
    return _page(page)


def python() -> str:
    """The page of what Python programs call."""
    offered = [getattr(migx, name) for name in migx.__all__]
    modules = re.findall(r"^``(\S+)``\s+(.+)$", migx.__doc__ or "", re.MULTILINE)
    rows = [(f"`{name}`", said.replace("``", "`")) for name, said in modules]
    page = ["# The Python interface", PYTHON, _table(("module", "for"), rows)]
    for function in filter(inspect.isfunction, offered):
        page += _entry(f"migx.{function.__name__}", function)
    for cls in (*filter(inspect.isclass, offered), Compiled, CompileOptions, Update):
        page += _entry(cls.__name__, cls)
    return _page(page)


def extending() -> str:
    """The page of what passes, operations, targets and tools are written with."""
    page = ["# Interfaces for extensions", EXTENDING]
    for module, names in EXTENSIONS.items():
        offered = importlib.import_module(module)
        page += [f"## {module}", _paragraph(offered)]
        for name in names:
            page += _entry(name, getattr(offered, name), level=3)
    return _page(page)


def speed() -> str:
    """The page of what a benchmark has measured."""
    above, (head, *rows), below = speeds.parts()
    return _page([above, _table(head, rows), below])


def _entry(title: str, value: Any, level: int = 2) -> list[str]:
    """A function with its signature, or a class with its members."""
    head = f"{'#' * level} {title}"
    if inspect.isfunction(value):
        return [head, f"`{value.__name__}{_signature(value)}`", _prose(value)]
    rows = [(f"`{name}`", " ".join(_prose(member).split())) for name, member in _members(value)]
    return [head, _prose(value), *([_table(("member", ""), rows)] if rows else [])]


def _members(cls: Any) -> Iterator[tuple[str, Any]]:
    """The public members of a class and its bases, other than utilities; methods as called."""
    bases = [base for base in reversed(cls.__mro__) if re.match(r"migx\.(?!base)", base.__module__)]
    found = {name: member for base in bases for name, member in vars(base).items()}
    for name, member in sorted(found.items()):
        called = getattr(member, "__func__", member)
        if (name.startswith("_") and name != "__call__") or not called.__doc__:
            continue
        if inspect.isfunction(called):
            yield f"{name.removeprefix('__call__')}{_signature(called)}", called
        elif isinstance(called, property | cached_property):
            yield name, called


def _signature(function: Any) -> str:
    """How a function is called; annotations without the quotes that ``inspect`` gives them."""
    given = inspect.signature(function)
    named = [p for name, p in given.parameters.items() if name not in ("self", "cls")]
    said = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(given.replace(parameters=named)))
    return said.replace("mappingproxy({})", "{}")


PAGES: dict[str, Callable[[], str]] = {
    "python.md": python,
    "extending.md": extending,
    "operations.md": operations,
    "onnx-operators.md": onnx_operators,
    "element-types.md": element_types,
    "passes-and-targets.md": passes,
    "rules.md": rules,
    "command-line.md": command_line,
    "speed.md": speed,
}


def _ours(value: Any, kind: str) -> bool:
    """Whether migx itself offers it, rather than a package that happens to be installed."""
    module: str = value.__module__
    return module.startswith(f"{OURS[kind]}.")


def _argument(action: argparse.Action) -> str:
    """An argument as it is typed."""
    value = str(action.metavar or action.dest) if action.nargs != 0 else ""
    words = " ".join([", ".join(action.option_strings), value]).strip()
    required = action.required or action.option_strings
    return f"`{words}`" if required else f"`[{words}]`"


def _name(cls: Any) -> str:
    return str(cls.name)


def _prose(value: Any) -> str:
    """A docstring as Markdown."""
    return (inspect.getdoc(value) or "").replace("``", "`")


def _paragraph(value: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(_prose(value).partition("\n\n")[0].split())


def _sentence(value: Any) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=\.) (?=[A-Z])", _paragraph(value))[0]


def _attributes(cls: Any) -> str:
    return ", ".join(_fields(cls))


def _fields(cls: Any) -> Iterator[str]:
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        default = "" if field.default is dataclasses.MISSING else f" = {_default(field.default)}"
        yield f"`{field.name}: {field.type}{default}`"


def _default(value: Any) -> str:
    return str(value) if isinstance(value, DType) else repr(value)


def _traits(cls: Any) -> str:
    traits: Traits = getattr(cls, "traits", UNDECLARED)
    said = {
        "pointwise": traits.pointwise,
        "commutative": traits.commutative,
        "reduction": traits.reduction,
        f"view of {traits.view}": traits.view is not None,
        "standard inputs": traits.standard_inputs,
        "effectful": not traits.pure,
        "not folded": not traits.foldable,
        "packs": traits.packs,
        "no meaning": not can_evaluate(cls),
    }
    return ", ".join(text for text, holds in said.items() if holds)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |" for r in lines)


def _page(parts: list[str]) -> str:
    return MADE + "\n" + "\n\n".join(parts) + "\n"


def main() -> None:
    """Writes every page."""
    for name, made in PAGES.items():
        (FOLDER / name).write_text(made(), "utf-8")


if __name__ == "__main__":
    main()
