"""Sequences, optionals and strings: values that no kernel reads, through the reader and ``ref``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.errors import EvaluationError, InputError, OnnxError
from migx.program import Program
from tests.onnx.build import read
from tests.onnx.one_node import assert_as_peer, results

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 3), np.float32)
HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'


def program(graph: str, folder: Path) -> Program:
    from onnx import parser

    return read(parser.parse_model(HEAD + graph), folder).compile("ref")


def only(made: Program, **inputs: Any) -> Any:
    (result,) = made.eval(inputs)
    return result


def same(got: list[NDArray[Any]], wanted: list[NDArray[Any]]) -> bool:
    return len(got) == len(wanted) and all(map(np.array_equal, got, wanted))


def test_a_sequence_is_made_and_taken_apart(tmp_path: Path) -> None:
    made = program(
        """g (float[n, 3] a, float[m, 3] b, int64 i) => (float[p, 3] at, float[q, 3] all, int64 k) {
          s = SequenceConstruct(a, b)
          t = SequenceInsert(s, a, i)
          u = SequenceErase(t)
          at = SequenceAt(u, i)
          all = ConcatFromSequence<axis = 0>(t)
          k = SequenceLength(u)
        }""",
        tmp_path,
    )
    at, whole, count = made.eval({"a": A, "b": B, "i": np.array(1)})
    np.testing.assert_array_equal(at, A)
    np.testing.assert_array_equal(whole, np.concatenate([A, A, B]))
    assert count == 2
    with pytest.raises(EvaluationError, match=r"position -4 is out of range for a sequence of 2"):
        made.eval({"a": A, "b": B, "i": np.array(-4)})


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_more_is_known_of_members_when_sizes_are(target: str, tmp_path: Path) -> None:
    made = program(
        """g (float[n, 3] a) => (float[p, 3] y, float[q] z) {
          b = Neg(a) s = SequenceConstruct(a, b) t = SplitToSequence<axis = 1, keepdims = 0>(a)
          i = Constant<value = int64 {1}>() y = SequenceAt(s, i) z = SequenceAt(t, i)
        }""",
        tmp_path,
    ).compile(target)
    for a in (A, B):
        assert same(list(made.eval({"a": a})), [-a, a[:, 1]])


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("int64 n = {2}", [A[:, :2], A[:, 2:]]),
        ("int64[3] n = {1, 0, 2}", [A[:, :1], A[:, :0], A[:, 1:]]),
    ],
)
def test_a_tensor_is_split(split: str, wanted: list[Any], tmp_path: Path) -> None:
    graph = f"""g (float[r, 3] a) => (seq(float[r, k]) s) <{split}> {{
      s = SplitToSequence<axis = 1>(a, n) }}"""
    assert same(only(program(graph, tmp_path), a=A), wanted)


def test_lengths_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    made = program(
        "g (float[r, 3] a, int64[k] n) => (seq(float[r, l]) s) "
        "{ s = SplitToSequence<axis = 1>(a, n) }",
        tmp_path,
    )
    with pytest.raises(EvaluationError, match=r"the lengths \[1, 1\] do not make up 3"):
        made.eval({"a": A, "n": np.array([1, 1])})


def test_rows_are_taken_one_by_one(tmp_path: Path) -> None:
    """How exporters write a loop over rows: the lengths are all 1, however many, so that what is
    left of a row has a known rank, and what the loop puts in tells what comes out.
    """
    made = program(
        """g (float[n, 3] x, int64[n] times) => (float[m, 3] y) <int64[1] last = {-1}> {
          rows = Shape<start = 0, end = 1>(x)
          ones = ConstantOfShape<value: tensor = int64[1] {1}>(rows)
          xs = SplitToSequence(x, ones)
          counts = SplitToSequence(times, ones)
          none = SequenceEmpty()
          trips = Squeeze(rows)
          all = Loop(trips, , none) <body = b (int64 i, bool c, seq(float[m, 3]) before)
            => (bool d, seq(float[k, 3]) after) <int64[1] three = {3}> {
              d = Identity(c)
              row = SequenceAt(xs, i)
              count = SequenceAt(counts, i)
              dims = Concat<axis = 0>(count, three)
              free = Abs(dims)
              wide = Expand(row, free)
              after = SequenceInsert(before, wide)
            }>
          z = ConcatFromSequence<axis = 0>(all)
          y = Neg(z)
        }""",
        tmp_path,
    )
    for times in ([2, 1], [0, 3]):
        got = only(made, x=A, times=np.array(times))
        np.testing.assert_array_equal(got, -np.repeat(A, times, axis=0))


def test_a_sequence_is_an_input_and_an_output(tmp_path: Path) -> None:
    made = program(
        """g (seq(float[k, 3]) s, float[n, 3] x) => (seq(float[k, 3]) t, float[h, 3] first)
        <int64 zero = {0}> {
          t = SequenceInsert(s, x)
          first = SequenceAt(t, zero)
        }""",
        tmp_path,
    )
    together, first = made.eval({"s": [A, B], "x": B})
    assert same(together, [A, B, B])
    np.testing.assert_array_equal(first, A)
    with pytest.raises(InputError, match=r"'s' is no sequence: it holds i64\[1\], but f32"):
        made.eval({"s": [np.array([1])], "x": B})
    with pytest.raises(InputError, match=r"'s' is no sequence: int is no list"):
        made.eval({"s": 3, "x": B})


def test_a_loop_carries_a_sequence(tmp_path: Path) -> None:
    made = program(
        """g (int64 n, float[k] x) => (float[m] y) {
          empty = SequenceEmpty()
          s = Loop(n, , empty) <body = b (int64 i, bool c, seq(float[k]) before)
            => (bool again, seq(float[k]) after) {
              again = Identity(c)
              after = SequenceInsert(before, x)
            }>
          y = ConcatFromSequence<axis = 0>(s)
        }""",
        tmp_path,
    )
    np.testing.assert_array_equal(only(made, n=np.array(3), x=B[0]), np.ones(9))


NOTHING: dict[str, Any] = {"o": None}
OPTIONAL = """g (optional(float[n]) o) => (bool has, float[m] y) {
  has = OptionalHasElement(o)
  y = If(has) <
    then_branch = yes () => (float[a] held) { held = OptionalGetElement(o) },
    else_branch = no () => (float[b] none) { none = Constant<value = float[1] {-1}>() }
  >
}"""


def test_an_optional_holds_something_or_nothing(tmp_path: Path) -> None:
    made = program(OPTIONAL, tmp_path)
    has, y = made.eval({"o": B[0]})
    assert has
    np.testing.assert_array_equal(y, B[0])
    has, y = made.eval(NOTHING)
    assert not has
    np.testing.assert_array_equal(y, [-1])


def test_an_optional_goes_out(tmp_path: Path) -> None:
    made = program("g (float[n] x) => (optional(float[n]) o) { o = Optional(x) }", tmp_path)
    np.testing.assert_array_equal(only(made, x=B[0]), B[0])


def test_an_empty_optional_says_what_it_would_hold(tmp_path: Path) -> None:
    graph = """g (float[n] x, bool c) => (optional(float[n]) o) {
      o = If(c) <
        then_branch = yes () => (optional(float[n]) some) { some = Optional(x) },
        else_branch = no () => (optional(float[n]) none) { none = Optional<type = float[n]>() }
      >
    }"""
    made = program(graph, tmp_path)
    assert migx.parse(str(made)) == made
    migx.onnx.write(made, tmp_path / "again.onnx")
    for each in (made, migx.parse_onnx(tmp_path / "again.onnx").compile("ref")):
        np.testing.assert_array_equal(only(each, x=B[0], c=np.array(True)), B[0])
        assert only(each, x=B[0], c=np.array(False)) is None


def test_what_an_optional_does_not_hold_cannot_be_got(tmp_path: Path) -> None:
    graph = "g (optional(float[n]) o) => (float[m] y) { y = OptionalGetElement(o) }"
    with pytest.raises(EvaluationError, match=r"the optional holds nothing"):
        program(graph, tmp_path).eval(NOTHING)


def test_a_rank_that_nothing_says_is_refused(tmp_path: Path) -> None:
    graph = """g (seq(float[]) s) => (float[n] y) <int64 zero = {0}> {
      x = SequenceAt(s, zero)
      y = Neg(x)
    }"""
    with pytest.raises(OnnxError, match=r"let the model declare the shape of 'x'"):
        program(graph, tmp_path)


def test_strings_run_on_the_host(tmp_path: Path) -> None:
    made = program(
        """g (string[n] x, string[m] y) => (string[n] both, string[n, p] parts, bool[n] match) {
          both = StringConcat(x, y)
          parts, counts = StringSplit<delimiter = ".">(x)
          match = RegexFullMatch<pattern = "[a-z]+">(x)
        }""",
        tmp_path,
    )
    both, parts, match = made.eval({"x": np.array(["a.b", "c"]), "y": np.array(["!"])})
    assert both.tolist() == ["a.b!", "c!"]
    assert parts.tolist() == [["a", "b"], ["c", ""]]
    assert match.tolist() == [False, True]


TEXTS = np.array([["the quick brown", ""], ["a,b;;c  d", "éa ü  stitch!"]], object)


@pytest.mark.parametrize("mark", [0, 1])
@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize(
    "how",
    [
        *(
            {"tokenexp": text}
            for text in (r"[a-zA-Z0-9_]+", r"\w\w+", "q|qu|b", "q.*?k", "t*", "9")
        ),
        *({"separators": texts} for texts in ([" "], [" ", "[,;]+"], ["i|ic"])),
    ],
)
def test_tokens(how: dict[str, Any], least: int, mark: int, tmp_path: Path) -> None:
    tokens = {"mark": mark, "mincharnum": least, "pad_value": "#", **how}
    assert_as_peer(tmp_path, "Tokenizer", [TEXTS], **tokens)


@pytest.mark.parametrize("how", [{"tokenexp": "."}, {"separators": [""]}])
def test_characters_as_tokens(how: dict[str, Any], tmp_path: Path) -> None:
    tokens = {"mark": 0, "mincharnum": 1, "pad_value": "", **how}
    assert_as_peer(tmp_path, "Tokenizer", [TEXTS[0]], **tokens)


def test_a_class_of_characters_that_python_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxError, match=r"classes are wanted as \[a-z\]"):
        results(tmp_path, "Tokenizer", [TEXTS], tokenexp="[[:alpha:]]+")


def test_a_node_on_the_host_may_read_one_value_twice(tmp_path: Path) -> None:
    text = "g (string[n] x) => (string[n] y) { y = StringConcat(x, x) }"
    (y,) = program(text, tmp_path).eval({"x": np.array(["a", "ü"])})
    assert y.tolist() == ["aa", "üü"]


def test_what_the_host_cannot_do_is_an_error_at_its_node(tmp_path: Path) -> None:
    made = program("g (uint8[n] x) => (uint8[h, w, 3] y) { y = ImageDecoder(x) }", tmp_path)
    with pytest.raises(EvaluationError, match=r"cannot identify image[\s\S]*host\(x\)"):
        made.eval({"x": np.zeros(4, np.uint8)})


def test_an_attribute_the_host_misses_is_an_error_at_its_node(tmp_path: Path) -> None:
    graph = """g (int64[n] x) => (float[1] y) {
      y = TfIdfVectorizer<max_skip_count = 0, ngram_indexes = [0]>(x)
    }"""
    with pytest.raises(EvaluationError, match=r"onnx.reference: Attribute '\w+' is expected"):
        program(graph, tmp_path).eval({"x": np.array([1, 2])})


def test_a_value_that_gives_a_size_stays(tmp_path: Path) -> None:
    made = program(
        "g (float[n] x) => (int64[2] y) { z = NonZero(x) \n w = Neg(z) \n y = Shape(w) }", tmp_path
    )
    assert [at.name for at in made.main] == ["@param", "nonzero", "dim_literal", "@return"]
    assert only(made, x=np.array([1, 0, 2], np.float32)).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ('case_change_action = "LOWER"', ["the cat", "", "\u00e9mile", "the"]),
        ('case_change_action = "UPPER", stopwords = ["the"]', ["THE CAT", "", "\u00c9MILE"]),
        ('is_case_sensitive = 1, stopwords = ["The"]', ["The cat", "", "\u00c9mile"]),
        ('stopwords = ["THE CAT", "the", "", "\u00e9mile"]', [""]),
    ],
)
@pytest.mark.parametrize("dims", [(4,), (1, 4)])
def test_only_whole_strings_are_stop_words(
    attributes: str, wanted: list[str], dims: tuple[int, ...], tmp_path: Path
) -> None:
    """Accents and empty strings stay, as with onnxruntime, where there is a locale for it."""
    made = program(
        f"g (string{list(dims)} x) => (string[n] y) {{ z = StringNormalizer<{attributes}>(x) "
        "all = Constant<value = int64[1] {-1}>() y = Reshape(z, all) }",
        tmp_path,
    )
    x = np.array(["The cat", "", "\u00c9mile", "The"], object).reshape(dims)
    assert only(made, x=x).tolist() == wanted


def test_stop_words_are_taken_from_one_row(tmp_path: Path) -> None:
    made = program(
        'g (string[n, 2] x) => (string[m, k] y) { y = StringNormalizer<stopwords = ["a"]>(x) }',
        tmp_path,
    )
    with pytest.raises(EvaluationError, match=r"taken from \[C\] or \[1, C\], not from \(2, 2\)"):
        made.eval({"x": np.full((2, 2), "a", object)})
