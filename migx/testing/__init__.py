"""Checks for authors of passes and targets, one line each in their tests.

from migx.testing import check_conformance, check_pass, check_target
check_pass(MyPass())
check_target("my_target")
check_conformance("my_target", families=["elementwise"])
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migx.manager import Pass, Pipeline
    from migx.target import Target
    from migx.testing.conformance import Outcome
    from migx.testing.fuzz import Report

__all__ = ["check_conformance", "check_pass", "check_target"]


def check_pass(
    given: Pass | Pipeline | str, *, programs: int = 200, seed: int = 0, every_rule: bool = False
) -> Report:
    """Checks a pass, or a pipeline, by every oracle on random programs and on programs drawn to
    match its rules.

    ``AssertionError`` shows the first failure with the smallest program found for it, or, with
    ``every_rule``, the rules that no program fired and the passes without rules that changed none.
    """
    from migx.manager import Pipeline
    from migx.testing.fuzz import fuzz, subjects_for

    pipeline = Pipeline.of(given if isinstance(given, Pipeline | str) else [given])
    report = fuzz(subjects_for([pipeline]), programs=programs, seed=seed, enough=1)
    _expect_none(report)
    if every_rule and (report.silent or report.idle):
        told = [f"fired {name}" for name in report.silent]
        told += [f"was changed by {name}, which has no rules to draw for" for name in report.idle]
        raise AssertionError(f"no program {', '.join(told)}")
    return report


def check_target(given: Target | str, *, programs: int = 200, seed: int = 0) -> Report:
    """Checks that a target computes what ``ref`` does, within bounds derived from both
    computations, and that its runs are independent of each other, also in two threads, and of their
    caller.

    ``AssertionError`` shows the first failing program.
    """
    from migx.testing.fuzz import fuzz, subjects_for

    report = fuzz(subjects_for(target=given), programs=programs, seed=seed, enough=1)
    _expect_none(report)
    return report


def check_conformance(
    given: Target | str, words: Collection[str] = (), families: Collection[str] = ()
) -> list[Outcome]:
    """Runs the cases of ONNX's backend suite that have one of ``words`` in their names and belong
    to ``families``; by default all.

    ``AssertionError`` lists those that fail although ``ref`` passes them; on ``ref``, all.
    """
    from migx.target import get_target
    from migx.testing.conformance import outcome
    from migx.testing.suite import chosen

    target = get_target(given)
    found = [outcome(case, target) for case in chosen(words, families)]
    worse = [f"{each.name}: {each.why}" for each in found if each.worse]
    if worse:
        raise AssertionError("\n".join(worse))
    return found


def _expect_none(report: Report) -> None:
    if report.failures:
        raise AssertionError(str(report.failures[0]))
