"""``migx fuzz``: what it prints, what it saves, and its exit codes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from migx.cli import main
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.match import on, var
from migx.ops import Abs, Relu
from migx.rewrite import RuleSet, rule


@rule(on(Abs, var("x")))
def drop(x: Instruction) -> Instruction:
    """Wrong: abs(x) is x."""
    return x


@rule(on(Abs, var("x", lambda _: False)))
def never(x: Instruction) -> Instruction:
    """Asks for what there never is."""
    return x


class Planted(Pass):
    """A wrong rule."""

    rules = drop + drop


class Idle(Pass):
    """A rule that no program fires."""

    rules = RuleSet(never)


class Still(Pass):
    """Has no rules, and changes nothing."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        return False


class Stuck(Pass):
    """Adds a relu above each, for ever."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        found = [i for i in module if i.op.name == "relu"]
        for at in found:
            above = module.insert_instruction(at, Relu(), *at.inputs)
            module.replace_input(at, 0, above)
        return bool(found)


@pytest.fixture
def _planted(found_by_name: Callable[..., None]) -> None:
    """The wrong passes are found by their names."""
    found_by_name(Planted, Stuck, Idle, Still)


def fuzz(*given: object) -> int:
    return main(["fuzz", *map(str, given)])


def test_a_sound_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    assert fuzz("--passes", "eliminate_identity", "--seconds", 0.3, "--save", folder) == 0
    out = capsys.readouterr().out
    assert "a second" in out
    assert "submodules" in out
    assert "1 of 1 rules fired" in out
    assert not folder.exists()


@pytest.mark.usefixtures("_planted")
def test_a_wrong_rule_is_saved_as_a_case(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert fuzz("--passes", "planted", "--seconds", 1, "--save", tmp_path, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    failure = found["failures"][0]
    assert failure["oracle"] == "same outputs"
    path = Path(failure["file"])
    assert path.read_text().startswith("# passes: planted\nmodule main(")
    assert len(path.read_text().splitlines()) <= 6
    assert path.with_suffix(".npz").exists()
    assert found["rules_fired"]["planted.drop"] > 0
    assert main(["opt", str(path)]) == 0
    capsys.readouterr()
    assert failure["command"] == f"migx bisect {path}"
    assert main(shlex.split(failure["command"])[1:]) == 0
    told = capsys.readouterr()
    assert told.err == f"inputs: {path.with_suffix('.npz')}\n"
    assert "planted.drop" in told.out or "planted: drop" in told.out
    assert main(["verify", str(path)]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.usefixtures("_planted")
def test_a_pass_that_never_ends_its_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert fuzz("--passes", "stuck", "--seconds", 1, "--save", tmp_path) == 1
    assert "idempotent: stuck changes something when run again" in capsys.readouterr().out


@pytest.mark.usefixtures("_planted")
@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--every-rule"], 1)])
def test_rules_that_never_fire(
    flags: list[str], code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert fuzz("--passes", "idle", "--seconds", 0.3, "--save", tmp_path, *flags) == code
    assert "never fired: idle.never\n" in capsys.readouterr().out


@pytest.mark.usefixtures("_planted")
@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--every-rule"], 1)])
def test_a_pass_that_changes_nothing(
    flags: list[str], code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert fuzz("--passes", "still", "--seconds", 0.3, "--save", tmp_path, *flags) == code
    assert "changed nothing: still\n" in capsys.readouterr().out
    assert fuzz("--passes", "still", "--seconds", 0.3, "--save", tmp_path, *flags, "--json") == code
    assert json.loads(capsys.readouterr().out)["passes_idle"] == ["still"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--passes", "nothing"], "no pass named 'nothing'; there are: "),
        (["--target", "nothing"], "no target named 'nothing'; there are: "),
    ],
)
def test_mistakes(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz(*given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("_planted")
def test_a_folder_that_cannot_be_written_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "file"
    there.touch()
    for folder in (there, there / "below"):
        assert fuzz("--passes", "planted", "--seconds", 1, "--save", folder) == 2
        told = f"--save {folder}: {there} is not a writable folder"
        assert told in capsys.readouterr().err
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert fuzz("--passes", "planted", "--seconds", 1, "--save", tmp_path / "new") == 1
    out = capsys.readouterr().out
    assert f"cannot write {tmp_path / 'new'}: disk is full" in out
    assert "FAILED planted, seed" in out


def refuse(*_: object, **__: object) -> None:
    """Makes no folder."""
    raise OSError(28, "disk is full")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_no_time_at_all(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fuzz("--seconds", seconds)
    assert f"--seconds: give seconds above 0, not {seconds}\n" in capsys.readouterr().err


def test_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz("--target", "ref", "--seconds", 0.3) == 0
    said = capsys.readouterr().out
    assert "programs of" in said
    assert "were changed" not in said
