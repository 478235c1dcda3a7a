"""Real models: every architecture in the repository is read and printed, the small ones run.

A graph without its weights is read beside a sparse file of their size, in which little is
not 0, so this costs little disk and no time. Models that are fetched from a package index are
skipped, with the reason, where there is no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import pytest

import migx
from benchmarks import models
from migx.program import Program
from migx.verify import verify
from tests.onnx.build import Array, peer

GRAPHS = sorted(Path(models.__file__).parent.glob("graphs/*.onnx"))
SMALL = ["script_loop_rnn", "mobilenet_v2", "qonnx_mnist_conv", "silero_vad"]
SMALL += ["g2p_id_lstm_encoder", "magika_v3_3"]


def external_end(model: onnx.ModelProto) -> int:
    """How long the weights of a model are as a file."""
    ends = [0]
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        ends.append(int(place.get("offset", 0)) + int(place.get("length", 0)))
    return max(ends)


def fill(model: onnx.ModelProto, weights: BinaryIO) -> None:
    """Writes ones for the scales of quantised values, of which 0 is refused, and a number for each
    other weight, so that no two are equal.
    """
    linear = ("QuantizeLinear", "DequantizeLinear")
    scales = {node.input[1] for node in model.graph.node if node.op_type in linear}
    for number, tensor in enumerate(model.graph.initializer):
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            length = int(place["length"])
            ones = np.ones(length // 4, np.float32) if tensor.name in scales else np.array(number)
            weights.seek(int(place.get("offset", 0)))
            weights.write(ones.tobytes()[:length])


def without_weights(graph: Path, folder: Path) -> Program:
    """The program of a graph beside a file of nothing."""
    path = folder / "model.onnx"
    path.write_bytes(graph.read_bytes())
    model = onnx.load(graph, load_external_data=False)
    with open(folder / "weights.bin", "wb") as weights:
        weights.truncate(external_end(model))
        fill(model, weights)
    return migx.parse_onnx(path)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_every_graph_is_read_verified_and_printed(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph, load_external_data=False)
    program = without_weights(graph, tmp_path)
    verify(program)
    text = str(program)
    assert migx.parse(text) == program
    assert str(migx.parse(text)) == text
    assert "dimensions_of" not in text
    # Dims the model leaves open stay open, up to its results.
    named = {d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim} - {""}
    assert named <= set(program.symbols())
    results = {s.name for v in program.main.outputs for s in v.shape.symbols()}
    assert bool(results) == bool(named)


def made(name: str) -> Path:
    """The path of a model; a test that needs the network for it is skipped without."""
    try:
        return models.make(name)
    except models.NoNetwork as error:
        pytest.skip(str(error))


def errors(got: list[Array], wanted: list[Array]) -> Iterator[float]:
    """The largest error of each output, relative to its largest value."""
    for a, b in zip(got, wanted, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        scale = np.max(np.abs(b), initial=1e-30)
        yield float(np.max(np.abs(a.astype(np.float64) - b), initial=0) / scale)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_agree_with_onnxruntime(name: str) -> None:
    path = made(name)
    program = migx.parse_onnx(path)
    verify(program)
    assert migx.parse(str(program)) == program
    inputs = models.inputs(name)
    got = program.compile("ref").eval(inputs)
    assert max(errors(got, peer(path, inputs))) < 1e-4


def test_a_symbolic_model_runs_at_other_sizes_without_its_file() -> None:
    path = made("g2p_id_lstm_encoder")
    program = migx.parse_onnx(path).compile("ref")
    (parameter,) = program.main.parameters.values()
    assert [s.name for s in parameter.shape.symbols()]
    rng = np.random.default_rng(0)
    for batch, length in ((1, 20), (3, 7), (2, 1)):
        inputs = {"input_1": rng.random((batch, length, 28), np.float32)}
        assert max(errors(program.eval(inputs), peer(path, inputs))) < 1e-4
