"""Products of f32 as tf32: where they are allowed, what is written, and what it may cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migx
from migx.argument import Argument
from migx.errors import TargetError
from migx.target import CompileOptions, passes_for
from migx.targets.gpu import Gpu
from migx.targets.gpu.cost_model import around
from migx.targets.gpu.operations import CodeObject
from migx.targets.gpu.rounding import RoundedToTf32
from migx.targets.gpu.tiles import product
from migx.testing.oracles import Trial
from tests.targets.gpu.on_interpreter import Array, gpu, inputs_for
from tests.targets.gpu.test_recurrent import layer

DOT = """module main(x: f32[n, 77], w: f32[77, 40]) {
  %0 = dot(x, w)
  %1 = relu(%0)
  return %1
}"""
CONVOLUTION = """module main(x: f32[n, 3, 9, 8], w: f32[40, 3, 3, 3]) {
  %0 = convolution(x, w) {padding=(1, 1, 1, 1), stride=(1, 1), dilation=(1, 1)}
  return %0
}"""
ATTENTION = """module main(q: f32[n, 2, 20, 16], k: f32[n, 2, 16, 33], v: f32[n, 2, 33, 16]) {
  %0 = dot(q, k)
  %1 = softmax(%0) {axis=3}
  %2 = dot(%1, v)
  return %2
}"""
CASES = {"dot": DOT, "convolution": CONVOLUTION, "attention": ATTENTION}


def precisions(text: str, *archs: str, fast_math: bool = True) -> set[str]:
    """How the kernels of a program multiply f32."""
    program, target = migx.parse(text), Gpu(archs)
    migx.run_passes(program, passes_for(target, asked=CompileOptions(fast_math=fast_math)))
    sources = [at.op.source for at in program.main if isinstance(at.op, CodeObject)]
    texts = {name: f'input_precision="{name}"' for name in ("ieee", "tf32")} | {"bf16x6": "bf16x6("}
    return {name for name, text in texts.items() for source in sources if text in source}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_only_who_asks_gets_fewer_bits(text: str) -> None:
    assert len(precisions(text, "sm_90", fast_math=False) & {"ieee", "bf16x6"}) == 1
    assert precisions(text, "sm_90") == precisions(text, "gfx942", "sm_80") == {"tf32"}
    assert "tf32" not in precisions(text, "sm_90", "gfx90a"), "one of them has none"


def test_what_would_add_up_from_step_to_step_stays_exact() -> None:
    assert precisions(layer("lstm", hidden=256), "sm_90") == {"ieee"}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_results_stay_within_what_is_allowed(text: str) -> None:
    program = migx.parse(text)
    Trial(program, inputs_for(program, {"n": 3}, {})).target(gpu(), fast_math=True)


def cut(array: Array) -> Array:
    """As matrix units read it that ignore the last 13 bits."""
    found: Array = (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return found


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["dot", "convolution"]))
def test_the_bound_holds_what_cutting_costs(seed: int, name: str) -> None:
    (at,) = (at for at in migx.parse(CASES[name]).main if at.name == name)
    exactly = migx.parse(CASES[name].replace("f32", "f64").replace("relu", "identity"))
    exactly.compile("ref")
    dice = np.random.default_rng(seed)
    given = inputs_for(migx.parse(CASES[name]), {"n": 2}, {})
    for key, value in given.items():
        drawn = dice.standard_normal(value.array.shape) * 10.0 ** dice.integers(-9, 9)
        given[key] = Argument.of(drawn.astype(np.float32))

    whole, rounded = (
        exactly.eval({k: change(v.array).astype(np.float64) for k, v in given.items()})[0]
        for change in (np.asarray, cut)
    )
    result = Argument.of(whole.astype(np.float32))
    allowed = RoundedToTf32().of_elements(at, list(given.values()), result)
    assert allowed is not None
    off = np.abs(whole - rounded)
    assert (off <= allowed * (1 + 1e-12)).all()
    assert off.max() > np.max(allowed) / 100, "it allows much more than this costs"


def test_the_model_knows_that_they_are_faster() -> None:
    def work(fast_math: bool) -> str:
        with around("sm_100", fast_math=fast_math):
            return product(4096, 4096, 4096, 1, 32).why

    assert "limited by arithmetic" in work(False)
    assert work(True) != work(False)


def test_what_cannot_be_is_refused() -> None:
    program = migx.parse(DOT)
    with pytest.raises(TargetError, match="fast_math is True or False, not 1"):
        program.compile("ref", fast_math=1)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match=r"gpu::lower\{fast_math=true\}"):
        program.compile("ref", fast_math=True, passes="")
