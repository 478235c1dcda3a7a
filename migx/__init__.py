"""migx: a graph compiler for ONNX models, with weights that can be left out, swapped and re-laid
out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import MigxError
from migx.ir import Instruction, Module, Program
from migx.shape import DType, Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from migx.dim import Extent
    from migx.manager import Observer, Pipeline
    from migx.pipeline import Element

__version__ = "0.1.0"

for _linked in ("passes", "targets"):
    if Path(__file__).with_name(_linked).is_file():
        raise ImportError(
            f"migx/{_linked} is a file where a link to ../{_linked} should be: run "
            "`git config core.symlinks true` and check out again"
        )


def parse_onnx(
    path: str | Path, input_dims: Mapping[str, Sequence[Extent]] | None = None, **options: Any
) -> Program:
    """The program of an ONNX file. See ``migx.onnx.reader.parse_onnx``."""
    from migx.onnx.reader import parse_onnx as read

    return read(path, input_dims, **options)


def parse(text: str, *, folder: str | Path = ".", draw_missing: int | None = None) -> Program:
    """The program a text stands for: ``migx.parse(str(program)) == program``. See
    ``migx.parser.parse``.
    """
    from migx.parser import parse as read

    return read(text, folder=folder, draw_missing=draw_missing)


def save(program: Program, path: str | Path, *, weights: bool = True) -> None:
    """Writes a program, its weights and what it is compiled to into an ``.mxr`` file. See
    ``migx.serialize.save``.
    """
    from migx.serialize import save as write

    write(program, path, weights=weights)


def load(path: str | Path, **options: bool) -> Program:
    """The program in an ``.mxr`` file, ready to run if it was compiled. See
    ``migx.serialize.load``.
    """
    from migx.serialize import load as read

    return read(path, **options)


def run_passes(
    program: Program, passes: Pipeline | str | Iterable[Element], observers: Sequence[Observer] = ()
) -> bool:
    """Runs a pipeline over a program in place; says whether anything changed. See
    ``migx.manager``.
    """
    from migx.manager import run_passes as run

    return run(program, passes, observers)


__all__ = [
    "Argument",
    "DType",
    "Dim",
    "Instruction",
    "MigxError",
    "Module",
    "Program",
    "Shape",
    "load",
    "parse",
    "parse_onnx",
    "run_passes",
    "save",
]
