"""Compares a model's outputs on a target with those of another implementation.

Each output may differ by what rounding explains: the bound comes from the element types and the
roundings on the way to it, see migx.testing.bounds. The exit code is 1 if one differs by more. A
result is undecided if its bound is at least half of the greatest magnitude, since passing then
proves almost nothing, or if it differs after a selection among elements closer to each other than
rounding moves them, such as the scores of a detector's boxes.

Against another model, such as the one before quantisation, errors have no bound, and are shown
beside the root mean square of its outputs; it runs in the compiled form of its file, or on the same
target. It is given the same inputs, converted where its floats are of another type. With ``--each``
both run on ref, and each ONNX node that both have is compared. A saved program runs in the compiled
form of its file, unless a target, passes or ``--each`` are given. The weights that ``--weights``
gives are the model's, not those of what it is compared with, but for ref.

Inputs that no file gives are drawn from a seed, as by `migx run`, but symbols have small, different
sizes above 1, as far as the model accepts them. A case saved by `migx fuzz` has its own passes and
inputs; options override them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from migx.cli import _load, _options, _report, _weights

ERRORS = ("largest error", "rms error", "of rms value")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser, optional=True)
    _options.add_inputs(parser)
    _options.add_target(parser, told="the file's own code, or cpu; ref for --each and --passes")
    _weights.add_weights(parser)
    parser.set_defaults(check=True)
    parser.add_argument(
        "--against",
        metavar="PEER|FILE",
        help="compare with onnxruntime (the default for ONNX files), ref (for others), or another "
        "model, without a bound",
    )
    parser.add_argument(
        "--each",
        action="store_true",
        help="find the first instruction that differs, the first that makes NaN or an infinity, "
        "and the errors of layers, from packed weights or beside another model; where a target "
        "shows outputs alone, each ONNX node becomes one, so less is fused",
    )
    parser.add_argument(
        "--all", action="store_true", help="verify the models of the repository migx runs from"
    )
    parser.add_argument(
        "--models",
        metavar="FOLDER",
        help="the folder of those models (.models); those it lacks are made there, 4 GB in all",
    )
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compares."""
    from migx.cli import _against, _verify

    if options.all:
        dims = options.input_dim, options.dim_param
        given = options.model, options.inputs, options.fill, options.weights, *dims
        if any(given):
            raise _load.UsageError(
                "--all takes models, inputs and weights of its own, and no others"
            )
        if _against.is_model(options.against):
            raise _load.UsageError("--all compares with onnxruntime or ref")
        rows = _verify.table_of_all(options)
        if options.json:
            _report.print_json(rows)
        return int(any(row["status"] in ("FAIL", "ERROR") for row in rows))
    if options.model is None:
        raise _load.UsageError("say which model: migx verify MODEL, or migx verify --all")
    _load.take_case(options)
    found = _verify.verified(options)
    _report.give(options, found, _print)
    return int(not found.get("passed", True))


def _status(output: Mapping[str, Any]) -> str:
    if not output["passed"]:
        return f"FAIL: {output['problem']}"
    if output["doubt"]:
        return "undecided"
    if output["not_finite"]:
        return f"PASS ({output['not_finite']} not finite on either side)"
    return "PASS (undecided)" if output["undecided"] else "PASS"


def _errors(output: Mapping[str, Any]) -> tuple[str, ...]:
    return output["name"], f"{output['largest']:.3g}", *_shares(output)


def _shares(row: Mapping[str, Any]) -> tuple[str, str]:
    """The root mean square of errors, alone and relative to the values', unless that is 0."""
    return f"{row['rms']:.3g}", "" if row["relative"] is None else f"{row['relative']:.3g}"


def _distance(output: Mapping[str, Any]) -> tuple[str, ...]:
    """A row for an output compared with another model's; for strings, only how many differ."""
    errors = _errors(output) if "rms" in output else (output["name"], "", "", "")
    return *errors, f"{output['unequal']} of {output['elements']}"


def _print(found: dict[str, Any]) -> None:
    for note in found["notes"]:
        print(f"note: {note}")
    given = f", inputs drawn with {found['sizes']}" if found["sizes"] else ""
    held = ", as the file holds it," if found["held"] else ""
    print(f"{found['target']}{held} against {found['against']}{given}\n")
    if "passed" not in found:
        print(_report.table(("output", *ERRORS, "not equal"), map(_distance, found["outputs"])))
    else:
        _print_bounds(found["outputs"])
    if "compared" in found:
        print(f"\n{found['compared']} instructions compared, each the end of an ONNX node")
        print(found["departure"] or "none departs")
        for drawn in found["not_finite"]:
            print(f"\n{drawn}")
    if "packed" in found:
        print("\nproducts of weights of a few bits, each with the errors of those before it:")
        cells = [(p["layer"], *_shares(p)) for p in found["packed"]]
        print(_report.table(("layer", *ERRORS[1:]), cells))
    if "layers" in found:
        _print_layers(found["layers"])


def _print_bounds(outputs: Sequence[Mapping[str, Any]]) -> None:
    from migx.cli._verify import UNDECIDED, doubts

    header = ("output", *ERRORS, "tolerance", "status")
    rows = [(*_errors(o), f"{o['tolerance']:.3g}", _status(o)) for o in outputs]
    print(_report.table(header, rows))
    print("\ntolerance = 8 * sqrt(V) * max|expected|, V the sum of the squares of the roundings:")
    for o in outputs:
        print(f"  {o['name']}: {o['derivation']}; max|expected| = {o['magnitude']:.4g}")
    for doubt in doubts(outputs):
        print(f"{doubt}, so 0 might pass as well" if doubt is UNDECIDED else doubt)


def _print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """The products among the layers; all of them if there are none."""
    chosen = [layer for layer in layers if layer["product"]] or layers
    which = "products" if chosen[0]["product"] else "layers"
    print(f"\n{which}, each with the errors of those before it:")
    strange = any(layer["not_finite"] for layer in chosen)
    header = ("layer", *ERRORS[1:], *["not finite"] * strange)
    cells = [(p["layer"], *_shares(p), *[str(p["not_finite"])] * strange) for p in chosen]
    print(_report.table(header, cells))
