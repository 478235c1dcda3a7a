"""What weights take in memory: one copy for all programs, memory used again, files that change."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

import numpy as np
import pytest

import migx
from migx import Shape, ops
from migx.argument import Argument, Source
from migx.base import mapping, memory
from migx.base.memory import HUGE, Memory
from migx.errors import DataError, EvaluationError, WeightError
from migx.onnx import replace_onnx_external_weights
from migx.ops.builtin import Literal, OnnxExternalWeights
from migx.program import Program
from migx.specialise import bound
from migx.weights import evaluation
from migx.weights.epochs import Epoch
from tests.weights.build import Array, drawn, model_of, write_weights

TEXT = """turned (float[batch, 1024] x) => (float[batch, 768] y) <
    float[768, 1024] w, float[768] b
> {
    t = Transpose <perm = [1, 0]> (w)
    d = MatMul (x, t)
    y = Add (d, b)
}"""
DIMS = {"w": (768, 1024), "b": (768,)}
A, B = drawn(DIMS, 1), drawn(DIMS, 2)
PASSES = "optimize_module,hoist_weights"
TURNED = "w:transpose"


@pytest.mark.parametrize("dims", [(), (1, 300), (7, 100), (0, 3)])
def test_much_is_copied_on_several_threads(
    dims: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "THREADS", 3)
    monkeypatch.setattr(memory, "PARALLEL", 1000)
    rng = np.random.default_rng(1)
    given = [rng.standard_normal(each, np.float32) for each in (dims, (400,))]
    made = [np.zeros_like(each) for each in given]
    memory.copy(zip(made, given, strict=True))
    assert all(map(np.array_equal, made, given))


def x(batch: int = 2) -> dict[str, Array]:
    return {"x": np.linspace(-1, 1, batch * 1024, dtype=np.float32).reshape(batch, 1024)}


@pytest.fixture
def read(tmp_path: Path) -> Program:
    """A program whose weights are left out; those of A lie beside it."""
    model = model_of(TEXT, A)
    (write_weights(model, A, tmp_path) / "model.onnx").write_bytes(model.SerializeToString())
    return migx.parse_onnx(tmp_path / "model.onnx", defer_external_weights=True)


@pytest.fixture
def live(read: Program, tmp_path: Path) -> Program:
    """The same with the weights of A, mapped."""
    template = read.compile("ref", passes=PASSES)
    return replace_onnx_external_weights(template, tmp_path, "ref").finalize("ref")


def epoch(program: Program) -> Epoch:
    return program.compiled.weights.current


def given(program: Program, weights: dict[str, Array], *, in_place: bool = False) -> Array:
    with program.update_weights(in_place=in_place) as new:
        new.update(weights)
    result: Array = program.eval(x())[0]
    return result


def test_programs_with_the_same_files_share_their_slots(read: Program, tmp_path: Path) -> None:
    programs = [bound(read, {"batch": n}).compile("ref", passes=PASSES) for n in (1, 2)]
    one, two = (replace_onnx_external_weights(p, tmp_path).finalize("ref") for p in programs)
    mine, other = (epoch(p).slots[TURNED].array for p in (one, two))
    assert np.shares_memory(mine, other)
    wanted = one.eval(x(1))[0].tobytes()
    for in_place in (True, False):
        given(two, B, in_place=in_place)
        assert one.eval(x(1))[0].tobytes() == wanted
        assert not np.shares_memory(mine, epoch(two).slots[TURNED].array)


def test_what_is_shared_goes_with_the_last_program(live: Program) -> None:
    from migx.weights import recipe

    key = next(key for key, value in recipe._shared.items() if value is epoch(live).slots[TURNED])
    live._compiled = None
    gc.collect()
    assert key not in recipe._shared


def test_other_bytes_or_another_recipe_share_nothing(live: Program, tmp_path: Path) -> None:
    folder = write_weights(model_of(TEXT, B), B, tmp_path / "b")
    other = replace_onnx_external_weights(live, folder).finalize("ref")
    mine, its = (epoch(p).slots[TURNED].array for p in (live, other))
    assert not np.shares_memory(mine, its)
    text = TEXT.replace("t = Transpose <perm = [1, 0]> (w)", "n = Neg (w)\n    t = Transpose (n)")
    (tmp_path / "neg.onnx").write_bytes(model_of(text, A).SerializeToString())
    read = migx.parse_onnx(tmp_path / "neg.onnx", defer_external_weights=True)
    third = replace_onnx_external_weights(read.compile("ref", passes=PASSES), tmp_path)
    (negative,) = (v.array for v in epoch(third.finalize("ref")).slots.values() if v.shape.rank > 1)
    assert negative.tobytes() == (-mine).tobytes()


def changed_in_place(path: Path) -> None:
    """Writes into a file: same inode, other bytes, a later time."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size - 4)
        file.write(np.float32(9).tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


def test_a_file_that_is_written_to_is_not_used_any_more(live: Program, tmp_path: Path) -> None:
    live.eval(x())
    changed_in_place(tmp_path / "weights.bin")
    message = r"weights\.bin was written to while it was in use"
    with pytest.raises(DataError, match=message):
        live.eval(x())
    with pytest.raises(DataError, match=message), live.update_weights() as new:
        new["b"] = B["b"]
    given(live, B)


def test_a_fixed_literal_of_a_file_that_is_written_to(read: Program, tmp_path: Path) -> None:
    program = replace_onnx_external_weights(read, tmp_path, replaceable=False)
    program.compile("ref", passes="")
    program.eval(x())
    changed_in_place(tmp_path / "weights.bin")
    with pytest.raises(DataError, match="written to"):
        program.eval(x())


@pytest.mark.parametrize(
    ("view", "offset", "dims"),
    [
        ("unsqueeze(%0) {axes=(0, 2)}", 64, (1, 6, 1, 4)),
        ("reshape(%0) {dims=(24,)}", 64, (24,)),
        ("slice(%0) {axes=(0,), starts=(2,), ends=(5,)}", 96, (3, 4)),
        ("slice(%0) {axes=(1,), starts=(2,), ends=(4,)}", None, (6, 2)),
        ("transpose(%0) {permutation=(1, 0)}", None, (4, 6)),
    ],
)
def test_views_of_a_file_lie_in_the_file(
    view: str, offset: int | None, dims: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "w.bin"
    stored = np.arange(-16, 24, dtype=np.float32)
    stored.tofile(path)
    program = migx.parse(
        f"module main() {{\n %0 = @literal() {{value=bytes({str(path)!r}, 64, 96)}} : f32[6, 4]\n"
        f" %1 = {view}\n return %1\n}}".replace("'", '"')
    )
    expected = program.compile("ref", passes="").eval({})[0]
    program.compile("ref", passes="propagate_constant")
    (folded,) = (at.op_as(Literal).value for at in program.compiled.program.literals)
    assert folded.shape.dims == dims
    source = None if offset is None else Source(path, offset, folded.nbytes)
    assert folded.source == source
    assert len(program.compiled.files) == (source is not None)
    np.testing.assert_array_equal(program.eval({})[0], expected)
    folded.give_back()
    np.testing.assert_array_equal(folded.array, expected)
    if source is not None:
        changed_in_place(path)
        with pytest.raises(DataError, match="written to"):
            program.eval({})


def test_a_file_that_is_renamed_over_changes_nothing(live: Program, tmp_path: Path) -> None:
    wanted = live.eval(x())[0].tobytes()
    other = write_weights(model_of(TEXT, B), B, tmp_path / "b") / "weights.bin"
    os.replace(other, tmp_path / "weights.bin")
    assert live.eval(x())[0].tobytes() == wanted
    with live.update_weights() as new:
        new.update(tmp_path)
    assert live.eval(x())[0].tobytes() == given(live, B).tobytes() != wanted


def test_files_are_closed_with_their_mappings(tmp_path: Path) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(b"some")
    file = mapping.mapped(path)
    assert file is mapping.mapped(path)
    assert file is not None
    number = file._file
    del file
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_what_is_given_back_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(bytes(range(256)) * 64)
    file = mapping.mapped(path)
    assert file is not None
    file.give_back(100, 16000)
    assert bytes(file) == path.read_bytes()


def test_memory_is_used_again_when_nobody_reads_it() -> None:
    memory, source = Memory(), np.arange(HUGE, dtype=np.int32)
    first = memory.copies([source, source[:10]])
    kept, place = first[1], first[0].ctypes.data
    del first
    (second,) = memory.copies([source])
    assert second.ctypes.data != place
    del kept
    third = memory.copies([source, source[:10]])
    assert third[0].ctypes.data == place
    assert not np.shares_memory(third[0], second)
    for copied in (second, third[0]):
        np.testing.assert_array_equal(copied, source)


def test_memory_of_many_updates_is_not_kept() -> None:
    """What was given back counts as the process's until the system takes it."""
    memory, source = Memory(), np.ones(4 * HUGE, np.uint8)
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("the system does not say how much memory a process has")

    def resident() -> int:
        return int(pages.read_text().split()[1]) * resource.getpagesize()

    before = resident()
    kept = [memory.copies([source]) for _ in range(20)]
    assert resident() - before > 15 * source.nbytes
    kept.clear()
    assert resident() - before < 3 * source.nbytes
    (again,) = memory.copies([source])
    np.testing.assert_array_equal(again, source)


def test_results_that_show_a_weight_outlive_it() -> None:
    program = migx.Program()
    zero = np.zeros((HUGE // 2,), np.float32)
    program.main.add_return(program.main.add_literal(zero, name="w", replaceable=True))
    program.compile("ref", passes="hoist_weights")
    shown = []
    for i in range(1, 6):
        with program.update_weights() as new:
            new["w"] = zero + i
        shown.append(program.eval({})[0])
    assert [set(array.tolist()) for array in shown] == [{float(i)} for i in range(1, 6)]


def test_arrays_may_be_taken_as_they_are(read: Program) -> None:
    programs = [read.copy().compile("ref", passes=PASSES) for _ in range(2)]
    weights = {name: value.copy() for name, value in B.items()}
    for program in programs:
        with program.update_weights(copy=False) as new:
            new.update(weights)
        assert np.shares_memory(epoch(program).slots["b"].array, weights["b"])
    wanted = programs[1].eval(x())[0].tobytes()
    assert given(programs[0], A, in_place=True).tobytes() != wanted
    assert programs[1].eval(x())[0].tobytes() == wanted
    assert weights["b"].flags.writeable
    assert weights["b"].tobytes() == B["b"].tobytes()
    with pytest.raises(WeightError, match="an update in place copies what it is given"):
        programs[0].update_weights(in_place=True, copy=False)


def test_one_array_given_to_two_weights_is_two_weights() -> None:
    program = migx.Program()
    start = migx.Argument.of(np.zeros(4, np.float32))
    read = [program.main.add_literal(start, name=n, replaceable=True) for n in "ab"]
    program.main.add_return(*read)
    program.compile("ref", passes="hoist_weights")
    for in_place in (False, True):
        with program.update_weights(in_place=in_place) as new:
            new["a"] = new["b"] = migx.Argument.of(np.ones(4, np.float32))
    with program.update_weights(in_place=True) as new:
        new["a"] = np.full(4, 2, np.float32)
    assert [set(v.tolist()) for v in program.eval({})] == [{2.0}, {1.0}]


def test_a_thousand_swaps_take_no_more_memory(live: Program) -> None:
    def swap() -> None:
        with live.update_weights() as new:
            new["w"] = B["w"]

    for _ in range(10):
        swap()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1000):
        swap()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * A["w"].nbytes / 1024


@pytest.mark.parametrize("in_place", [False, True])
def test_an_update_larger_than_memory_changes_nothing(in_place: bool) -> None:
    program, elements = migx.Program(), 1 << 53
    main = program.main
    large = OnnxExternalWeights("large", "f.bin", 0, 4 * elements, Shape("f32", (elements,)))
    read = main.add_instruction(ops.Slice((0,), (0,), (1,)), main.add_instruction(large))
    scale = main.add_literal(np.ones(1, np.float32), name="scale", replaceable=True)
    main.add_return(main.add_instruction(ops.Mul(), read, scale))
    program.compile("ref", passes="")
    before = epoch(program)
    with (
        pytest.raises(WeightError, match="there is no memory for 36,028,797,018,963,972 bytes"),
        program.update_weights(in_place=in_place) as new,
    ):
        new["scale"] = np.full(1, 2, np.float32)
        new["large"] = np.broadcast_to(np.float32(1), elements)
    assert epoch(program) is before


@pytest.mark.parametrize("in_place", [False, True])
def test_a_failure_in_the_middle_changes_nothing(
    in_place: bool, live: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, before = given(live, B, in_place=in_place), epoch(live)

    def fail(*_: object) -> Argument:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "result_of", fail)
        with pytest.raises(EvaluationError, match="out of memory"):
            given(live, A, in_place=in_place)
    assert epoch(live) is before
    assert live.eval(x())[0].tobytes() == wanted.tobytes()
