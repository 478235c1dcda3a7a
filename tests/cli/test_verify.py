"""``migx verify``: outputs against a peer, and the models of the checkout."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import migx as api
from migx.cli import _against, _verify
from migx.cli._load import PeerError
from migx.cli._session import Session
from migx.ops.pointwise import Relu
from tests.cli.conftest import Migx


def test_a_model_passes_and_its_tolerance_is_explained(migx: Migx, model: Path) -> None:
    result = migx("verify", model, "--target", "ref", "--each")
    assert result.code == 0, result.out + result.err
    assert result.out.count("PASS") == 2
    assert "longest accumulation 33" in result.out
    assert "i64, exact" in result.out
    assert "4 instructions compared" in result.out
    assert "none departs" in result.out


def test_a_wrong_kernel_fails_and_is_named(
    migx: Migx, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Relu.of
    monkeypatch.setattr(Relu, "of", lambda self, x: right(self, x) * np.float32(1 + 1e-5))
    result = migx("verify", model, "--each", "--json")
    assert result.code == 1
    found = result.json
    assert not found["passed"]
    y, best = found["outputs"]
    assert (y["passed"], best["passed"]) == (False, True)
    assert y["largest"] > y["tolerance"] > 0
    assert "relu(" in found["departure"]
    assert "from ONNX 'active'" in found["departure"]


def test_against_ref_another_pipeline_is_judged(migx: Migx, model: Path, tmp_path: Path) -> None:
    found = migx(
        "verify", model, "--passes", "dead_code_elimination", "--against", "ref", "--each", "--json"
    ).json
    assert found["passed"]
    assert found["compared"] == 4
    assert found["against"] == "ref"
    text = tmp_path / "small.migx"
    assert migx("read", model, "-o", text).code == 0
    assert migx("verify", text, "--json").json["against"] == "ref"
    nameless = migx("verify", text, "--each")
    assert (nameless.code, "--origins" in nameless.err) == (2, True)


def test_sizes_and_arrays_given_are_those_compared(migx: Migx, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones((3, 8), np.float32))
    assert migx("verify", model, "--inputs", tmp_path / "in.npz").code == 0
    assert migx("verify", model, "--dim-param", "batch=7", "--seed", 3).code == 0
    assert migx("verify", model, "--target", "cpu", "--fast-math").code == 0


@pytest.mark.parametrize(
    ("program", "sizes"),
    [
        ("(x: f32[b, s], y: f32[s]) { %0 = relu(x) return %0 }", "b=2, s=3"),
        (
            """(mask: f32[total], past: f32[past], new: f32[new]) {
              %0 = concat(past, new) {axis=0}
              %1 = mul(mask, %0)
              return %1
            }""",
            "total=5, past=3, new=2",
        ),
        (
            """(x: f32[b, h, w], y: f32[c], z: f32[4, 4]) {
              %0 = slice(x) {axes=(1,), starts=(5,), ends=(h,)}
              %1 = slice(x) {axes=(2,), starts=(5,), ends=(w,)}
              %2 = slice(x) {axes=(0,), starts=(0,), ends=(c,)}
              %3 = multibroadcast(z) {out_lens=(b, 4, 4)}
              return %0, %1, %2, %3
            }""",
            "b=4, h=16, w=8, c=3",
        ),
        (
            """(x: f32[b, s, 3], y: f32[b, 7, 3]) {
              %0 = reshape(y) {dims=(7*b, 3)}
              %1 = reshape(%0) {dims=(b, s, 3)}
              return %1, x
            }""",
            "b=2, s=7",
        ),
        (
            """(x: f32[b, s], y: f32[4]) {
              %0 = @literal() {value=[0, 9]} : i64[2]
              %1 = gather(x, %0) {axis=1}
              return %1, y
            }""",
            "b=2, s=16",
        ),
    ],
)
def test_sizes_are_drawn_above_1_and_apart(
    program: str, sizes: str, migx: Migx, tmp_path: Path
) -> None:
    case = tmp_path / "case.migx"
    case.write_text(f"module main{program}\n")
    result = migx("verify", case, "--json")
    assert result.code == 0, result.err
    assert result.json["sizes"] == sizes


def test_a_changed_weight_is_found(migx: Migx, model: Path, tmp_path: Path) -> None:
    """The peer reads the file as it is; the text beside it has one weight that is off."""
    other = onnx.load(model)
    weights = numpy_helper.to_array(other.graph.initializer[0]).copy()
    weights[2, 3] *= 1.001
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    onnx.save(other, tmp_path / "other.onnx")
    program = api.parse_onnx(model)
    options = Namespace(against=None, passes=None, activations="float", fast_math=False, each=False)
    session = Session(options, program, "ref")
    inputs: dict[str, Any] = {"x": np.ones((4, 8), np.float32)}
    assert _verify.checked(session, model, inputs)["passed"]
    found = _verify.checked(session, tmp_path / "other.onnx", inputs)
    assert not found["passed"]


def test_a_peer_that_refuses_sizes_that_were_drawn_is_explained(
    migx: Migx, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise PeerError("not at this size")

    monkeypatch.setattr("migx.cli._peers.Onnxruntime.run", refuses)
    result = migx("verify", model)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: not at this size\ninputs were drawn with batch=2: choose")


def test_another_model_is_any_distance_away(migx: Migx, model: Path, tmp_path: Path) -> None:
    """The distance is beside the root mean square of its outputs."""
    other, saved = tmp_path / "other.migx", tmp_path / "small.mxr"
    lines = "%0 = neg(x) %1 = convert(x) {to=i64} return y=%0, n=%1"
    other.write_text(f"module main(x: f32[b]) {{ {lines} }}")
    case = tmp_path / "case.migx"
    case.write_text(other.read_text().replace("neg(x)", "mul(x, x)"))
    np.savez(tmp_path / "in.npz", x=np.array([-1, 2, -3, 2], np.float32))
    words = ("verify", case, "--against", other, "--inputs", tmp_path / "in.npz")
    result = migx(*words, "--json")
    assert (result.code, result.err) == (0, "")
    y, n = result.json["outputs"]
    errors = np.array([0, 6, 6, 6])
    assert (y["largest"], y["unequal"], y["elements"]) == (6, 3, 4)
    assert y["rms"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert y["relative"] == pytest.approx(np.sqrt((errors**2).mean() / (1 + 4 + 9 + 4) * 4))
    assert (n["rms"], n["unequal"]) == (0, 0)
    assert "3 of 4" in migx(*words).out
    assert migx("compile", model, "-o", saved, "--target", "ref").code == 0
    result = migx("verify", model, "--against", saved)
    assert result.code == 0
    assert result.out.startswith(f"cpu against {saved} on ref, inputs drawn with batch=2\n")


def test_what_cannot_stand_beside_a_model(migx: Migx, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.migx"
    for text, said in (
        ("(z: f32[8]) { %0 = neg(z) return y=%0, best=%0 }", "must be those of"),
        ("(x: f32[b, 8]) { %0 = neg(x) return z=%0 }", "y, best, those of "),
        ("(x: f32[b, 8]) { %0 = neg(x) return y=%0, best=%0 }", "'y' has dims (2, 16) here, and"),
    ):
        other.write_text(f"module main{text}\n")
        result = migx("verify", model, "--against", other)
        assert (result.code, said in result.err) == (2, True), result.err
    for words, said in (
        ((model, "--against", "onxruntime"), "there are onnxruntime, ref, and no such file"),
        ((model, "--against", other, "--each"), "--each finds values by the ONNX nodes"),
        (("--all", "--against", other), "--all compares with onnxruntime or ref"),
    ):
        result = migx("verify", *words)
        assert (result.code, said in result.err) == (2, True), result.err


def test_what_has_no_numbers_is_equal_or_not() -> None:
    text = np.array(["a", "b"], object)
    row = _against._difference("t", text, np.array(["a", "c"], object))
    assert row == {"name": "t", "elements": 2, "unequal": 1}
    nothing = np.array([np.nan, np.inf, 0], np.float32)
    row = _against._difference("y", nothing, nothing.astype(np.float16))
    assert (row["unequal"], row["rms"], row["relative"]) == (0, 0, None)
    assert np.isnan(_against._difference("y", nothing, np.zeros(3, np.float32))["largest"])


def test_models_whose_inputs_are_of_other_floats_are_compared(migx: Migx, tmp_path: Path) -> None:
    wide, narrow = tmp_path / "wide.migx", tmp_path / "narrow.migx"
    for path, dtype in ((wide, "f32"), (narrow, "f16")):
        path.write_text(f"module main(x: {dtype}[n, 2]) {{ %0 = sin(x) return %0 }}\n")
    for one, other in ((wide, narrow), (narrow, wide)):
        found = migx("verify", one, "--against", other, "--json")
        assert found.code == 0, found.err
        assert 0 < found.json["outputs"][0]["relative"] < 0.001


class Models(SimpleNamespace):
    """Stands for the model tool of the checkout."""

    class FetchError(RuntimeError):
        """A package that holds something else."""

    class NoNetwork(FetchError):
        """No index."""


def test_all_is_a_table_in_which_nothing_is_hidden(
    migx: Migx, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str, folder: str | None) -> Path:
        if name == "away":
            raise Models.NoNetwork("the index is not reachable")
        return model if name == "small" else model.with_name("nowhere.onnx")

    models = Models(
        names=lambda: ["small", "away", "broken"],
        make=make,
        inputs=lambda name, seed: {"x": np.ones((2, 8), np.float32)},
    )
    monkeypatch.setattr(_verify, "catalogue", lambda: models)
    result = migx("verify", "--all")
    assert result.code == 1, "an error is no success"
    header, small, away, broken, _ = result.out.splitlines()
    assert header.split() == ["Test", "Status", "error", "bound"]
    assert small.split()[:2] == ["small", "PASS"]
    assert float(small.split()[2]) < float(small.split()[3])
    assert "SKIP" in away
    assert "not reachable" in away
    assert "ERROR" in broken
    rows = migx("verify", "--all", "--json").json
    assert [row["status"] for row in rows] == ["PASS", "SKIP", "ERROR"]


def test_all_is_of_this_checkout() -> None:
    assert len(_verify.catalogue().names()) == 26


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which model"),
        (["MODEL", "--all"], "--all takes models, inputs and weights of its own"),
        (["--all", "--weights", "w.npz"], "--all takes models, inputs and weights of its own"),
        (["MODEL", "--against", "abacus"], "--against abacus: there are onnxruntime, ref, and no"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str], message: str, migx: Migx, model: Path
) -> None:
    result = migx("verify", *[model if word == "MODEL" else word for word in words])
    assert (result.code, message in result.err) == (2, True)


def test_onnxruntime_reads_onnx_alone(migx: Migx, tmp_path: Path) -> None:
    text = tmp_path / "case.migx"
    text.write_text("module main(x: f32[2]) {\n  %0 = relu(x) : f32[2]\n  return %0\n}\n")
    result = migx("verify", text, "--against", "onnxruntime")
    assert (result.code, "onnxruntime runs ONNX files" in result.err) == (2, True)


@pytest.mark.parametrize("how", [["--target", "cpu"], ["--target", "ref"], ["--against", "ref"]])
def test_maps_are_compared_by_what_rounding_explains(
    how: list[str], migx: Migx, tmp_path: Path
) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "ai.onnx.ml" : 3]>'
        "g (float[n, 4] x) => (float[] y) {"
        "s = Softmax(x) y = ai.onnx.ml.ZipMap<classlabels_int64s = [3, 5, 7, 9]>(s) }"
    )
    model.graph.output[0].ClearField("type")
    held = model.graph.output[0].type.sequence_type.elem_type.map_type
    held.key_type, held.value_type.tensor_type.elem_type = TensorProto.INT64, TensorProto.FLOAT
    onnx.save(model, tmp_path / "maps.onnx")
    result = migx("verify", tmp_path / "maps.onnx", "--dim-param", "n=5", *how, "--json")
    assert result.code == 0, result.err
    (output,) = result.json["outputs"]
    assert output["magnitude"] > output["tolerance"] > 0


def test_packed_weights_are_said_to_cost_something(migx: Migx, model: Path) -> None:
    passes = "quantize_int4{block=16},propagate_constant,fuse_int4"
    options = ("verify", model, "--passes", passes, "--against", "ref", "--each")
    found = migx(*options, "--json").json
    assert not found["passed"]
    (layer,) = found["packed"]
    assert 0 < layer["relative"] < 0.2
    assert layer["layer"] in migx(*options).out.partition("few bits")[2]
    assert "packed" not in migx("verify", model, "--each", "--json").json


def test_what_a_file_holds_is_run(migx: Migx, tmp_path: Path) -> None:
    """A file whose code is of another program, and one with a byte of a weight changed."""
    text = 'module main(x: f32[n, 64]) {\n  %0 = @literal() {value=sha256("0")} : f32[64, 64]\n'
    made = [
        api.parse(text + f"  %1 = dot(x, %0)\n  %2 = {name}(%1)\n  return %2\n}}\n", draw_missing=1)
        for name in ("relu", "neg")
    ]
    right, wrong = (program.compile("cpu") for program in made)
    path = tmp_path / "a.mxr"
    api.save(right, path)
    found = migx("verify", path)
    assert (found.code, "cpu, as the file holds it, against ref" in found.out) == (0, True)
    assert migx("verify", path, "--target", "ref", "--json").json["held"] is False

    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 0x40
    (tmp_path / "b.mxr").write_bytes(damaged)
    result = migx("verify", tmp_path / "b.mxr")
    assert (result.code, "b.mxr is damaged" in result.err) == (2, True)

    right._compiled = wrong.compiled
    api.save(right, path)
    result = migx("verify", path)
    assert (result.code, "FAIL" in result.out) == (1, True)
    assert migx("verify", path, "--target", "cpu").code == 0, "compiled anew"


def test_the_passes_of_a_file_say_what_it_may_be_off_by(
    migx: Migx, model: Path, tmp_path: Path
) -> None:
    path, asked = tmp_path / "a.mxr", ("--int4-weights", "--activations", "int8")
    assert migx("compile", model, "--target", "cpu", *asked, "-o", path).code == 0
    told = migx("verify", path, "--dim-param", "batch=2", "--json").json
    again = ("--target", "cpu", "--activations", "int8")
    anew = migx("verify", path, *again, "--dim-param", "batch=2", "--json").json
    assert told["outputs"][0]["tolerance"] == anew["outputs"][0]["tolerance"]
    assert (told["held"], anew["held"], told["passed"]) == (True, False, True)


def test_what_is_compiled_usually_is_verified(migx: Migx, model: Path) -> None:
    assert migx("verify", model, "--json").json["target"] == "cpu"
    assert migx("verify", model, "--each", "--json").json["target"] == "ref"
    assert migx("verify", model, "--passes", "", "--json").json["target"] == "ref"


def test_a_bound_that_decides_nothing_says_so(migx: Migx, tmp_path: Path) -> None:
    """Steps of 0.5 in values of at most 1, one between two of them; and one rounding alone."""
    head, text = "module main(x: f32[8], s: f32[8]) {\n  %0 = tanh(x)\n", tmp_path / "wide.migx"
    steps = (
        '  %1 = quantizelinear(%0, s) {axis=0, to="i8"}\n  %2 = dequantizelinear(%1, s) {axis=0}\n'
    )
    text.write_text(f"{head}{steps}  return %2, %0\n}}\n")
    x = np.linspace(-1, 1, 8, dtype=np.float32)
    x[3] = np.arctanh(0.25)
    np.savez(tmp_path / "in.npz", x=x, s=np.full(8, 0.5, np.float32))
    words = (text, "--inputs", tmp_path / "in.npz")
    shown = migx("verify", *words)
    assert (shown.code, shown.out.count("PASS (undecided)"), shown.out.count("PASS")) == (0, 1, 2)
    assert "at least half of max|expected|" in shown.out
    found = migx("verify", *words, "--json").json
    assert (found["passed"], found["undecided"]) == (True, True)
    assert [output["undecided"] for output in found["outputs"]] == [True, False]
    told = migx("bisect", *words, "--passes", "optimize_module")
    assert (told.code, "undecided: output_0 may be off by" in told.out) == (1, True)
    assert (
        "undecided"
        in migx("bisect", *words, "--passes", "optimize_module", "--json").json["detail"]
    )


@pytest.mark.parametrize("level", [0, 4])
def test_products_are_compared_as_exact_as_here(level: int, migx: Migx, tmp_path: Path) -> None:
    """With activations in bytes both sides round, and there is nothing to tell."""
    held = [
        numpy_helper.from_array(np.full((4, 1, 16), 0x95, np.uint8), "b"),
        numpy_helper.from_array(np.full((4, 1), 0.25, np.float32), "s"),
    ]
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft",
        K=32, N=4, bits=4, block_size=32, accuracy_level=level,
    )  # fmt: skip
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, n))
        for name, n in (("x", 32), ("y", 4))
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "graph", [x], [y], held)
    file = tmp_path / "model.onnx"
    file.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    )
    shown = migx("verify", file)
    assert (shown.code, "accuracy_level of 4" in shown.out) == (0, level == 4)
    assert "accuracy_level" not in migx("verify", file, "--activations", "int8").out


def test_states_are_quantised_by_the_range_of_the_whole_batch(migx: Migx, tmp_path: Path) -> None:
    """As on one thread; several would each take a range of their own."""
    rng, hidden = np.random.default_rng(0), 16
    weights = {
        "w": rng.integers(-127, 127, (1, 8, 4 * hidden), np.int8),
        "r": rng.integers(-127, 127, (1, hidden, 4 * hidden), np.int8),
        "s": np.full(1, 0.01, np.float32),
        "z": np.zeros(1, np.int8),
    }
    node = helper.make_node(
        "DynamicQuantizeLSTM", ["x", "w", "r", *[""] * 5, "s", "z", "s", "z"], ["y"],
        domain="com.microsoft", hidden_size=hidden,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (6, 4, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (6, 1, 4, hidden))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    found = migx("verify", file, "--json").json
    assert found["passed"], found
    assert found["outputs"][0]["tolerance"] < 1e-4
