"""The ONNX front end and its way back: ``reader`` walks the graph, ``ops`` lowers each operator,
``tensors`` maps weights; ``writer`` walks the program, ``writing`` writes each operation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from migx.onnx.exporters import Exporter
    from migx.program import Program
    from migx.target import Target


def write(program: Program, path: str | Path, *, exporters: Iterable[Exporter] = ()) -> None:
    """Writes a program as an ONNX file; ``exporters`` are functions for operations of your own. See
    ``migx.onnx.writer.write``.
    """
    from migx.onnx.writer import write as written

    written(program, path, exporters=exporters)


def replace_onnx_external_weights(
    program: Program, source: Any, target: Target | str | None = None, **options: bool
) -> Program:
    """A copy of a program with literals in place of its deferred weights. See
    ``migx.onnx.external.replace_onnx_external_weights``.
    """
    from migx.onnx.external import replace_onnx_external_weights as replaced

    return replaced(program, source, target, **options)
