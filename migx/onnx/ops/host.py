"""Nodes that run on the host, through ONNX's reference implementation: strings and image files."""

from __future__ import annotations

from google.protobuf import text_format

from migx import ops
from migx.builders import common_dims
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.shape import BOOL, F32, I64, STR, U8, Shape


def host(node: Node, *outputs: Shape) -> tuple[Instruction, ...]:
    """The node as an operation on the host, with results of the given shapes."""
    if node.outputs > len(outputs):
        raise node.fail(f"it has {node.outputs} outputs; there are {len(outputs)}")
    given = [value for value in node.inputs if value is not None]
    text = text_format.MessageToString(node.proto, as_one_line=True)
    named = tuple(s for s, name in zip(outputs, node.proto.output, strict=False) if name)
    whole = node.add(ops.Host(text, node.version, named), *given)
    results = iter(node.elements(whole, len(named)))
    return tuple(next(results) if n else node.add(ops.Undefined()) for n in node.proto.output)


def strings(node: Node, index: int) -> tuple[Extent, ...]:
    """The dims of an operand that must be strings."""
    shape = node.input(index).shape
    if shape.dtype is not STR:
        raise node.fail(f"input {index} is {shape}, but strings are wanted")
    return shape.dims


@importer("StringConcat", since=20)
def string_concat(node: Node) -> tuple[Instruction, ...]:
    dims = common_dims(*(strings(node, i) for i in (0, 1)))
    return host(node, Shape(STR, dims))


@importer("StringNormalizer", since=10)
def string_normalizer(node: Node) -> tuple[Instruction, ...]:
    dims = strings(node, 0)
    kept = node.fresh("kept") if node.has("stopwords") else dims[-1]
    return host(node, Shape(STR, (*dims[:-1], kept)))


@importer("StringSplit", since=20)
def string_split(node: Node) -> tuple[Instruction, ...]:
    dims = strings(node, 0)
    return host(node, Shape(STR, (*dims, node.fresh("pieces"))), Shape(I64, dims))


@importer("RegexFullMatch", since=20)
def regex_full_match(node: Node) -> tuple[Instruction, ...]:
    return host(node, Shape(BOOL, strings(node, 0)))


@importer("Tokenizer", domain="com.microsoft")
def tokenizer(node: Node) -> tuple[Instruction, ...]:
    dims = strings(node, 0)
    for expression in (node.string("tokenexp", ""), *node.strings("separators", ())):
        if "[:" in expression:
            raise node.fail(f"in {expression!r}, classes are wanted as [a-z], not as [[:alpha:]]")
    return host(node, Shape(STR, (*dims, node.fresh("tokens"))))


@importer("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(node: Node) -> tuple[Instruction, ...]:
    """The skip is at most the length of a row, because the host tries each value up to it."""
    dims = node.input(0).shape.dims
    width = 1 + max(node.integers("ngram_indexes"), default=-1)
    if dims and isinstance(dims[-1], int):
        for attribute in node.proto.attribute:
            if attribute.name == "max_skip_count":
                attribute.i = min(attribute.i, dims[-1])
    return host(node, Shape(F32, (*dims[:-1], width)))


@importer("ImageDecoder", since=20)
def image_decoder(node: Node) -> tuple[Instruction, ...]:
    channels = 1 if node.string("pixel_format", "RGB") == "Grayscale" else 3
    return host(node, Shape(U8, (node.fresh("height"), node.fresh("width"), channels)))
