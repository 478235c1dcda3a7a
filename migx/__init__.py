"""migx: a graph compiler for ONNX models, with weights that can be left out, swapped and re-laid
out.

A program is read by ``parse_onnx``, ``parse`` or ``load``, or built by hand from ``Program``,
``Shape``, ``Dim`` and ``migx.ops``; rewritten by ``run_passes``; compiled by
``program.compile(target)``; run by ``program.eval(inputs)``. Everything else is imported from where
it is defined; the modules below are attributes of this one, imported at first use:

``migx.manager``    Pass, Pipeline, PassManager; observers are in ``migx.observers``
``migx.match``      patterns; ``migx.rewrite`` has rules and sets of rules
``migx.op``         Op: the base of operations, which are in ``migx.ops``
``migx.target``     Target: what a backend author implements
``migx.onnx``       write, replace_onnx_external_weights; ``migx.onnx.importers`` for operators
``migx.testing``    check_pass, check_target, check_conformance; cases of passes in text
``migx.debug``      whynot, bisect, reduce: for rules that fail; compared, inputs: for programs
``migx.view``       report: one page with what passes did and the time of a run
``migx.calibration`` calibrate: products of bytes with weights of bytes, with scales from runs
``migx.compat``     migraphx: MIGraphX's Python API
``migx.backend``    ONNX's backend protocol, through which test suites run any target
``migx.profile``    work, total: operation counts by shapes; measured: the time of a run
``migx.specialise`` bound: a program with numbers in place of symbols
``migx.errors``     every error raised on purpose, all of them a MigxError
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import DataError, MigxError
from migx.ir import Instruction, Module
from migx.program import Program
from migx.shape import DType, Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx import ModelProto

    from migx import (  # noqa: F401  # for type checkers: what __getattr__ returns
        backend,
        calibration,
        compat,
        debug,
        errors,
        manager,
        match,
        observers,
        onnx,
        op,
        ops,
        profile,
        rewrite,
        specialise,
        target,
        testing,
        view,
    )
    from migx.dim import Extent
    from migx.manager import Observer, Pipeline
    from migx.onnx.importers import Importer
    from migx.pipeline import Element

__version__ = "0.1.0"

_MODULES = (
    "backend", "calibration", "compat", "debug", "errors", "manager", "match", "observers", "onnx",
    "op", "ops", "profile", "rewrite", "specialise", "target", "testing", "view",
)  # fmt: skip

for _linked in ("passes", "targets"):
    if Path(__file__).with_name(_linked).is_file():
        raise ImportError(
            f"migx/{_linked} is a file where a link to ../{_linked} should be: run "
            "`git config core.symlinks true` and check out again"
        )


if not TYPE_CHECKING:  # type checkers know the modules, and no other name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'migx' has no attribute {name!r}")
        return import_module(f"migx.{name}")


def __dir__() -> list[str]:
    """What completion offers: the public names, without this file's own imports."""
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})


def parse_onnx(
    model: str | Path | ModelProto | bytes,
    input_dims: Mapping[str, Sequence[Extent]] | None = None,
    *,
    defer_external_weights: bool = False,
    importers: Iterable[Importer] = (),
) -> Program:
    """The program of an ONNX file, of a model in memory, or of its bytes; weights are mapped, not
    copied.

    ``input_dims`` gives inputs other dims, numbers or ``Dim``s, which replace the file's names for
    them in all inputs. ``defer_external_weights`` leaves out the weights in external data files;
    ``Program.make_replaceable`` makes those inside the file replaceable. ``importers`` are
    functions for operators of your own, or in place of ours. See ``migx.onnx.reader.parse_onnx``.
    """
    from migx.onnx.reader import parse_onnx as read

    deferred = defer_external_weights
    return read(model, input_dims, defer_external_weights=deferred, importers=importers)


def parse(text: str, *, folder: str | Path = ".", draw_missing: int | None = None) -> Program:
    """The program of a text: ``migx.parse(str(program)) == program``.

    Files that it names are looked up in ``folder``; ``draw_missing`` is the seed for drawing
    literals without bytes. See ``migx.parser.parse``.
    """
    from migx.parser import parse as read

    return read(text, folder=folder, draw_missing=draw_missing)


def save(
    program: Program, path: str | Path, *, weights: bool = True, original: bool = True
) -> None:
    """Writes a program, its weights and its compiled form to an ``.mxr`` file; without ``weights``,
    the file refers to those beside it; without the ``original``, it holds only the compiled form,
    and may be half as large. ``DataError`` if it cannot be written. See ``migx.serialize.save``.
    """
    from migx.serialize import save as write

    if not isinstance(program, Program):
        raise DataError(f"save(program, path) was given {program!r} as the program")
    write(program, path, weights=weights, original=original)


def load(
    path: str | Path,
    *,
    compiled: bool = True,
    mmap: bool = True,
    check: bool = False,
    num_threads: int | None = None,
) -> Program:
    """The program in an ``.mxr`` file, ready to run if it was compiled.

    ``compiled=False`` loads no executable code, for files that are not trusted; ``mmap=False``
    reads the weights into memory; ``check`` compares them with their hash. ``num_threads`` is how
    many threads a run may use, instead of the number given at compilation. See
    ``migx.serialize.load``.
    """
    from migx.serialize import load as read

    return read(path, compiled=compiled, mmap=mmap, check=check, num_threads=num_threads)


def run_passes(
    program: Program,
    passes: Pipeline | str | Iterable[Element | Pipeline | str],
    observers: Sequence[Observer] = (),
) -> bool:
    """Runs passes over a program in place; returns whether anything changed.

    ``passes`` is the text of a pipeline, such as ``"simplify_algebra,fuse_pointwise"``, or a list
    of passes and texts; ``observers`` watch them run, such as ``migx.observers.Verify()``.
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
