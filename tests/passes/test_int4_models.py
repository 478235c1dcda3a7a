"""Language models whose weights take four bits: what the passes leave of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import migx
from benchmarks import models
from migx.manager import Observer, Step
from migx.ops.fused import Group
from tests.onnx.test_models import without_weights
from tests.passes.test_int4 import FUSED, held

GRAPHS = Path(models.__file__).parent / "graphs"
PRODUCTS = 29
"""Seven for each of four layers, and the last; those of attention have no weights."""


class Peak(Observer):
    """The most that literals take after any pass."""

    def __init__(self) -> None:
        self.bytes = 0

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        self.bytes = max(self.bytes, held(step.program)[0])


@pytest.mark.parametrize("first", ["", "rewrite_quantization,", "propagate_constant,"])
@pytest.mark.parametrize("name", ["llama_int4_qdq_b32", "llama_matmulnbits_b32"])
def test_every_product_with_weights_is_one_group(name: str, first: str, tmp_path: Path) -> None:
    program, peak = without_weights(GRAPHS / f"{name}.onnx", tmp_path), Peak()
    migx.run_passes(program, first + FUSED, [peak])
    groups = [at.op for at in program.main if isinstance(at.op, Group)]
    packed = [op for op in groups if op.tag == "int4_gemm"]
    assert len(packed) == PRODUCTS
    assert {op.block for op in packed} == {32}
    assert not {"dot", "unpack_int4", "dequantizelinear"} & {at.name for at in program.main}
    assert peak.bytes <= 1.05 * (tmp_path / "weights.bin").stat().st_size
