"""``python -m benchmarks run`` measures against the peers, ``compare OLD NEW`` puts two results
side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import chain, cpu, cpu_int4, int4, left, models, parse, passes, ref, weights
from benchmarks.compare import find, rows
from benchmarks.measure import FOLDER, Result, ResultError, report
from benchmarks.tables import ratios, show_comparison, show_peers, show_results
from migx import MigxError

PARSED = "bert_base"


def each(asked: argparse.Namespace, what: str, usual: Sequence[str] = ()) -> Iterator[str]:
    """The models asked for, or else the usual ones, or all; prints each on stderr before it is
    measured.
    """
    for name in asked.models or usual or models.names():
        print(f"{what} {name} ...", file=sys.stderr, flush=True)
        yield name


def run_parse(asked: argparse.Namespace) -> list[Result]:
    """Reading a model of 440 MB."""
    found = list(parse.results(models.make(PARSED, asked.folder), 3 if asked.quick else 9))
    show_results(f"Reading {PARSED}", parse.BAR, found, [])
    return found


def run_ref(asked: argparse.Namespace) -> list[Result]:
    """Running each model."""
    found, notes = [], []
    rounds, budget = (3, 5.0) if asked.quick else (9, 30.0)
    for name in each(asked, "ref"):
        result, why_not = ref.result(name, asked.folder, rounds, budget)
        found.append(result)
        if why_not:
            notes.append(f"the peer cannot run {name}: {why_not}")
    show_results("Running on ref", ref.BAR, found, [ratios(found), *notes])
    return found


def run_cpu(asked: argparse.Namespace) -> list[Result]:
    """Running each model as native code."""
    found, notes = list[Result](), list[str]()
    rounds, budget = (3, 5.0) if asked.quick else (15, 30.0)
    for name in each(asked, "cpu"):
        results, why_not = cpu.results(name, asked.folder, rounds, budget)
        found += results
        notes += why_not
    show_peers("Running on cpu", cpu.BAR, found)
    print(*notes, sep="\n")
    return found


def run_starts(asked: argparse.Namespace) -> list[Result]:
    """The time until a model can run as native code."""
    found: list[Result] = []
    for name in each(asked, "starts", cpu.STARTS):
        found += cpu.starts(name, asked.folder, 2 if asked.quick else 7)
    show_results("Until a model can run on cpu", cpu.STARTS_BAR, found, [])
    return found


def run_chain(asked: argparse.Namespace) -> list[Result]:
    """Chains of instructions."""
    lengths = chain.LENGTHS[:-1] if asked.quick else chain.LENGTHS
    found = list(chain.results(lengths, 3 if asked.quick else 5))
    show_results("A chain of instructions", chain.BAR, found, [])
    return found


def run_optimize(asked: argparse.Namespace) -> list[Result]:
    """Optimising each model, in seconds for 1,000 instructions, against either peer."""
    found: list[Result] = []
    for name in each(asked, "optimize"):
        found += passes.optimised(name, asked.folder, 3 if asked.quick else 7, 60.0)
    show_peers("Optimising 1,000 instructions", passes.BAR, found)
    return found


def run_stacks(asked: argparse.Namespace) -> list[Result]:
    """Each pass on stacks of transformer blocks."""
    lengths = passes.LENGTHS[:2] if asked.quick else passes.LENGTHS
    found = list(passes.stacks(lengths, 3 if asked.quick else 10))
    show_results("Passes on stacks", passes.STACKS_BAR, found, passes.growth(found))
    return found


def run_changes(asked: argparse.Namespace) -> list[Result]:
    """How many models each pass changes."""
    found = passes.changes(asked.models or models.names(), asked.folder)
    show_results("Models changed", passes.CHANGES_BAR, found, [])
    return found


def run_left(asked: argparse.Namespace) -> list[Result]:
    """The instructions left of each model after optimisation and fusion."""
    found = [left.left(name, asked.folder) for name in asked.models or models.names()]
    show_results("Instructions left", left.BAR, found, [left.within(found)])
    return found


def run_int4(asked: argparse.Namespace) -> list[Result]:
    """The bytes of four-bit weights, and their cost in accuracy."""
    found: list[Result] = []
    for name in each(asked, "int4", int4.MODELS):
        found += int4.results(name, asked.folder, asked.quick)
    show_results("Weights in four bits", int4.BAR, found, [])
    return found


def run_products(asked: argparse.Namespace) -> list[Result]:
    """Products with weights of four bits as native code."""
    print("products ...", file=sys.stderr, flush=True)
    found = list(cpu_int4.results(asked.quick))
    show_results("Products with weights in four bits on cpu", cpu_int4.BAR, found, [])
    return found


def run_weights(asked: argparse.Namespace) -> list[Result]:
    """The cost of deferred weights in a run, and of putting them in."""
    rounds, found = (5 if asked.quick else 41), list[Result]()
    for target in weights.TARGETS:
        for name in each(asked, f"weights {target}", weights.MODELS):
            found += weights.steady(name, target, asked.folder, rounds)
    show_results("Weights put in later", weights.STEADY_BAR, found, [])
    for target in weights.TARGETS:
        print(f"weights {target} swapped ...", file=sys.stderr, flush=True)
        found += weights.show_swaps(target, asked.folder, asked.quick)
    taken = [r for name in weights.SHARED for r in weights.memory(name, asked.folder)]
    show_results("Memory of weights", weights.MEMORY_BAR, taken, [])
    return [*found, *taken]


BENCHMARKS: dict[str, Callable[[argparse.Namespace], list[Result]]] = {
    "parse": run_parse,
    "ref": run_ref,
    "cpu": run_cpu,
    "starts": run_starts,
    "chain": run_chain,
    "optimize": run_optimize,
    "stacks": run_stacks,
    "changes": run_changes,
    "left": run_left,
    "int4": run_int4,
    "products": run_products,
    "weights": run_weights,
}


def run(asked: argparse.Namespace) -> None:
    """Measures, prints and writes the result."""
    if unknown := [name for name in asked.benchmarks if name not in BENCHMARKS]:
        raise ResultError(
            f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}"
        )
    found = [r for name in asked.benchmarks or BENCHMARKS for r in BENCHMARKS[name](asked)]
    made = report(found)
    path = asked.to or FOLDER / f"{made.commit}.json"
    made.save(path)
    print(f"written to {path}")


def compare(asked: argparse.Namespace) -> None:
    """Prints two results side by side."""
    old, new = find(asked.old), find(asked.new)
    common = list(rows(old, new))
    if not common:
        raise ResultError(f"{asked.old} and {asked.new} have no test in common")
    show_comparison(old, new, common)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = made.add_subparsers(required=True, metavar="run|compare")
    one = verbs.add_parser("run", help="measure against the peers")
    one.add_argument(
        "benchmarks",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(BENCHMARKS)}; all unless given",
    )
    one.add_argument("--models", nargs="+", metavar="MODEL", help="these models alone")
    one.add_argument("--quick", action="store_true", help="fewer samples, shorter chains")
    one.add_argument("--folder", type=Path, default=None, help="where the models are (.models)")
    one.add_argument("--to", type=Path, help="the file to write (.bench/COMMIT.json)")
    one.set_defaults(do=run)
    two = verbs.add_parser("compare", help="two results side by side")
    two.add_argument("old", metavar="OLD", help="a commit that was measured, or a file")
    two.add_argument("new", metavar="NEW")
    two.set_defaults(do=compare)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line; returns the exit code."""
    asked = parser().parse_args(argv)
    try:
        asked.do(asked)
    except (ResultError, models.FetchError, models.UnknownModel, MigxError) as error:
        print(f"error: {error.args[0] if error.args else error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
