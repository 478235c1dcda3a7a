"""The law of weights, on random programs: left out, baked, swapped and saved, they are the same."""

from __future__ import annotations

import numpy as np
import pytest

from migx.argument import Argument
from migx.manager import Pipeline
from migx.testing.fuzz import fuzz, subjects_for
from migx.testing.law import turned

OPTIMISED = "optimize_module,hoist_weights,fuse_pointwise_reduce"
LISTS = {
    "none": "dead_code_elimination",
    "hoisted": "hoist_weights",
    "optimised": OPTIMISED,
    "fused": "optimize_module,fuse_attention,optimize_module,hoist_weights,"
    "fuse_pointwise_reduce,fuse_epilogue,fuse_concat",
}


@pytest.mark.parametrize("name", LISTS)
def test_the_law_of_weights(name: str) -> None:
    subjects = subjects_for([Pipeline.parse(LISTS[name])], "ref", law=True)
    report = fuzz(subjects, programs=60, seed=len(name), enough=1)
    assert not report.failures, report.failures[0]
    assert report.changed > 10


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_what_is_swapped_in_differs(count: int) -> None:
    values = np.arange(count, dtype=np.float32)
    made = turned(Argument.of(values)).array
    assert not np.array_equal(made, values)
    assert np.array_equal(np.sort(made), values)
