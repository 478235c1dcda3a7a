"""Prints a model as a program: its text, or statistics."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _options, _report
from migx.dim import Dim, Extent
from migx.errors import counted

if TYPE_CHECKING:
    from migx.ir import Instruction, Module
    from migx.program import Program


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    parser.add_argument("--stats", action="store_true", help="statistics instead of the text")
    parser.add_argument(
        "--weights",
        action="store_true",
        help="the slots after hoist_weights, with the weights and operations each is computed from",
    )
    parser.add_argument("--origins", action="store_true", help="add the ONNX node of each line")
    parser.add_argument("--hashes", action="store_true", help="add the SHA-256 of each literal")
    _options.add_output(parser, "FILE", ".migx, .mxr or .onnx")
    _load.add_deferring(parser)
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints it."""
    from migx.text import show

    program = _load.load(options)
    if options.output is not None:
        if options.stats or options.json or options.weights:
            raise _load.UsageError(
                "--output writes the program: not with --stats, --json or --weights"
            )
        _load.save(program, options.output, origins=options.origins, hashes=options.hashes)
    elif options.weights:
        found = slots(program)
        if options.json:
            _report.print_json(found)
        elif found:
            print(_report.table(("slot", "shape", "made of"), [tuple(f.values()) for f in found]))
        else:
            print("no slots: it was compiled with its weights fixed")
    elif options.json:
        _report.print_json(statistics(program) if options.stats else structure(program, options))
    elif options.stats:
        print_statistics(statistics(program))
    else:
        sys.stdout.write(show(program, origins=options.origins, hashes=options.hashes))
    return 0


def slots(program: Program) -> list[dict[str, str]]:
    """The slots of a compiled program, or those that hoist_weights makes of its replaceable
    weights; of all that could be replaceable, if none is.
    """
    import migx
    from migx.cli.params import made_of

    shown = program.copy()
    if program._compiled is not None:
        shown = program._compiled.program
    elif program.weights is None:
        if not shown.weight_shapes:
            shown.make_replaceable()
        migx.run_passes(shown, "hoist_weights")
    made = shown.slots.items()
    return [{"slot": n, "shape": at.shape.text, "made of": made_of(at)} for n, at in made]


def statistics(program: Program) -> dict[str, Any]:
    """Statistics of a program: counts, shapes, symbols and bytes."""
    from migx.ops.builtin import Literal, OnnxExternalWeights
    from migx.profile import total

    instructions = [*program.instructions()]
    literals = [at.op for at in instructions if isinstance(at.op, Literal)]
    deferred = [at.op for at in instructions if isinstance(at.op, OnnxExternalWeights)]
    outputs = zip(program.main.output_names, program.main.outputs, strict=True)
    counts = Counter(at.name for at in instructions)
    made, (flops, nbytes) = program._compiled, total(program)
    return {
        "compiled": None if made is None else made.context.target.name,
        "modules": {m.name: len(m) for m in program.modules.values()},
        "parameters": {name: str(p.shape) for name, p in program.main.parameters.items()},
        "outputs": {name: str(value.shape) for name, value in outputs},
        "symbols": {
            s.name: {"low": s.low, "high": s.high, "optimals": s.optimals}
            for s in program.symbols().values()
        },
        "literal_bytes": sum(op.value.nbytes for op in literals),
        "deferred": {"tensors": len(deferred), "bytes": sum(op.length for op in deferred)},
        "work": {"flops": flops, "bytes": nbytes},
        "instructions": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
    }


def shortened(extent: Extent) -> str:
    """A count as text; a symbolic one as its largest term of each degree, and how many others."""
    if isinstance(extent, int):
        return f"{extent:,}"
    ascending = sorted(extent.terms, key=lambda term: abs(term[1]))
    largest = {len(of): (of, factor) for of, factor in ascending}
    kept = Dim.of(dict(largest.values()))
    more = len(extent.terms) - len(largest)
    return f"{kept} + [smaller terms: {more}]" if more else str(kept)


def print_statistics(found: dict[str, Any]) -> None:
    """Prints the result of ``statistics``."""
    shown: list[tuple[str, list[tuple[str, Any]]]] = [
        (what, list(found[what].items())) for what in ("modules", "parameters", "outputs")
    ]
    shown[0] = ("module", [(name, counted(size, "instruction")) for name, size in shown[0][1]])
    bounds = [
        (name, f"{s['low']}..{'' if s['high'] is None else s['high']}")
        for name, s in found["symbols"].items()
    ]
    shown += [("symbols", bounds), ("operations", list(found["instructions"].items()))]
    for what, rows in shown:
        if rows:
            print(_report.table((what, ""), rows), end="\n\n")
    print(f"literals: {_report.in_bytes(found['literal_bytes'])}")
    if found["compiled"] is not None:
        print(f"compiled for {found['compiled']}")
    deferred = found["deferred"]
    left_out = _report.in_bytes(deferred["bytes"])
    print(f"deferred: {counted(deferred['tensors'], 'tensor')}, {left_out}")
    flops, moved = map(shortened, found["work"].values())
    print(f"a run: {flops} flops, {moved} bytes moved")


def structure(program: Program, options: argparse.Namespace) -> dict[str, Any]:
    """A program instruction by instruction, named as in its text."""
    from migx.text import number

    names = {at: name for m in program.modules.values() for at, name in number(m).items()}
    modules = [_module(module, names, options) for module in program.modules.values()]
    return {"modules": modules}


def _module(
    module: Module, names: dict[Instruction, str], options: argparse.Namespace
) -> dict[str, Any]:
    outputs = [_reference(value, module, names) for value in module.outputs]
    return {
        "name": module.name,
        "parameters": {name: str(p.shape) for name, p in module.parameters.items()},
        "instructions": [
            _instruction(at, module, names, options)
            for at in module
            if at.name not in ("@param", "@return")
        ],
        "outputs": dict(zip(module.output_names, outputs, strict=True)),
    }


def _instruction(
    at: Instruction,
    module: Module,
    names: dict[Instruction, str],
    options: argparse.Namespace,
) -> dict[str, Any]:
    from migx import op as operations
    from migx.ops.builtin import Literal

    found: dict[str, Any] = {
        "name": names[at],
        "operation": at.name,
        "inputs": [_reference(value, module, names) for value in at.inputs],
        "shape": str(at.shape),
    }
    given = operations.attributes(at.op)
    if isinstance(at.op, Literal):
        source = given.pop("value").source
        found["source"] = source and {
            "file": source.file, "offset": source.offset, "length": source.length
        }  # fmt: skip
        if options.hashes:
            found["sha256"] = at.op.value.digest()
    found["attributes"] = given
    if at.modules:
        found["modules"] = [m.name for m in at.modules]
    if options.origins:
        found["origins"] = at.origins
    return found


def _reference(value: Instruction, module: Module, names: dict[Instruction, str]) -> str:
    around = value.module if value.module is not module else None
    return names[value] if around is None else f"{around.name}:{names[value]}"
