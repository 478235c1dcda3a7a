"""``migx read``: text, statistics, JSON, files; and the mistakes a user can make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import migx as api
from migx.testing import small
from tests.cli.conftest import Migx


def test_the_text_is_the_program(migx: Migx, model: Path) -> None:
    result = migx("read", model)
    assert (result.code, result.err) == (0, "")
    assert api.parse(result.out) == api.parse_onnx(model)


def test_sizes_given_hold_everywhere(migx: Migx, model: Path) -> None:
    result = migx("read", model, "--dim-param", "batch=3")
    assert "x: f32[3, 8]" in result.out
    assert "batch" not in result.out
    named = migx("read", model, "--input-dim", "x=rows,8").out
    assert "f32[rows, 16]" in named


def test_several_sizes_may_be_given_at_once(migx: Migx, tmp_path: Path) -> None:
    case = tmp_path / "two.migx"
    case.write_text("module main(x: f32[n, m]) { %0 = relu(x) return %0 }")
    assert "x: f32[3, 4]" in migx("read", case, "--dim-param", "n=3,m=4").out
    stats = migx("read", case, "--dim-param", "n=1000,m=4", "--stats").out
    assert "a run: 4,000 flops, 32,000 bytes moved\n" in stats
    assert "a run: m*n flops, 8*m*n bytes moved\n" in migx("read", case, "--stats").out


def test_a_long_count_is_shortened(migx: Migx, tmp_path: Path) -> None:
    case = tmp_path / "long.migx"
    case.write_text(
        "module main(x: f32[n, 2], y: f32[m, 9], z: f32[m, k]) "
        "{ %0 = relu(x) %1 = relu(y) %2 = relu(z) "
        "%3 = @literal() {value=[1.0]} : f32[1] %4 = relu(%3) return %0, %1, %2, %4 }"
    )
    stats, whole = (migx("read", case, "--stats", *more) for more in ((), ("--json",)))
    assert whole.json["work"] == {
        "flops": "k*m + 9*m + 2*n + 1",
        "bytes": "8*k*m + 72*m + 16*n + 8",
    }
    assert "a run: k*m + 9*m + 1 + [smaller terms: 1] flops, " in stats.out


def test_statistics(migx: Migx, model: Path) -> None:
    found = migx("read", model, "--stats", "--json").json
    assert found["parameters"] == {"x": "f32[batch, 8]"}
    assert found["outputs"] == {"y": "f32[batch, 16]", "best": "i64[batch]"}
    assert found["symbols"] == {"batch": {"low": 0, "high": None, "optimals": []}}
    assert found["literal_bytes"] == (8 * 16 + 16) * 4
    assert found["instructions"]["softmax"] == 1
    text = migx("read", model, "--stats").out
    assert "dot" in text
    assert "f32[batch, 8]" in text


def test_json_lists_instructions_with_origins_and_hashes(migx: Migx, model: Path) -> None:
    (module,) = migx("read", model, "--json", "--origins", "--hashes").json["modules"]
    (soft,) = [i for i in module["instructions"] if i["operation"] == "softmax"]
    assert soft["origins"] == ["soft"]
    assert soft["attributes"] == {"axis": 1}
    assert module["outputs"]["y"] == soft["name"]
    literals = [i for i in module["instructions"] if i["operation"] == "@literal"]
    assert {len(i["sha256"]) for i in literals} == {64}
    assert 'from "soft"' in migx("read", model, "--origins").out


def test_a_file_is_written_and_read_back(migx: Migx, model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.migx", tmp_path / "b.migx"
    assert migx("read", model, "-o", first).code == 0
    assert migx("read", first, "--output", second).code == 0
    programs = [api.parse(path.read_text(), folder=tmp_path) for path in (first, second)]
    assert programs[0] == programs[1] == api.parse_onnx(model)
    assert {path.suffix for path in tmp_path.iterdir()} == {".migx", ".bin"}


def test_weights_and_what_slots_become_of_them(migx: Migx, tmp_path: Path) -> None:
    model, compiled = tmp_path / "model.onnx", tmp_path / "model.mxr"
    small.save_model(model)
    ways = (model,), (model, "--defer-external-weights")
    rows = [migx("params", *words, "--json").json["weights"] for words in ways]
    assert [{row["kind"] for row in each} for each in rows] == [{"fixed"}, {"deferred"}]
    assert [[row["weight"] for row in each] for each in rows] == [["w1", "b1", "w2", "b2"]] * 2
    line = "w1      f32[8, 16]    512  fixed  model.data at 0    dot (dense1)"
    assert line in migx("params", model).out
    hoisted = migx("read", model, "--weights", "--json").json
    assert [row["slot"] for row in hoisted] == ["w1", "b1", "w2", "b2"]
    assert migx("compile", model, "--target", "ref", "-o", compiled).code == 0
    assert migx("read", compiled, "--weights").out.startswith("no slots: it was compiled with its")
    assert migx("compile", *ways[1], "--target", "ref", "-o", compiled).code == 0
    slots = migx("read", compiled, "--weights", "--json").json
    assert {"slot": "b1", "shape": "f32[16]", "made of": "b1"} in slots
    assert "slot  shape" in migx("read", compiled, "--weights").out


def test_data_that_lies_nowhere_goes_beside_the_text(migx: Migx, tmp_path: Path) -> None:
    case = tmp_path / "case.migx"
    text = """module main() {
  %0 = @literal() {value=sha256("00")} : f32[32]
  return %0
}
"""
    case.write_text(text)
    missing = migx("run", case)
    assert missing.code == 2
    assert "known by its hash alone" in missing.err
    assert migx("read", case, "--draw-missing", 1, "-o", tmp_path / "out.migx").code == 0
    (data,) = tmp_path.glob("out-*.bin")
    assert data.stat().st_size == 128
    assert migx("run", tmp_path / "out.migx").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["read", "nowhere.onnx"], "there is no file nowhere.onnx"),
        (["read", "."], ". is no file"),
        (["read", ""], "argument MODEL: its name is empty"),
        (["read", "MODEL", "-o", ""], "argument -o/--output: its name is empty"),
        (["run", "MODEL", "--inputs", ""], "argument --inputs: its name is empty"),
        (["run", "MODEL", "--weights", ""], "argument --weights: its name is empty"),
        (["read", "a.mxr"], "a.mxr is not an .mxr file"),
        (
            ["read", "MODEL", "-o", "f.txt"],
            "written as text (.migx), with literals (.mxr) or as .onnx",
        ),
        (["read", "a.mxr", "--input-dim", "x=1"], "the dims of a program: --dim-param"),
        (["read", "a.onnx"], "a.onnx is not"),
        (["read", "a.migx"], "a.migx: line 1, column 1: expected 'module'"),
        (["read", "binary.migx"], "binary.migx is no text"),
        (["read", "MODEL", "--dim-param", "batch"], "give a symbol and its size"),
        (["read", "MODEL", "--dim-param", "b=1"], "no dim named 'b'; its inputs have: batch"),
        (["read", "MODEL", "--input-dim", "x=1,,8"], "give a name and its dims"),
        (["read", "MODEL", "--input-dim", "x=-1,8"], "a dim cannot be -1"),
        (["read", "MODEL", "--input-dim", "x=batch*2,8"], "a dim cannot be batch*2: give a number"),
        (["read", "MODEL", "--input-dim", "x=1,8", "--input-dim", "x=2,8"], "x: it is given twice"),
        (["read", "MODEL", "--dim-param", "batch=4", "--dim-param", "batch=5"], "given twice"),
        (
            ["read", "MODEL", "--input-dim", "z=1"],
            "input_dims: there is no input 'z'; the inputs are 'x'",
        ),
        (["read", "a.migx", "--input-dim", "z=1"], "--input-dim is for ONNX files"),
        (["read", "MODEL", "-o", "no/folder.mxr"], "no/folder.mxr: No such file or directory"),
        (["read", "MODEL", "-o", "f.migx", "--json"], "--output writes the program"),
        (["read", "MODEL", "-o", "f.migx", "--weights"], "not with --stats, --json or --weights"),
        (["compile", "MODEL", "-o", "f.bin"], "--output f.bin: compiled programs are .mxr files"),
        (["compile", "MODEL", "--arch", "sm_80"], "target cpu compiles for the machine it runs on"),
        (
            ["perf", "a.migx", "--against", "onnxruntime"],
            "--against onnxruntime needs an ONNX file, not a.migx",
        ),
        (["fuzz", "--seconds", "1", "--save", "a.onnx/f"], "a.onnx is not a writable folder"),
        (["raed", "MODEL"], "there is no verb 'raed'; similar: read"),
        (["--"], "required: VERB"),
        ([], "say what to do; there are: bisect, compile, "),
        (["read", "a" * 5000], f"cannot use {'a' * 5000}: File name too long"),
        (["read", "pipe"], "pipe is no file, but a pipe: `migx ... - < PIPE` reads one"),
        (["run", "MODEL", "--save", "f.txt"], "--save f.txt: outputs are saved in .npz files"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str],
    message: str,
    migx: Migx,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in {
        "a.onnx": b"text", "a.mxr": b"", "a.migx": b"no program", "binary.migx": b"\xff\xfe\0",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    os.mkfifo("pipe")
    result = migx(*[model if word == "MODEL" else word for word in words])
    assert result.code == 2
    assert message in result.err
    assert result.out == ""
    assert "Traceback" not in result.err


def test_slots_of_weights_that_lie_in_the_models_own_file(migx: Migx, model: Path) -> None:
    """All that could be replaced are shown."""
    assert [row["slot"] for row in migx("read", model, "--weights", "--json").json] == ["w", "b"]


def test_a_saved_program_says_what_it_is_compiled_for(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "small.mxr"
    assert migx("compile", model, "-o", saved, "--target", "ref").code == 0
    assert migx("read", saved, "--stats", "--json").json["compiled"] == "ref"
    assert "compiled for ref\n" in migx("read", saved, "--stats").out
    assert "compiled" not in migx("read", model, "--stats").out
