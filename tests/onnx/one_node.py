"""Models of one node, and whether onnxruntime and this front end agree on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.onnx.build import Array, peer, read


def node_model(
    kind: str,
    inputs: Sequence[Array | None],
    outputs: int = 1,
    *,
    domain: str = "com.microsoft",
    version: int = 0,
    constant: Sequence[int] = (),
    symbolic: Mapping[int, Sequence[str | int]] | None = None,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node, and what it is fed.

    ``version`` is that of the domain's opset. The inputs at the places in ``constant`` are
    initializers; ``symbolic`` gives others dims with names.
    """
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    declared, held, fed = [], [], {}
    for i, (name, value) in enumerate(zip(names, inputs, strict=True)):
        if value is None:
            continue
        if i in constant:
            held.append(numpy_helper.from_array(value, name))
            continue
        dims = (symbolic or {}).get(i, value.shape)
        kind_of = helper.np_dtype_to_tensor_dtype(value.dtype)
        declared.append(helper.make_tensor_value_info(name, kind_of, dims))
        fed[name] = value
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, names, results, domain=domain, **attributes)
    infos = [onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph([node], "node", declared, infos, held)
    domains = {"": 17, domain: version or (1 if domain else 17)}
    opsets = [helper.make_opsetid(*pair) for pair in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), fed


def results(
    folder: Path, kind: str, inputs: Sequence[Array | None], outputs: int = 1, **options: Any
) -> list[Array]:
    """What the program read from a node gives."""
    model, fed = node_model(kind, inputs, outputs, **options)
    return list(read(model, folder).compile("ref").eval(fed))


def assert_as_peer(
    folder: Path,
    kind: str,
    inputs: Sequence[Array | None],
    outputs: int = 1,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    steps: int = 0,
    **options: Any,
) -> None:
    """Fails unless onnxruntime gives the same types, dims and values; integers may differ by some
    ``steps``.
    """
    model, fed = node_model(kind, inputs, outputs, **options)
    found, wanted = read(model, folder).compile("ref").eval(fed), peer(model, fed)
    for got, want in zip(found, wanted, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if got.dtype.kind in "iu":
            np.testing.assert_allclose(got.astype(np.int64), want.astype(np.int64), 0, steps)
        elif got.dtype == object:
            assert got.tolist() == want.tolist()
        else:
            np.testing.assert_allclose(got, want, rtol, atol)
