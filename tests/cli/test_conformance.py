"""``migx conformance``: what it counts, what it says of failures, and its exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase

from migx.errors import TargetError
from migx.interpreter import Interpreter
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.program import Program
from migx.target import CompileOptions, Context, Executable, Target
from migx.targets.ref import Ref
from migx.testing import check_conformance, conformance, suite
from migx.testing.conformance import Outcome, outcome
from tests.cli.conftest import Migx

WRONG = '''
import os
from migx.targets.ref import Ref


class Crashing(Ref):
    """As ref, but for three operations."""

    def supports(self, instruction):
        match instruction.name:
            case "floor":
                os.abort()
            case "ceil":
                os._exit(3)
            case "neg":
                raise KeyError("neg")
        return instruction.name != "abs"
'''


class Halting(Ref):
    """As ref, but for relu."""

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        raise TargetError("out of order")


class Choosy(Ref):
    """Has a kernel for nothing but relu."""

    def supports(self, instruction: Instruction) -> bool:
        return instruction.name == "relu"


class Telling(Interpreter):
    """Says itself what runs on the host."""

    def fallbacks(self) -> list[Instruction]:
        return [self.program.main.outputs[0]]


class Outspoken(Choosy):
    """Its executables know better."""

    def make_executable(self, program: Program, context: Context) -> Executable:
        return Telling(program, context)


def test_a_target_is_scored_by_family(migx: Migx) -> None:
    result = migx("conformance", "relu", "--target", "ref", "--family", "elementwise,simple")
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0][:4] == ["family", "cases", "passed", "failed"]
    assert [line[0] for line in lines[1:]] == ["elementwise", "simple", "all"]
    cases, passed, failed, refused, fell_back = map(int, lines[3][1:])
    assert cases == passed > 5
    assert (failed, refused, fell_back) == (0, 0, 0)


def test_what_programs_read_has_every_case(migx: Migx) -> None:
    found = migx("conformance", "test_tanh_example", "bernoulli_seed", "--target", "ref", "--json")
    assert found.code == 1
    told = {case["name"]: case for case in found.json["cases"]}
    assert list(told) == [
        "test_bernoulli_seed",
        "test_bernoulli_seed_expanded",
        "test_tanh_example",
    ]
    assert told["test_tanh_example"]["passed"]
    assert told["test_tanh_example"]["ulp"] < 2
    assert not told["test_bernoulli_seed"]["passed"]
    families = found.json["families"]
    assert families["all"]["cases"] == 3
    assert families["random"]["failed"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "abacus"], "no target named 'abacus'; there are: "),
        (["--family", "elementwize"], "no family 'elementwize'; similar: elementwise"),
        (["teapot", "kettle"], "no case has teapot or kettle in its name"),
        (["--family", "svm"], "no case is of family svm"),
        (["relu", "--family", "real"], "no case of family real has relu in its name"),
        (["--jobs", "0"], "--jobs 0: give 1 or more"),
    ],
)
def test_what_is_not_there_is_said(migx: Migx, words: list[str], said: str) -> None:
    result = migx("conformance", *words)
    assert (result.code, result.out) == (2, "")
    assert re.match(f"error: {said}", result.err)


def test_a_case_that_ends_its_process_fails_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "wrongs/__init__.py": "",
        "wrongs/crashing.py": WRONG,
        "wrongs-1.dist-info/METADATA": "Name: wrongs\nVersion: 1\n",
        "wrongs-1.dist-info/entry_points.txt": "[migx.targets]\nwrongs = wrongs\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)  # where the processes look too
    names = ["test_floor_example", "test_ceil_example", "test_neg_example", "test_abs", "test_tanh"]
    cases = [suite.cases("node")[name] for name in names]
    found = conformance.outcomes(cases, "crashing", jobs=2)
    assert [each.name for each in found] == names
    assert [each.why for each in found] == [
        "it ended the process, by SIGABRT",
        "it ended the process, by exit code 3",
        "KeyError: 'neg'",
        "",
        "",
    ]
    assert [each.worse for each in found] == [True, True, True, False, False]
    assert [each.fallbacks for each in found[3:]] == [("abs",), ()]


def test_the_exit_code_says_whether_ref_does_better(
    migx: Migx, monkeypatch: pytest.MonkeyPatch
) -> None:
    for worse, code in ((True, 1), (False, 0)):
        one = Outcome("node", "test_abs", "it is off", worse=worse, fallbacks=("neg", "neg", "abs"))
        monkeypatch.setattr(conformance, "outcomes", lambda *_, one=one, **__: [one])
        result = migx("conformance", "test_abs", "--target", "cpu")
        assert result.code == code
        title = "fails, though ref passes" if worse else "fails, as on ref"
        assert f"\n{title}:\n  test_abs: it is off\n" in result.out
        assert (
            "elementwise      1       0       1        0            1  2 neg, 1 abs" in result.out
        )


def test_what_fails_on_ref_is_the_fault_of_ref_alone(migx: Migx) -> None:
    for target, code, title in (("ref", 1, "fails"), ("cpu", 0, "fails, as on ref")):
        result = migx("conformance", "test_bernoulli_seed", "--target", target, "--jobs", "1")
        assert result.code == code
        assert f"\n{title}:\n  test_bernoulli_seed: Not equal" in result.out


def test_what_the_target_refuses_fails_and_what_the_reader_refuses_is_no_matter_of_its() -> None:
    case = suite.cases("node")["test_relu"]
    assert outcome(case, Halting()) == Outcome("node", "test_relu", "out of order", worse=True)
    model = onnx.ModelProto()
    model.CopyFrom(suite.loaded(case)[0])
    model.graph.node[0].op_type = "Strange"
    strange = TestCase("test_relu", "x", None, None, model, case.data_sets, "node", 1e-3, 1e-7)
    found = outcome(strange, Choosy())
    assert (found.refused, found.worse, found.passed) == (True, False, False)
    tally = conformance.tallies([found])["all"]
    assert (tally.cases, tally.refused, tally.failed) == (1, 1, 0)


@pytest.mark.parametrize(
    ("target", "fallbacks"), [(Ref(), []), (Choosy(), ["tanh"]), (Outspoken(), ["tanh"])]
)
def test_fallbacks_are_what_the_target_does_not_support(
    target: Target, fallbacks: list[str]
) -> None:
    relu, tanh = (suite.cases("node")[name] for name in ("test_relu", "test_tanh"))
    assert list(outcome(tanh, target).fallbacks) == fallbacks
    assert (outcome(relu, target).fallbacks == ()) == (type(target) is not Outspoken)


def test_a_check_in_a_test_lists_what_fails() -> None:
    assert len(check_conformance("ref", ["test_tanh"])) == 2
    with pytest.raises(AssertionError, match=r"\Atest_bernoulli: Not equal"):
        check_conformance("ref", families=["random"])
    with pytest.raises(AssertionError, match=r"\Atest_tanh_example: out of order\Z"):
        check_conformance(Halting(), ["test_tanh_example"])


def test_every_case_has_a_family() -> None:
    named = {kind: {suite.family(c) for c in suite.cases(kind).values()} for kind in suite.KINDS}
    assert {"elementwise", "control", "functions"} <= named.pop("node")
    assert named == {kind: {kind} for kind in suite.KINDS[1:]}
    cases = suite.cases("node")
    assert suite.family(cases["test_softmax_example_expanded"]) == suite.family(
        cases["test_softmax_example"]
    )
