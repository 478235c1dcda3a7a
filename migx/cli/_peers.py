"""The peer that a model is compared with: onnxruntime, also value by value at the outputs of ONNX
nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from migx.cli._load import PeerError
from migx.errors import counted
from migx.op import Array

EXACT, ROUNDS = 1, 4
"""Values of ``accuracy_level``: products of floats, and products of bytes."""


def refusals() -> tuple[type[Exception], ...]:
    """The exceptions of peers that refuse a model; onnxruntime has its own."""
    own = sys.modules.get("onnxruntime.capi.onnxruntime_pybind11_state")
    known = () if own is None else vars(own).values()
    found = (v for v in known if isinstance(v, type) and issubclass(v, Exception))
    return (*found, RuntimeError, ValueError)


class Onnxruntime:
    """An ONNX file run by onnxruntime, without graph optimisations that change results.

    ``wanted`` are names of nodes to show: only nodes with one output can be compared. Unless
    ``rounds``, it does not quantise the inputs of products where a file leaves it to the runtime
    (``accuracy_level`` 4 of MatMulNBits). ``notes`` says what had to be done differently.
    """

    def __init__(self, path: Path, wanted: Iterable[str] = (), rounds: bool = False) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise PeerError(
                "--against onnxruntime needs onnxruntime: pip install onnxruntime, or --against ref"
            ) from error
        from migx.onnx.wire import read_stripped

        self._runtime = onnxruntime
        self.path, self.notes = path, list[str]()
        self.inner: dict[str, str] = {}
        nodes = read_stripped(path).model.graph.node
        # Several threads quantise the states of parts of a batch, each by its own range.
        self._threads = int(any(node.op_type == "DynamicQuantizeLSTM" for node in nodes))
        rounded = 0 if rounds else sum(level.i == ROUNDS for level in _levels(nodes))
        model: bytes | str = str(path)
        if wanted or rounded:
            model = self._changed(set(wanted), rounded)
        self._session = self._make(model)

    def run(
        self, inputs: Mapping[str, Any], outputs: Sequence[str]
    ) -> tuple[list[Any], dict[str, Array]]:
        """The outputs with these names, and the values of the wanted nodes."""
        fetched = list(dict.fromkeys([*outputs, *self.inner.values()]))
        try:
            found = dict(zip(fetched, self._session.run(fetched, dict(inputs)), strict=True))
        except refusals() as error:
            raise PeerError(f"onnxruntime cannot run {self.path}: {error}") from error
        return [found[n] for n in outputs], {label: found[n] for label, n in self.inner.items()}

    def _make(self, model: bytes | str) -> Any:
        levels = self._runtime.GraphOptimizationLevel
        try:
            return self._attempt(model, levels.ORT_DISABLE_ALL)
        except refusals() as error:
            first = str(error).splitlines()[0]
        try:
            made = self._attempt(model, levels.ORT_ENABLE_ALL)
        except refusals() as error:
            raise PeerError(
                f"onnxruntime cannot load {self.path}: {str(error).strip()}; --against ref does "
                "without it"
            ) from error
        self.notes.append(
            f"onnxruntime needs its graph optimisations for this model, so they are on: {first}"
        )
        return made

    def _attempt(self, model: bytes | str, level: Any) -> Any:
        options = self._runtime.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        folder = str(self.path.absolute().parent)
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", folder
        )
        return self._runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _changed(self, wanted: set[str], rounded: int) -> bytes:
        """The model with the results of nodes as outputs, too, and with products that are not
        ``rounded``; external data is not copied.
        """
        import onnx

        model = onnx.load(self.path, load_external_data=False)
        if rounded:
            for level in _levels(model.graph.node):
                level.i = EXACT
            self.notes.append(
                f"the accuracy_level of {ROUNDS} of {counted(rounded, 'node')} lets onnxruntime "
                f"round to bytes what it multiplies; it was told level {EXACT} here, to multiply "
                "floats (with --activations int8 both sides round)"
            )
        known = {output.name for output in model.graph.output}
        for node in model.graph.node:
            names = [name for name in node.output if name]
            label = node.name or next(iter(names), "")
            if label in wanted and len(names) == 1 and label not in self.inner:
                self.inner[label] = names[0]
                if names[0] not in known:
                    model.graph.output.append(onnx.ValueInfoProto(name=names[0]))
        data: bytes = model.SerializeToString()
        return data


def _levels(nodes: Iterable[Any]) -> list[Any]:
    """The attributes of nodes that say how products may be rounded."""
    return [a for node in nodes for a in node.attribute if a.name == "accuracy_level"]
