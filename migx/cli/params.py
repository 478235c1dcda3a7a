"""Lists the weights of a model: as the file has them, or as a compiled program reads them.

``read by`` names the operations that read each, and the ONNX nodes they come from, because
exporters' names of matrices often do not name the layer.

With ``--layouts`` the model is compiled, and each constant that its kernels read is listed: its
format, its sources, and its users. A constant that every run has to lay out anew is a warning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _options, _report
from migx.cli._session import Session
from migx.errors import counted

if TYPE_CHECKING:
    from migx.compiler import Compiled
    from migx.ir import Instruction
    from migx.program import Program


FEW = 3
"""The most ONNX nodes named for each operation."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    _load.add_deferring(parser)
    _options.add_target(parser)
    parser.add_argument(
        "--layouts",
        action="store_true",
        help="list weights as the program compiled for the target reads them",
    )
    parser.add_argument(
        "--names-from",
        metavar="CHECKPOINT",
        type=_options.path,
        help="a .safetensors, .npz or .onnx file with the values that the model has: add the name "
        "that each weight has there",
    )
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Lists them."""
    if not options.layouts and (options.target is not None or _options.compiling(options)):
        raise _load.UsageError(
            "--target, --passes, --activations and --fast-math say how --layouts compiles: "
            "give it too, or leave them out"
        )
    names_from, options.names_from = options.names_from, None  # only `--weights` takes it
    session = Session.of(options)
    if options.layouts:
        session.compile()
        made = session.program.compiled
        rows, relaid = list(layouts(made)), list(relayouts(made))
    else:
        rows, relaid = list(weights(session.program)), []
    if names_from is not None and not options.layouts:
        _add_names(rows, session.program, names_from)
    if options.json:
        _report.print_json({"weights": rows, "relayouts": relaid})
        return 0
    if rows:
        print(_report.table(tuple(rows[0]), [tuple(row.values()) for row in rows]))
    total = sum(row["bytes"] for row in rows)
    print(f"\n{counted(len(rows), 'weight')}, {_report.in_bytes(total)}")
    for each in relaid:
        print(f"warning: each run converts {each} to another layout", file=sys.stderr)
    return 0


def _add_names(rows: list[dict[str, Any]], program: Program, checkpoint: Path) -> None:
    """Adds to each row the tensors of a checkpoint that are this weight."""
    from migx.weights.naming import Naming

    naming = Naming.by_value(program, checkpoint)
    for row in rows:
        row["tensor"] = " or ".join(map(str, naming.tensors.get(row["weight"], ())))


def weights(program: Program) -> Iterator[dict[str, Any]]:
    """The weights of a program: named literals, and deferred ones."""
    from migx.ops.builtin import Literal, OnnxExternalWeights

    for at in program.instructions():
        if isinstance(at.op, OnnxExternalWeights):
            place, kind = f"{at.op.file} at {at.op.offset}", "deferred"
        elif isinstance(at.op, Literal) and at.op.label:
            source = at.op.value.source
            place = "memory" if source is None else f"{source.file.name} at {source.offset}"
            kind = "replaceable" if at.op.replaceable else "fixed"
        else:
            continue
        yield {
            "weight": at.op.label,
            "shape": at.shape.text,
            "bytes": int(at.shape.nbytes),
            "kind": kind,
            "where": place,
            "read by": _readers(at, nodes=True),
        }


def layouts(made: Compiled) -> Iterator[dict[str, Any]]:
    """The constants that the modules of a compiled program read."""
    from migx.ops.builtin import Literal, Slot

    recipe, slots = made.program.weights, made.program.slots
    for at in made.program.instructions():
        if at.module is recipe or not isinstance(at.op, (Literal, Slot)) or not at.users:
            continue
        yield {
            "constant": at.op.slot if isinstance(at.op, Slot) else at.op.label or "literal",
            "shape": at.shape.text,
            "bytes": int(at.shape.nbytes),
            "format": _format(at),
            "made of": made_of(slots[at.op.slot]) if isinstance(at.op, Slot) else "",
            "kind": "slot" if isinstance(at.op, Slot) else "literal",
            "read by": _readers(at),
        }


def made_of(at: Instruction) -> str:
    """A slot's recipe in short: its operations, and the weights they start from."""
    from migx.weights import is_weight, label_of
    from migx.weights.constants import tree

    whole = tree(at)
    names = ", ".join(label_of(v) for v in whole if is_weight(v))
    steps = [v.name for v in reversed(whole) if not is_weight(v) and v.name != "@literal"]
    return " of ".join([*steps, *([names] if names else [])])


def relayouts(made: Compiled) -> Iterator[str]:
    """The constants that each run unpacks because no kernel reads their format."""
    from migx.target import ReadsPacked

    executable = made.executable
    absorbed = executable.absorbed if isinstance(executable, ReadsPacked) else ()
    for at in made.program.instructions():
        packed = at.name == "unpack_weight" and at.module is not made.program.weights
        if packed and at not in absorbed:
            yield f"{_name(at.inputs[0])} ({_format(at.inputs[0])})"


def _name(at: Instruction) -> str:
    from migx.ops.builtin import Literal, Slot

    if isinstance(at.op, Slot):
        return at.op.slot
    label = at.op.label if isinstance(at.op, Literal) else at.name
    return label or f"a literal {at.shape.text}"


def _format(at: Instruction) -> str:
    """The format of a constant; empty for row-major order."""
    from migx.ops.formats import UnpackWeight

    found = {u.op.format for u in at.users if isinstance(u.op, UnpackWeight)}
    return ", ".join(sorted(found))


def _readers(at: Instruction, nodes: bool = False) -> str:
    """The operations that read a constant, directly or through views; with ``nodes``, the ONNX
    nodes they come from.
    """
    from migx import op as operations

    found: dict[str, list[Instruction]] = {}
    seen: set[Instruction] = set()
    work = list(at.users)
    while work:
        user = work.pop()
        if user in seen:
            continue
        seen.add(user)
        if operations.traits(user.op).view is not None or user.name == "unpack_weight":
            work += user.users
        else:
            found.setdefault(user.name, []).append(user)
    return ", ".join(_told(name, users, nodes) for name, users in sorted(found.items()))


def _told(name: str, users: list[Instruction], nodes: bool) -> str:
    """An operation, its number of uses, and the first nodes they come from."""
    counted = f"{name} x{len(users)}" if len(users) > 1 else name
    origins = list(dict.fromkeys(node for at in reversed(users) for node in at.origins))
    if not nodes or not origins:
        return counted
    return f"{counted} ({', '.join(origins[:FEW])}{', ...' if len(origins) > FEW else ''})"
