"""Quantisation of a model's weights, and of their products."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _inputs, _load, _options, _report, _streams
from migx.errors import counted, first_few

if TYPE_CHECKING:
    from migx.program import Program

BITS = {"int4": "four", "int8": "eight"}


def add_squeezing(parser: argparse.ArgumentParser) -> None:
    """Declares the options of quantisation."""
    for kind, bits in BITS.items():
        parser.add_argument(
            f"--{kind}-weights",
            action="store_true",
            help=f"store the weights of dots and convolutions in {bits} bits",
        )
    parser.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="how many weights share a scale, such as 32 or 128 (64 for four bits; for eight, all "
        "of one output column or channel)",
    )
    parser.add_argument(
        "--symmetric", action="store_true", help="no zero points, as always with eight bits"
    )
    parser.add_argument(
        "--clip",
        choices=("minmax", "mse"),
        metavar="minmax|mse",
        default="minmax",
        help="scales from the least and greatest weight, or those with the least squared error, "
        "which take longer to find (minmax)",
    )
    parser.add_argument(
        "--skip",
        metavar="NAMES",
        help="weights not to quantise, by label or ONNX node: NAME,NAME; * matches any characters",
    )
    parser.add_argument(
        "--calibration",
        metavar="PATH",
        type=_options.path,
        help="quantise what weights of eight bits are multiplied by as well, with scales "
        "calibrated on these inputs: an .npz file, or a folder of them",
    )


def check(options: argparse.Namespace) -> None:
    """``UsageError`` if options conflict."""
    if options.block is not None and options.block < 1:
        raise _load.UsageError(f"--block {options.block}: give 1 or more")
    kinds = [kind for kind in BITS if getattr(options, f"{kind}_weights")]
    if len(kinds) > 1:
        raise _load.UsageError("--int4-weights and --int8-weights: choose one")
    clipped = options.clip != "minmax"
    if not kinds and (options.block or options.symmetric or options.skip or clipped):
        raise _load.UsageError(
            "--block, --clip, --symmetric and --skip are for --int4-weights and --int8-weights"
        )
    if options.symmetric and kinds != ["int4"]:
        raise _load.UsageError("--symmetric is for --int4-weights: eight bits have no zero points")
    if options.calibration is not None and kinds == ["int4"]:
        raise _load.UsageError("--calibration is for weights of eight bits, not --int4-weights")


def squeezed(program: Program, options: argparse.Namespace, target: str) -> dict[str, Any]:
    """Quantises weights, and products, as asked for. Returns the number of weights, the bytes of
    all constants before and after, the names and bytes of the weights left as they are, and the
    number of products of bytes.
    """
    found: dict[str, Any] = {}
    if options.int4_weights or options.int8_weights:
        kind, quantize = _pass(options)
        found[kind] = _quantized(program, quantize)
    if options.calibration is not None:
        from migx.calibration import calibrate

        with _streams.progress("calibrating"):
            given = _calibration(program, options.calibration)
            found["calibrated"] = calibrate(program, given, target=target)
    return found


def _pass(options: argparse.Namespace) -> tuple[str, Any]:
    """The pass that quantises the weights, and its name in options."""
    from migx import plugins

    names = tuple(name.strip() for name in (options.skip or "").split(",") if name.strip())
    given = {"skip": names, "clip": options.clip}
    if options.int8_weights:
        return "int8", plugins.load("passes", "quantize_int8")(block=options.block or 0, **given)
    cls = plugins.load("passes", "quantize_int4")
    return "int4", cls(block=options.block or 64, symmetric=options.symmetric, **given)


def _quantized(program: Program, quantize: Any) -> dict[str, Any]:
    from migx.events import EventLog
    from migx.manager import PassManager

    log, before = EventLog(), read_bytes(program)
    with _streams.progress(f"running {quantize}"):
        PassManager(program, log=log).run(str(quantize))
        left = quantize.in_floats(program)
        PassManager(program).run("propagate_constant,hoist_weights")
    count = sum(event.rule == "squeeze" for event in log.events)
    return {"weights": count, "before": before, "after": read_bytes(program), "left": left}


def measured(found: dict[str, Any], program: Program) -> dict[str, Any]:
    """The result of ``squeezed``, with the bytes of constants the compiled program reads."""
    for kind in BITS.keys() & found.keys():
        found[kind]["read"] = read_bytes(program.compiled.program)
    return found


def read_bytes(program: Program) -> int:
    """The bytes of the constants that a program reads, each counted once: literals, weights and
    slots, but not what slots are computed from.
    """
    from migx.ops.builtin import Literal
    from migx.weights import is_source

    own, found = program.weights, dict[object, int]()
    for at in program.instructions():
        if not at.users or at.module is own:
            continue
        if isinstance(at.op, Literal):
            found[id(at.op.value)] = at.op.value.nbytes
        elif is_source(at):
            found[at.op] = int(at.shape.nbytes)
    return sum(found.values())


def _calibration(program: Program, path: Path) -> Iterator[dict[str, Any]]:
    """The inputs of each file, one after another."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise _load.UsageError(f"--calibration {path}: there is no .npz file in it")
    parameters = {name: p.shape for name, p in program.main.parameters.items()}
    for file in files:
        yield _inputs.read(file, parameters)


def told(found: dict[str, Any]) -> Iterator[str]:
    """The result in words."""
    for kind in BITS.keys() & found.keys():
        count, before, after, left, read = found[kind].values()
        yield (
            f"in {BITS[kind]} bits: {counted(count, 'weight')}; "
            f"constants of {_report.in_bytes(before)} became {_report.in_bytes(after)}; "
            f"as kernels read them, {_report.in_bytes(read)}"
        )
        if left:
            largest = sorted(left, key=lambda name: -left[name])
            yield (
                f"in floats: {counted(len(left), 'weight')} of "
                f"{_report.in_bytes(sum(left.values()))}: "
                f"{first_few(largest)}"
            )
    if "calibrated" in found:
        yield f"products of bytes: {found['calibrated']}"
