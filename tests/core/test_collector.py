"""When Python's garbage collector runs for programs that nobody has any more."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from migx.base import collector
from migx.program import Program


@pytest.fixture
def _seldom_collected() -> Iterator[None]:
    """As where few objects are made: Python's collector does not run by itself."""
    before = gc.get_threshold()
    gc.set_threshold(10**9)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@pytest.mark.usefixtures("_seldom_collected")
def test_weights_of_programs_that_nobody_has_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collector, "ENOUGH", 40_000)
    monkeypatch.setattr(collector, "_held", 0)
    seen: list[weakref.ref[Program]] = []
    most = 0
    for _ in range(30):
        program = Program()
        at = program.main.add_literal(np.zeros(1000, np.float32))
        program.main.add_return(at)
        seen.append(weakref.ref(program.compile("ref")))
        most = max(most, sum(made() is not None for made in seen))
        del program, at
    assert most <= 10
