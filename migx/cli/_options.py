"""Arguments that several verbs declare; apart from what reads them, which is heavy to import."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migx.pipeline import Pipeline


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Declares where inputs come from."""
    parser.add_argument(
        "--inputs", metavar="FILE.npz", help="the inputs by name; drawn where it is not given"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="the seed inputs are drawn from (0)"
    )


def add_target(parser: argparse.ArgumentParser, usual: str | None = None) -> None:
    """Declares what runs the model: usually what it is compiled for already, or else ``cpu``."""
    parser.add_argument(
        "--target",
        metavar="T",
        default=usual,
        help=f"what runs it ({usual or 'cpu'}); see `migx targets`",
    )
    parser.add_argument(
        "--passes", metavar="P,Q{x=1}", help="run these passes, not the target's own"
    )


def pipeline(options: argparse.Namespace) -> Pipeline:
    """The passes asked for, or those the target lists."""
    from migx.pipeline import Pipeline
    from migx.target import CompileOptions, get_target

    target = get_target(options.target)
    if options.passes is not None:
        return Pipeline.parse(options.passes)
    return target.get_passes(target.get_context(), CompileOptions())
