"""Weights from a source other than the model: ``--weights`` and related options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from migx.cli import _options
from migx.cli._load import UsageError
from migx.errors import WeightError, there_are

if TYPE_CHECKING:
    from migx.program import Program


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Declares the source of weights."""
    parser.add_argument(
        "--weights",
        metavar="SOURCE",
        type=_options.path,
        help="use these weights: a folder with the model's external data, or a .safetensors, .npz "
        "or .onnx file with weights by name, or the .safetensors.index.json of several",
    )
    parser.add_argument(
        "--no-strict",
        action="store_true",
        help="take only the weights that both --weights and the model have",
    )
    parser.add_argument(
        "--convert",
        action="store_true",
        help="convert --weights to the element types of the model's weights",
    )
    parser.add_argument(
        "--names-from",
        metavar="CHECKPOINT",
        type=_options.path,
        help="a file like --weights, with the values that the model has: --weights has the names "
        "of this file, which are found by value, as exporters rename weights and transpose them",
    )


def given(options: argparse.Namespace) -> bool:
    """Whether there is a source; verbs that take none have none. ``UsageError`` if options are for
    ``--weights``, and it is missing.
    """
    of_it = ("no_strict", "convert", "names_from")
    source = getattr(options, "weights", None)
    if source is None and any(getattr(options, name, None) for name in of_it):
        raise UsageError("--no-strict, --convert and --names-from are for --weights")
    return source is not None


def have_replaced(program: Program, options: argparse.Namespace) -> None:
    """Makes replaceable what the source has by name, even if it is inside the model file; must run
    before compilation. ``UsageError`` if the source cannot have anything for the model.
    """
    if not given(options):
        return
    from migx.ops.builtin import Literal
    from migx.weights.marking import is_number, must_be_known
    from migx.weights.sources import names_in

    if options.names_from is not None:
        from migx.weights.naming import Naming

        options.weights = Naming.by_value(program, options.names_from).of(options.weights)
    named = {at.op.label: at for at in program.literals if isinstance(at.op, Literal)}
    fixed = {n for n, at in named.items() if is_number(at.shape) or not must_be_known(at.shape)}
    held = names_in(options.weights)
    if names := [name for name in held if name in fixed]:
        program.make_replaceable(names)
    if not program.weight_shapes:
        raise UsageError(
            f"--weights {options.weights}: {options.model} has no weight "
            + (_other_names(held[0], sorted(fixed)) if held else _no_folder(program))
        )


def _other_names(name: str, known: Sequence[str]) -> str:
    """What to do about a name that no weight has."""
    return f"{name!r}; {there_are(name, known)}; --names-from finds names by value"


def _no_folder(program: Program) -> str:
    """Why a folder has nothing for a program without replaceable weights."""
    if program._compiled is not None:
        return (
            "to replace: it was compiled with its weights fixed, and reads those it does not hold "
            "from files beside it; `migx compile --defer-external-weights` leaves them to --weights"
        )
    return (
        "in a file of its own, as a folder has; give a .safetensors, .npz or .onnx file that has "
        "them by name"
    )


@contextmanager
def _in_options() -> Iterator[None]:
    """Translates Python arguments in errors to options of the command line."""
    try:
        yield
    except WeightError as error:
        said = str(error).replace("say convert=True", "give --convert")
        said = said.replace("migx.weights.naming.Naming finds", "--names-from finds")
        raise WeightError(said.replace("strict=False", "--no-strict")) from error


def replaced(program: Program, options: argparse.Namespace) -> Program:
    """The program with the weights asked for; ready to run, or to be saved, if it is compiled. They
    stay replaceable unless the options say otherwise.
    """
    if not given(options):
        return program
    from migx.onnx import replace_onnx_external_weights

    target = None if program._compiled is None else program.compiled.context.target
    how = {"strict": not options.no_strict, "convert": options.convert}
    how["replaceable"] = not getattr(options, "fix_weights", False)
    with _in_options():
        made = replace_onnx_external_weights(program, options.weights, target, **how)
    return made if target is None else made.finalize(target)
