"""Shared by verbs: models read from files, sizes given to dims, programs saved."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from migx.cli import _options, _streams
from migx.errors import MigxError, ParseError, ShapeError, TargetError

if TYPE_CHECKING:
    from migx.dim import Extent
    from migx.program import Program

T = TypeVar("T")
AFTER_A_SIZE = r"(?<=\d),(?=[^,]*=)"
"""The comma between the sizes of two symbols, ``batch=4,length=2``."""


class UsageError(MigxError, ValueError):
    """Invalid or conflicting arguments of the command line, or a missing file."""


class PeerError(MigxError, RuntimeError):
    """The implementation that a model is compared with is not installed, or refuses the model."""


def add_model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Declares the model and the sizes of its dims."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=_options.named,
        nargs="?" if optional else None,
        help="an ONNX file, a program as text (.migx), a saved program (.mxr), or - for one of "
        "these on standard input",
    )
    parser.add_argument(
        "--input-dim",
        metavar="NAME=1,3,48,w",
        action="append",
        default=[],
        help="the dims of an ONNX input, numbers or names; may be repeated",
    )
    parser.add_argument(
        "--dim-param",
        metavar="NAME=N",
        action="append",
        default=[],
        help="the size of a symbol throughout the program, or of several: N=4,M=2; may be repeated",
    )
    parser.add_argument(
        "--draw-missing",
        metavar="SEED",
        type=int,
        help="draw the values of literals whose bytes a text omits from this seed",
    )


@contextmanager
def from_stdin(options: argparse.Namespace) -> Iterator[None]:
    """Stores a model from standard input in a file for the duration of the block. Files that it
    names are in the current folder, ``options.folder``.
    """
    if getattr(options, "model", None) != "-":
        yield
        return
    content = sys.stdin.buffer.read()
    if not content:
        raise UsageError("there is no model in standard input: give a file, or pipe one in")
    with tempfile.TemporaryDirectory(prefix="migx-") as folder:
        path = Path(folder, f"stdin{_suffix(content)}")
        path.write_bytes(content)
        options.model, options.folder = str(path), Path.cwd()
        yield


def _suffix(content: bytes) -> str:
    """The suffix for a file's content: anything that does not begin like migx's formats is ONNX."""
    if content.startswith(b"MIGX MXR"):
        return ".mxr"
    lines = map(bytes.strip, content.removeprefix(b"\xef\xbb\xbf").splitlines())
    first = next((line for line in lines if line and not line.startswith(b"#")), b"")
    return ".migx" if first.startswith((b"module ", b"dim ")) else ".onnx"


def add_deferring(parser: argparse.ArgumentParser) -> None:
    """Declares that external weights may be left out."""
    parser.add_argument(
        "--defer-external-weights",
        action="store_true",
        help="leave out the weights that an ONNX model has in files of their own",
    )


def load(options: argparse.Namespace) -> Program:
    """The program of the model asked for, with the sizes given for its dims."""
    with _streams.progress(f"reading {Path(options.model).name}"):
        program, given = read(options), given_sizes(options)
        return bound(program, given, options) if given else program


def given_sizes(options: argparse.Namespace) -> dict[str, int]:
    """The sizes given for symbols."""
    given = (one for each in options.dim_param for one in re.split(AFTER_A_SIZE, each))
    return _once("--dim-param", map(_size, given))


def bound(program: Program, sizes: Mapping[str, int], options: argparse.Namespace) -> Program:
    """The program bound to sizes. If it refuses them, an ONNX file is read again with them: the
    reader leaves out a branch that is impossible at these dims.
    """
    from migx import specialise

    try:
        return specialise.bound(program, sizes)
    except ShapeError as refused:
        given = {n: p.shape for n, p in program.main.parameters.items() if p.shape.dtype.is_tensor}
        dims = {n: shape.substitute(sizes).dims for n, shape in given.items()}
        if not is_onnx(Path(options.model)) or all(d == given[n].dims for n, d in dims.items()):
            raise
        try:
            again = read(options, dims)
        except MigxError:
            raise refused from None
        symbols = again.symbols()
        return specialise.bound(again, {n: size for n, size in sizes.items() if n in symbols})


def take_case(options: argparse.Namespace) -> None:
    """Takes missing options from a failure's case: the passes from the first line of the text, and
    the inputs from the ``.npz`` file beside it; ``of_fuzzer`` says whether it is such a case.
    """
    path = Path(options.model)
    named, beside = named_passes(path), path.with_suffix(".npz")
    options.of_fuzzer = named is not None and beside.is_file()
    if options.passes is None:
        options.passes = named
    if options.inputs is None and not options.seed and is_text(path) and beside.is_file():
        options.inputs = str(beside)
        print(f"inputs: {beside}", file=sys.stderr)


def named_passes(path: Path) -> str | None:
    """The passes in the first line of a text file; None for other files."""
    from migx.debug.case import passes_in

    return passes_in(text_of(path)) if is_text(path) and path.is_file() else None


def is_text(path: Path) -> bool:
    """Whether a file has the suffix of a program's text."""
    return path.suffix == ".migx"


def is_onnx(path: Path) -> bool:
    """Whether a file has a suffix of ONNX."""
    return path.suffix not in (".migx", ".mxr")


def read(
    options: argparse.Namespace, dims: Mapping[str, Sequence[Extent]] | None = None
) -> Program:
    """The program in a file; an ONNX file with the input dims asked for, or those given."""
    import migx

    path = Path(options.model)
    if not path.is_file():
        if not path.exists():
            raise UsageError(f"there is no file {path}")
        pipe = ", but a pipe: `migx ... - < PIPE` reads one" if path.is_fifo() else ""
        raise UsageError(f"{path} is no file{pipe}")
    if is_onnx(path):
        # Weights that come from elsewhere, or are only listed, need not exist.
        by_value = getattr(options, "names_from", None) is not None  # so values are needed
        elsewhere = bool(getattr(options, "weights", None)) and not by_value
        deferring = elsewhere or getattr(options, "defer_external_weights", False)
        dims = dims or _once("--input-dim", map(_dims, options.input_dim))
        given = path.read_bytes() if hasattr(options, "folder") else path
        return migx.parse_onnx(given, dims, defer_external_weights=deferring)
    if options.input_dim:
        raise UsageError("--input-dim is for ONNX files; the dims of a program: --dim-param NAME=N")
    if not is_text(path):
        return _saved(path, options)
    try:
        folder = getattr(options, "folder", path.parent)
        return migx.parse(text_of(path), folder=folder, draw_missing=options.draw_missing)
    except ParseError as error:
        raise ParseError(f"{path}: {error}") from error


def _saved(path: Path, options: argparse.Namespace) -> Program:
    """The program in an ``.mxr`` file; without its code if its target is not available, and the
    verb has no target or is asked for another.
    """
    from migx import load

    check = getattr(options, "check", False)
    try:
        return load(path, check=check)
    except TargetError as error:
        if getattr(options, "target", "") is None:
            raise TargetError(f"{error}; --target T compiles it for another") from error
        print(f"note: {error}", file=sys.stderr)
        return load(path, compiled=False, check=check)


def text_of(path: Path) -> str:
    """The text in a file."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _dims(given: str) -> tuple[str, tuple[Extent, ...]]:
    """An input and its dims: ``x=1,3,h,w``; names become symbols."""
    from migx.dim import Dim

    name, equals, dims = given.rpartition("=")
    pieces = [piece.strip() for piece in dims.split(",")] if dims.strip() else []
    if not equals or not name or not all(pieces):
        raise UsageError(f"--input-dim {given!r}: give a name and its dims, such as x=1,3,48,width")
    if wrong := [piece for piece in pieces if not re.fullmatch(r"\d+|[^\W\d][\w.:]*", piece)]:
        raise UsageError(
            f"--input-dim {given!r}: a dim cannot be {wrong[0]}: give a number, or a name of "
            "letters, digits, '_', '.' and ':'"
        )
    return name, tuple(int(piece) if piece.isdecimal() else Dim(piece) for piece in pieces)


def _once(option: str, given: Iterable[tuple[str, T]]) -> dict[str, T]:
    """The values given by name; ``UsageError`` if a name is given twice."""
    found: dict[str, T] = {}
    for name, value in given:
        if name in found:
            raise UsageError(f"{option} {name}: it is given twice")
        found[name] = value
    return found


def _size(given: str) -> tuple[str, int]:
    """A symbol and its size: ``batch=4``."""
    name, equals, size = given.rpartition("=")
    if not equals or not name or not size.strip().isdecimal():
        raise UsageError(f"--dim-param {given!r}: give a symbol and its size, such as batch=4")
    return name, int(size)


def save(program: Program, path: Path, *, origins: bool = False, hashes: bool = False) -> None:
    """Writes a program, atomically: as text, as ``.mxr`` with all its literals, or as ONNX."""
    import migx
    from migx import onnx
    from migx.text import write

    if path.suffix not in (".migx", ".mxr", ".onnx"):
        raise UsageError(
            f"{path}: programs are written as text (.migx), with literals (.mxr) or as .onnx"
        )
    if is_onnx(path):
        onnx.write(program, path)
    elif is_text(path):
        write(program, path, origins=origins, hashes=hashes)
    else:
        migx.save(program, path)
