"""A few hundred mutated models run or are refused; what looks for trouble finds it."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from migx.weights import sources
from tests.fuzz import mutated_files as fuzz

KINDS = ("simple", "pytorch-converted", "pytorch-operator")


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_mutated_files_run_or_are_refused(first: int) -> None:
    found = fuzz.batch(range(first, first + 100), KINDS)
    assert [(n, said) for n, said in found if said not in ("runs", "refused")] == []
    assert {said for _, said in found} == {"runs", "refused"}


def test_a_number_stands_for_one_mutation() -> None:
    content, _ = fuzz.sources(KINDS)[5]
    made = [fuzz.mutated(content, random.Random(n)) for n in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_an_error_that_is_not_typed_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("migx.parse_onnx", broken)
    said = fuzz.tried(0, tmp_path, KINDS)
    assert said.startswith("ZeroDivisionError at test_mutated_files.py:")


def test_a_hang_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.01)
    monkeypatch.setattr("migx.parse_onnx", lambda path: time.sleep(5))
    assert fuzz.tried(0, tmp_path, KINDS) == "took more than 0.01 s"


def test_a_file_outside_the_folder_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = fuzz.external()
    model.graph.initializer[0].external_data[0].value = f"../{fuzz.SECRET}"
    monkeypatch.setattr(fuzz, "mutated", lambda content, rng: model.SerializeToString())
    assert fuzz.tried(0, tmp_path, KINDS) == "refused"
    monkeypatch.setattr(sources, "inside", lambda folder, location, what: folder / location)
    assert fuzz.tried(0, tmp_path, KINDS) == "opened a file outside the model's folder"
