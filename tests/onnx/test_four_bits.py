"""Models whose weights take a few bits: what they become, and what is wrong with bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import migx
from migx.errors import MigxError, OnnxError
from migx.observers import Verify
from migx.ops.fused import Group
from migx.program import Program
from tests.onnx.build import Array, peer, read, saved
from tests.onnx.one_node import node_model

RNG = np.random.default_rng(5)
PASSES = "simplify_qdq,optimize_module,fuse_int4,fuse_attention,fuse_pointwise_reduce,fuse_epilogue"
PACKED = {"INT4": (-8, 8), "UINT4": (0, 16), "INT2": (-2, 2), "UINT2": (0, 4)}


def scales(*dims: int) -> Array:
    return np.asarray(RNG.uniform(0.1, 0.2, dims), np.float32)


def model(
    nodes: list[onnx.NodeProto], held: list[onnx.TensorProto], x: tuple[Any, ...]
) -> onnx.ModelProto:
    """A model from x to y, of the latest types."""
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    graph = helper.make_graph(nodes, "g", given, [onnx.ValueInfoProto(name="y")], held)
    opsets = [helper.make_opsetid("", 25), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=13)


def tensor(name: str, kind: str, dims: tuple[int, ...]) -> onnx.TensorProto:
    values = RNG.integers(*PACKED[kind], dims).reshape(-1).tolist()
    return helper.make_tensor(name, getattr(TensorProto, kind), dims, values)


def dequantized(
    kind: str, dims: tuple[int, int], axis: int, block: int, zero: bool
) -> onnx.ModelProto:
    """A product with weights that DequantizeLinear makes, transposed where they lie so."""
    blocks = list(dims)
    blocks[axis] = -(-dims[axis] // block)
    held = [
        tensor("w", kind, dims),
        numpy_helper.from_array(scales(*blocks), "s"),
        *([tensor("z", kind, (blocks[0], blocks[1]))] if zero else []),
    ]
    names = [t.name for t in held]
    dq = helper.make_node("DequantizeLinear", names, ["d"], axis=axis, block_size=block)
    turn = helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0])
    nodes = [dq, *([turn] if axis else [])]
    nodes.append(helper.make_node("MatMul", ["x", "t" if axis else "d"], ["y"]))
    return model(nodes, held, ("batch", dims[axis]))


def many_bits(bits: int, k: int, n: int, block: int, zero: bool) -> onnx.ModelProto:
    """A product of onnxruntime's own, with weights of 2, 4 or 8 bits."""
    blocks = -(-k // block)
    held = {
        "b": RNG.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": scales(n, blocks),
    }
    if zero:
        held["z"] = RNG.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", *held], ["y"], domain="com.microsoft",
        K=k, N=n, bits=bits, block_size=block,
    )  # fmt: skip
    return model(
        [node], [numpy_helper.from_array(v, name) for name, v in held.items()], ("batch", k)
    )


def bytes_of(program: Program) -> int:
    return sum(int(at.shape.nbytes) for at in program.literals)


def fused(program: Program) -> Program:
    """What the passes leave: each product in a group, constants no larger than they were."""
    after = program.copy()
    migx.run_passes(after, PASSES, [Verify()])
    assert bytes_of(after) <= 1.05 * bytes_of(program)
    names = [at.name for at in after.main if not at.name.startswith("@")]
    assert "dot" not in names
    assert "dequantizelinear" not in names
    (group,) = [at for at in after.main if at.name == "group"]
    assert group.op_as(Group).tag == "int4_gemm"
    assert [at.name for at in group.modules[0]].count("dot") == 1
    return after


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("kind", PACKED)
def test_blocks_of_dequantize_linear(
    kind: str, block: int, axis: int, zero: bool, tmp_path: Path
) -> None:
    given = dequantized(kind, (96, 64), axis, block, zero)
    program = read(given, tmp_path)
    x = {"x": RNG.normal(size=(3, (96, 64)[axis])).astype(np.float32)}
    whole: Any = ReferenceEvaluator(given).run(None, x)
    wanted = whole[0]
    (got,) = fused(program).compile("ref", passes="").eval(x)
    bound = 96 * 2**-23 * np.abs(x["x"]).sum(1).max() * 16 * 0.2
    np.testing.assert_allclose(got, wanted, rtol=0, atol=float(bound))
    assert np.array_equal(got, program.compile("ref", passes="").eval(x)[0])


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize(("k", "n", "block"), [(64, 24, 32), (72, 5, 16), (40, 17, 32)])
@pytest.mark.parametrize("bits", [2, 4])
def test_blocks_of_mat_mul_n_bits(
    bits: int, k: int, n: int, block: int, zero: bool, tmp_path: Path
) -> None:
    """The last block may be short, and rows of zero points may end within a byte."""
    given = many_bits(bits, k, n, block, zero)
    program = read(given, tmp_path)
    x = {"x": RNG.normal(size=(3, k)).astype(np.float32)}
    (got,) = fused(program).compile("ref", passes="").eval(x)
    (wanted,) = peer(given, x)
    bound = k * 2**-23 * np.abs(x["x"]).sum(1).max() * 2**bits * 0.2
    np.testing.assert_allclose(got, wanted, rtol=0, atol=float(bound))


def with_groups(k: int, groups: Array, zeros: Array | None) -> onnx.ModelProto:
    """A product with weights of 4 bits in blocks of 16, each with the scale of a group it names."""
    given = many_bits(4, k, 5, 16, False)
    held = {"z": zeros, "g": groups}
    names = [name if value is not None else "" for name, value in held.items()]
    given.graph.node[0].input.extend(names)
    given.graph.initializer.extend(
        numpy_helper.from_array(v, name) for name, v in held.items() if v is not None
    )
    return given


@pytest.mark.parametrize("zeros", ["none", "real", "packed"])
@pytest.mark.parametrize(("k", "length"), [(64, 64), (40, 40), (40, 48)])
def test_scales_of_groups_that_are_not_in_order(
    k: int, length: int, zeros: str, tmp_path: Path
) -> None:
    """``g_idx``, which may go on to the end of the last block. onnxruntime leaves packed zero
    points out there, so it cannot judge them.
    """
    blocks = -(-k // 16)
    points = RNG.integers(0, 16, (5, blocks + blocks % 2))
    kinds = {
        "none": (None, np.full_like(points, 8)),
        "real": (points[:, :blocks].astype(np.float32), points),
        "packed": ((points[:, ::2] | points[:, 1::2] << 4).astype(np.uint8), points),
    }
    held, levels = kinds[zeros]
    groups = RNG.integers(0, blocks, length).astype(np.int32)
    given = with_groups(k, groups, held)
    packed, scale = (numpy_helper.to_array(t) for t in given.graph.initializer[:2])
    whole = np.stack([packed & 15, packed >> 4], -1).reshape(5, -1)[:, :k].astype(np.float64)
    wanted = (whole - levels[:, groups[:k]]) * scale[:, groups[:k]]
    x = RNG.normal(size=(3, k)).astype(np.float32)
    bound = k * 2**-23 * float(np.abs(x).sum(1).max()) * 16 * 0.2
    for target in ("ref", "cpu"):
        (got,) = read(given, tmp_path).compile(target).eval({"x": x})
        np.testing.assert_allclose(got, x @ wanted.T, rtol=0, atol=bound)
    if zeros != "packed":
        np.testing.assert_allclose(got, peer(given, {"x": x})[0], rtol=0, atol=bound)


def test_whole_bytes_are_not_packed(tmp_path: Path) -> None:
    given = many_bits(8, 64, 5, 32, True)
    program = read(given, tmp_path)
    assert "unpack_int4" not in [at.name for at in program.main]
    x = {"x": RNG.normal(size=(2, 64)).astype(np.float32)}
    bound = 64 * 2**-23 * np.abs(x["x"]).sum(1).max() * 255 * 0.2
    (got,) = program.compile("ref").eval(x)
    np.testing.assert_allclose(got, peer(given, x)[0], rtol=0, atol=float(bound))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_a_scale_may_be_any_number(value: float, rows: int, tmp_path: Path) -> None:
    """ONNX asks nothing of it: an infinite one makes infinities and, of a level of 0, NaN."""
    given = dequantized("INT4", (32, 8), 0, 16, False)
    levels = np.arange(256, dtype=np.float32).reshape(32, 8) // 8 % 16 - 8
    held = numpy_helper.to_array(given.graph.initializer[1]).copy()
    held[1, 2] = value
    made = helper.make_tensor("w", TensorProto.INT4, (32, 8), levels.ravel().astype(int).tolist())
    given.graph.initializer[0].CopyFrom(made)
    given.graph.initializer[1].CopyFrom(numpy_helper.from_array(held, "s"))
    x = np.ones((rows, 32), np.float32)
    with np.errstate(invalid="ignore"):
        wanted = x @ (levels * np.repeat(held, 16, axis=0))
    for target in ("ref", "cpu"):
        (got,) = read(given, tmp_path).compile(target).eval({"x": x})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=32 * 2**-23 * 32 * 8)


def test_onnxruntime_may_write_scales_of_zero_and_less(tmp_path: Path) -> None:
    given = many_bits(4, 32, 2, 16, False)
    held = np.array([[-0.5, 0.0], [np.inf, -0.0]], np.float32)
    given.graph.initializer[1].CopyFrom(numpy_helper.from_array(held, "s"))
    x = {"x": np.ones((1, 32), np.float32)}
    (got,) = read(given, tmp_path).compile("ref").eval(x)
    assert np.array_equal(got, peer(given, x)[0], equal_nan=True)


# Bad input


def set_attribute(given: onnx.ModelProto, name: str, value: int) -> None:
    for attribute in given.graph.node[0].attribute:
        attribute.i = value if attribute.name == name else attribute.i


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("axis", 2, "axis 2 of 'w', which has 2 axes"),
        ("axis", -3, "axis -3 of 'w', which has 2 axes"),
        ("block_size", -1, "block_size -1 for 'w': it is 0 or more"),
        ("block_size", 8, r"'s' and 'z' do not fit 'w': .*\[2, 8\] does not fit .*\(4, 8\)"),
    ],
)
def test_blocks_that_do_not_fit_are_named(name: str, value: int, said: str, tmp_path: Path) -> None:
    given = dequantized("UINT4", (32, 8), 0, 16, True)
    set_attribute(given, name, value)
    with pytest.raises(OnnxError, match=said):
        read(given, tmp_path)


@pytest.mark.parametrize(
    ("name", "dims", "said"),
    [
        ("b", (5, 2, 7), r"'b' has 70 bytes, u8\[5, 2, 7\], where 5 rows of 32 weights take 80"),
        ("s", (5, 3), r"scales 's' f32\[5, 3\]: 5 rows of 2 blocks are wanted"),
    ],
)
def test_packed_rows_that_do_not_fit_are_named(
    name: str, dims: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    given = many_bits(4, 32, 5, 16, False)
    for held in given.graph.initializer:
        if held.name == name:
            kind = numpy_helper.to_array(held).dtype
            held.CopyFrom(numpy_helper.from_array(np.ones(dims, kind), name))
    with pytest.raises(OnnxError, match=said):
        read(given, tmp_path)


def test_groups_that_do_not_fit_are_named(tmp_path: Path) -> None:
    given = with_groups(40, np.zeros(16, np.int32), None)
    with pytest.raises(OnnxError, match=r"g_idx 'g' i32\[16\]: one for each of K = 40 is wanted"):
        read(given, tmp_path)


def test_packed_bytes_of_the_wrong_length_are_named(tmp_path: Path) -> None:
    given = dequantized("INT4", (32, 8), 0, 16, False)
    w = given.graph.initializer[0]
    w.ClearField("int32_data")
    w.raw_data = bytes(100)
    with pytest.raises(MigxError, match=r"tensor 'w' is i4\[32, 8\] and takes 128 bytes, .* 100"):
        migx.parse_onnx(saved(given, tmp_path))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"quant_type": 2}, "quant_type 2; there are 0, FP4, and 1, NF4"),
        ({"transB": 0}, "transB 0 is not supported"),
        ({"N": 7}, r"'x1' u8\[96\]: 112 elements are wanted"),
        ({"block_size": 32}, r"'x2' f32\[12\]: 6 elements are wanted"),
    ],
)
def test_codes_of_bitsandbytes_that_do_not_fit(
    changed: dict[str, int], said: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"K": 32, "N": 6, "block_size": 16, "quant_type": 0, **changed}
    inputs: list[Array] = [
        np.zeros((2, 32), np.float32),
        np.zeros(96, np.uint8),
        np.zeros(12, np.float32),
    ]
    given, _ = node_model("MatMulBnb4", inputs, **options)
    with pytest.raises(OnnxError, match=said):
        read(given, tmp_path)
