"""``migx run``: inputs drawn or given, outputs summarised and saved."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import migx as api
from migx import Module
from migx.debug.input_values import held
from migx.errors import ShapeError
from migx.manager import Pass, PassManager
from migx.testing import small
from tests.cli.conftest import Migx


def test_inputs_are_drawn_from_a_seed_with_the_sizes_said(migx: Migx, model: Path) -> None:
    first, again, other = (migx("run", model, "--json", "--seed", s).json for s in (1, 1, 2))
    assert first["sizes"] == {"batch": 1}
    assert first["outputs"] == again["outputs"] != other["outputs"]
    y, best = first["outputs"]
    assert (y["name"], y["shape"], best["shape"]) == ("y", "f32[1, 16]", "i64[1]")
    assert y["mean"] == pytest.approx(1 / 16)
    assert 0 <= y["min"] <= y["first"][0] <= y["max"] <= 1
    text = migx("run", model).out
    assert "inputs drawn from seed 0, with batch=1" in text
    assert "ran in" in text


def test_arrays_go_in_and_come_out(migx: Migx, model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8), np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    out = tmp_path / "out.npz"
    found = migx("run", model, "--inputs", tmp_path / "in.npz", "--save", out, "--json").json
    assert (found["seed"], found["sizes"]) == (None, {})
    y, best = api.parse_onnx(model).compile("cpu").eval({"x": x})
    with np.load(out) as saved:
        np.testing.assert_array_equal(saved["y"], y)
        np.testing.assert_array_equal(saved["best"], best)
    assert not list(tmp_path.glob(".*")), "nothing temporary is left"


PAIR = """module main(x: tuple(f32[n, 4], f32[n])) {
  %0 = get_tuple_elem(x)
  %1 = get_tuple_elem(x) {index=1}
  %2 = unsqueeze(%1) {axes=(1,)}
  %3 = multibroadcast(%2) {out_lens=(n, 4)}
  %4 = add(%0, %3)
  return %4, x
}
"""


def test_members_of_tuples_have_names(migx: Migx, tmp_path: Path) -> None:
    model, given, out = (tmp_path / name for name in ("pair.migx", "in.npz", "out.npz"))
    model.write_text(PAIR)
    a, b = np.ones((3, 4), np.float32), np.arange(3, dtype=np.float32)
    np.savez(given, allow_pickle=False, **{"x[0]": a, "x[1]": b})
    found = migx("run", model, "--inputs", given, "--save", out, "--json").json
    assert [y["name"] for y in found["outputs"]] == ["output_0", "output_1[0]", "output_1[1]"]
    with np.load(out) as saved:
        assert saved["output_0"].tolist() == (a + b[:, None]).tolist()
        assert saved["output_1[1]"].tolist() == [0, 1, 2]
    assert migx("verify", model, "--target", "cpu", "--inputs", given).out.count("PASS") == 2
    assert (
        migx("run", model, "--dim-param", "n=2", "--json").json["outputs"][2]["shape"] == "f32[2]"
    )
    np.savez(given, allow_pickle=False, **{"x[0]": a})
    assert "input 'x[1]' is no array" in migx("run", model, "--inputs", given).err


def test_it_runs_as_often_as_is_said(migx: Migx, model: Path) -> None:
    found = migx("run", model, "--repeat", 3, "--json").json
    assert len(found["seconds"]["runs"]) == 3
    assert "of 3 runs from" in migx("run", model, "--repeat", 3).out


def test_sizes_are_bound_before_the_run(migx: Migx, model: Path) -> None:
    found = migx("run", model, "--dim-param", "batch=5", "--json").json
    assert found["outputs"][0]["shape"] == "f32[5, 16]"
    assert found["sizes"] == {}
    shaped = migx("run", model, "--input-dim", "x=2,8", "--json").json
    assert shaped["outputs"][1]["shape"] == "i64[2]"


def test_a_compiled_file_runs_as_it_is_at_the_sizes_given(
    migx: Migx, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "small.mxr"
    assert migx("compile", model, "-o", saved).code == 0
    bound = migx("run", saved, "--dim-param", "batch=3", "--passes", "", "--json").json
    monkeypatch.delattr(api.Program, "compile")
    for verb in ("run", "perf"):
        found = migx(verb, saved, "--dim-param", "batch=3", "--json").json
        assert found["sizes"] == {"batch": 3}
    found = migx("run", saved, "--dim-param", "batch=3", "--json").json
    assert [y["shape"] for y in found["outputs"]] == [y["shape"] for y in bound["outputs"]]
    result = migx("run", saved, "--dim-param", "height=3")
    assert (result.code, "no dim named 'height'; its inputs have: batch" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("program", "sizes"),
    [
        (
            "(x: f32[b, h, w]) { %0 = slice(x) {axes=(1,), starts=(5,), ends=(h,)} return %0 }",
            {"b": 1, "h": 8, "w": 1},
        ),
        (
            """(mask: bool[total], past: f32[past, 2]) {
              %0 = dim_literal() {values=(past,), lens=(1,)}
              %1 = gather(mask, %0) {axis=0}
              return %1, past
            }""",
            {"total": 2, "past": 1},
        ),
        (
            """(x: f32[h, w], y: f32[4, 4]) {
              %0 = concat(x, y) {axis=0}
              %1 = concat(x, y) {axis=1}
              return %0, %1
            }""",
            {"h": 4, "w": 4},
        ),
        (
            """(x: f32[b, w], y: f32[v, 3], z: f32[1575, 3]) {
              %0 = dot(x, z)
              %1 = slice(y) {axes=(0,), starts=(5,), ends=(v,)}
              return %0, %1
            }""",
            {"b": 1, "v": 8, "w": 1575},
        ),
        (
            """(x: f32[b, 3]) {
              %0 = dim_literal() {values=(b,), lens=()}
              %1 = @literal() {value=[1]} : i64[]
              %2 = equal(%0, %1)
              %3 = assume(x, %2) {expected=false}
              return %3
            }""",
            {"b": 2},
        ),
    ],
)
def test_sizes_are_such_as_the_program_takes(
    program: str, sizes: dict[str, int], migx: Migx, tmp_path: Path
) -> None:
    case = tmp_path / "case.migx"
    case.write_text(f"module main{program}\n")
    result = migx("run", case, "--json")
    assert result.code == 0, result.err
    assert result.json["sizes"] == sizes
    given = migx("run", case, "--json", "--dim-param", f"{min(sizes)}={sizes[min(sizes)]}")
    assert given.json["sizes"] == {k: v for k, v in sizes.items() if k != min(sizes)}


LOOKED_UP = """module main(ids: i64[n, 3], kind: i32[], mask: i64[n]) {
  %0 = @literal() {value=[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]} : f32[7]
  %1 = unsqueeze(ids) {axes=(2,)}
  %2 = gather(%0, %1) {axis=0}
  %3 = @literal() {value=[5, 9]} : i32[2]
  %4 = multibroadcast(kind) {out_lens=(2,)}
  %5 = equal(%3, %4)
  %6 = neg(mask)
  return %2, %5, %6
}
"""


def test_integers_are_such_as_the_program_reads_them(migx: Migx, tmp_path: Path) -> None:
    """Indices of the whole table, one of the constants, and a mask of 0 and 1."""
    case, out = tmp_path / "case.migx", tmp_path / "out.npz"
    case.write_text(LOOKED_UP)
    assert migx("run", case, "--dim-param", "n=40", "--target", "ref", "--save", out).code == 0
    looked_up, equal, mask = np.load(out).values()
    assert {*looked_up.reshape(-1)} == {-1, -2, -3, -4, -5, -6, -7}
    assert equal.sum() == 1
    assert {*mask} == {0, -1}


@pytest.mark.parametrize(
    ("reads", "wanted"),
    [
        ("%0 = gather(t, i) {axis=0} %1 = gather(t, i) {axis=1}", range(3)),
        ("%0 = gather(none, i) {axis=0} %1 = neg(x)", (0, 1)),
        ("%0 = gather(t, i) {axis=0} %1 = neg(i)", (0, 1)),
        ("%0 = gather(x, i) {axis=0} %1 = neg(x)", (0, 1)),
        ("%0 = equal(i, i) %1 = neg(x)", (0, 1)),
        ("%0 = neg(x) %1 = neg(t)", (0, 1)),
    ],
)
def test_integers_that_are_read_otherwise_are_0_and_1(reads: str, wanted: Sequence[int]) -> None:
    """Or where a table has no rows, or as many as a symbol says."""
    parameters = "i: i64[2], t: f32[5, 3], none: f32[0], x: f32[n]"
    program = api.parse(f"module main({parameters}) {{ {reads} return %0, %1 }}")
    assert held(program) == {"i": wanted}


def test_what_a_file_of_inputs_lacks_is_drawn_to_fit(migx: Migx, tmp_path: Path) -> None:
    case, given, out = (tmp_path / name for name in ("case.migx", "in.npz", "out.npz"))
    case.write_text("module main(x: f32[n], y: f32[n]) { %0 = add(x, y) return %0 }")
    np.savez(given, x=np.full(5, 1e6, np.float32))
    result = migx("run", case, "--inputs", given, "--save", out, "--target", "ref")
    said = f"note: drawn from seed 0, as {given} lacks them: y\n"
    assert (result.code, result.err) == (0, said)
    (sums,) = np.load(out).values()
    assert sums.shape == (5,)
    assert 0 < abs(sums - 1e6).max() < 10
    np.savez(given, x=np.zeros((5, 2), np.float32))
    result = migx("run", case, "--inputs", given)
    assert (result.code, "input 'x' is f32[5, 2]" in result.err) == (2, True)


def test_sequences_and_what_optionals_hold_are_drawn(migx: Migx, tmp_path: Path) -> None:
    case, out = tmp_path / "case.migx", tmp_path / "out.npz"
    case.write_text(
        """module main(x: sequence(f32[varies, 3]), y: optional(f32[varies, 1])) {
  %0 = concat_from_sequence(x) {output=f32[k, 3], axis=0}
  %1 = optional_get_element(y) {output=f32[n, 1]}
  return %0, %1
}
"""
    )
    result = migx("run", case, "--save", out)
    assert (result.code, result.err) == (0, "")
    whole, held = np.load(out).values()
    assert (whole.shape, held.shape) == ((4, 3), (2, 1))
    assert len(np.unique(whole)) == whole.size
    case.write_text("module main(x: map(i64[varies], f32[varies])) { return x }")
    result = migx("run", case)
    said = "no values can be drawn for input 'x', map(i64[varies], f32[varies]): give it in Python"
    assert (result.code, said in result.err) == (2, True)


def test_inputs_are_filled_with_one_number(migx: Migx, tmp_path: Path) -> None:
    case, given, out = (tmp_path / name for name in ("case.migx", "in.npz", "out.npz"))
    case.write_text("module main(x: f32[n], y: f32[n], i: i64[n], b: bool[]) { return x, y, i, b }")
    np.savez(given, y=np.arange(2, dtype=np.float32))
    words = ["--fill", "x=0.5", "--fill", "i=-3", "--fill", "b=1", "--save", out]
    result = migx("run", case, "--inputs", given, *words)
    assert (result.code, result.err) == (0, "")
    found = [each.tolist() for each in np.load(out).values()]
    assert found == [[0.5, 0.5], [0.0, 1.0], [-3, -3], True]
    result = migx("run", case, "--fill", "i=7", "--dim-param", "n=3", "--json")
    assert [v["first"] for v in result.json["outputs"] if v["name"] == "output_2"] == [[7, 7, 7]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x=1", "x=2"], "--fill 'x=2': input 'x' is given twice"),
        (["1"], "--fill '1': give an input and the value of its elements, such as mask=1; the in"),
        (["y=1"], "the inputs are x, i, h, q"),
        (["x=one"], "--fill 'x=one': 'one' cannot be an element of f32[2]"),
        (["i=300"], "--fill 'i=300': '300' cannot be an element of u8[]"),
        (["i=0.5"], "--fill 'i=0.5': '0.5' cannot be an element of u8[]"),
        (["h=70000"], "--fill 'h=70000': '70000' cannot be an element of f16[]"),
        (["q=inf"], "--fill 'q=inf': 'inf' cannot be an element of f8e4m3fn[]"),
    ],
)
def test_what_inputs_cannot_be_filled_with(
    migx: Migx, tmp_path: Path, words: list[str], message: str
) -> None:
    case = tmp_path / "case.migx"
    inputs = "x: f32[2], i: u8[], h: f16[], q: f8e4m3fn[]"
    case.write_text(f"module main({inputs}) {{ return x, i, h, q }}")
    result = migx("run", case, *(each for word in words for each in ("--fill", word)))
    assert (result.code, message in result.err) == (2, True)


def test_what_fails_to_compile_has_nothing_to_do_with_the_inputs(
    migx: Migx, model: Path, found_by_name: Callable[..., None]
) -> None:
    class Fails(Pass):
        """Refuses every program."""

        def apply(self, module: Module, manager: PassManager) -> bool:
            raise ShapeError("not this one")

    found_by_name(Fails)
    result = migx("run", model, "--passes", "fails")
    assert result.err.startswith("error: not this one\nreproduce: migx opt ")
    assert "inputs were drawn" not in result.err


def test_types_numpy_has_no_name_for_pass_through_files(migx: Migx, tmp_path: Path) -> None:
    case = tmp_path / "case.migx"
    case.write_text("module main(x: bf16[2]) {\n  %0 = neg(x) : bf16[2]\n  return y=%0\n}\n")
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(first, x=np.array([0x3F80, 0xC000], "<u2").view("V2"))  # 1 and -2
    assert migx("run", case, "--inputs", first, "--save", second).code == 0
    with np.load(second) as saved:
        assert saved["y"].view("<u2").tolist() == [0xBF80, 0x4000]


def test_what_is_not_finite_is_counted(migx: Migx, tmp_path: Path) -> None:
    case = tmp_path / "case.migx"
    case.write_text(
        "module main() {\n  %0 = @literal() {value=[1.0, nan, -inf]} : f32[3]\n  return %0\n}\n"
    )
    (found,) = migx("run", case, "--json").json["outputs"]
    assert found["first"] == [1.0, "nan", "-inf"]
    assert (found["not finite"], found["max"]) == (2, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--inputs", "nowhere.npz"], "cannot read nowhere.npz"),
        (["--inputs", "text.npz"], "text.npz is no .npz file"),
        (["--inputs", "one.npy"], "one.npy is no .npz file"),
        (
            ["--inputz", "one.npy"],
            "migx run: error: unrecognized arguments: --inputz one.npy; similar: --inputs",
        ),
        (["--stats"], "unrecognized arguments: --stats; --stats is for `migx read`\n"),
        (["--zzz"], "unrecognized arguments: --zzz\n"),
        (["--inputs", "wrong.npz"], "there is no input 'z'; the inputs are x: f32[batch, 8]"),
        (["--target", "abacus"], "named 'abacus'; there are: "),
        (["--passes", "fly"], "named 'fly'; there are: "),
        (["--save", "no/folder.npz"], "cannot write no/folder.npz"),
        (["--repeat", "0"], "give 1 or more"),
        (["--repeat", "x"], "invalid int value"),
        (["--seed", "-1"], "--seed -1: seeds are 0 or greater"),
        (
            ["--dim-param", "batch=99999999999"],
            "input 'x', f32[99999999999, 8], takes 3,200 GB, and this machine has",
        ),
        (
            ["--activations", "int8"],
            "small.onnx has none: `migx compile --int4-weights` or --int8-weights makes them",
        ),
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
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "wrong.npz", z=np.zeros(2))
    np.save(tmp_path / "one.npy", np.zeros(2))
    result = migx("run", model, *words)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_sizes_that_do_not_fit_are_named(migx: Migx, odd_model: Path) -> None:
    result = migx("run", odd_model, "--dim-param", "nx=2", "--dim-param", "ny=3")
    assert (result.code, "with nx=2, ny=3" in result.err) == (2, True)
    result = migx("run", odd_model, "--input-dim", "x=2,2")
    assert "rank 1, not 2" in result.err


def test_a_size_that_one_branch_refuses(migx: Migx, tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (bool c, float[n, m] x) => (float[n, m] y) { y = If(c) <
            then_branch = whole () => (float[n, m] a) { a = Neg(x) },
            else_branch = row () => (float[n, m] b) <int64[1] axes = {0}> {
                s = Squeeze(x, axes)
                b = Unsqueeze(s, axes)
            }>
        }"""
    path = tmp_path / "branches.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "in.npz", c=True, x=x)
    for given in (("--dim-param", "n=3", "--dim-param", "m=2"), ("--input-dim", "x=3,2")):
        found = migx("run", path, *given, "--inputs", tmp_path / "in.npz", "--json").json
        assert found["outputs"][0]["min"] == -5.0
    read = migx("read", path, "--dim-param", "n=3").out
    assert "module main(c: bool[], x: f32[3, m])" in read
    assert "if(" not in read


class Input:
    """Standard input that holds some bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_a_model_comes_from_standard_input(
    migx: Migx, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = migx("read", model).out
    saved = tmp_path / "model.mxr"
    assert migx("compile", model, "-o", saved).code == 0
    wanted = migx("run", model, "--json").json["outputs"]
    for content in (model.read_bytes(), saved.read_bytes()):
        monkeypatch.setattr(sys, "stdin", Input(content))
        assert migx("run", "-", "--json").json["outputs"] == wanted
    monkeypatch.setattr(sys, "stdin", Input(f"# passes: eliminate_identity\n{text}".encode()))
    assert migx("opt", "-").out == text
    bounded = f"dim batch = 1..64\n\n{text}"
    monkeypatch.setattr(sys, "stdin", Input(f"\n  # bounded\n{bounded}".encode()))
    assert migx("read", "-").out == bounded


def test_what_a_model_from_standard_input_names_lies_in_the_current_folder(
    migx: Migx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small.save_model(Path("model.onnx"))
    wanted = migx("run", "model.onnx", "--json").json["outputs"]
    monkeypatch.setattr(sys, "stdin", Input((tmp_path / "model.onnx").read_bytes()))
    assert migx("run", "-", "--json").json["outputs"] == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "there is no model in standard input"), (b"hello", "is not an ONNX model")],
)
def test_no_model_comes_from_standard_input(
    content: bytes, message: str, migx: Migx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Input(content))
    result = migx("run", "-")
    assert (result.code, message in result.err) == (2, True)


@pytest.mark.parametrize("words", [["--target", "ref"], ["--passes", "fuse_int4"], ["--fast-math"]])
def test_weights_are_not_listed_for_a_target_that_nothing_is_compiled_for(
    words: list[str], migx: Migx, model: Path
) -> None:
    result = migx("params", model, *words)
    assert (result.code, "say how --layouts compiles: give it too" in result.err) == (2, True)
    assert migx("params", model, "--layouts", *words).code == 0


def test_floats_of_a_file_are_converted_to_the_types_of_the_model(
    migx: Migx, tmp_path: Path
) -> None:
    model, given = tmp_path / "m.migx", tmp_path / "in.npz"
    for dtype in ("f16", "bf16", "f64"):
        model.write_text(f"module main(x: {dtype}[2], n: i64[1]) {{ %0 = neg(x) return %0, n }}\n")
        np.savez(given, x=np.array([0.5, 1e9], np.float32), n=np.array([3]))
        found = migx("run", model, "--inputs", given, "--json")
        assert found.code == 0, found.err
        assert "note: converted to the model's types: x\n" in found.err
        first = found.json["outputs"][0]["first"]
        assert first[0] == -0.5
        assert (first[1] == "-inf") == (dtype == "f16")
    np.savez(given, x=np.array([1, 2]), n=np.array([3]))
    refused = migx("run", model, "--inputs", given)
    assert (refused.code, "'x' is i64[2], but f64[2] is wanted" in refused.err) == (2, True)
