"""Arguments shared by several verbs, separate from the code that reads them, which is heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

RECORDED = "as the file was compiled"
"""The default of the options of a compilation, if the file has its result."""


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Declares the source of inputs."""
    parser.add_argument(
        "--inputs",
        metavar="FILE.npz",
        type=named,
        help="inputs by name, floats of any type; those it lacks are drawn",
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
    parser: argparse.ArgumentParser, usual: str | None = None, told: str = f"{RECORDED}, or cpu"
) -> None:
    """Declares the target: by default the one the model is compiled for, or else as ``told``; and
    the options of compilation, by default those that the model was compiled with for the target.
    """
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
        help="multiply weights of 4 or 8 bits by activations as they are, or in 8 bits "
        f"({RECORDED}, or float)",
    )
    parser.add_argument(
        "--fast-math",
        action=argparse.BooleanOptionalAction,
        help="allow more rounding of f32 (gpu: products in tf32; cpu: Winograd convolutions)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Declares the number of threads."""
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help=f"number of threads ({RECORDED}, or the physical cores)",
    )


def add_output(
    parser: argparse.ArgumentParser, metavar: str, told: str = "", usual: Path | None = None
) -> None:
    """Declares the file to write: which is ``told``, such as by its suffixes."""
    said = f"the file to write ({told})" if told else "the file to write"
    parser.add_argument("-o", "--output", metavar=metavar, type=path, default=usual, help=said)


def named(text: str) -> str:
    """The name of a file or folder; empty ones, as of shell variables that are not set, are
    refused, for the current folder is meant by them as little as any other.
    """
    if not text:
        raise argparse.ArgumentTypeError("its name is empty")
    return text


def path(text: str) -> Path:
    """A file or folder."""
    return Path(named(text))


def seconds(text: str) -> float:
    """A duration in seconds."""
    given = float(text)
    if not given > 0:
        raise argparse.ArgumentTypeError(f"give seconds above 0, not {text}")
    return given


def compiling(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a compilation that are given, as keywords of ``Program.compile``."""
    given = {name: getattr(options, name) for name in ("passes", "activations", "fast_math")}
    given["num_threads"] = getattr(options, "threads", None)
    return {name: value for name, value in given.items() if value is not None}
