"""The text form: what is printed parses back to an equal program, what does not parse says
why.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migx
from migx import ops
from migx.argument import Argument
from migx.dim import Dim
from migx.errors import DataError, EvaluationError, ParseError, ShapeError
from migx.ops.builtin import Literal
from migx.parser import parse, within
from migx.program import Program
from migx.shape import F32, I64, Shape
from migx.text import draw, draw_instruction, show, write
from migx.verify import findings
from tests.core.strategies import literals, names, programs

N = Dim("n")


def literal_of(program: Program) -> Literal:
    """The one literal of a program."""
    (found,) = (at.op for at in program.main if isinstance(at.op, Literal))
    return found


def holding(op: Any, *shapes: Shape) -> Program:
    """A program of one operation."""
    program = Program()
    inputs = [program.main.add_parameter(f"x{i}", s) for i, s in enumerate(shapes)]
    program.main.add_return(program.main.add_instruction(op, *inputs))
    return program


@settings(max_examples=150)
@given(programs())
def test_random_programs_parse_back(program: Program) -> None:
    assert not findings(program)
    text = str(program)
    parsed = migx.parse(text)
    assert parsed == program
    assert str(parsed) == text
    assert parsed.fingerprint() == program.fingerprint()


@given(programs())
def test_origins_are_printed_when_asked_for(program: Program) -> None:
    parsed = migx.parse(show(program, origins=True))
    for name, module in program.modules.items():
        expected = [at.origins for at in module if at.name not in ("@param", "@return")]
        found = [at.origins for at in parsed.modules[name] if at.name not in ("@param", "@return")]
        assert found == expected


@given(programs())
def test_a_module_prints_as_in_its_program(program: Program) -> None:
    for module in program.modules.values():
        assert str(module) in str(program)


@given(programs())
def test_bytes_of_large_literals_lie_in_a_side_file(program: Program) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'a file ".bin')
        parsed = migx.parse(show(program, data_file=file), folder=folder)
        assert "sha256" in str(program) or file.read_bytes() == b""
        assert parsed == program
        for name, module in program.modules.items():
            for at, other in zip(module, parsed.modules[name], strict=True):
                if isinstance(at.op, Literal) and at.shape.dtype.kind != "string":
                    assert isinstance(other.op, Literal)
                    assert other.op.value.array.tobytes() == at.op.value.array.tobytes()


@given(literals(), names)
def test_literals_of_every_type_keep_every_bit(value: Argument, label: str) -> None:
    program = Program()
    program.main.add_return(program.main.add_literal(value, name=label))
    parsed = migx.parse(str(program))
    assert parsed == program
    assert literal_of(parsed).value == value
    assert literal_of(parsed).label == label
    inline = value.shape.dtype.kind == "string" or value.shape.elements <= 16
    if value.shape.dtype.is_packed:  # what fills the last byte is no element
        inline = inline and Argument.of(value.elements) == value
    assert literal_of(parsed).value.available == inline


@pytest.mark.parametrize(
    ("dtype", "elements", "data"),
    [
        ("i4", (1, -8, 7), [0x81, 0x07]),
        ("u4", (15,), [0x0F]),
        ("i2", (1, -2, 0, -1, 1), [0b11001001, 0b01]),
        ("u2", (3, 2), [0b1011]),
        ("f4", (0.5, -0.0, -6.0), [0x81, 0x0F]),
    ],
)
def test_a_few_packed_elements_stand_in_the_text(
    dtype: str, elements: tuple[float, ...], data: list[int]
) -> None:
    program = Program()
    shape = Shape(dtype, (len(elements),))
    program.main.add_return(program.main.add_literal(Argument.packed(shape, bytes(data))))
    assert f"value={list(elements)}}} : {shape}" in str(program)
    parsed = migx.parse(str(program))
    assert parsed == program
    (found,) = parsed.compile("ref").eval({})
    assert found.tobytes() == bytes(data)
    # Other bits than 0 that fill the last byte are no element: the text would lose them.
    other = Program()
    data[-1] |= 0x80
    other.main.add_return(other.main.add_literal(Argument.packed(shape, bytes(data))))
    assert "sha256" in str(other)
    assert migx.parse(str(other)) == other


EXAMPLE = """\
dim batch = 1..64 {8, 32}
dim `two words` = 0..7

module main(x: f32[batch, 3, `two words`], "2nd input": f32[3]{0}, c: bool[]) {
  %0 = transpose(x) {permutation=(2, 0, 1)} : f32[`two words`, batch, 3]
  %1 = @literal() {value=[1.5, nan, -0.0], label="a \\"weight\\""} : f32[3]
  %2 = add(%1, "2nd input") : f32[3]
  %3 = elu(%0) {alpha=nan("010000000000f87f")} : f32[`two words`, batch, 3]
  %4 = if(c) ["if.then", "else 2"] : tuple(f32[3])
  %5 = get_tuple_elem(%4) : f32[3]
  return y=%3, "z:0"=%5
}

module if.then() bypass {
  %0 = neg(main:%2) : f32[3]
  return %0
}

module "else 2"() {
  return main:"2nd input"
}
"""


def test_the_form_itself() -> None:
    text = EXAMPLE.replace('["if.then"', "[if.then")
    program = migx.parse(text)
    assert str(program) == text
    assert migx.parse("# a comment\n" + text.replace("2) : f32[3]", "2)")) == program
    assert program.main.output_names == ("y", "z:0")
    assert program.modules["if.then"].bypass
    assert program.symbols()["batch"].optimals == (8, 32)
    assert not findings(program)


def test_results_may_have_names_in_what_is_written_by_hand() -> None:
    text = "module main(x: f32[2]) { %sum = add(x, x) %0 = relu(%sum) return %0, %sum }"
    assert migx.parse(text) == migx.parse(text.replace("%0", "%1").replace("%sum", "%0"))


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        (ops.Transpose((1, 0)), [Shape(F32, (2, 3))], "{permutation=(1, 0)}"),
        (ops.Squeeze((0,)), [Shape(F32, (1, 3))], "{axes=(0,)}"),
        (ops.Squeeze(()), [Shape(F32, (1, 3))], "{axes=()}"),
        (ops.Elu(0.1), [Shape(F32)], "{alpha=0.1}"),
        (ops.Elu(float("inf")), [Shape(F32)], "{alpha=inf}"),
        (ops.Elu(-float("inf")), [Shape(F32)], "{alpha=-inf}"),
        (ops.Elu(-0.0), [Shape(F32)], "{alpha=-0.0}"),
        (ops.Elu(1e22), [Shape(F32)], "{alpha=1e+22}"),
        (ops.Elu(struct.unpack("<d", b"\1" + bytes(5) + b"\xf0\x7f")[0]), [Shape(F32)], "nan("),
        (ops.Elu(), [Shape(F32)], "elu(x0) :"),
        (ops.Convert(I64), [Shape(F32)], "{to=i64}"),
        (ops.Convert(I64, False), [Shape(F32)], "{to=i64, saturate=false}"),
        (ops.Pad((1, 1), 'a "mode"'), [Shape(F32, (3,))], None),
        (ops.Pad((N, N // 2), "edge"), [Shape(F32, (3, N))][:0] or [Shape(F32, (3,))], "(n, n//2)"),
        (ops.Reshape((N * 2 + 1, 3)), [Shape(F32, (2 * N + 1, 3))], "{dims=(2*n + 1, 3)}"),
        (ops.Undefined(), [], "undefined() : optional()"),
        (ops.DimLiteral((N, 2), (2,)), [], "{values=(n, 2), lens=(2,)}"),
        (ops.Nonzero(Dim("min")), [Shape(F32, (3,))], "{count=`min`}"),
        (ops.Nonzero(Dim("a`b\\")), [Shape(F32, (3,))], r"{count=`a\u0060b\\`}"),
        (ops.Slot("w", Shape(F32, (2, 3), (1, 2))), [], "shape=f32[2, 3]{1, 2}"),
        (ops.Slot("w", Shape.tuple(Shape(F32), Shape.opaque("sequence", Shape(I64)))), [],
         "shape=tuple(f32[], sequence(i64[]))"),
        (ops.OnnxExternalWeights("w", "a/b.bin", 64, 12, Shape(F32, (3,))), [],
         '{label="w", file="a/b.bin", offset=64, length=12, shape=f32[3]}'),
    ],
)  # fmt: skip
def test_attributes_of_every_kind(op: Any, shapes: list[Shape], attributes: str | None) -> None:
    if attributes is None:
        with pytest.raises(ShapeError):
            holding(op, *shapes)
        return
    program = holding(op, *shapes)
    assert attributes in str(program)
    assert migx.parse(str(program)) == program


def test_a_literal_known_by_its_hash_equals_the_one_it_was_printed_from(tmp_path: Path) -> None:
    program = Program()
    data = np.arange(40, dtype=np.float32)
    program.main.add_return(program.main.add_literal(data, name="w"))
    text = str(program)
    assert f'sha256("{Argument.of(data).digest()}")' in text
    parsed = migx.parse(text)
    assert parsed == program
    assert not literal_of(parsed).value.available
    with pytest.raises(EvaluationError, match=r"f32\[40\] is known by its hash alone"):
        parsed.compile("ref").eval({})
    changed = migx.parse(text.replace(Argument.of(data).digest(), "0" * 64))
    assert changed != program
    # A file's bytes can be named with their hash as well.
    beside = migx.parse(show(program, data_file=tmp_path / "w.bin"), folder=tmp_path)
    printed = show(beside, hashes=True)
    assert f'sha256="{Argument.of(data).digest()}"' in printed
    (tmp_path / "w.bin").unlink()
    assert migx.parse(printed) == program


def test_a_text_in_a_file_has_all_its_bytes(tmp_path: Path) -> None:
    program, path = Program(), tmp_path / "few.migx"
    packed = Argument.packed(Shape("i4", (2,)), bytes([0x21]))
    program.main.add_return(program.main.add_literal(packed))
    write(program, path, head="# a few\n")
    assert path.read_text().startswith("# a few\nmodule main(")
    found = literal_of(migx.parse(path.read_text(), folder=tmp_path)).value
    assert found.available
    assert found == packed


def test_missing_bytes_are_drawn_from_a_seed() -> None:
    text = """module main() {
  %0 = @literal() {value=sha256("00")} : f32[40]
  %1 = @literal() {value=bytes("nowhere.bin", 0, 40)} : i4[80]
  %2 = @literal() {value=[1.0]} : f32[1]
  return %0, %1, %2
}
"""
    first, again, other = (migx.parse(text, draw_missing=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    results = first.compile("ref").eval({})
    assert results[0].std() > 0
    assert len(results[1].array) == 40
    assert results[2] == [1]


def test_a_text_that_is_not_trusted_names_files_of_its_folder_alone(tmp_path: Path) -> None:
    outside, folder = tmp_path / "w.bin", tmp_path / "texts"
    folder.mkdir()
    for file in (outside, folder / "w.bin"):
        file.write_bytes(np.array([2, 3], np.float32).tobytes())
    (folder / "link.bin").symlink_to(outside)
    text = 'module main() {\n  %%0 = @literal() {value=bytes("%s", 0, 8)} : f32[2]\n  return %%0\n}'
    program = parse(text % "w.bin", find=within(folder))
    assert program.compile("ref").eval({})[0].tolist() == [2, 3]
    assert parse(str(parse(text % outside))) == program  # as a program here prints it
    for name in (outside, "../w.bin", "link.bin"):
        with pytest.raises(DataError, match="is absolute|leads out of the model's folder"):
            parse(text % name, find=within(folder))


def test_side_files_are_found_from_the_folder_given(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8) + np.array([2, 3], np.float32).tobytes())
    text = (
        'module main() {\n  %0 = @literal() {value=bytes("w.bin", 8, 8)} : f32[2]\n  return %0\n}'
    )
    program = migx.parse(text, folder=tmp_path)
    assert program.compile("ref").eval({})[0].tolist() == [2, 3]
    with pytest.raises(EvaluationError, match="cannot read tensor data: No such file"):
        migx.parse(text).compile("ref").eval({})
    with pytest.raises(EvaluationError, match=r"has 16 bytes, .* at bytes 12 to 20"):
        migx.parse(text.replace("8, 8", "12, 8"), folder=tmp_path).compile("ref").eval({})


def test_what_is_written_as_before_is_the_same_again() -> None:
    """Shapes, attributes and origins that stand in a text already are not read again."""
    text = """module main(x: f32[2, 3], y: f32[2, 3]{1, 2}, z: f32[2, 3] {1, 2}) {
  %0 = @literal() {value=[1.0], label="}"} : f32[1] from "a", "b"
  %1 = @literal() {value=[1.0], label="}"} : f32[1] from "a", "b"
  %2 = @literal() {value=[2.0], label="]"} : f32[1] from "a", "b"  # "c"
  %3 = elu(x) {alpha=2.0} : f32[2, 3] from "a", "c"
  %4 = elu(%3) {alpha=2.0} : f32[2, 3] from "a", "c", "d"
  return %0, %1, %2, %4
}
"""
    main = migx.parse(text).main
    assert [p.shape.strides for p in main.parameters.values()] == [None, (1, 2), (1, 2)]
    first, second, third, inner, outer = (at for at in main if at.name not in ("@param", "@return"))
    assert first.op == second.op != third.op
    assert inner.op == outer.op == ops.Elu(2.0)
    assert [at.origins for at in (first, second, third)] == [("a", "b")] * 3
    assert (inner.origins, outer.origins) == (("a", "c"), ("a", "c", "d"))
    line = 'module main(x: f32[2]) { %0 = relu(x) : f32[2] from "a" return %0 }'
    assert migx.parse(line) == migx.parse(line.replace("from", "\nfrom"))


HEAD = "module main(x: f32[2, 3]) {\n"
MALFORMED: list[tuple[str, int, int, str]] = [
    ("", 1, 1, "expected a module named main"),
    ("hello", 1, 1, "expected 'module', found 'hello'"),
    ("module other() {\n  return\n}", 3, 2, "expected a module named main"),
    ("module main(x f32[2]) {}", 1, 15, "expected ':', found 'f32'"),
    ("module main(x: f33[2]) {}", 1, 16, "no element type 'f33'; there are bool, i8"),
    ("module main(x: f32[2.5]) {}", 1, 20, "expected a value, found '2.5'"),
    ("module main(x: f32[-1]) {}", 1, 16, "a dim cannot be negative"),
    ("module main(x: f32[n//0]) {}", 1, 20, "n // 0 divides by zero"),
    ("module main(x: f32[2] {\n  return x\n}", 1, 23, "expected ',' or ')', found '{'"),
    ("module main(x: f32[2]{\n  %0 = relu(x)\n", 1, 22, "expected ',' or ')', found '{'"),
    ("module main(ä: f32[2]) {}", 1, 13, "(a name that is no plain identifier stands in double "),
    ("module main(x: f32[ä]) {}", 1, 20, "(a name of a dim that is no plain identifier stands in"),
    ('module main("x: f32[2]) {}', 1, 13, "name; the opening \" is not closed"),
    ("module main(x: f32[`n]) {}", 1, 20, "expected a value; the opening ` is not closed"),
    (HEAD + '  %0 = pad(x) {mode="edge}\n}', 2, 21, "the opening \" is not closed"),
    ("module main(x: i4[2, 3]{1, 2}) {}", 1, 16, "i4 is packed storage"),
    ("module main(x: f32[broadcast(2, 3)]) {}", 1, 20, "2 and 3 do not broadcast"),
    ("module main(x: f32[], x: f32[]) {}", 1, 23, "parameter 'x' is declared twice"),
    ("module main() {\n  return", 2, 9, "found the end of the text"),
    ("module main() {}\nmodule main() {}", 2, 8, "there are two modules named 'main'"),
    ("dim n = 5..2\nmodule main() {}", 1, 5, "needs 0 <= low <= high, got 5..2"),
    ("dim n = 1..8 {16}\nmodule main() {}", 1, 5, "the optimal size 16 is outside 1..8"),
    ("dim n = 1..\ndim n = 2..\nmodule main() {}", 2, 5, "dim 'n' is declared twice"),
    ("dim n = int..2\nmodule main() {}", 1, 9, "expected the lower bound, found 'int'"),
    (HEAD + "  relu(x)\n}", 2, 3, "expected an instruction such as %0 = add(x, y), or 'return'"),
    (HEAD + "  %0 = relu(y)\n}", 2, 13, "there is no value y; there are: x"),
    (HEAD + "  %0 = relu(x)\n}", 1, 8, "module 'main' has no return"),
    (HEAD + "  return x\n  return x\n}", 3, 3, "module 'main' has returned before this"),
    (HEAD + "  return x\n  %0 = relu(x)\n}", 3, 8, "module 'main' has returned before this"),
    (HEAD + "  %0 = relu(%1)\n  %1 = relu(x)\n}", 2, 13, "%1 is read before it is defined"),
    (HEAD + "  %0 = relu(x)\n  %0 = relu(x)\n}", 3, 8, "%0 is defined twice"),
    (HEAD + "  %0 = rellu(x)\n}", 2, 8, "no operation named 'rellu'; similar: relu"),
    (HEAD + "  %0 = add(x)\n}", 2, 8, "add takes 2 inputs, got 1"),
    (HEAD + "  %0 = relu(x) : f32[3, 2]\n}", 2, 8, "relu gives f32[2, 3], the text says f32[3, 2]"),
    (HEAD + "  %0 = relu(x) {slope=1}\n}", 2, 8, "relu has no attribute 'slope'; it has no attri"),
    (HEAD + "  %0 = elu(x) {alpha=1, alpha=2}\n}", 2, 25, "attribute 'alpha' is given twice"),
    (HEAD + "  %0 = elu(x) {alpha=\"1\"}\n}", 2, 8, "elu: alpha is float, not '1'"),
    (HEAD + "  %0 = elu(x) {alpha=true}\n}", 2, 8, "elu: alpha is float, not True"),
    (HEAD + "  %0 = transpose(x)\n}", 2, 8, "transpose needs the attributes permutation"),
    (HEAD + "  %0 = transpose(x) {permutation=(1, \"0\")}\n}", 2, 8, "permutation is tuple[int"),
    (HEAD + "  %0 = transpose(x) {permutation=(1 0)}\n}", 2, 37, "expected ',' or ')', found '0'"),
    (HEAD + "  %0 = pad(x) {pads=(1, (2, 3) * 2)}\n}", 2, 25, "expected numbers and dims"),
    (HEAD + '  %0 = pad(x) {mode="\\q"}\n}', 2, 21, "not a string: Invalid \\escape"),
    (HEAD + '  %0 = elu(x) {alpha=nan("xy")}\n}', 2, 26, "expected the bytes in hexadecimal"),
    (HEAD + "  %0 = if(x) [yes]\n}", 2, 15, "there is no module 'yes'"),
    (HEAD + "  %0 = if(x) [main, main]\n}", 2, 8, "module main cannot be an argument"),
    (HEAD + "  %0 = relu(other:x)\n}", 2, 19, "there is no module 'other'"),
    (HEAD + "  %0 = @literal() {value=[1]}\n}", 2, 8, "a literal's shape must follow it"),
    (HEAD + "  %0 = @literal() {value=[1]} : f32[n]\n}", 2, 8, "with dims that are numbers"),
    (HEAD + "  %0 = @literal() {value=[1]} : f32[2]\n}", 2, 8, "has 2 elements, the text 1"),
    (HEAD + "  %0 = @literal() {value=[2.5]} : i64[1]\n}", 2, 8, "2.5 is no element of i64"),
    (HEAD + "  %0 = @literal() {value=[1]} : bool[1]\n}", 2, 8, "1 is no element of bool"),
    (HEAD + "  %0 = @literal() {value=[300]} : u8[1]\n}", 2, 8, "300 is no element of u8"),
    (HEAD + "  %0 = @literal() {value=[1e9]} : f16[1]\n}", 2, 8, "is no element of f16"),
    (HEAD + "  %0 = @literal() {value=[8]} : i4[1]\n}", 2, 8, "8 is no element of i4: it would be"),
    (HEAD + "  %0 = @literal() {value=[1.0]} : i4[1]\n}", 2, 8, "1.0 is no element of i4"),
    (HEAD + "  %0 = @literal() {value=[2.5]} : f4[1]\n}", 2, 8, "2.5 is no element of f4"),
    (HEAD + "  %0 = @literal() {value=[[1]]} : f32[1, 1]\n}", 2, 8, "must be one flat list"),
    (HEAD + "  %0 = transpose(x) {permutation=[1, 0]}\n}", 2, 8, "in parentheses, (1, 0)"),
    (HEAD + "  %0 = softmax(x) {axis=[1]}\n}", 2, 8, "softmax: axis is int, not the list [1]"),
    (HEAD + "  %0 = relu(x) $\n}", 2, 16, "found '$'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "column", "message"), MALFORMED)
def test_malformed_text_says_where_and_what(
    text: str, line: int, column: int, message: str
) -> None:
    with pytest.raises(ParseError) as caught:
        migx.parse(text)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(f"line {line}, column {column}: ")
    assert message in first
    # The line is shown with a caret under the place.
    place = max(i for i, row in enumerate(rest) if row.strip() and not set(row) - {" ", "^"})
    assert rest[place].index("^") == column + 1
    assert rest[place - 1] == "  " + (text.split("\n")[line - 1])


@pytest.mark.parametrize(
    "nested",
    [
        f"reshape(x) {{dims=({'(' * 3000}2{')' * 3000},)}}",
        f"reshape(x) {{dims={'(' * 3000}2{',)' * 3000}}}",
        f"@literal() {{value={'[' * 3000}{']' * 3000}}} : f32[1]",
        f"relu(x) : {'tuple(' * 3000}",
    ],
)
def test_text_that_is_nested_too_deep_is_refused(nested: str) -> None:
    with pytest.raises(ParseError, match=r"line 2, column \d+: this is nested too deeply"):
        migx.parse(f"{HEAD}  %0 = {nested}\n  return %0\n}}")


def test_a_mark_of_byte_order_is_not_read() -> None:
    text = f"{HEAD}  return x\n}}"
    assert migx.parse(f"\ufeff{text}") == migx.parse(text)


@settings(max_examples=200)
@given(programs(), st.data())
def test_damaged_text_is_a_parse_error_or_another_program(program: Program, data: Any) -> None:
    text = str(program)
    at = data.draw(st.integers(0, len(text)))
    piece = st.sampled_from(['"', "`", "(", ")", "{", "[", ",", "=", "-", "1", "2.5", "x", "%9"])
    put = data.draw(st.one_of(st.just(""), piece, st.sampled_from(text)))
    cut = data.draw(st.sampled_from([0, 1, 3, len(text)]))
    damaged = text[:at] + put + text[at + cut :]
    with contextlib.suppress(ParseError):
        parsed = migx.parse(damaged)
        assert migx.parse(str(parsed)) == parsed


def test_an_error_draws_the_instruction_and_where_it_came_from() -> None:
    program = migx.parse(EXAMPLE.replace('["if.then"', "[if.then"))
    main, inner = program.main, program.modules["if.then"]
    add = list(main)[5]
    add.origins = ("layer/Add",)
    assert draw_instruction("what is wrong", add).splitlines() == [
        "what is wrong",
        '  add(%1, "2nd input")',
        "  ^^^",
        "  %1 : f32[3]",
        '  "2nd input" : f32[3]{0}',
        "  in module main, from ONNX 'layer/Add'",
    ]
    assert draw("no", inner, ops.Relu(), [add]).splitlines()[1] == "  relu(main:%2)"
    with pytest.raises(ShapeError, match=r"(?s)add needs equal dims.*from ONNX 'n'") as e:
        main.add_instruction(ops.Convert(F32), main.parameters["c"])
        main.insert_instruction(main.returned, ops.Add(), add, list(main)[-2], origins=("n",))
    assert str(e.value).splitlines()[1:3] == ["  add(%2, %6)", "  ^^^"]
