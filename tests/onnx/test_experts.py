"""Mixtures of experts, by the word of onnxruntime, and by numpy's where it has no kernel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
import migx.onnx
from migx.errors import OnnxError
from migx.ops.fused import Group
from migx.program import Program
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import node_model

EPS = 2.0**-24


@dataclass
class Drawn:
    """A mixture at random: the operands of MoE by name, and the attributes of the node."""

    rng: np.random.Generator
    tokens: int
    experts: int
    hidden: int
    inner: int
    options: dict[str, Any]
    bias: bool = False
    third: bool = False
    held: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        width = self.inner * (2 if self.options.get("swiglu_fusion", 0) else 1)
        self.layers = {"fc1": (width, self.hidden), "fc2": (self.hidden, self.inner)}
        if self.third:
            self.layers["fc3"] = (self.inner, self.hidden)
        self.x = self.floats(self.tokens, self.hidden)
        # Scores that lie apart: which experts are chosen does not hang on rounding.
        order = [self.rng.permutation(self.experts) for _ in range(self.tokens)]
        self.scores = np.asarray(order, np.float32).reshape(self.tokens, self.experts) / 3
        for name, dims in self.layers.items():
            self.held[name] = self.floats(self.experts, *dims)
            if self.bias:
                self.held[f"{name}_bias"] = self.floats(self.experts, dims[0])

    def floats(self, *dims: int) -> Array:
        return self.rng.standard_normal(dims, np.float32)

    def operands(self) -> list[Array | None]:
        names = ("fc1", "fc1_bias", "fc2", "fc2_bias", "fc3", "fc3_bias")
        return trimmed([self.x, self.scores, *map(self.held.get, names)])


def trimmed(operands: list[Array | None]) -> list[Array | None]:
    """Operands without those at the end that are not given."""
    return operands[: max(i for i, v in enumerate(operands) if v is not None) + 1]


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def activated(of: Drawn, gate: Array, x: Array | None) -> Array:
    """What an expert's first layers come to."""
    options = of.options
    alpha, beta = (options.get(f"activation_{n}", d) for n, d in (("alpha", 1.0), ("beta", 0.0)))
    match options.get("activation_type", "relu"):
        case "relu":
            return np.maximum(gate, 0)
        case "gelu":
            root = np.sqrt(2 / np.pi)
            return np.asarray(gate / 2 * (1 + np.tanh(root * (gate + 0.044715 * gate**3))))
        case "silu":
            return np.asarray(gate * sigmoid(gate) * (1 if x is None else x))
        case "identity":
            return gate
    assert x is not None
    limit = options.get("swiglu_limit", np.inf)
    x = np.clip(x, -limit, limit)
    if options.get("swiglu_limit_after_activation"):
        return np.asarray(np.minimum(gate * sigmoid(alpha * gate), limit) * (x + beta))
    gate = np.minimum(gate, limit)
    return np.asarray(gate * sigmoid(alpha * gate) * (x + beta))


def shares(of: Drawn, scores: Array, weights: Array | None) -> tuple[Array, Array]:
    """The experts a token chooses, and their shares."""
    k, options = of.options.get("k", 1), of.options
    chosen = np.argsort(-scores, kind="stable")[:k]
    if options.get("use_sparse_mixer"):
        found, left = [], scores.astype(np.float64)
        for place in chosen:
            own = left[place]
            near = own - left <= 0.02 * np.maximum(abs(scores), own)
            found.append(1 / np.exp(left[near] - own).sum())
            left = np.where(np.arange(len(left)) == place, -np.inf, left)
        return chosen, np.asarray(found)
    found = np.exp(scores.astype(np.float64) - scores.max())
    given = found / found.sum() if weights is None else weights.astype(np.float64)
    picked = given[chosen]
    if options.get("normalize_routing_weights"):
        picked = picked / (picked.sum() or 1)
    return chosen, picked


def exact(of: Drawn, held: dict[str, Array], weights: Array | None = None) -> tuple[Array, Array]:
    """The result in f64, and how far from it one in f32 may be. An activation moves by no more than
    1.13 times as much as what it is of, and sums of n terms round n times at most.
    """
    made, bound = np.zeros_like(of.x, np.float64), np.zeros_like(of.x, np.float64)
    fusion = of.options.get("swiglu_fusion", 0)
    wide = {name: v.astype(np.float64) for name, v in held.items()}

    def layer(name: str, x: Array, e: int, sign: Any = lambda v: v) -> Array:
        product = x @ sign(wide[name][e]).T
        return np.asarray(product + sign(wide[f"{name}_bias"][e] if of.bias else 0.0))

    for t in range(of.tokens):
        chosen, picked = shares(of, of.scores[t], None if weights is None else weights[t])
        for e, share in zip(chosen, picked, strict=True):
            x = of.x[t].astype(np.float64)
            both = [layer("fc1", v, e, s) for v, s in ((x, lambda v: v), (abs(x), np.abs))]
            if fusion:
                cut = (slice(0, None, 2), slice(1, None, 2)) if fusion == 1 else tuple(
                    slice(i * of.inner, (i + 1) * of.inner) for i in range(2)
                )  # fmt: skip
                gate, through = ([v[c] for v in both] for c in cut)
            else:
                gate = both
                through = [layer("fc3", x, e), layer("fc3", abs(x), e, np.abs)] if of.third else []
            inner = activated(of, gate[0], through[0] if through else None)
            size = gate[1] * (through[1] + abs(of.options.get("activation_beta", 0.0)) if through
                              else 1)  # fmt: skip
            made[t] += share * layer("fc2", inner, e)
            bound[t] += abs(share) * layer("fc2", size, e, np.abs)
    return made, (3 * of.hidden + of.inner + 64) * EPS * bound


def assert_close(found: Array, wanted: Array, bound: Array) -> None:
    assert found.shape == wanted.shape
    assert np.all(np.abs(found - wanted) <= bound), np.max(np.abs(found - wanted) / bound)


def drawn(seed: int, options: dict[str, Any], third: bool = False, **dims: int) -> Drawn:
    rng = np.random.default_rng(seed)
    tokens, experts = int(rng.choice([1, 2, 5, 17, 40])), int(rng.integers(2, 7))
    sizes = {"tokens": tokens, "experts": experts, "hidden": 16, "inner": 24} | dims
    options.setdefault("k", int(rng.integers(1, sizes["experts"] + 1)))
    t, e, h, i = sizes.values()
    return Drawn(rng, t, e, h, i, options, bias=bool(seed % 2), third=third)


GATED = {"activation_type": "swiglu", "activation_alpha": 1.5, "activation_beta": 0.5}
LIMITED = {**GATED, "swiglu_fusion": 1, "swiglu_limit": 2.0}
KINDS: list[dict[str, Any]] = [
    {},
    {"activation_type": "gelu"},
    {"activation_type": "silu", "normalize_routing_weights": 1},
    {"activation_type": "identity"},
    {"activation_type": "swiglu", "swiglu_fusion": 1, "normalize_routing_weights": 1},
    LIMITED,
]


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize(("seed", "kind"), list(itertools.product(range(3), range(len(KINDS)))))
def test_as_onnxruntime(seed: int, kind: int, target: str, tmp_path: Path) -> None:
    of = drawn(7 * seed + kind, dict(KINDS[kind]))
    symbolic = {0: ("tokens", of.hidden), 1: ("tokens", of.experts)}
    held = range(2, len(of.operands()))
    given, fed = node_model("MoE", of.operands(), constant=held, symbolic=symbolic, **of.options)
    wanted, bound = exact(of, of.held)
    assert_close(peer(given, fed)[0], wanted, bound)
    program = read(given, tmp_path).compile(target)
    assert_close(program.eval(fed)[0], wanted, bound)


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_one_program_takes_any_number_of_tokens(target: str, tmp_path: Path) -> None:
    of = drawn(1, {"k": 2}, experts=5)
    symbolic = {0: ("batch", "length", of.hidden), 1: ("batch*length", of.experts)}
    rows = [of.x.reshape(1, -1, of.hidden), *of.operands()[1:]]
    given, _ = node_model("MoE", rows, constant=range(2, 6), symbolic=symbolic, k=2)
    program = read(given, tmp_path).compile(target)
    for batch, length in ((1, 1), (2, 3), (3, 50), (1, 0)):
        now = drawn(batch, {"k": 2}, experts=5, tokens=batch * length)
        now.bias = of.bias
        wanted, bound = exact(now, of.held)
        x = now.x.reshape(batch, length, of.hidden)
        (found,) = program.eval({"x0": x, "x1": now.scores})
        assert found.shape == x.shape
        assert_close(found.reshape(now.x.shape), wanted, bound)


# What onnxruntime has no kernel for on a CPU.


@pytest.mark.parametrize(
    ("options", "third"),
    [
        ({**GATED, "swiglu_fusion": 2}, False),
        ({**GATED, "swiglu_limit": 1.5}, True),
        ({**GATED, "swiglu_limit": 0.5, "swiglu_limit_after_activation": 1}, True),
        ({"activation_type": "silu"}, True),
        ({"activation_type": "silu", "use_sparse_mixer": 1, "k": 2}, True),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_by_numpy(seed: int, options: dict[str, Any], third: bool, tmp_path: Path) -> None:
    of = drawn(seed, dict(options), third)
    if options.get("use_sparse_mixer"):
        # Scores within a fiftieth of one another count beside the greatest, others do not.
        steps = of.rng.permuted(np.arange(of.scores.size) % 9).reshape(of.scores.shape)
        of.scores = (4 + 0.03 * steps).astype(np.float32)
    given, fed = node_model("MoE", of.operands(), **of.options)
    (found,) = read(given, tmp_path).compile("ref").eval(fed)
    assert_close(found, *exact(of, of.held))


# Quantised


def quantized(of: Drawn, bits: dict[str, int], block: int, zeros: bool) -> list[Array | None]:
    """The operands of QMoE; what is held of the layers becomes the numbers they stand for."""
    given: dict[str, Array | None] = {}
    for name, (rows, width) in of.layers.items():
        b, per = bits[name], 8 // bits[name]
        blocks = width // (block or width)
        dims = (of.experts, rows, blocks)
        levels = of.rng.integers(0, 1 << b, (of.experts, rows, width), np.uint8)
        scales = of.rng.uniform(0.1, 0.2, dims).astype(np.float32) / (1 << (b - 1))
        middle = np.full(dims, 1 << (b - 1), np.uint8)
        zero = of.rng.integers(0, 1 << b, dims, np.uint8) if zeros else middle
        wide = [np.repeat(v.astype(np.float64), width // blocks, 2) for v in (scales, zero)]
        of.held[name] = (levels - wide[1]) * wide[0]
        lines = (v if block else v[..., 0] for v in (scales, zero))
        given[f"{name}_scales"], zero = lines
        given[name] = together(levels, b, per)
        given[f"{name}_zeros"] = together(zero, b, per) if zeros else None
    names = [f"fc{i}{part}" for i in (1, 2, 3) for part in ("", "_scales", "_bias")]
    names += [f"fc{i}_zeros" for i in (1, 2, 3)]
    return trimmed([of.x, of.scores, *((of.held | given).get(name) for name in names)])


def together(levels: Array, bits: int, per: int) -> Array:
    """Levels in bytes, low bits first; the last byte of a line may not be full."""
    spare = [(0, 0)] * (levels.ndim - 1) + [(0, -levels.shape[-1] % per)]
    lanes = np.pad(levels, spare).reshape(*levels.shape[:-1], -1, per)
    return np.asarray(sum(lanes[..., i] << (bits * i) for i in range(per)), np.uint8)


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantized_as_onnxruntime(
    bits: int, block: int, zeros: bool, target: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """Without the variable, experts of 8 bits in blocks are multiplied by activations in bytes."""
    monkeypatch.setenv("ORT_QMOE_CPU_QNBIT_GEMM", "fp32")
    kind = {**LIMITED, "normalize_routing_weights": 1, "expert_weight_bits": bits}
    of = drawn(bits + block + zeros, kind, hidden=32, inner=48)
    operands = quantized(of, dict.fromkeys(of.layers, bits), block, zeros)
    options = of.options | ({"block_size": block} if block else {})
    held = [i for i, v in enumerate(operands) if i > 1 and v is not None]
    symbolic = {0: ("tokens", of.hidden), 1: ("tokens", of.experts)}
    given, fed = node_model("QMoE", operands, constant=held, symbolic=symbolic, **options)
    wanted, bound = exact(of, of.held)
    assert_close(peer(given, fed)[0], wanted, bound)
    assert_close(read(given, tmp_path).compile(target).eval(fed)[0], wanted, bound)


@pytest.mark.parametrize("normalized", [0, 1])
def test_shares_of_their_own(normalized: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"k": 2, "normalize_routing_weights": normalized}
    of = drawn(3, dict(options), hidden=32, inner=32)
    operands = quantized(of, dict.fromkeys(of.layers, 4), 0, False)
    weights = of.rng.uniform(0.1, 1, of.scores.shape).astype(np.float32)
    weights[0] = 0
    operands += [None] * (14 - len(operands)) + [weights]
    held = [i for i, v in enumerate(operands) if 1 < i < 14 and v is not None]
    given, fed = node_model("QMoE", operands, constant=held, **options)
    wanted, bound = exact(of, of.held, weights)
    assert_close(peer(given, fed)[0], wanted, bound)
    assert_close(read(given, tmp_path).compile("ref").eval(fed)[0], wanted, bound)


def test_layers_of_their_own_bits_and_shares_that_do_not_sum_to_one(tmp_path: Path) -> None:
    """By numpy: onnxruntime has no such kernel, and makes shares sum to one."""
    options: dict[str, Any] = {"k": 2, "activation_type": "silu", "fc2_expert_weight_bits": 8}
    of = drawn(5, dict(options), True, hidden=32, inner=32)
    operands = quantized(of, {"fc1": 4, "fc2": 8, "fc3": 4}, 16, True)
    held = [i for i, v in enumerate(operands) if i > 1 and v is not None]
    given, fed = node_model("QMoE", operands, constant=held, block_size=16, **options)
    (found,) = read(given, tmp_path).compile("ref").eval(fed)
    assert_close(found, *exact(of, of.held))


def literals(program: Program) -> dict[str, int]:
    """The bytes of literals by type."""
    found: dict[str, int] = {}
    for at in (at for module in program.modules.values() for at in module):
        if at.name == "@literal":
            name = str(at.shape.dtype)
            found[name] = found.get(name, 0) + int(at.shape.nbytes)
    return found


def test_weights_stay_packed_and_are_picked_so(tmp_path: Path) -> None:
    of = drawn(0, {"k": 2}, experts=6, hidden=32, inner=64)
    operands = quantized(of, dict.fromkeys(of.layers, 4), 16, True)
    held = [i for i, v in enumerate(operands) if i > 1 and v is not None]
    given, _ = node_model("QMoE", operands, constant=held, block_size=16, k=2)
    program = read(given, tmp_path)
    sizes = [int(v.size) for i in held if (v := operands[i]) is not None and v.dtype == np.uint8]
    assert literals(program)["u4"] == sum(sizes)
    migx.run_passes(program, "simplify_qdq,optimize_module,fuse_int4")
    assert literals(program)["u4"] == sum(sizes)
    groups = [
        at.op_as(Group).tag for m in program.modules.values() for at in m if at.name == "group"
    ]
    assert groups.count("int4_gather") == len(sizes)


def test_experts_may_be_squeezed(tmp_path: Path) -> None:
    """What a squeezed program means is what it gives with the numbers its weights stand for."""
    of = drawn(4, {"k": 2, "normalize_routing_weights": 1}, experts=4, hidden=32, inner=64)
    operands = of.operands()
    held = range(2, len(operands))
    given, fed = node_model("MoE", operands, constant=held, **of.options)
    program = read(given, tmp_path)
    migx.run_passes(program, "quantize_int4{block=16,symmetric=true},propagate_constant")
    count = sum(int(of.held[name].size) for name in of.layers)
    assert literals(program)["i4"] == count // 2
    for name, held_one in of.held.items():
        if name in of.layers:
            blocks = held_one.reshape(*held_one.shape[:2], -1, 16)
            low, high = (f(blocks, -1, keepdims=True) for f in (np.min, np.max))
            step = np.maximum(low / np.float32(-8), high / np.float32(7))
            levels = np.clip(np.rint(blocks / step), -8, 7)
            of.held[name] = (levels * step).reshape(held_one.shape)
    for target in ("ref", "cpu"):
        (found,) = program.copy().compile(target).eval(fed)
        assert_close(found, *exact(of, of.held))


def test_written_in_operators_of_onnx(tmp_path: Path) -> None:
    """The loop carries nothing, and has no condition."""
    of = drawn(2, {"k": 2}, hidden=32, inner=32)
    operands = quantized(of, dict.fromkeys(of.layers, 4), 16, True)
    held = [i for i, v in enumerate(operands) if i > 1 and v is not None]
    options: dict[str, Any] = {"block_size": 16, "k": 2, "normalize_routing_weights": 1}
    of.options |= options
    given, fed = node_model("QMoE", operands, constant=held, **options)
    migx.onnx.write(read(given, tmp_path), tmp_path / "plain.onnx")
    (found,) = peer(tmp_path / "plain.onnx", fed)
    assert_close(found, *exact(of, of.held))


X, SCORES = np.zeros((3, 16), np.float32), np.zeros((3, 4), np.float32)
UP, DOWN = np.zeros((4, 8, 16), np.float32), np.zeros((4, 16, 8), np.float32)
REFUSED: list[tuple[dict[str, Any], list[Array | None], str]] = [
    ({"k": 5}, [X, SCORES, UP, None, DOWN], "k is 5, of 4 experts"),
    ({}, [X, SCORES[0], UP, None, DOWN], r"'x1' f32\[4\]: \(tokens, experts\) is wanted"),
    ({}, [X, SCORES, DOWN, None, DOWN], r"'x2' f32\[4, 16, 8\]: \(4, 8, 16\) is wanted"),
    ({}, [X, SCORES, UP, X, DOWN], r"'x3' f32\[3, 16\]: \(4, 8\) is wanted"),
    (
        {"activation_type": "tanh"},
        [X, SCORES, UP, None, DOWN],
        "no activation_type 'tanh'; there are relu",
    ),
    (
        {"activation_type": "swiglu"},
        [X, SCORES, UP, None, DOWN],
        "'swiglu' wants swiglu_fusion 1 or 2, or fc3",
    ),
    ({"swiglu_fusion": 1}, [X, SCORES, UP, None, DOWN], "it is 1 or 2 with 'swiglu'"),
    (
        {"activation_type": "gelu"},
        [X, SCORES, UP, None, DOWN, None, UP],
        "fc3 with activation_type 'gelu'; it goes with 'silu' and 'swiglu'",
    ),
    ({"use_sparse_mixer": 1}, [X, SCORES, UP, None, DOWN], "use_sparse_mixer goes with k 2"),
]


@pytest.mark.parametrize(("options", "operands", "said"), REFUSED)
def test_refused(
    options: dict[str, Any], operands: list[Array | None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError, match=said):
        read(node_model("MoE", operands, **options)[0], tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quant_type": "fp4"}, "quant_type 'fp4' is not supported; 'int' is"),
        ({"weights_prepacked": 1}, "weights_prepacked 1 is a layout of one machine"),
        ({"expert_weight_bits": 3}, "weights of 3 bits; they have 2, 4 or 8"),
        ({"block_size": 12}, "block_size 12 does not divide 32, a row of fc1"),
        ({"block_size": 16}, r"'x3' f32\[.*\]: \(.*, 2\) is wanted"),
    ],
)
def test_refused_of_quantized(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    of = drawn(0, {"k": 1}, hidden=32, inner=32)
    operands = quantized(of, dict.fromkeys(of.layers, 4), 0, False)
    held = [i for i, v in enumerate(operands) if i > 1 and v is not None]
    with pytest.raises(OnnxError, match=said):
        read(node_model("QMoE", operands, constant=held, **options)[0], tmp_path)


def test_refused_rows(tmp_path: Path) -> None:
    scales = np.ones((4, 2), np.float32), np.ones((4, 33), np.float32)
    up, down = np.zeros((4, 2, 16), np.uint8), np.zeros((4, 33, 1), np.uint8)
    given: list[Array | None] = [
        np.zeros((3, 33), np.float32),
        SCORES,
        up,
        scales[0],
        None,
        down,
        scales[1],
    ]
    with pytest.raises(OnnxError, match="33 elements of 4 bits, a row of fc1, are no whole bytes"):
        read(node_model("QMoE", given, constant=(2, 3, 5, 6))[0], tmp_path)
