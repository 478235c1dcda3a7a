"""``migx.debug.departures``: the first result inside a program that is beyond its bound."""

from __future__ import annotations

import numpy as np
import pytest

from migx.debug.departures import departure
from tests.core.test_layers import X, made


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_the_first_node_beyond_its_bound(target: str) -> None:
    assert departure(made("tanh"), made("tanh"), X, target) is None
    found = departure(made("tanh"), made("sin"), X, target)
    assert found is not None
    assert found.at.origins == ("second",)
    assert found.comparison.largest == pytest.approx(np.max(np.abs(np.tanh(Y) - np.sin(Y))))
    assert str(found).startswith("the first to depart: largest error ")
    assert "sin(%1)" in str(found)
    assert departure(made("tanh"), made("sin"), X, target, {"tanh": [2.0]}) is None


Y = X["x"] @ np.array([[1, 2], [3, 4]], np.float32)
