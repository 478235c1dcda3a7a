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

from migx.cli import _load, _options, _report
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
    _add_int4(parser)
    parser.add_argument("-o", "--output", metavar="FILE.mxr", type=Path, help="write it there")
    _report.add_json(parser)


def _add_int4(parser: argparse.ArgumentParser) -> None:
    """Declares how weights are squeezed."""
    parser.add_argument(
        "--int4-weights",
        action="store_true",
        help="store the weights of dots and convolutions in four bits",
    )
    parser.add_argument(
        "--block",
        type=int,
        choices=(32, 64, 128),
        metavar="N",
        help="how many of these have a scale in common: 32, 64 (unless said) or 128",
    )
    parser.add_argument("--symmetric", action="store_true", help="scales without zero points")
    parser.add_argument(
        "--skip",
        metavar="NAMES",
        help="but for these, by label or ONNX node, with * for any letters and commas between",
    )


def run(options: argparse.Namespace) -> int:
    """Compiles it."""
    import migx
    from migx.onnx import replace_onnx_external_weights
    from migx.target import get_target

    if options.output is not None and options.output.suffix != ".mxr":
        raise _load.UsageError(f"--output {options.output}: compiled programs are .mxr files")
    if not options.int4_weights and (options.block or options.symmetric or options.skip):
        raise _load.UsageError("--block, --symmetric and --skip are for --int4-weights")
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
    squeezed = _squeezed(program, options) if options.int4_weights else None
    with _load.progress(f"compiling for {options.target}"):
        program.compile(target, **_options.compiling(options))
        if options.weights is not None:
            how = {"strict": not options.no_strict, "convert": options.convert}
            with _in_options():
                program = replace_onnx_external_weights(program, options.weights, target, **how)
            program.finalize(target)
    found = summary(program, options.target, time.perf_counter() - start)
    if squeezed is not None:
        found["int4"] = squeezed
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


def _squeezed(program: Program, options: argparse.Namespace) -> dict[str, int]:
    """Quantises the weights; how many, and the bytes of all constants before and after."""
    from migx import plugins
    from migx.manager import PassManager
    from migx.rewrite import EventLog

    names = tuple(name.strip() for name in (options.skip or "").split(",") if name.strip())
    quantize = plugins.load("passes", "quantize_int4")(
        block=options.block or 64, symmetric=options.symmetric, skip=names
    )
    log, before = EventLog(), _bytes(program)
    with _load.progress(f"running {quantize}"):
        PassManager(program, log=log).run(f"{quantize},propagate_constant,hoist_weights")
    count = sum(event.rule == "squeeze" for event in log.events)
    return {"weights": count, "before": before, "after": _bytes(program)}


def _bytes(program: Program) -> int:
    """What the constants of a program take."""
    return sum(int(at.shape.nbytes) for at in program.literals)


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
    if "int4" in found:
        count, before, after = found["int4"].values()
        sizes = f"; constants of {before / 1e6:,.2f} MB became {after / 1e6:,.2f} MB"
        print(f"in four bits: {count} weights{'' if found['without_value'] else sizes}")
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
