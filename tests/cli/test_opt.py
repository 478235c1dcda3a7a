"""``migx opt``: a pipeline over a model or a case, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

import migx as api
from migx.manager import run_passes
from migx.observers import CrashFile
from migx.passes.dead_code_elimination import DeadCodeElimination
from migx.testing.small import save_model
from tests.cli.conftest import Migx

CASE = """# passes: dead_code_elimination
module main(x: f32[2]) {
  %0 = relu(x) : f32[2]
  %1 = neg(x) : f32[2]
  return %1
}
"""


@pytest.fixture
def case(tmp_path: Path) -> Path:
    path = tmp_path / "case.migx"
    path.write_text(CASE)
    return path


def test_a_case_says_itself_which_passes(migx: Migx, case: Path) -> None:
    result = migx("opt", case)
    assert (result.code, result.err) == (0, "")
    assert "relu" not in result.out
    assert "neg" in result.out
    kept = migx("opt", case, "--passes", "")
    assert "relu" in kept.out


def test_what_is_said_about_passes_goes_to_stderr(migx: Migx, case: Path) -> None:
    result = migx("opt", case, "--time", "--print-after-change", "--verify-each")
    assert [at.name for at in api.parse(result.out).main] == ["@param", "neg", "@return"]
    assert "# after dead_code_elimination" in result.err
    header, row = result.err.splitlines()[-2:]
    assert header.split() == ["pass", "ms", "instructions", "before", "after"]
    assert (row.split()[0], row.split()[2:]) == ("dead_code_elimination", ["4", "3"])


def test_json(migx: Migx, case: Path) -> None:
    found = migx("opt", case, "--json").json
    assert found["changed"]
    (step,) = found["steps"]
    assert (step["pass"], step["before"], step["after"]) == ("dead_code_elimination", 4, 3)
    assert len(api.parse(found["text"]).main) == 3


def test_the_text_can_go_to_a_file(migx: Migx, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.migx"
    result = migx("opt", model, "--passes", "dead_code_elimination", "-o", out)
    assert (result.code, result.out) == (0, "")
    assert api.parse(out.read_text(), folder=tmp_path) == api.parse_onnx(model)


def test_weights_may_be_left_out(migx: Migx, tmp_path: Path) -> None:
    """What passes do to a program whose weights are deferred is traced, and asked about."""
    model = tmp_path / "model.onnx"
    save_model(model)
    (tmp_path / "model.data").unlink()
    words = (model, "--defer-external-weights", "--passes", "hoist_weights")
    assert '@slot() {slot="w1"' in migx("opt", *words).out
    rule = "simplify_algebra.add_lit_broadcast"
    found = migx("why-not", *words[:2], "--rule", rule)
    assert (found.code, "refused" in found.out) == (0, True)


def test_the_file_of_a_crash_fails_again(
    migx: Migx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: object, *_: object) -> bool:
        raise api.MigxError("it does not like this")

    monkeypatch.setattr(DeadCodeElimination, "apply", crash)
    observer = CrashFile(tmp_path)
    with pytest.raises(api.MigxError) as caught:
        run_passes(api.parse(CASE), "dead_code_elimination", [observer])
    (note,) = [note for note in caught.value.__notes__ if note.startswith("reproduce: migx ")]
    assert observer.file is not None
    result = migx("opt", observer.file, "--verify-each")
    assert result.code == 2
    assert result.err.startswith("error: it does not like this\n")
    assert "in pass dead_code_elimination, number 1" in result.err
    words = note.removeprefix("reproduce: migx ").replace("'", "").split()
    assert migx(*words).err == result.err


def test_stopping_behind_the_last_pass_is_said(migx: Migx, case: Path) -> None:
    words = ["opt", case, "--passes", "inline_module,dead_code_elimination", "--stop-after"]
    assert [migx(*words, n).err for n in (1, 2)] == ["", ""]
    assert migx(*words, 99).err == "--stop-after 99: no more than 2 ran\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL"], "say which passes"),
        (["MODEL", "--passes", "fly"], "named 'fly'"),
        (["MODEL", "--passes", "dead_code_elimination{x=1}"], "has no option 'x=1'"),
        (["MODEL", "--passes", "inline_module", "--stop-after", "-1"], "give 0 or more"),
        (["nowhere.migx"], "say which passes"),
        (["nowhere.migx", "--passes", ""], "there is no file nowhere.migx"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str], message: str, migx: Migx, model: Path
) -> None:
    result = migx("opt", *[model if word == "MODEL" else word for word in words])
    assert (result.code, message in result.err) == (2, True)


def test_a_compiled_file_becomes_the_changed_program(migx: Migx, tmp_path: Path) -> None:
    lines = "%0 = identity(x) : f32[2]", "%1 = neg(%0) : f32[2]", "return %1"
    program = api.parse(f"module main(x: f32[2]) {{{' '.join(lines)}}}")
    saved = tmp_path / "p.mxr"
    api.save(program.compile("ref"), saved)
    assert migx("opt", saved, "--passes", "eliminate_identity", "-o", saved).code == 0
    assert [at.name for at in api.load(saved).main] == ["@param", "neg", "@return"]


def test_every_key_of_the_trace_can_be_given_back(migx: Migx, tmp_path: Path) -> None:
    """Matches that look the same, one after another in the same place, have keys with a number."""
    path = tmp_path / "terms.migx"
    path.write_text("""
module main(x: f32[]) {
  %0 = @literal() {value=[1e-15]} : f32[]
  %1 = @literal() {value=[1e-30]} : f32[]
  %2 = @literal() {value=[1e20]} : f32[]
  %3 = mul(x, %0)
  %4 = mul(%3, %1)
  %5 = mul(%4, %2)
  return %5
}
""")
    words = ("opt", path, "--passes", "simplify_algebra", "--trace")
    traced = migx(*words)
    keys = [line.split()[0] for line in traced.err.splitlines() if " simplify_algebra: " in line]
    assert keys[-1].endswith(".2")
    assert migx(*words, "--only", ",".join(keys)).out == traced.out
    assert migx(*words, "--skip", keys[-1]).out != traced.out
