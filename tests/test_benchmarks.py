"""The benchmarks: results outlive JSON, noise is told from change, a user's mistake is one line."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import chain, command, compare, measure, passes, ref
from benchmarks.measure import Report, Result, ResultError

STEADY = (1.00, 1.01, 0.99, 1.02)


def result(
    ours: tuple[float, ...], peer: tuple[float, ...] = (1.0, 1.0, 1.0), unit: str = "s"
) -> Result:
    return Result("ref tiny", 1, unit, ours, peer, "onnx.reference")


def report(*results: Result, commit: str = "abc") -> Report:
    return Report(commit, "2026-01-01T00:00:00+00:00", {"cpu": "one", "cores": 2}, results)


def scaled(samples: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(factor * sample for sample in samples)


@pytest.mark.parametrize(
    ("old", "new", "unit", "status"),
    [
        (STEADY, scaled(STEADY, 1.5), "s", "slower"),
        (STEADY, scaled(STEADY, 0.5), "s", "faster"),
        (STEADY, scaled(STEADY, 1.5), "instructions/s", "faster"),
        (STEADY, scaled(STEADY, 0.5), "instructions/s", "slower"),
        (STEADY, scaled(STEADY, 1.5), "MB", "more"),
        (STEADY, scaled(STEADY, 0.5), "MB", "less"),
        (STEADY, scaled(STEADY, 1.04), "s", "same"),  # apart, but by less than is ever called one
        ((1.0, 2.0, 1.1, 1.9), (1.2, 2.2, 1.4, 2.1), "s", "same"),  # the middle halves overlap
        ((1.0, 1.0), (2.0, 2.0), "s", "unclear"),
    ],
)
def test_a_change_is_told_from_noise(
    old: tuple[float, ...], new: tuple[float, ...], unit: str, status: str
) -> None:
    (row,) = compare.rows(report(result(old, unit=unit)), report(result(new, unit=unit)))
    assert row.status == status


def test_a_slower_machine_is_no_change() -> None:
    old, new = result(STEADY, (3.0, 3.1, 2.9)), result(scaled(STEADY, 2), (6.0, 6.2, 5.8))
    (row,) = compare.rows(report(old), report(new))
    assert (row.status, row.old, row.new) == ("same", 1.005, 2.01)
    assert row.diff == pytest.approx(1)
    (alone,) = compare.rows(report(result(old.ours, ())), report(new))
    assert alone.status == "slower"


def test_a_peer_that_changed_is_no_change_of_ours() -> None:
    old, new = result(STEADY, (1.0, 1.0, 1.0)), result(STEADY, (2.0, 2.0, 2.0))
    (row,) = compare.rows(report(old), report(new))
    assert (row.status, row.diff) == ("same", 0)


def test_only_what_both_have_is_compared() -> None:
    longer = dataclasses.replace(result(STEADY), batch=2)
    other = dataclasses.replace(result(STEADY), test="ref other")
    assert not list(compare.rows(report(result(STEADY)), report(longer, other)))


def test_a_report_outlives_its_file(tmp_path: Path) -> None:
    made = measure.report([result(STEADY), result((0.1,), ())])
    made.save(tmp_path / "new" / "a.json")
    assert Report.load(tmp_path / "new" / "a.json") == made
    written = json.loads((tmp_path / "new" / "a.json").read_text("utf-8"))
    assert written.keys() == {"commit", "date", "machine", "results"}
    assert written["machine"].keys() >= {"cpu", "cores", "python", "numpy", "onnx"}
    assert written["results"][1] == {
        "test": "ref tiny",
        "batch": 1,
        "unit": "s",
        "ours": [0.1],
        "peer": [],
        "against": "onnx.reference",
    }


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"results": [{"test": 1}]}'])
def test_a_file_that_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, "utf-8")
    with pytest.raises(ResultError, match=r"a\.json is no result"):
        Report.load(tmp_path / "a.json")


def test_a_commit_is_found_by_its_first_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "FOLDER", tmp_path)
    for name in ("abc1", "abc2", "abc2-dirty"):
        report(commit=name).save(tmp_path / f"{name}.json")
    assert compare.find("abc1").commit == "abc1"
    assert compare.find("abc2").commit == "abc2"
    with pytest.raises(ResultError, match="several results match 'abc': abc1, abc2, abc2-dirty"):
        compare.find("abc")
    with pytest.raises(ResultError, match="there is no result of 'f00': abc1"):
        compare.find("f00")


def test_better_than_the_peer_is_a_ratio_above_one() -> None:
    assert result((0.5,), (1.0,)).ratio == 2
    assert result((2.0,), (1.0,), "instructions/s").ratio == 2
    assert result((2.0,), ()).ratio is None
    assert result((2.0,), (0.0,)).ratio is None


def test_samples_are_taken_in_turn_and_a_slow_peer_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def ten_seconds(call: Callable[[], object]) -> float:
        call()
        return 10.0

    monkeypatch.setattr(measure, "seconds", ten_seconds)

    def ours() -> float:
        calls.append("ours")
        return 1.0

    def peer() -> float:
        calls.append("peer")
        return 2.0

    assert measure.in_turn(ours, peer, 3, budget=25) == ([1.0] * 3, [2.0] * 2)
    assert calls == ["ours", "peer", "ours", "peer", "ours"]
    assert measure.in_turn(ours, peer, 2, budget=1) == ([1.0] * 2, [2.0])


def test_the_quartiles_of_few_samples() -> None:
    assert measure.quartiles([3.0]) == (3, 3, 3)
    assert measure.quartiles([4.0, 0.0, 2.0, 1.0, 3.0]) == (1, 2, 3)


def test_a_chain_is_measured_in_each_step() -> None:
    found = list(chain.results((20,), rounds=2))
    steps = ["build", "verify", "print", "parse", "copy", "compare"]
    assert [r.test for r in found] == [f"chain {step}" for step in steps]
    assert all(r.batch == 20 and len(r.ours) == len(r.peer) == 2 for r in found)
    assert all(rate > 0 for r in found for rate in (*r.ours, *r.peer))


def test_each_pass_is_measured_on_stacks_of_each_length() -> None:
    gc.collect()
    gc.freeze()  # else each pass has all looked through that other tests have left
    found = list(passes.stacks((100, 200), rounds=0))
    names = [p.name for p in passes.every_pass()]
    assert [r.test for r in found] == [f"pass {name}" for name in names] * 2
    assert all(r.batch >= 100 for r in found)
    assert all(len(r.ours) == 1 and r.ours[0] > 0 and not r.peer for r in found)
    slow = dataclasses.replace(found[0], ours=(1.0,))
    fast = dataclasses.replace(found[0], ours=(2.0,))
    assert passes.growth([fast, slow])[0] == f"the most: {slow.test}, 2.00 times"
    assert passes.growth([fast, slow])[1:] == [f"{slow.test} grows 2.00 times"]
    assert passes.growth([slow, fast]) == [f"the most: {slow.test}, 0.50 times"]


def test_the_models_a_pass_changes_are_counted(tmp_path: Path) -> None:
    found = {r.test: r.ours for r in passes.changes(["script_loop_rnn"], tmp_path)}
    assert found["changed by optimize_module"] == (1.0,)
    assert found["changed by dead_code_elimination"] == (0.0,)


def test_a_model_runs_on_both_and_must_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ref, "AT_LEAST", 0.0)
    found, why_not = ref.result("script_loop_rnn", tmp_path, rounds=2, budget=5)
    assert (found.batch, len(found.ours), len(found.peer), why_not) == (2, 2, 2, "")
    assert not why_not_the_same([1.0, 2.0], [1.0, 2.019])
    assert why_not_the_same([1.0, 2.0], [1.0, 2.1]) == (
        "output 0 of tiny is 0.1 from the peer's, at most 0.021 is due"
    )
    assert why_not_the_same([1.0], [[1.0]]) == (
        "output 0 of tiny is float64 (1,), the peer's float64 (1, 1)"
    )


def why_not_the_same(ours: Any, peer: Any) -> str:
    try:
        ref.agree("tiny", [np.array(ours)], [np.array(peer)])
    except ResultError as error:
        return str(error)
    return ""


def test_the_command_compares_files_and_says_a_mistake_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    report(result(STEADY), commit="before").save(old)
    report(result(scaled(STEADY, 0.5)), commit="after").save(new)
    assert command.main(["compare", str(old), str(new)]) == 0
    printed = capsys.readouterr().out
    assert "after against before" in printed
    assert all(word in printed for word in ("Test", "Batch", "New", "Old", "Diff", "Status"))
    assert "-50.0%" in printed
    assert "faster" in printed
    report().save(new)
    for wrong, message in [
        (["compare", "nothing", "nowhere"], "there is no result of 'nothing'"),
        (["compare", str(old), str(new)], "have no test in common"),
        (["run", "speed"], "there is no benchmark 'speed'; there are parse, ref, cpu, "),
        (["run", "ref", "--models", "resnet"], "no model named 'resnet'"),
    ]:
        assert command.main(wrong) == 2
        assert message in capsys.readouterr().err
