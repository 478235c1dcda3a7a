"""Compiles a model for a target, and saves it ready to run.

The file holds the program with its weights, and what the target compiled, with the weights as its
kernels read them; ``migx run`` and ``migx.load`` take it as it is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _options, _report, _squeezing
from migx.errors import WeightError, there_are

if TYPE_CHECKING:
    from migx.program import Program


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    _load.add_deferring(parser)
    _options.add_target(parser)
    parser.add_argument(
        "--arch",
        metavar="A,B",
        help="compile for these architectures instead of this machine; the gpu target has some",
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="threads of a run (the physical cores)"
    )
    parser.add_argument(
        "--weights",
        metavar="SOURCE",
        type=Path,
        help="put these weights in: a folder with the model's external data, or, by name, those in "
        "a .safetensors or .npz file, or the .safetensors.index.json of several",
    )
    parser.add_argument(
        "--no-strict",
        action="store_true",
        help="pass over what --weights has and the model has not, or does not have to be given",
    )
    parser.add_argument(
        "--convert",
        action="store_true",
        help="bring the values of --weights to the element types of the model's",
    )
    parser.add_argument(
        "--without-weights",
        action="store_true",
        help="leave the weights out of the file; it refers to those beside it",
    )
    parser.add_argument(
        "--without-original",
        action="store_true",
        help="leave the program as it was read out of the file, and the weights only it reads",
    )
    _squeezing.add_squeezing(parser)
    parser.add_argument("-o", "--output", metavar="FILE.mxr", type=Path, help="write it there")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compiles it."""
    import migx
    from migx.onnx import replace_onnx_external_weights
    from migx.target import get_target

    if options.output is not None and options.output.suffix != ".mxr":
        raise _load.UsageError(f"--output {options.output}: compiled programs are .mxr files")
    _squeezing.check(options)
    if options.weights is None and (options.no_strict or options.convert):
        raise _load.UsageError("--no-strict and --convert are for --weights")
    options.defer_external_weights |= options.weights is not None
    program = _load.load(options)
    if options.weights is not None:
        _have_replaced(program, options)
    target = get_target(options.target)
    if options.arch is not None:
        target = target.for_architectures(tuple(a.strip() for a in options.arch.split(",")))
    start = time.perf_counter()
    squeezed = _squeezing.squeezed(program, options)
    with _load.progress(f"compiling for {options.target}"):
        program.compile(target, **_options.compiling(options))
        if options.weights is not None:
            how = {"strict": not options.no_strict, "convert": options.convert}
            with _in_options():
                program = replace_onnx_external_weights(program, options.weights, target, **how)
            program.finalize(target)
    found = summary(program, options.target, time.perf_counter() - start)
    found |= _squeezing.measured(squeezed, program)
    if options.output is not None:
        with _load.progress(f"writing {options.output.name}"):
            migx.save(
                program,
                options.output,
                weights=not options.without_weights,
                original=not options.without_original,
            )
        found["file"] = {"name": options.output, "bytes": options.output.stat().st_size}
    _report.give(options, found, _print)
    return 0


def _have_replaced(program: Program, options: argparse.Namespace) -> None:
    """Makes replaceable what the source has by name, though it lie in the model's own file.
    ``UsageError`` where the source can have nothing for the model.
    """
    from migx.ops.builtin import Literal
    from migx.weights.marking import is_number, must_be_known
    from migx.weights.sources import names_in

    named = {at.op.label: at for at in program.literals if isinstance(at.op, Literal)}
    fixed = {n for n, at in named.items() if is_number(at.shape) or not must_be_known(at.shape)}
    given = names_in(options.weights)
    if names := [name for name in given if name in fixed]:
        program.make_replaceable(names)
    if not program.weight_shapes:
        raise _load.UsageError(
            f"--weights {options.weights}: {options.model} has no weight "
            + (
                f"{given[0]!r}; {there_are(given[0], sorted(fixed))}"
                if given
                else "in a file of its own, as a folder has; give a .safetensors or .npz file that "
                "has them by name"
            )
        )


@contextmanager
def _in_options() -> Iterator[None]:
    """Errors name the options that Python's arguments are here."""
    try:
        yield
    except WeightError as error:
        said = str(error).replace("say convert=True", "give --convert")
        raise WeightError(said.replace("strict=False", "--no-strict")) from error


def summary(program: Program, target: str, seconds: float) -> dict[str, Any]:
    """What the program has become."""
    made = program.compiled
    epoch = made.weights.current
    return {
        "target": target,
        "seconds": seconds,
        "instructions": {m.name: len(m) for m in made.program.modules.values()},
        "slots": len(made.weights.slots),
        "slot_bytes": sum(value.nbytes for value in epoch.slots.values()),
        "without_value": made.weights.missing,
    }


def _print(found: dict[str, Any]) -> None:
    print(
        f"compiled for {found['target']} in {found['seconds']:.3f} s: "
        f"{_modules(found['instructions'])} instructions"
    )
    for line in _squeezing.told(found):
        print(line)
    if found["slots"]:
        print(f"weights: {found['slots']} slots, {found['slot_bytes'] / 1e6:,.2f} MB")
    if missing := found["without_value"]:
        print(f"left out: {len(missing)} weights, to be given by --weights or at run time")
    if "file" in found:
        print(f"{found['file']['name']}: {found['file']['bytes'] / 1e6:,.2f} MB")


def _modules(sizes: dict[str, int]) -> str:
    """The sizes of modules, those within others in one number where there are many."""
    listed = [f"{name} of {size}" for name, size in sizes.items()]
    if len(listed) > 4:
        outer = [f"{name} of {size}" for name, size in sizes.items() if name in ("main", "weights")]
        within = sum(sizes.values()) - sum(sizes.get(name, 0) for name in ("main", "weights"))
        listed = [*outer, f"{len(sizes) - len(outer)} modules within of {within}"]
    return ", ".join(listed)
