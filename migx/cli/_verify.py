"""The implementation of ``migx verify``: one model, or all of a checkout."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import migx
from migx.argument import Argument
from migx.cli import _against, _inputs, _load, _streams, _weights
from migx.cli._against import share
from migx.cli._peers import Onnxruntime
from migx.cli._session import Session
from migx.compiler import Compiled, compiled, given_back
from migx.debug.departures import Departures, Expected
from migx.debug.layers import PRODUCTS, Layer, Layers, NotFinite, landmarks, shown
from migx.dims.symbol import listed
from migx.errors import MigxError, counted
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.op import Array
from migx.program import Program
from migx.target import Seen, passes_for
from migx.testing.bounds import Budget, TensorBounds, compare
from migx.text import draw_instruction
from migx.weights.constants import is_unpacked


def verified(options: argparse.Namespace) -> dict[str, Any]:
    """Compares the model asked for with its peer: see ``checked``."""
    unsaid = options.target is None
    other = _against.is_model(options.against)
    session = Session.of(options, to_run=unsaid)
    if _weights.given(options):
        if not other and _peer(Path(options.model), options) == "onnxruntime":
            raise _load.UsageError(
                "onnxruntime has the model's own weights: with --weights, compare --against ref or "
                "another model"
            )
        session.program = _weights.replaced(session.program, options)
    held = session.program.compiled if unsaid and session.ready and not options.each else None
    if unsaid and held is None:
        session.target = usual(options)
    inputs, sizes = session.inputs(apart=True)
    with _inputs.explaining(sizes):
        found = (beside if other else checked)(session, Path(options.model), inputs, held)
    return {"model": options.model, "sizes": listed(sizes), **found}


def usual(options: argparse.Namespace) -> str:
    """The default target for a file without code: one that shows the results of instructions if
    these are asked for, or passes are judged.
    """
    return "cpu" if options.passes is None and not options.each else "ref"


def beside(
    session: Session, path: Path, inputs: Mapping[str, Any], held: Compiled | None = None
) -> dict[str, Any]:
    """How each output of a program, and on request each layer, differs from that of another
    model.
    """
    program, target, other = session.program, session.target, _against.run(inputs, session)
    inner: dict[str, Any] = {}
    with _streams.progress(f"running {path.name} on {target}"):
        subject = held or compiled(program, target, **session.asked)
        if session.options.each:
            inside, run, notes = _shown(subject, session, inputs)
            found, strange = Layers(inside, other.values), NotFinite()
            got = run(_all(found, strange))
            if not found.rows:
                named = other.values and landmarks(inside)
                raise _load.UsageError(STRANGERS if named else NAMELESS)
            inner = _layers(found.rows) | told(strange)
        else:
            got, notes = subject.eval(inputs), []
    outputs = _against.compared(program.main.output_names, got, other, session)
    return {"target": target, "held": held is not None, "notes": notes, **outputs, **inner}


def _shown(
    subject: Compiled, session: Session, inputs: Mapping[str, Any]
) -> tuple[Program, Callable[[Seen], list[Any]], list[str]]:
    """A program and how to run it, see ``shown``, and what to know of it."""
    program, run = shown(subject, session.program, inputs, **session.asked)
    if program is subject.program:
        return program, run, []
    note = f"{session.target} shows outputs alone, so the value of each ONNX node is made one"
    return program, run, [f"{note}: less is fused than otherwise"]


def _all(*each: Seen) -> Seen:
    """Calls several functions with each instruction of a run."""

    def seen(at: Instruction, result: Argument) -> None:
        for one in each:
            one(at, result)

    return seen


def _layers(rows: Sequence[Layer]) -> dict[str, Any]:
    """The layers compared, and the first that differs at all."""
    first = next((row for row in rows if row.distance.unequal), None)
    drawn = None
    if first is not None:
        far = first.distance
        said = f"{far.unequal} of {far.elements} elements differ, by up to {far.largest:.3g}"
        drawn = draw_instruction(f"the first to differ: {said}", first.at)
    return {"compared": len(rows), "departure": drawn, "layers": _rows(rows)}


def _rows(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    return [{"layer": r.name, "product": r.product, **vars(r.distance)} for r in layers]


def told(strange: NotFinite) -> dict[str, Any]:
    """The instructions that make NaN and infinities, drawn."""
    made = {"NaN": strange.nan, "infinities": strange.infinite}
    drawn = [
        draw_instruction(f"the first to make {what}: {counted(found[1], 'element')}", found[0])
        for what, found in made.items()
        if found is not None
    ]
    return {"not_finite": drawn}


NAMELESS = (
    "--each finds values by the ONNX nodes they come from, and no instruction here names one: read "
    "the ONNX file, or a text made with --origins"
)
STRANGERS = (
    "--each compares results of ONNX nodes of the same name and dims, and the two models have none "
    "in common: compare their outputs alone, without --each"
)


def checked(
    session: Session, path: Path, inputs: Mapping[str, Any], held: Compiled | None = None
) -> dict[str, Any]:
    """How each output of a program compares with its peer's, and the first instruction that
    differs. Runs the compiled form in its file, if that is given.

    The program always runs on ``ref`` once, to find where values are rounded.
    """
    program, options, target = session.program, session.options, session.target
    against = _peer(path, options)
    plain = compiled(program, "ref")
    arguments = plain.arguments(inputs)
    spent = TensorBounds(plain.program, arguments, _passes(held, session).approximations())
    recorder = Expected(plain.program, spent, keep=options.each and against == "ref")
    with _streams.progress("running on ref"):
        results = plain.trace(arguments, recorder if options.each else spent)
        expected = got = [*map(given_back, results)]
    names, values, notes = program.main.output_names, recorder.values, list[str]()
    if against == "onnxruntime":
        expected, values, notes = _by_onnxruntime(path, inputs, names, recorder, options)
    subject = plain
    if held is not None or target != "ref" or not session.plain:
        with _streams.progress(f"running on {target}"):
            subject = held or compiled(program, target, **session.asked)
            got = subject.eval(inputs)
    budgets = [spent.of(value) for value in plain.program.main.outputs]
    found = {
        "target": target,
        "held": held is not None,
        "against": against,
        "notes": notes,
        **_judged(names, got, expected, budgets),
    }
    if options.each:
        inside, run, more = _shown(subject, session, inputs)
        notes += more
        found |= _each(inside, run, values, recorder.budgets)
    return found


def _by_onnxruntime(
    path: Path,
    inputs: Mapping[str, Any],
    names: Sequence[str],
    recorder: Expected,
    options: argparse.Namespace,
) -> tuple[list[Any], dict[str, Array], list[str]]:
    """The outputs and inner values by onnxruntime, and notes. It has freed its weights before the
    target packs them.
    """
    with _streams.progress("running on onnxruntime"):
        shown = recorder.budgets if options.each else ()
        peer = Onnxruntime(path, shown, rounds=options.activations == "int8")
        expected, values = peer.run(inputs, names)
    return expected, values, peer.notes


def _judged(
    names: Sequence[str], got: Sequence[Any], expected: Sequence[Any], budgets: Sequence[Budget]
) -> dict[str, Any]:
    """The comparison of each output with the expected one, and whether all pass."""
    compared = [
        compare(name, _inputs.array_of(x), _inputs.array_of(y), budget)
        for name, x, y, budget in zip(names, got, expected, budgets, strict=True)
    ]
    outputs = [
        dataclasses.asdict(c)
        | {"not_finite": _not_finite(y)}
        | {"relative": share(c.rms, y), "passed": c.passed, "undecided": c.undecided}
        for c, y in zip(compared, expected, strict=True)
    ]
    return {
        "outputs": outputs,
        "passed": all(c.passed for c in compared),
        "undecided": any(c.undecided for c in compared),
    }


def _not_finite(expected: Any) -> int:
    """The number of elements of an output that are NaN or infinite."""
    array = _inputs.array_of(expected)
    if not isinstance(array, np.ndarray) or array.dtype == object:
        return 0
    return array.size - int(np.count_nonzero(np.isfinite(array.astype(np.float64))))


def _peer(path: Path, options: argparse.Namespace) -> str:
    """The peer that a file's program is compared with."""
    if _load.is_onnx(path):
        return options.against or "onnxruntime"
    if options.against == "onnxruntime":
        raise _load.UsageError(f"onnxruntime runs ONNX files, not {path.name}: use --against ref")
    return "ref"


def _passes(held: Compiled | None, session: Session) -> Pipeline:
    """The passes that a program has been through when it runs."""
    if held is None:
        return session.pipeline
    return passes_for(held.context.target, held.context, held.context.options)


def reads_packed(at: Instruction) -> bool:
    """Whether an instruction multiplies by weights of a few bits, directly or in a group."""
    if at.op.name == "group":
        return any(reads_packed(inner) for inner in at.modules[0])
    return at.op.name in PRODUCTS and any(map(is_unpacked, at.inputs))


UNDECIDED = "undecided: a tolerance is at least half of max|expected|"
"""The message for a bound too wide to distinguish an output from 0."""


def doubts(outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why it is undecided whether some outputs are right."""
    told = [f"undecided: {o['doubt']}" for o in outputs if o["doubt"]]
    return told + [UNDECIDED] * any(o["undecided"] and not o["doubt"] for o in outputs)


def _each(
    program: Program,
    run: Callable[[Seen], list[Any]],
    values: Mapping[str, Array],
    budgets: Mapping[str, Budget],
) -> dict[str, Any]:
    packed = {name for at in program.main if reads_packed(at) for name in at.origins}
    products = Layers(program, {name: v for name, v in values.items() if name in packed})
    found, strange = Departures(program, values, budgets), NotFinite()
    run(_all(found, products, strange))
    if not found.compared:
        raise _load.UsageError(NAMELESS)
    drawn = None
    if found.first is not None:
        message = found.first.message
        if found.first.comparison.problem.startswith("got "):
            message += "; --against MODEL compares layers of other types"
        drawn = draw_instruction(message, found.first.at)
    inner: dict[str, Any] = {"compared": found.compared, "departure": drawn}
    if products.rows:
        inner["packed"] = _rows(products.rows)
    return inner | told(strange)


def table_of_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Verifies every model of the checkout; prints rows as they are done, unless as JSON."""
    models = catalogue()
    names = models.names()
    width = max(map(len, names))
    if not options.json:
        print(f"{'Test':{width}}  Status  {'error':>8}  {'bound':>8}")
    rows = []
    for name in names:
        row = _row(models, name, options)
        rows.append(row)
        if not options.json:
            error, bound = (f"{row[k]:.2e}" if k in row else "" for k in ("error", "bound"))
            why = f"  {row['why']}" if "why" in row else ""
            print(f"{name:{width}}  {row['status']:6}  {error:>8}  {bound:>8}{why}", flush=True)
    if not options.json:
        print("error and bound are relative to the greatest magnitude of the output nearest to its")
    return rows


def _row(models: ModuleType, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One model: its worst output relative to the bound."""
    try:
        with _streams.progress(f"making {name}"):
            path = models.make(name, options.models)
        with _streams.progress(f"reading {name}"):
            program = migx.parse_onnx(path)
        session = Session(options, program, options.target or usual(options))
        found = checked(session, path, models.inputs(name, options.seed))
    except models.NoNetwork as error:
        return {"test": name, "status": "SKIP", "why": str(error)}
    except (MigxError, models.FetchError) as error:
        return {"test": name, "status": "ERROR", "why": str(error)}
    worst = max(found["outputs"], key=_used)
    scale = worst["magnitude"] or 1.0
    row = {
        "test": name,
        "status": "PASS" if found["passed"] else "FAIL",
        "undecided": found["undecided"],
        "error": worst["largest"] / scale,
        "bound": worst["tolerance"] / scale,
    }
    told = [found.get("departure"), worst["problem"], *doubts(found["outputs"])]
    why = "; ".join([*found["notes"], *filter(None, told)])
    return row | ({"why": why} if why else {})


def _used(output: Mapping[str, Any]) -> float:
    """The share of its tolerance that an output uses."""
    if not output["passed"]:
        return float(np.inf)
    return float(output["largest"] / (output["tolerance"] or 1.0))


def catalogue() -> ModuleType:
    """The model catalogue of the checkout that migx is in."""
    root = Path(migx.__file__).parent.parent
    if not (root / "benchmarks" / "models" / "__init__.py").is_file():
        raise _load.UsageError(
            "--all verifies the models of migx's own checkout, and this migx is installed without "
            "one: clone the repository, or name a model"
        )
    sys.path.insert(0, str(root))
    try:
        return importlib.import_module("benchmarks.models")
    finally:
        sys.path.remove(str(root))
