"""The maps of ``ai.onnx.ml``: made from the rows of a tensor, and converted to tensors."""

from __future__ import annotations

import numpy as np

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.ml import DOMAIN, class_labels, rows_of
from migx.shape import F32, I64, STR

CASTS = {"TO_FLOAT": F32, "TO_INT64": I64, "TO_STRING": STR}


@importer("ZipMap", domain=DOMAIN)
def zip_map(node: Node) -> Instruction:
    """A map for each row, from the labels to its elements, which are f32."""
    return node.add(ops.ZipMap(), node.literal(class_labels(node)), rows_of(node, 0))


@importer("DictVectorizer", domain=DOMAIN)
def dict_vectorizer(node: Node) -> Instruction:
    """One row: the values for the words of the vocabulary."""
    strings = node.has("string_vocabulary")
    names = node.strings("string_vocabulary") if strings else node.integers("int64_vocabulary")
    words = np.asarray(names, object if strings else np.int64)
    found = node.add(ops.MapLookup(), node.input(0), node.literal(words))
    return node.add(ops.Unsqueeze((0,)), found)


@importer("CastMap", domain=DOMAIN)
def cast_map(node: Node) -> Instruction:
    """One row: the values in the order of their keys, or at the index of each if SPARSE."""
    form = node.choice("map_form", ("DENSE", "SPARSE"), "DENSE")
    cast = node.choice("cast_to", CASTS, "TO_FLOAT")
    if form == "DENSE":
        found = node.add(ops.MapValues(node.fresh()), node.input(0))
    else:
        keys = node.literal(np.arange(node.integer("max_map", 1)))
        found = node.add(ops.MapLookup(), node.input(0), keys)
    return node.add(ops.Unsqueeze((0,)), node.convert(found, CASTS[cast]))
