"""The networks that ship in the onnx package without their weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import migx
from benchmarks.conformance import page
from migx.testing import conformance, suite

EQUAL = "test_squeezenet"
"""Its logits are equal and near 1e10, so the last bit of each decides its probability, and BLAS may
round equal rows differently, depending on their position.
"""


@pytest.mark.parametrize("name", sorted({*suite.cases("real")} - {EQUAL}))
def test_a_network(name: str) -> None:
    outcome = conformance.outcome(suite.cases("real")[name])
    assert outcome.why == ""
    assert page.rows(page.PAGE.read_text("utf-8"))[name] == "pass"


def test_a_network_of_equal_logits() -> None:
    model, ((given, _),) = suite.loaded(suite.cases("real")[EQUAL])
    program = migx.parse_onnx(model)
    logits, of = next(pair for pair in pairwise(program.main) if pair[1].name == "softmax")
    assert of.inputs == (logits,)
    program.main.add_return(logits, names=["logits"])
    (found,) = program.compile("ref").eval(dict(zip(program.main.parameters, given, strict=True)))
    terms = 512 + 13 * 13  # of the last convolution, and of the mean over its result
    np.testing.assert_allclose(found, found[0, 0], rtol=2 * terms * float(np.finfo(np.float32).eps))
