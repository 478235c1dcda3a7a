"""The backend protocol, and through it the suite that ships in the onnx package: what passes, what
is known not to, and the page that says so.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case.test_case import TestCase

from benchmarks.conformance import page
from migx import backend
from migx.errors import InputError, OnnxError, UnknownName
from migx.testing import suite
from migx.testing.conformance import Outcome, outcome
from tests.onnx.build import model_of

PARTS = 8
QUICK = suite.KINDS[:-1]  # networks have a file of their own
ADD = "main (float[n] x, float[n] y) => (float[n] z) { z = Add(x, y) }"
ONES = np.ones(3, np.float32)


@cache
def said() -> dict[str, str]:
    return page.rows(page.PAGE.read_text("utf-8"))


@pytest.mark.filterwarnings("ignore:If .* is of one element, of rank:migx.errors.DataWarning")
@pytest.mark.parametrize("part", range(PARTS))
def test_the_suite(part: int) -> None:
    names = [(kind, name) for kind in QUICK for name in suite.cases(kind)]
    outcomes = [outcome(suite.cases(kind)[name]) for kind, name in names[part::PARTS]]
    assert page.unexpected(outcomes) == [], (
        "python -m benchmarks.conformance --accept takes it over"
    )
    results = {o.name: page.verdict(o).partition(":")[0] for o in outcomes}
    shown = {name: said().get(name, "nothing").partition(":")[0] for name in results}
    assert shown == results, "run make conformance"


def test_the_suite_is_the_one_the_page_is_about() -> None:
    counts = [len(suite.cases(kind)) for kind in suite.KINDS]
    assert counts == [1884, 23, 82, 35, 9]
    names = {name for kind in suite.KINDS for name in suite.cases(kind)}
    assert said().keys() == names
    assert page.failures().keys() <= names


def case(model: onnx.ModelProto, wanted: Any) -> TestCase:
    sets = [([ONES, ONES], [wanted])]
    return TestCase("test_x", "x", None, None, model, sets, "node", 1e-3, 1e-7)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (ONES + ONES, ""),
        ((ONES + ONES).astype(np.float64), "the outputs are float32, not float64"),
        (ONES, "Not equal to tolerance"),
        (np.ones(2, np.float32), "incorrect shape"),
        ([ONES + ONES], "the outputs are float32, not [float32]"),
        (None, "the outputs are float32, not none"),
    ],
)
def test_a_result_that_is_not_the_one_wanted_fails(wanted: Any, why: str) -> None:
    found = outcome(case(model_of(ADD), wanted))
    assert found.passed == (not why)
    assert why in found.why


def test_a_surprise_is_told_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "failures", lambda: {"test_good": "?", "test_bad": "?"})
    outcomes = [Outcome("node", "test_good"), Outcome("node", "test_bad", "x")]
    assert page.unexpected(outcomes) == ["test_good passes, but is in failures.json"]
    assert page.unexpected([Outcome("node", "test_new", "y")]) == ["test_new fails: y"]


def test_errors_in_units_in_the_last_place() -> None:
    one = np.array([1.0, np.inf, np.nan], np.float32)
    assert suite.ulps(one, one) == 0
    assert suite.ulps(one, np.nextafter(one, np.float32(2))) == 1
    assert suite.ulps(np.array([3]), np.array([4])) is None
    half = np.array([1.0], ml_dtypes.bfloat16)
    assert suite.ulps([half], [np.nextafter(half, ml_dtypes.bfloat16(2))]) == 1


def test_a_model_runs_by_place_by_name_and_once() -> None:
    prepared = backend.prepare(model_of(ADD), "REF")
    assert prepared.inputs == ["x", "y"]
    for given in ([ONES, 2 * ONES], {"x": ONES, "y": 2 * ONES}):
        outputs: Any = prepared.run(given)
        np.testing.assert_array_equal(outputs["z"], 3 * ONES)
        assert outputs.z is outputs[0]
    (once,) = backend.run_model(model_of(ADD), [ONES, ONES])
    np.testing.assert_array_equal(once, 2 * ONES)
    with pytest.raises(InputError, match=r"1 input for the 2 inputs x, y"):
        prepared.run([ONES])


def test_a_node_runs_at_an_opset() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"])
    x = np.zeros((1, 2, 2), np.float32)
    np.testing.assert_array_equal(backend.run_node(node, [x], opset_version=11)[0], x + 0.25)
    np.testing.assert_array_equal(backend.run_node(node, [x])[0], x + 0.5)
    with pytest.raises(InputError, match=r"0 inputs for the inputs x"):
        backend.run_node(node, [])


def test_devices_are_targets() -> None:
    assert backend.supports_device("REF")
    assert not backend.supports_device("abacus")
    with pytest.raises(
        UnknownName, match=r"no device 'abacus'; the devices are the targets: .*ref"
    ):
        backend.prepare(model_of(ADD), "abacus")


def test_what_can_be_read_is_compatible() -> None:
    strange = model_of("main (float[n] x) => (float[n] y) { y = Strange(x) }")
    assert backend.is_compatible(model_of(ADD))
    assert not backend.is_compatible(strange)
    with pytest.raises(OnnxError, match=r"Strange version 18"):
        backend.prepare(strange)


@pytest.mark.parametrize(
    ("code", "dtype", "values"),
    [
        (TensorProto.INT4, ml_dtypes.int4, [-8, 7, 1]),
        (TensorProto.UINT4, ml_dtypes.uint4, [0, 15, 1]),
        (TensorProto.INT2, ml_dtypes.int2, [-2, 1, 0]),
        (TensorProto.UINT2, ml_dtypes.uint2, [3, 1, 0]),
        (TensorProto.FLOAT4E2M1, ml_dtypes.float4_e2m1fn, [0.5, -6, 1]),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16, [0.5, -6, 1]),
        (TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2, [0.5, -6, 1]),
    ],
)
def test_narrow_values_go_in_and_come_out(code: int, dtype: Any, values: list[float]) -> None:
    x, y = (helper.make_tensor_value_info(name, code, [3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    given = np.array(values, dtype)
    (got,) = backend.run_model(model, [given])
    assert got.dtype == given.dtype
    assert got.tolist() == values
