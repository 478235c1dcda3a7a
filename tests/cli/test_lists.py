"""The verbs that list what there is, and the command line as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from migx import __version__, cli, plugins
from migx.cli import _report
from tests.cli.conftest import Migx


def test_every_verb_explains_itself(migx: Migx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert {"read", "run", "verify", "opt", "passes", "ops", "targets", "onnx"} <= {*cli.verbs()}
    text = migx("--help").out
    for verb in cli.verbs():
        assert f"\n    {verb}" in text
        shown = migx(verb, "--help")
        assert (shown.code, "--json" in shown.out) == (0, True)
        assert max(map(len, shown.out.splitlines())) <= 70
    assert migx("--version").out == f"migx {__version__}\n"


@pytest.mark.parametrize(
    ("verb", "name", "what"),
    [
        ("passes", "dead_code_elimination", "options"),
        ("ops", "convolution", "attributes"),
        ("targets", "ref", "options"),
    ],
)
def test_lists_show_all_and_one(verb: str, name: str, what: str, migx: Migx) -> None:
    listed = migx(verb, "--json").json
    (entry,) = [e for e in listed if e["name"] == name]
    assert entry == migx(verb, name, "--json").json
    assert entry["doc"].splitlines()[0] in migx(verb, name).out
    assert name in migx(verb).out
    assert isinstance(entry[what], list)


def test_a_target_lists_what_it_has_for_itself(migx: Migx) -> None:
    own = migx("targets", "gpu", "--json").json["own"]
    assert own["passes"] == ["gpu::lower"]
    assert {"gpu::allocate", "gpu::copy_to"} <= {*own["operations"]}
    assert "passes of its own: gpu::lower\n" in migx("targets", "gpu").out
    for verb, names in (("passes", own["passes"]), ("ops", own["operations"])):
        for name in names:
            assert migx(verb, name).out.startswith(f"{name}  (migx.targets.gpu.")
    assert "of its own" not in migx("targets", "cpu").out


def test_the_last_column_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("relu", 1, "one two three four five six"), ("add", 12, "seven")]
    whole = ["name   n  what", "relu   1  one two three four five six", "add   12  seven"]
    assert _report.table(("name", "n", "what"), rows).splitlines() == whole
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    folded = [whole[0], "relu   1  one two three four", "          five six", whole[2]]
    assert _report.table(("name", "n", "what"), rows).splitlines() == folded
    monkeypatch.setenv("COLUMNS", "20")
    assert _report.table(("name", "n", "what"), rows).splitlines() == whole


def test_attributes_have_types_and_defaults(migx: Migx) -> None:
    found = migx("ops", "convolution", "--json").json["attributes"]
    assert {"name": "group", "type": "int", "default": "1"} in found
    assert "required" in migx("ops", "transpose").out
    assert "traits: pointwise, commutative" in migx("ops", "add").out
    assert "view of input 0" in migx("ops", "transpose").out
    assert len(migx("ops", "--json").json) == len(plugins.operations())


def test_onnx_operators_have_versions(migx: Migx) -> None:
    (softmax,) = migx("onnx", "Softmax", "--json").json
    assert (softmax["domain"], softmax["since"]) == ("ai.onnx", [1, 13])
    assert any(e["domain"] == "com.microsoft" for e in migx("onnx", "--json").json)
    assert migx("onnx", "ai.onnx.Softmax", "--json").json == [softmax]
    (product,) = migx("onnx", "com.microsoft.MatMulNBits", "--json").json
    assert (product["domain"], product["name"]) == ("com.microsoft", "MatMulNBits")
    assert "MatMul" in migx("onnx").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["passes", "fly"], "named 'fly'; there are: "),
        (["passes", "SimplifyAlgebra"], "similar: simplify_algebra, "),
        (["ops", "convlution"], "similar: convolution"),
        (["ops", "Relu"], "similar: relu, "),
        (["targets", "abacus"], "there are: "),
        (["onnx", "Softmx"], "similar: Softmax"),
    ],
)
def test_an_unknown_name_lists_the_known(words: list[str], message: str, migx: Migx) -> None:
    result = migx(*words)
    assert (result.code, message in result.err) == (2, True)


def test_a_reader_that_has_enough_is_no_error() -> None:
    """``python -m migx ops | head -1``."""
    root = str(Path(cli.__file__).parent.parent.parent)
    with subprocess.Popen(
        [sys.executable, "-m", "migx", "ops"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_an_interruption_is_said_in_a_word(migx: Migx, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(kind: str) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(plugins, "names", interrupted)
    result = migx("passes")
    assert (result.code, result.err) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("targets >&-", 0, ""),
        ("targets 2>&-", 0, ""),
        ("run nowhere.onnx 2>&-", 2, ""),
        ("targets > /dev/full", 2, "error: cannot write the output: No space left on device\n"),
    ],
)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
def test_output_that_cannot_be_written(command: str, code: int, told: str) -> None:
    words = ["sh", "-c", f"{sys.executable} -m migx {command}"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (code, told)


def test_a_name_that_the_output_cannot_encode_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "x.migx").write_text("module main(x: f32[2]) { return x }\n", "utf-8")
    command = "-m migx compile x.migx --target ref -o ö.mxr"
    env = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(cli.__file__).parent.parent.parent)}
    words = [sys.executable, *command.split()]
    found = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | env, cwd=tmp_path, check=False
    )
    assert (found.returncode, "\\xf6.mxr:" in found.stdout) == (0, True), found.stderr


def test_bytes_are_told_in_the_unit_they_are_read_in() -> None:
    counts = (1, 848, 13_500, 1_327_410_000)
    expected = ["1 byte", "848 bytes", "13.50 kB", "1,327.41 MB"]
    assert [_report.in_bytes(count) for count in counts] == expected
