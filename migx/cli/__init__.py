"""The command line. Each file of this package is a verb, named as the file is.

A verb's module has a docstring, whose first sentence is its help; ``configure(parser)``, which
declares its arguments; and ``run(options)``, which returns the exit code: 0 for success, 1 for a
negative result. A user's mistake is a ``MigxError``: its message goes to stderr, without a
traceback, and the exit code is 2.

A verb that runs a command of the user's defines ``TAKES_COMMAND = True`` and finds the words after
``--`` in ``options.command``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from migx import __version__
from migx.cli import _load, _report, _streams
from migx.errors import MigxError, there_are


class Verb(Protocol):
    """The contents of a verb's module."""

    __doc__: str | None

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


def verbs() -> list[str]:
    """The names of all verbs, ``why-not`` for ``why_not.py``, without importing them."""
    files = Path(__file__).parent.glob("*.py")
    stems = (file.stem for file in files if not file.stem.startswith("_"))
    return sorted(stem.replace("_", "-") for stem in stems)


def load(name: str) -> Verb:
    """The module of a verb."""
    module: Verb = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return module


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, by default that of the process; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    _streams.open_all()
    options = _parsed(given)
    with _streams.escaping():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _shown
            verb = load(options.verb)
            with _load.from_stdin(options):
                code = verb.run(options)
        sys.stdout.flush()
        return code
    except MigxError as error:
        print("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is not None:  # not the output, which has no name
            print(f"error: cannot use {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        # Python must not flush to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has enough
            return 0
        print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return 2


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    end = len(given)
    if "--" in given and given[0] in verbs() and hasattr(load(given[0]), "TAKES_COMMAND"):
        end = given.index("--")
    options, unknown = _parser(given).parse_known_args(given[:end])
    if unknown:
        said = f"unrecognized arguments: {' '.join(unknown)}"
        options.parser.error(said + _instead(unknown[0].partition("=")[0], options))
    options.command = tuple(given[end + 1 :])
    return options


def _instead(option: str, options: argparse.Namespace) -> str:
    """What to do about an unknown option: the verbs that take it, or similar options of this one;
    empty if there are none.
    """
    if not option.startswith("--"):
        return ""
    taken = {name: _option_names(name) for name in verbs()}
    if there := [f"`migx {name}`" for name, known in taken.items() if option in known]:
        return f"; {option} is for {', '.join(there)}"
    import difflib

    own = [name.lstrip("-") for name in taken[options.verb] if name.startswith("--")]
    like = difflib.get_close_matches(option.lstrip("-"), own, cutoff=0.7)
    return f"; similar: {', '.join(f'--{name}' for name in like)}" if like else ""


def _option_names(verb: str) -> list[str]:
    """The options of a verb."""
    parser = argparse.ArgumentParser()
    load(verb).configure(parser)
    return [name for action in parser._actions for name in action.option_strings]


def _shown(message: Warning | str, *_: object, **__: object) -> None:
    """Prints a warning like an error, without the source line that issued it."""
    print(f"warning: {message}", file=sys.stderr)


class _Paragraphs(argparse.HelpFormatter):
    """Wraps each paragraph of a description separately."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.split("\n\n"))


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with only the verb that is asked for, or all if there is none."""
    parser = argparse.ArgumentParser(
        prog="migx",
        description="A graph compiler for ONNX models: read, run and check them.",
        epilog="To begin: `migx read MODEL`, `migx run MODEL`, `migx perf MODEL`. "
        "What a verb takes: `migx VERB --help`.",
    )
    parser.add_argument("--version", action="version", version=f"migx {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    names = verbs()
    if not given:
        parser.error(f"say what to do; {there_are('', names)}; `migx --help` says what each does")
    if not given[0].startswith("-") and given[0] not in names:
        parser.error(f"there is no verb {given[0]!r}; {there_are(given[0], names)}")
    for name in given[:1] if given[0] in names else names:
        verb = load(name)
        first = _report.sentence(verb.__doc__).rstrip(".")
        made = subparsers.add_parser(
            name,
            help=first[:1].lower() + first[1:],
            description=_report.prose(verb.__doc__),
            formatter_class=_Paragraphs,
        )
        made.set_defaults(parser=made)
        verb.configure(made)
    return parser
