"""ONNX's backend protocol: any suite written for it runs on any target of migx.

    import migx.backend
    outputs = migx.backend.run_model(model, inputs, device="ref")

A device is the name of a target, in upper or lower case. Values are numpy arrays; 2- and 4-bit
types and narrow floats have the types of ``ml_dtypes``, as in onnx. A sequence is a list, an empty
optional is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from migx import plugins
from migx.argument import Argument
from migx.errors import InputError, MigxError, UnknownName, counted
from migx.onnx.reader import program_of
from migx.onnx.wire import Stripped
from migx.program import Program
from migx.target import Target


class Prepared(BackendRep):
    """A model compiled for a target; ``run`` takes and returns arrays, any number of times."""

    def __init__(self, model: onnx.ModelProto, target: Target | str, folder: Path) -> None:
        self.program: Program = program_of(Stripped(model, {}), folder)
        self.program.compile(target)
        initialized = {tensor.name for tensor in model.graph.initializer}
        self.inputs = [v.name for v in model.graph.input if v.name not in initialized]
        self._outputs = namedtupledict("Outputs", [v.name for v in model.graph.output])

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, by position and by name. ``inputs`` are in the order of the graph's inputs
        that are no initializers, or by name.
        """
        return self._outputs(*map(unpacked, self.program.eval(self._named(inputs))))

    def _named(self, inputs: Any) -> Mapping[str, Any]:
        if isinstance(inputs, Mapping):
            return inputs
        single = isinstance(inputs, np.ndarray)
        values: Sequence[Any] = [inputs] if single else inputs
        if len(values) != len(self.inputs):
            raise InputError(
                f"{counted(len(values), 'input')} for the {counted(len(self.inputs), 'input')} "
                f"{', '.join(self.inputs) or '(none)'}"
            )
        return dict(zip(self.inputs, values, strict=True))


class MigxBackend(Backend):
    """ONNX's backend for migx; a device is the name of a target."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.lower() in plugins.names("targets")

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "REF", **kwargs: Any) -> bool:
        """Whether the model can be read: every operator and every type in it."""
        try:
            program_of(Stripped(model, {}), _folder(kwargs))
        except MigxError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "REF", **kwargs: Any) -> Prepared:
        """The model compiled for a target. ``folder`` is where its external data is, by default the
        working directory. ``UnknownName`` lists the devices that exist.
        """
        if not cls.supports_device(device):
            names = ", ".join(plugins.names("targets"))
            raise UnknownName(f"no device {device!r}; the devices are the targets: {names}")
        return Prepared(model, device.lower(), _folder(kwargs))

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "REF", **kwargs: Any
    ) -> tuple[Any, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "REF",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """The outputs of one node for the ``inputs`` it names. The operator's opset is the newest
        one, or ``opset_version``.
        """
        names = [name for name in node.input if name]
        values = [np.asarray(value) for value in inputs]
        if len(names) != len(values):
            raise InputError(f"{len(values)} inputs for the inputs {', '.join(names) or '(none)'}")
        declared = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in zip(names, values, strict=True)
        ]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], node.op_type, declared, results)
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        opsets = [onnx.helper.make_opsetid(node.domain, version)]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        return cls.run_model(model, dict(zip(names, values, strict=True)), device, **kwargs)


def _folder(options: Mapping[str, Any]) -> Path:
    return Path(options.get("folder", ".")).absolute()


def unpacked(value: Any) -> Any:
    """A packed result as an array of its elements; any other value unchanged."""
    packed = isinstance(value, Argument) and value.shape.dtype.is_packed
    return value.elements if packed else value


prepare = MigxBackend.prepare
run_model = MigxBackend.run_model
run_node = MigxBackend.run_node
supports_device = MigxBackend.supports_device
is_compatible = MigxBackend.is_compatible
