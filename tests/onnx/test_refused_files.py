"""Small files that mean nothing, or would never end, are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import model_of, read
from tests.onnx.open_models import GIVEN, head, open_model

WRONG = {
    "a graph given to a function that has a value of that name": (
        GIVEN.replace("NAME", "w"),
        "Chosen 'y': its graph reads 'w', but in the function that it is given to, this names",
    ),
    "two nodes make one value": (
        "main (float[2] x) => (float[2] y) { y = Neg(x) y = Exp(x) }",
        "two values are named 'y'",
    ),
    "two initializers of a name": (
        "main (float[2] x) => (float[2] y) <float w = {1}, float w = {2}> { y = Add(x, w) }",
        "two values are named 'w'",
    ),
    "two inputs of a name": (
        "main (float[2] x, float[2] x) => (float[2] y) { y = Neg(x) }",
        "two values are named 'x'",
    ),
    "an output that nothing makes": (
        "main (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) }",
        "nothing in the model produces the output 'z'",
    ),
    "more outputs than there are": (
        "main (float[2] x) => (float[2] y, float[2] z) { y, z = Neg(x) }",
        "Neg 'y': outputs z are not supported",
    ),
    "a function that calls itself": (
        """main (float[2] x) => (float[2] y) { y = mine.Again(x) }
        <domain: "mine", opset_import: ["" : 17, "mine" : 1]>
        Again (a) => (b) { b = mine.Again(a) }""",
        "mine.Again calls itself",
    ),
    "a function that calls itself by its overload": (
        """main (float[2] x) => (float[2] y) { y = mine.Again:a(x) }
        <domain: "mine", overload: "a", opset_import: ["" : 17, "mine" : 1]>
        Again (a) => (b) { b = mine.Again:a(a) }""",
        "mine.Again:a calls itself",
    ),
    "an overload that there is not": (
        """main (float[2] x) => (float[2] y) { y = mine.One:b(x) }
        <domain: "mine", overload: "a", opset_import: ["" : 17]>
        One (a) => (b) { b = Neg(a) }""",
        "mine.One:b version 1: 1 node, at 'y'",
    ),
    "a function with too many inputs": (
        """main (float[2] x) => (float[2] y) { y = mine.One(x, x) }
        <domain: "mine", opset_import: ["" : 17]>
        One (a) => (b) { b = Neg(a) }""",
        "One 'y': it has 2 inputs; One takes 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_means_nothing_is_refused(case: str, tmp_path: Path) -> None:
    graph, said = WRONG[case]
    with pytest.raises(OnnxError, match=said):
        read(open_model(graph, head(17, more=', "mine" : 1')), tmp_path)


LARGE = {
    "more new axes than a tensor can have": (
        "main (float[2] x, int64[1048576] a) => (float[] y) { y = Unsqueeze(x, a) }",
        "there are 1048576 axes it adds; a tensor has at most 64 axes",
    ),
    "more dims than a tensor can have": (
        "main (float[2] x, int64[4611686018427387904] a) => (float[] y) { y = Reshape(x, a) }",
        "there are 4611686018427387904 dims; a tensor has at most 64 axes",
    ),
    "an image of more axes than a tensor can have": (
        """main (float[1, 4, 4] x, int64[9999999999] a, int64[2] b) => (float[] y) {
            y = Col2Im(x, a, b) }""",
        "there are 9999999999 axes of the image; a tensor has at most 64 axes",
    ),
    "a sequence of anything, mapped": (
        """main (seq(float) x) => (seq(float) y) { y = SequenceMap(x) <
            body = b (float[n] u) => (float[n] v) { v = Neg(u) }> }""",
        "SequenceMap 'y': the rank of the elements of 'x' is not known",
    ),
}


@pytest.mark.parametrize(
    ("count", "body", "said"),
    [
        (40, "b = mine.F{}(a) c = mine.F{}(b)", "have [0-9]* nodes in all; at most 1000000"),
        (2000, "c = mine.F{}(a)", "the model's functions are nested too deeply to be read"),
    ],
)
def test_functions_that_call_the_next_without_end_are_refused(
    count: int, body: str, said: str, tmp_path: Path
) -> None:
    bodies = [body.replace("{}", str(i + 1)) for i in range(count)]
    functions = "".join(
        f"""<domain: "mine", opset_import: ["" : 17, "mine" : 1]> F{i} (a) => (c) {{ {body} }}\n"""
        for i, body in enumerate([*bodies, "c = Neg(a)"])
    )
    graph = f"main (float[2] x) => (float[2] y) {{ y = mine.F0(x) }}\n{functions}"
    with pytest.raises(OnnxError, match=said):
        read(open_model(graph, head(17, more=', "mine" : 1')), tmp_path)


@pytest.mark.parametrize("case", LARGE)
def test_what_would_never_end_is_refused(case: str, tmp_path: Path) -> None:
    graph, said = LARGE[case]
    model = open_model(graph, head(18)) if "seq" not in graph else model_of(graph, head(18))
    if "seq" in graph:
        model.graph.input[0].type.sequence_type.elem_type.tensor_type.ClearField("shape")
    with pytest.raises(OnnxError, match=said):
        read(model, tmp_path)


def test_a_matrix_too_large_for_any_machine_takes_nothing_until_the_run(tmp_path: Path) -> None:
    graph = "main (float[1048576, 1099511627776] x) => (float[] y) { y = EyeLike(x) }"
    assert read(open_model(graph, head(18)), tmp_path).main.outputs[0].shape.nbytes == 1 << 62


def test_more_skips_than_a_row_has_elements_cost_nothing(tmp_path: Path) -> None:
    graph = """main (int64[3] x) => (float[2] y) { y = TfIdfVectorizer<max_gram_length = 2,
        max_skip_count = 9223372036854775807, min_gram_length = 1, mode = "TF",
        ngram_counts = [0, 1], ngram_indexes = [0, 1], pool_int64s = [5, 5, 7]>(x) }"""
    program = read(open_model(graph, head(18)), tmp_path).compile("ref")
    assert program.eval({"x": np.array([5, 6, 7])})[0].tolist() == [1.0, 1.0]
