"""Compiles a model for a target, and saves it ready to run.

The file holds the program with its weights, and its compiled form, with the weights as kernels read
them; ``migx run`` and ``migx.load`` take it as it is. A file compiled before is compiled for its
target with its options, unless others are given.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _options, _report, _squeezing, _streams, _weights
from migx.cli._session import Session
from migx.errors import counted

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
        help="compile for these architectures instead of this machine; for the gpu target",
    )
    _options.add_threads(parser)
    _weights.add_weights(parser)
    parser.add_argument(
        "--fix-weights",
        action="store_true",
        help="put --weights in for good: they cannot be replaced any more",
    )
    parser.add_argument(
        "--without-weights",
        action="store_true",
        help="leave the weights out of the file, but not what the target has made of them; it "
        "refers to their own files, but for those that may be replaced, which have to be given",
    )
    parser.add_argument(
        "--without-original",
        action="store_true",
        help="leave out the program as it was before compilation, and weights that only it reads",
    )
    _squeezing.add_squeezing(parser)
    _options.add_output(parser, "FILE.mxr")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compiles and saves the model."""
    import migx
    from migx.target import get_target

    if options.output is not None and options.output.suffix != ".mxr":
        raise _load.UsageError(f"--output {options.output}: compiled programs are .mxr files")
    if options.fix_weights and options.weights is None:
        raise _load.UsageError("--fix-weights is for --weights")
    _squeezing.check(options)
    session = Session.of(options)
    program, target = session.program, get_target(session.target)
    if options.arch is not None:
        target = target.for_architectures(tuple(a.strip() for a in options.arch.split(",")))
    start = time.perf_counter()
    squeezed = _squeezing.squeezed(program, options, session.target)
    with _streams.progress(f"compiling for {session.target}"):
        program.compile(target, **session.asked)
        program = _weights.replaced(program, options)
    found = summary(program, session.target, time.perf_counter() - start)
    found |= _squeezing.measured(squeezed, program)
    if options.output is not None:
        with _streams.progress(f"writing {options.output.name}"):
            migx.save(
                program,
                options.output,
                weights=not options.without_weights,
                original=not options.without_original,
            )
        if options.without_weights:
            found["without_value"] = sorted(program.weight_shapes)
        found["file"] = {"name": options.output, "bytes": options.output.stat().st_size}
    _report.give(options, found, _print)
    return 0


def summary(program: Program, target: str, seconds: float) -> dict[str, Any]:
    """A summary of the compiled program."""
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
        taken = _report.in_bytes(found["slot_bytes"])
        print(f"weights: {counted(found['slots'], 'slot')}, {taken}")
    if missing := found["without_value"]:
        print(
            f"left out: {counted(len(missing), 'weight')}, to be given by --weights or at run time"
        )
    if "file" in found:
        print(f"{found['file']['name']}: {_report.in_bytes(found['file']['bytes'])}")


def _modules(sizes: dict[str, int]) -> str:
    """The sizes of modules; those within others as one number if there are many."""
    listed = [f"{name} of {size}" for name, size in sizes.items()]
    if len(listed) > 4:
        outer = [f"{name} of {size}" for name, size in sizes.items() if name in ("main", "weights")]
        within = sum(sizes.values()) - sum(sizes.get(name, 0) for name in ("main", "weights"))
        listed = [*outer, f"{len(sizes) - len(outer)} modules within of {within}"]
    return ", ".join(listed)
