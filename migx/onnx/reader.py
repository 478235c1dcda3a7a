"""From an ONNX file to a program."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from migx import plugins
from migx.base.collector import paused
from migx.dead_code import remove_dead_code, remove_dead_modules
from migx.dim import Extent
from migx.errors import MigxError, OnnxError, counted, first_few
from migx.onnx.functions import Called, is_function, local_functions, refuse_endless, shown
from migx.onnx.given import InputDims, contradicted, declared_rank
from migx.onnx.graph_reader import GraphReader
from migx.onnx.graphs import all_nodes, label_of
from migx.onnx.importers import Importer, Table, advice, table_of
from migx.onnx.model_file import ModelFile
from migx.onnx.opsets import domain_of, opset_versions
from migx.onnx.wire import Stripped, read_stripped, stripped_of
from migx.ops.builtin import Literal
from migx.program import Program
from migx.weights.marking import must_be_known


def parse_onnx(
    model: str | Path | onnx.ModelProto | bytes,
    input_dims: Mapping[str, Sequence[Extent]] | None = None,
    *,
    defer_external_weights: bool = False,
    importers: Iterable[Importer] = (),
) -> Program:
    """The program of an ONNX file, with weights mapped, not copied; or of a model in memory, or of
    its bytes, with external data in the current folder.

    Dims with names in the file become symbols with those names, dims without become symbols named
    after the input and axis. ``input_dims`` gives inputs other dims, numbers or ``Dim``s; a value
    given for a named dim replaces the name in all inputs. A symbol in an expression must also be a
    dim of some input by itself. With ``defer_external_weights``, initializers and Constants with
    external data become ``onnx_external_weights``, and their files need not exist; see
    ``migx.onnx.external`` for putting them in. Only those that the program's form depends on (dims,
    axes, and tensors of one element) are read, and their values assumed from then on. Weights
    inside the model stay fixed; ``Program.make_replaceable`` makes them replaceable. ``importers``
    are functions marked by ``migx.onnx.importers.importer``, which serve before those of packages.

    ``OnnxError`` lists everything unsupported at once; other errors name the node. An output that
    has other dims than the file declares is a ``DataWarning``.
    """
    if isinstance(model, onnx.ModelProto | bytes):
        stripped, folder = stripped_of(model), Path.cwd()
    elif not isinstance(model, str | os.PathLike):
        raise OnnxError(f"parse_onnx takes a path, a ModelProto or its bytes, not {model!r}")
    else:
        path = Path(model).absolute()
        stripped, folder = read_stripped(path), path.parent
    return program_of(
        stripped,
        folder,
        input_dims,
        defer_external_weights=defer_external_weights,
        importers=table_of(importers),
    )


@paused()
def program_of(
    stripped: Stripped,
    folder: Path,
    input_dims: InputDims | None = None,
    *,
    defer_external_weights: bool = False,
    importers: Table | None = None,
) -> Program:
    """``parse_onnx`` for a model in memory with external data in ``folder``."""
    model = stripped.model

    def reading(**assumed: Any) -> Reading:
        source = ModelFile(
            folder,
            opset_versions(model),
            local_functions(model),
            defer_external_weights,
            importers=importers or {},
            **assumed,
        )
        try:
            refuse_unsupported(model.graph, source)
            refuse_endless(model.graph, source.functions)
            return Reading.of(stripped, source, input_dims)
        except RecursionError:
            raise OnnxError("the model's functions are nested too deeply to be read") from None

    found = reading()
    if not found.as_declared and (found.source.not_one or found.source.first_taken):
        all_ones = list(found.source.not_one)
        each = [[name] for name in all_ones] if len(all_ones) > 1 else []
        others = (reading(other=True, sizes=dict.fromkeys(ones, 1)) for ones in (*each, all_ones))
        found = next((again for again in others if again.as_declared), found)
    if found.refused is not None:
        raise found.refused
    if not input_dims:  # with others, an output may be other than it is declared
        outputs = contradicted(model.graph.output, found.program.main.outputs)
        found.source.remarks.update(dict.fromkeys(outputs))
    found.source.warn()
    return found.program


@dataclass(frozen=True)
class Reading:
    """The result of reading a model: the program, or why it was ``refused``; and whether its
    results have the ranks declared in the file, and no branch was refused after a choice in it.
    """

    source: ModelFile
    program: Program
    refused: MigxError | None = None
    as_declared: bool = False

    @classmethod
    def of(cls, stripped: Stripped, source: ModelFile, input_dims: InputDims | None) -> Reading:
        graph, program = stripped.model.graph, Program()
        reader = GraphReader(graph, program.main, source, embedded=stripped.embedded)
        try:
            reader.parameters(input_dims)
            reader.body()
            reader.finish()
        except MigxError as error:
            return cls(source, program, error)
        for module in program.submodules(program.main):
            remove_dead_code(module)
        remove_dead_modules(program)
        mark_relied(program, source.relied)
        ranks = zip(map(declared_rank, graph.output), program.main.outputs, strict=True)
        fits = all(r in (None, v.shape.rank) for r, v in ranks)
        return cls(source, program, None, fits and not source.misled)


def mark_relied(program: Program, relied: Mapping[str, str]) -> None:
    """Notes in the literals that may be made weights for which node their values were looked at."""
    for at in list(program.literals):
        by = relied.get(at.op_as(Literal).label)
        if by is not None and not must_be_known(at.shape):
            made = dataclasses.replace(at.op_as(Literal), relied_on_by=by)
            at.owner.replace_operation(at, made)


def refuse_unsupported(graph: onnx.GraphProto, model: ModelFile) -> None:
    """Raises an error with each unsupported operator: domain, version, how many nodes, where."""
    missing: dict[tuple[Called, int], list[str]] = {}
    called = [node for f in model.functions.values() for node in f.node]
    for node in (*all_nodes(graph), *called):
        domain, version = domain_of(node.domain), model.version(node)
        known = model.importer(domain, node.op_type, version) or model.function(node)
        if not known and not is_function(domain, node.op_type, version):
            name = domain, node.op_type, node.overload
            missing.setdefault((name, version), []).append(label_of(node))
    if missing:
        rows = [
            f"  {shown(name)} version {version}: {counted(len(where), 'node')}, at "
            f"{first_few(where)}"
            for (name, version), where in sorted(missing.items())
        ]
        told = advice({domain for (domain, _, _), _ in missing})
        told.append("one of your own is read by an importer: docs/how-to/add-an-onnx-importer.md")
        rows += [f"  {each}" for each in (*told, *plugins.wrong_with("onnx"))]
        raise OnnxError("operators that are not supported:\n" + "\n".join(rows))
