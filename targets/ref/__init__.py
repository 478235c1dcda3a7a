"""The reference target: evaluates each operation by its own numpy meaning, one at a time, in the
model's own precision.
"""

from __future__ import annotations

from migx.manager import Pipeline
from migx.program import Program
from migx.target import CompileOptions, Context, Executable, Target


class Ref(Target):
    """Runs a program as it is: nothing is folded or fused, and packed int4 stays packed.

    ``compile("ref", passes="...")`` runs a pipeline first, so any pass can be checked on ``ref``.
    """

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        rounding = "fuse_int4,quantize_activations," if options.rounds_activations else ""
        return Pipeline.parse(rounding + "dead_code_elimination")

    def make_executable(self, program: Program, context: Context) -> Executable:
        from migx.interpreter import Interpreter

        return Interpreter(program, context)
