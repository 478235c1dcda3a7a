"""The networks that ship in the onnx package without their weights."""

from __future__ import annotations

import pytest

from benchmarks.conformance import page
from migx.testing import conformance, suite


@pytest.mark.parametrize("name", sorted(suite.cases("real")))
def test_a_network(name: str) -> None:
    outcome = conformance.outcome(suite.cases("real")[name])
    assert outcome.why == ""
    assert page.rows(page.PAGE.read_text("utf-8"))[name] == "pass"
