"""Programs in ``.mxr`` files: compiled and not, with weights and without, and damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import migx
from migx import Shape, ops
from migx.errors import DataError, IRError, MigxError, ParseError, WeightError
from migx.onnx import replace_onnx_external_weights
from migx.program import Program
from tests.weights.build import MLP, MLP_DIMS, drawn, model_of, write_weights

X = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)}
A, B = drawn(MLP_DIMS, 1), drawn(MLP_DIMS, 2)
PASSES = "optimize_module,hoist_weights,fuse_pointwise_reduce"


@pytest.fixture
def template(tmp_path: Path) -> Program:
    model = model_of(MLP, A)
    write_weights(model, A, tmp_path)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    program = migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=True)
    return program.compile("ref", passes=PASSES)


def round_trip(program: Program, folder: Path, **options: bool) -> Program:
    migx.save(program, folder / "p.mxr")
    return migx.load(folder / "p.mxr", **options)


def test_a_compiled_program_runs_when_it_is_loaded(template: Program, tmp_path: Path) -> None:
    baked = replace_onnx_external_weights(template, A).finalize("ref")
    for options in ({}, {"mmap": False}, {"check": True}):
        loaded = round_trip(baked, tmp_path, **options)
        assert loaded == baked
        assert loaded.compiled.program == baked.compiled.program
        assert loaded.eval(X)[0].tobytes() == baked.eval(X)[0].tobytes()
        slots, had = (p.compiled.weights.current.slots for p in (loaded, baked))
        assert {n: v.tobytes() for n, v in slots.items()} == {
            n: v.tobytes() for n, v in had.items()
        }


TYPES = ["bool", "i8", "u16", "i64", "f16", "bf16", "f64", "f8e4m3fn", "f8e5m2", "f8e8m0", "str"]


@pytest.mark.parametrize("dtype", TYPES)
def test_literals_of_any_type_are_saved(dtype: str, tmp_path: Path) -> None:
    value = np.full((5, 7), "one") if dtype == "str" else np.ones((5, 7))
    program = Program()
    program.main.add_return(program.main.add_literal(migx.Argument.of(value, dtype)))
    assert round_trip(program, tmp_path) == program


def test_a_baked_program_is_finalized_by_saving_and_loading(
    template: Program, tmp_path: Path
) -> None:
    baked = replace_onnx_external_weights(template, A)
    loaded = round_trip(baked, tmp_path)
    assert loaded.eval(X)[0].tobytes() == baked.finalize("ref").eval(X)[0].tobytes()


def test_without_its_original_a_program_is_what_the_passes_left(
    template: Program, tmp_path: Path
) -> None:
    migx.save(template, tmp_path / "p.mxr", original=False)
    loaded = migx.load(tmp_path / "p.mxr")
    assert loaded == template.compiled.program == loaded.compiled.program
    for weights in (A, B):
        for program in (template, loaded):
            with program.update_weights() as new:
                new.update(weights)
        assert loaded.eval(X)[0].tobytes() == template.eval(X)[0].tobytes()
    again = migx.load(tmp_path / "p.mxr", compiled=False).compile("ref")
    with again.update_weights() as new:
        new.update(B)
    assert again.eval(X)[0].tobytes() == template.eval(X)[0].tobytes()


def test_the_original_is_all_there_is_of_what_is_not_compiled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="compile the program before it is saved without"):
        migx.save(Program(), tmp_path / "p.mxr", original=False)
    assert not (tmp_path / "p.mxr").exists()


def test_a_template_keeps_its_form(template: Program, tmp_path: Path) -> None:
    loaded = round_trip(template, tmp_path)
    assert loaded == template
    with pytest.raises(WeightError, match="4 weights have no value yet"):
        loaded.eval(X)
    with loaded.update_weights() as new:
        new.update(A)
    expected = replace_onnx_external_weights(template, A).finalize("ref").eval(X)[0]
    assert loaded.eval(X)[0].tobytes() == expected.tobytes()


def test_weights_that_were_swapped_are_those_that_are_saved(
    template: Program, tmp_path: Path
) -> None:
    program = replace_onnx_external_weights(template, A).finalize("ref")
    with program.update_weights() as new:
        new.update(B)
    loaded = round_trip(program, tmp_path)
    assert loaded.eval(X)[0].tobytes() == program.eval(X)[0].tobytes()
    with loaded.update_weights() as new:
        new["b1"] = A["b1"]
    with program.update_weights() as new:
        new["b1"] = A["b1"]
    assert loaded.eval(X)[0].tobytes() == program.eval(X)[0].tobytes()


def test_without_weights_the_data_files_are_needed(template: Program, tmp_path: Path) -> None:
    baked = replace_onnx_external_weights(template, tmp_path).finalize("ref")
    migx.save(baked, tmp_path / "light.mxr", weights=False)
    light = migx.load(tmp_path / "light.mxr")
    assert (tmp_path / "light.mxr").stat().st_size < 10_000
    with light.update_weights() as new:
        new.update(tmp_path)
    assert light.eval(X)[0].tobytes() == baked.eval(X)[0].tobytes()
    from_memory = replace_onnx_external_weights(template, A)
    migx.save(from_memory, tmp_path / "light.mxr", weights=False)  # the model names the place


def test_another_file_than_the_one_compiled_against_is_found_out(tmp_path: Path) -> None:
    """A literal that stays in its file is known by its hash."""
    weights = drawn({"w": (64, 64)})
    text = "g (float[64, 64] x) => (float[64, 64] y) <float[64, 64] w> { y = Add(x, w) }"
    model = model_of(text, weights)
    write_weights(model, weights, tmp_path)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    program = migx.parse_onnx(tmp_path / "model.onnx").compile("ref")
    migx.save(program, tmp_path / "p.mxr", weights=False)
    x = {"x": np.zeros((64, 64), np.float32)}
    assert np.array_equal(migx.load(tmp_path / "p.mxr").eval(x)[0], weights["w"])
    write_weights(model, drawn({"w": (64, 64)}, 1), tmp_path)
    with pytest.raises(MigxError, match="weights.bin has changed: the bytes of the f32"):
        migx.load(tmp_path / "p.mxr").eval(x)


def test_a_file_elsewhere_is_not_referred_to(template: Program, tmp_path: Path) -> None:
    program = migx.parse_onnx(tmp_path / "model.onnx")
    (tmp_path / "deep").mkdir()
    with pytest.raises(DataError, match="must be saved in the folder of weights.bin"):
        migx.save(program, tmp_path / "deep" / "p.mxr", weights=False)


def test_a_loaded_program_that_has_changed_says_so(template: Program, tmp_path: Path) -> None:
    loaded = round_trip(template, tmp_path)
    loaded.main.add_return(loaded.main.add_instruction(ops.Neg(), loaded.main.outputs[0]))
    with pytest.raises(IRError, match="changed since it was compiled"):
        migx.save(loaded, tmp_path / "p.mxr")


def test_a_file_does_not_refer_to_the_one_it_replaces(tmp_path: Path) -> None:
    program = migx.Program()
    x = program.main.add_parameter("x", Shape("f32", (64, 64)))
    table = program.main.add_literal(np.random.default_rng(0).random((64, 64), np.float32))
    program.main.add_return(program.main.add_instruction(ops.Add(), x, table))
    migx.save(program, tmp_path / "p.mxr")
    migx.save(migx.load(tmp_path / "p.mxr"), tmp_path / "p.mxr", weights=False)
    assert migx.load(tmp_path / "p.mxr") == program


def test_only_the_program_is_taken_from_strangers(template: Program, tmp_path: Path) -> None:
    baked = replace_onnx_external_weights(template, A).finalize("ref")
    loaded = round_trip(baked, tmp_path, compiled=False)
    assert loaded == baked
    with pytest.raises(MigxError, match="not compiled"):
        loaded.eval(X)
    loaded.compile("ref", passes=PASSES)
    assert loaded.eval(X)[0].tobytes() == baked.eval(X)[0].tobytes()


def index_of(content: bytes) -> tuple[dict[str, Any], int]:
    """The index of a file, and where its sections begin."""
    (length,) = struct.unpack("<Q", content[8:16])
    return json.loads(content[16 : 16 + length]), -(-(16 + length) // 64) * 64


def changed_index(path: Path, **changes: object) -> None:
    """Writes a file again with other entries in its index; the sections stay where they were."""
    content = path.read_bytes()
    index, start = index_of(content)
    head = json.dumps(index | changes).encode()
    assert -(-(16 + len(head)) // 64) * 64 == start
    path.write_bytes(
        (content[:8] + struct.pack("<Q", len(head)) + head).ljust(start, b"\0") + content[start:]
    )


def test_what_was_compiled_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    text = "module main(x: f32[2]) {\n  %0 = neg(x)\n  %1 = relu(%0)\n  return %1\n}\n"
    program, x = migx.parse(text).compile("ref"), np.array([-2, 3], np.float32)
    loaded = round_trip(program, tmp_path)
    with ThreadPoolExecutor() as pool:
        (main,) = set(pool.map(lambda _: loaded.main, range(8)))
    assert main.program is loaded
    assert loaded == program
    assert loaded.compile("ref").eval({"x": x})[0].tolist() == [2, 0]

    path = tmp_path / "p.mxr"
    content = path.read_bytes()
    index, start = index_of(content)
    offset, length, _ = index["sections"]["text"]
    section = content[start + offset :][:length].replace(b"neg", b"nge")
    path.write_bytes(content[: start + offset] + section + content[start + offset + length :])
    digest = hashlib.sha256(section).hexdigest()
    changed_index(path, sections=index["sections"] | {"text": (offset, length, digest)})
    damaged = migx.load(path)
    assert damaged.eval({"x": x})[0].tolist() == [2, 0]
    reads: list[Callable[[], object]] = [
        lambda: damaged.main,
        lambda: damaged.modules,
        lambda: migx.load(path, mmap=False),
        lambda: migx.load(path, compiled=False),
    ]
    for read in reads:
        with pytest.raises(ParseError, match="no operation named 'nge'"):
            read()


def test_unknown_versions_say_what_to_do(template: Program, tmp_path: Path) -> None:
    migx.save(template, tmp_path / "p.mxr")
    changed_index(tmp_path / "p.mxr", format=9)
    with pytest.raises(ParseError, match=r"format 9, this migx reads format 3: save it again"):
        migx.load(tmp_path / "p.mxr")


def test_damage_is_found(template: Program, tmp_path: Path) -> None:
    baked, path = replace_onnx_external_weights(template, A).finalize("ref"), tmp_path / "p.mxr"
    migx.save(baked, path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(DataError, match="truncated"):
        migx.load(path)
    text = content.index(b"module main")
    path.write_bytes(content[:text] + b"M" + content[text + 1 :])
    with pytest.raises(ParseError, match="section 'text' has another hash"):
        migx.load(path)
    path.write_bytes(content[:-10] + b"x" + content[-9:])
    migx.load(path)
    with pytest.raises(DataError, match="is damaged at bytes"):
        migx.load(path, check=True)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_hostile_files_are_refused_or_run(
    data: st.DataObject, template: Program, tmp_path: Path
) -> None:
    """Bytes changed anywhere, also where hashes are made right again, raise nothing but our own
    errors.
    """
    path = tmp_path / "h.mxr"
    if not path.exists():
        migx.save(replace_onnx_external_weights(template, A).finalize("ref"), path)
        (tmp_path / "good.mxr").write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "good.mxr").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(content), 4000) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path.write_bytes(content)
    with contextlib.suppress(MigxError):
        migx.load(path).eval(X)


def test_a_program_is_not_saved_under_the_name_of_an_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.onnx cannot be saved as ONNX"):
        migx.save(migx.parse("module main(x: f32[2]) {\n  return x\n}\n"), tmp_path / "p.onnx")
    assert not list(tmp_path.iterdir())
