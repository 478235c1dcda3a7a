"""Nodes that no compiler would optimise (strings, image files, n-gram counts), evaluated on the
host by ONNX's own reference implementation. No tensor arithmetic is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from migx.argument import Argument
from migx.errors import EvaluationError, ShapeError
from migx.op import Arguments, Modules, Op, Shapes, Traits
from migx.shape import Shape


class Host(Op):
    """One ONNX node, run by ``onnx.reference``. The result is a tuple.

    ``node`` is the node in protobuf's text form, on one line; ``version`` is the opset of its
    domain. ``outputs`` are the shapes of the results, with fresh symbols for dims known only at run
    time. Inputs are tensors, without those the node leaves out.
    """

    traits = Traits(foldable=False)
    node: str
    version: int
    outputs: tuple[Shape, ...]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        for shape in shapes:
            if not shape.dtype.is_tensor or shape.dtype.is_packed:
                raise ShapeError(f"host takes tensors, not {shape.text}")
        return Shape.tuple(*self.outputs)

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        try:
            evaluator = _evaluator(self.node, self.version)
            arrays = (a.array for a in arguments)
            given = dict(zip(evaluator.input_names, arrays, strict=True))
            results = evaluator.run(None, given, attributes={})
        except ImportError as error:
            raise EvaluationError(f"the host lacks a package for this: {error}") from error
        except Exception as error:  # the reference and its callees may raise anything
            raise EvaluationError(f"onnx.reference: {error}") from error
        pairs = zip(results, shape.parts, strict=True)
        return Argument.tuple([Argument.of(np.asarray(r), part.dtype) for r, part in pairs])


@lru_cache(maxsize=256)
def _evaluator(text: str, version: int) -> Any:
    import onnx
    from google.protobuf import text_format
    from onnx.reference import ReferenceEvaluator

    from migx.ops._normalizer import StringNormalizer
    from migx.ops._tokenizer import Tokenizer

    node = text_format.Parse(text, onnx.NodeProto())
    for i, name in enumerate(node.input):  # distinct names, as a node may read a value twice
        node.input[i] = name and f"migx.{i}"
    inputs, outputs = ([n for n in names if n] for names in (node.input, node.output))
    opsets = [onnx.helper.make_opsetid(node.domain, version)]
    function = onnx.helper.make_function("migx.host", node.op_type, inputs, outputs, [node], opsets)
    return ReferenceEvaluator(function, new_ops=[StringNormalizer, Tokenizer])
