"""Arguments shared by several verbs, separate from the code that reads them, which is heavy."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from migx.pipeline import Pipeline
    from migx.program import Program


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Declares the source of inputs."""
    parser.add_argument(
        "--inputs", metavar="FILE.npz", help="inputs by name; those it lacks are drawn"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="the seed from which inputs are drawn (0)"
    )
    parser.add_argument(
        "--fill",
        metavar="NAME=X",
        action="append",
        default=[],
        help="an input whose elements are all X; may be repeated",
    )


def add_target(
    parser: argparse.ArgumentParser, usual: str | None = None, told: str = "cpu"
) -> None:
    """Declares the target: by default the one the model is compiled for, or else as ``told``."""
    parser.add_argument(
        "--target",
        metavar="T{x=1}",
        default=usual,
        help=f"the target ({usual or told}), with options if it has any; see `migx targets`",
    )
    parser.add_argument(
        "--passes",
        metavar="P,Q{x=1}",
        help="run these passes instead of the target's own; P,cpu runs those of cpu after P",
    )
    parser.add_argument(
        "--activations",
        metavar="float|int8",
        default="float",
        help="multiply weights of 4 or 8 bits by activations as they are, or in 8 bits (float)",
    )
    parser.add_argument(
        "--fast-math",
        action="store_true",
        help="allow more rounding of f32 (gpu: products in tf32; cpu: Winograd convolutions)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Declares the number of threads."""
    parser.add_argument(
        "--threads", metavar="N", type=int, help="number of threads (the physical cores)"
    )


def seconds(text: str) -> float:
    """A duration in seconds."""
    given = float(text)
    if not given > 0:
        raise argparse.ArgumentTypeError(f"give seconds above 0, not {text}")
    return given


def compiling(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a compilation, as keywords of ``Program.compile``."""
    asked = {name: getattr(options, name) for name in ("passes", "activations", "fast_math")}
    return asked | ({"num_threads": options.threads} if hasattr(options, "threads") else {})


def changes(options: argparse.Namespace) -> bool:
    """Whether anything but the target's defaults was asked for."""
    from migx.target import CompileOptions

    return CompileOptions(**compiling(options)) != CompileOptions()


def ready(program: Program, options: argparse.Namespace) -> bool:
    """Whether a program is compiled as asked for."""
    made = program._compiled
    if made is None or made.revision != program.revision or changes(options):
        return False
    return bool(made.context.target.name == options.target)


def pipeline(options: argparse.Namespace) -> Pipeline:
    """The passes asked for, or those that the target lists."""
    from migx.target import CompileOptions, get_target, passes_for

    return passes_for(get_target(options.target), asked=CompileOptions(**compiling(options)))
