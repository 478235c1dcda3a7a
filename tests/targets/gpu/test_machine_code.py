"""What can be counted in the machine code of kernels for ``sm_90``, and decides how fast they can
be: the widths of loads and stores, and instructions for each element.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import migx
from migx.target import CompileOptions
from migx.targets.gpu.code.compiling import Request, binaries
from migx.targets.gpu.operations import CodeObject
from tests.targets.gpu.on_interpreter import gpu

ARCH = "sm_90"
TURNED = """module main(x: {t}[4096, 4096]) {{
  %0 = transpose(x) {{permutation=(1, 0)}}
  %1 = contiguous(%0)
  return %1
}}"""
ADDED = """module main(x: f16[8, 64, 56, 56], y: f16[8, 56, 56, 64]) {
  %0 = transpose(y) {permutation=(0, 3, 1, 2)}
  %1 = add(x, %0)
  return %1
}"""
SIGMOID = """module main(x: f16[16384, 4096]) {
  %0 = sigmoid(x)
  %1 = mul(x, %0)
  return %1
}"""
ACROSS = """module main(x: f32[8192, 4096]) {
  %0 = reduce_sum(x) {axes=(0,)}
  return %0
}"""
ATTENTION = """module main(q: f16[64, 2048, 128], k: f16[64, 2048, 128], v: f16[64, 2048, 128]) {
  %0 = transpose(k) {permutation=(0, 2, 1)}
  %1 = dot(q, %0)
  %2 = softmax(%1) {axis=2}
  %3 = dot(%2, v)
  return %3
}"""
WEIGHTS = """module main(x: f16[{rows}, 4096], w: u4[4096, 4096], s: f16[128, 4096]) {{
  %0 = unpack_int4(w)
  %1 = dequantizelinear(%0, s) {{axis=0, block=32}}
  %2 = dot(x, %1)
  return %2
}}"""
CONVOLVED = """module main(x: {t}[8, 56, 56, 64], w: {t}[{filters}]) {{
  %0 = convolution_channels_last(x, w) {{padding=(1, 1, 1, 1), group={group}}}
  %1 = relu(%0)
  return %1
}}"""
POOLED = """module main(x: f16[32, 1, 112, 112, 64]) {
  %0 = pooling(x) {mode="max", lengths=(3, 3, 1), stride=(2, 2, 1), padding=(1, 1, 0, 1, 1, 0),
                   dilation=(1, 1, 1)}
  return %0
}"""
DEPTHWISE = """module main(x: f16[8, 56, 56, 64], w: f16[3, 3, 1, 64]) {
  %0 = transpose(w) {permutation=(3, 0, 1, 2)}
  %1 = convolution_channels_last(x, %0) {padding=(1, 1, 1, 1), group=64}
  return %1
}"""
TEXTS = {
    "convolution f16": CONVOLVED.format(t="f16", filters="64, 3, 3, 64", group=1),
    "convolution f32": CONVOLVED.format(t="f32", filters="64, 3, 3, 64", group=1),
    "depthwise": DEPTHWISE,
    "pooling": POOLED,
    "transpose f16": TURNED.format(t="f16"),
    "transpose f32": TURNED.format(t="f32"),
    "add": ADDED,
    "sigmoid": SIGMOID,
    "across": ACROSS,
    "attention": ATTENTION,
    "row": WEIGHTS.format(rows=1),
    "few rows": WEIGHTS.format(rows=32),
    "rows": WEIGHTS.format(rows=512),
}


@cache
def requests() -> dict[str, Request]:
    """What is compiled for the only kernel of each text."""
    found = {}
    for name, text in TEXTS.items():
        program, target = migx.parse(text), gpu(ARCH)
        migx.run_passes(program, target.get_passes(target.get_context(), CompileOptions()))
        (op,) = (at.op for at in program.main if isinstance(at.op, CodeObject))
        found[name] = Request.of(replace(op, aligned=tuple(range(len(op.pointers)))), ARCH)
    return found


def instructions(name: str, to: Path) -> Counter[str]:
    """The instructions of a kernel, by name."""
    disassembler = str(files("triton") / "backends/nvidia/bin/nvdisasm")
    made = binaries(requests().values())[requests()[name].key]
    (file := to / "kernel.cubin").write_bytes(made.code)
    text = subprocess.check_output([disassembler, "-c", file], text=True)
    line = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z]\S*)"
    return Counter(re.findall(line, text, re.MULTILINE))


def of_kind(found: Counter[str], *kinds: str) -> Counter[str]:
    """The instructions whose names begin so."""
    return Counter({n: many for n, many in found.items() if n.startswith(kinds)})


def test_elementwise_kernels_load_and_store_16_bytes_at_a_time(tmp_path: Path) -> None:
    """Also where operands lie along different axes."""
    for name in ("sigmoid", "add", "transpose f16", "transpose f32"):
        moves = of_kind(instructions(name, tmp_path), "LDG", "STG")
        assert set(moves) == {"LDG.E.128", "STG.E.128"}, name


def test_convolutions_of_channels_last_load_16_bytes_at_a_time(tmp_path: Path) -> None:
    """Asynchronously, into shared memory, where groups of warps multiply them."""
    for name in ("convolution f16", "convolution f32"):
        found = instructions(name, tmp_path)
        assert set(of_kind(found, "LDG")) == {"LDGSTS.E.BYPASS.128", "LDGDEPBAR"}, name
        assert set(of_kind(found, "STG")) == {"STG.E.128"}, name
        assert of_kind(found, "HGMMA"), name


def test_windows_of_one_channel_are_read_16_bytes_at_a_time(tmp_path: Path) -> None:
    for name in ("depthwise", "pooling"):
        moves = of_kind(instructions(name, tmp_path), "LDG", "STG")
        assert set(moves) == {"LDG.E.128", "STG.E.128"}, name


def test_rows_side_by_side_are_read_16_bytes_at_a_time(tmp_path: Path) -> None:
    """By all loads but those of what other programs have folded."""
    loads = of_kind(instructions("across", tmp_path), "LDG")
    assert loads["LDG.E.128"] >= 16
    assert loads.total() - loads["LDG.E.128"] <= 2


def test_a_power_of_a_score_is_one_instruction_after_two(tmp_path: Path) -> None:
    """Its scale, its difference from the greatest one: no subnormals are cared for."""
    found = instructions("attention", tmp_path)
    assert of_kind(found, "HGMMA").total() == 16
    scores = 128 * 128 // 256
    assert scores <= of_kind(found, "MUFU.EX2").total() <= scores + 4
    assert of_kind(found, "FSETP", "FSEL").total() < scores / 2


def test_a_weight_of_four_bits_is_found_by_little_more_than_one_instruction(tmp_path: Path) -> None:
    """Which masks it; shifts are for eight at a time."""
    found = instructions("row", tmp_path)
    weights = of_kind(found, "LDG.E.128").total() * 32
    assert weights >= 512
    assert of_kind(found, "LOP3", "SHF.", "SGXT").total() <= 1.2 * weights


def test_weights_of_four_bits_become_tiles_without_slow_conversions(tmp_path: Path) -> None:
    found = instructions("rows", tmp_path)
    assert of_kind(found, "HGMMA")
    assert not of_kind(found, "I2F", "LDS.U8", "STS.U8", "STS.U16")


def test_both_weights_of_a_byte_are_masked_in_one_register(tmp_path: Path) -> None:
    """Of a tile of 32 by 128 each of 128 threads has 16 bytes."""
    found = instructions("few rows", tmp_path)
    assert of_kind(found, "HMMA")
    assert 16 <= of_kind(found, "PRMT").total() < 24
