"""What is known about a model while its graphs are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from migx.argument import Argument, Source
from migx.dim import Extent
from migx.errors import DataWarning, warn
from migx.onnx import tensors
from migx.onnx.functions import Functions, called_by
from migx.onnx.importers import Importer, Table, find
from migx.onnx.opsets import domain_of
from migx.ops.builtin import Literal, OnnxExternalWeights


@dataclass(frozen=True)
class ModelFile:
    """The state shared by all graphs of a model: its folder, the opset version of each domain, its
    own functions, the ``importers`` given for it, whether to ``defer`` external data, the names of
    symbols, and the dims given for
    some; ``ends`` has the used length of each data file, ``weights`` the weights read by name,
    ``relied`` the nodes for which values of fixed ones were looked at, and ``remarks`` the warnings
    to issue.

    Where the rank of a result depends on the run, symbols are assumed to be ``not_one``, and the
    first branch of a node is taken; in ``other`` readings, for files that declare other ranks, one
    such symbol or all have the size 1, and the second branch is taken. ``misled`` are the nodes
    with a refused branch in which such a choice was made.
    """

    folder: Path
    versions: Mapping[str, int]
    functions: Functions
    defer: bool = False
    other: bool = False
    importers: Table = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    sizes: dict[str, Extent] = field(default_factory=dict)
    ends: dict[Path, int] = field(default_factory=dict)
    weights: dict[str, OnnxExternalWeights | Literal] = field(default_factory=dict)
    settled: dict[str, OnnxExternalWeights] = field(default_factory=dict)
    relied: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, None] = field(default_factory=dict)
    not_one: dict[str, None] = field(default_factory=dict)
    first_taken: set[str] = field(default_factory=set)
    misled: set[str] = field(default_factory=set)

    def argument(self, tensor: onnx.TensorProto, embedded: Source | None = None) -> Argument:
        """The value of a tensor; records how far each external file is used."""
        value = tensors.to_argument(tensor, self.folder, embedded)
        if embedded is None and (source := value.source) is not None:
            end = source.offset + source.length
            self.ends[source.file] = max(end, self.ends.get(source.file, 0))
        return value

    def weight(
        self, tensor: onnx.TensorProto, label: str, embedded: Source | None = None
    ) -> OnnxExternalWeights | Literal:
        """The operation for a tensor; a deferred one if asked for. Names identify weights, so one
        that another graph has already is given a number.
        """
        op: OnnxExternalWeights | Literal
        if self.defer and tensor.data_location == onnx.TensorProto.EXTERNAL:
            op = tensors.deferred(tensor, label)
        else:
            op = Literal(self.argument(tensor, embedded), label)
        count = 0
        while self.weights.setdefault(op.label, op) != op:
            count += 1
            op = dataclasses.replace(op, label=f"{label}.{count}")
        return op

    def warn(self) -> None:
        """Issues the warnings, also for external files with data behind the last tensor."""
        for file, end in self.ends.items():
            if (rest := file.stat().st_size - end) > 0:
                self.remarks[f"{file} has {rest} bytes behind the last tensor of this model"] = None
        for message in self.remarks:
            warn(message, DataWarning)

    def importer(self, domain: str, name: str, version: int) -> Importer | None:
        """The importer of an operator: one given for this model, or else one that is found."""
        given = find(domain, name, version, self.importers)
        return find(domain, name, version) if given is None else given

    def version(self, node: onnx.NodeProto) -> int:
        """The opset version of a node's domain."""
        return self.versions.get(domain_of(node.domain), 1)

    def function(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        """The model's own function that a node calls, if any."""
        return self.functions.get(called_by(node))
