"""Products of matrices on the gpu: types, shapes that do not divide tiles, what is fused to them,
and weights of four bits.
"""

from __future__ import annotations

import pytest

from tests.targets.gpu.on_interpreter import holds
from tests.targets.gpu.test_parts import kernel_of


@pytest.mark.parametrize("rows", ["1", "2", "37", "n"])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64", "i32"])
def test_a_product_with_its_bias_and_activation(dtype: str, rows: str) -> None:
    holds(
        f"""module main(x: {dtype}[2, {rows}, 70], w: {dtype}[70, 33], b: {dtype}[33]) {{
          %0 = multibroadcast(w) {{out_lens=(2, 70, 33)}}
          %1 = dot(x, %0)
          %2 = multibroadcast(b) {{out_lens=(2, {rows}, 33)}}
          %3 = add(%1, %2)
          %4 = relu(%3)
          return %4
        }}""",
        {"n": 70},
    )


@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (1, 40), (257, 1), (16, 130), (0, 40)])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_narrow_products(rows: int, depth: int, columns: int) -> None:
    holds(
        f"module main(x: f32[{rows}, {depth}], y: f32[{depth}, {columns}]) "
        "{\n %0 = dot(x, y)\n return %0\n}"
    )


@pytest.mark.parametrize("transposed", ["x", "y"])
def test_a_batch_of_matrices_that_are_transposed(transposed: str) -> None:
    dims = {"x": "n, 3, 5, 70", "y": "n, 3, 70, 33"}
    lead, a, b = dims[transposed].rsplit(", ", 2)
    dims[transposed] = f"{lead}, {b}, {a}"
    given = ", ".join("%0" if name == transposed else name for name in "xy")
    text = f"module main(x: f32[{dims['x']}], y: f32[{dims['y']}]) {{\n"
    text += f" %0 = transpose({transposed}) {{permutation=(0, 1, 3, 2)}}\n"
    holds(text + f" %1 = dot({given})\n return %1\n}}", {"n": 2})


@pytest.mark.parametrize("left", ["i8", "u8"])
@pytest.mark.parametrize("right", ["i8", "u8"])
@pytest.mark.parametrize("rows", [1, 20])
def test_bytes_are_multiplied_exactly(rows: int, left: str, right: str) -> None:
    holds(
        f"module main(x: {left}[{rows}, 300], y: {right}[300, 33]) "
        "{\n %0 = quant_dot(x, y)\n return %0\n}"
    )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("weight", ["i4", "u4"])
@pytest.mark.parametrize(("dtype", "block"), [("f32", 16), ("f16", 32), ("bf16", 64)])
@pytest.mark.parametrize("rows", ["1", "n"])
@pytest.mark.parametrize(("depth", "columns"), [(70, 34), (256, 96)])
def test_four_bits(
    depth: int, columns: int, rows: str, dtype: str, block: int, weight: str, axis: int
) -> None:
    blocks = -(-depth // block)
    whole, parts = (f"{a}, {columns}" if axis == 0 else f"{columns}, {a}" for a in (depth, blocks))
    text = f"module main(x: {dtype}[{rows}, {depth}], w: {weight}[{whole}], s: {dtype}[{parts}], "
    text += f"z: {weight}[{parts}]) {{\n %0 = unpack_int4(w)\n %1 = unpack_int4(z)\n"
    text += f" %2 = dequantizelinear(%0, s, %1) {{axis={axis}, block={block}}}\n"
    if axis == 1:
        text += " %3 = transpose(%2) {permutation=(1, 0)}\n"
    holds(text + f" %{3 + axis} = dot(x, %{2 + axis})\n return %{3 + axis}\n}}", {"n": 21})


WORDS = """module main(x: {dtype}[{rows}, 512], w: {weight}[512, {columns}],
    s: {dtype}[{blocks}, {columns}], z: {weight}[{blocks}, {columns}],
    b: {dtype}[{rows}, {columns}]) {{
  %0 = unpack_int4(w)
  %1 = unpack_int4(z)
  %2 = dequantizelinear(%0, s{zero}) {{axis=0, block={block}}}
  %3 = unsqueeze(%2) {{axes=(0,)}}
  %4 = unsqueeze(x) {{axes=(0,)}}
  %5 = dot(%4, %3)
  %6 = unsqueeze(b) {{axes=(0,)}}
  %7 = add(%5, %6)
  return %7
}}"""


@pytest.mark.parametrize(
    ("dtype", "rows", "block", "columns", "weight", "zero"),
    [
        ("f16", 1, 32, 40, "i4", ""),
        ("f16", 1, 32, 40, "u4", ", %1"),
        ("f32", 3, 64, 24, "i4", ", %1"),
        ("f32", 3, 64, 24, "u4", ""),
    ],
)
def test_rows_by_four_bits_read_in_words(
    dtype: str, rows: int, block: int, columns: int, weight: str, zero: str
) -> None:
    how = {"dtype": dtype, "rows": rows, "block": block, "columns": columns, "weight": weight}
    text = WORDS.format(**how, blocks=512 // block, zero=zero)
    assert "u32" in kernel_of(text).pointers
    holds(text)


ALONG_DEPTH = {
    "scaled, turned": """
      %2 = dequantizelinear(%0, s{zero}) {{axis=1, block={block}}}
      %3 = transpose(%2) {{permutation=(1, 0)}}""",
    "turned, scaled": """
      %2 = transpose(%0) {{permutation=(1, 0)}}
      %3 = dequantizelinear(%2, s{zero}) {{axis=0, block={block}}}""",
}


@pytest.mark.parametrize("order", ALONG_DEPTH)
@pytest.mark.parametrize(
    ("dtype", "rows", "block", "weight", "zero"),
    [
        ("f16", 1, 32, "i4", ""),
        ("f32", 3, 64, "u4", ", %1"),
        ("f32", 1, 8, "u4", ""),
        ("bf16", 1, 16, "i4", ", %1"),
    ],
)
def test_words_along_the_depth_are_read_once(
    dtype: str, rows: int, block: int, weight: str, zero: str, order: str
) -> None:
    blocks = 512 // block
    parts = f"40, {blocks}" if order.startswith("scaled") else f"{blocks}, 40"
    text = f"""module main(x: {dtype}[{rows}, 512], w: {weight}[40, 512], s: {dtype}[{parts}],
                           z: {weight}[{parts}]) {{
      %0 = unpack_int4(w)
      %1 = unpack_int4(z){ALONG_DEPTH[order].format(zero=zero, block=block)}
      %4 = multibroadcast(%3) {{out_lens=(1, 512, 40)}}
      %5 = unsqueeze(x) {{axes=(0,)}}
      %6 = dot(%5, %4)
      return %6
    }}"""
    kernel = kernel_of(text)
    assert "u32" in kernel.pointers
    assert kernel.source.count(f"tl.load(p{kernel.pointers.index('u32')} ") == 1
    holds(text)


@pytest.mark.parametrize(("axis", "scales"), [(1, "40"), (0, "512"), (1, "1")])
@pytest.mark.parametrize(("turned", "zero"), [(False, ""), (True, ", z"), (False, ", z")])
def test_a_scale_per_column_is_read_beside_words(
    axis: int, scales: str, zero: str, *, turned: bool
) -> None:
    """One for each index of the depth is not: it differs within a word, or from word to word."""
    dims, along = ("40, 512", 1 - axis) if turned else ("512, 40", axis)
    view = "%2 = transpose(%1) {permutation=(1, 0)}" if turned else "%2 = identity(%1)"
    text = f"""module main(x: f16[1, 512], w: u4[{dims}], s: f16[{scales}], z: u8[{scales}]) {{
      %0 = unpack_int4(w)
      %1 = dequantizelinear(%0, s{zero}) {{axis={along}}}
      {view}
      %3 = dot(x, %2)
      return %3
    }}"""
    assert ("u32" in kernel_of(text).pointers) is (scales != "512")
    holds(text)


def test_blocks_that_are_too_long_for_words_are_read_in_bytes() -> None:
    text = """module main(x: f32[1, 16384], w: u4[4, 16384], s: f32[4, 8]) {
      %0 = unpack_int4(w)
      %1 = dequantizelinear(%0, s) {axis=1, block=2048}
      %2 = transpose(%1) {permutation=(1, 0)}
      %3 = dot(x, %2)
      return %3
    }"""
    assert "u32" not in kernel_of(text).pointers
    holds(text)


def test_few_columns_are_shared_by_many_programs() -> None:
    kernel = kernel_of(
        WORDS.format(dtype="f32", rows=1, block=32, columns=256, weight="i4", blocks=16, zero="")
    )
    assert kernel.grid >= 32


def test_columns_that_end_within_a_word_are_read_in_bytes() -> None:
    how = {"dtype": "f16", "rows": 1, "block": 32, "columns": 36, "weight": "u4"}
    assert "u32" not in kernel_of(WORDS.format(**how, blocks=16, zero="")).pointers


@pytest.mark.parametrize("axis", [0, 1])
def test_four_bits_packed_along_an_axis(axis: int) -> None:
    dims = "35, 34" if axis == 0 else "70, 17"
    holds(
        f"""module main(x: f32[9, 70], w: u8[{dims}]) {{
          %0 = unpack_int4(w) {{axis={axis}}}
          %1 = @literal() {{value=[0.5]}} : f32[1]
          %2 = dequantizelinear(%0, %1)
          %3 = dot(x, %2)
          return %3
        }}"""
    )


def test_four_bits_alone() -> None:
    holds(
        """module main(x: f32[40, 80], w: u4[], s: f32[]) {
          %0 = unpack_int4(w)
          %1 = dequantizelinear(%0, s)
          %2 = multibroadcast(%1) {out_lens=(80, 64)}
          %3 = dot(x, %2)
          return %3
        }"""
    )


@pytest.mark.parametrize("dims", ["", "1", "1, 1"])
def test_four_bits_with_one_packed_zero_point(dims: str) -> None:
    holds(
        f"""module main(x: f32[3, 64], w: u4[64, 32], s: f32[64, 32], z: u4[{dims}]) {{
          %0 = unpack_int4(z)
          %1 = multibroadcast(%0) {{out_lens=(64, 32)}}
          %2 = unpack_int4(w)
          %3 = dequantizelinear(%2, s, %1) {{axis=0, block=1}}
          %4 = dot(x, %3)
          return %4
        }}"""
    )


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize(
    ("parts", "options"),
    [
        (1, "axis=1, length=20, onesided=true"),
        (2, "axis=1, length=16, inverse=true"),
        (2, "axis=1, length=30, inverse=true, onesided=true"),
    ],
)
def test_fourier_transforms(parts: int, options: str, dtype: str) -> None:
    text = f"module main(x: {dtype}[n, 20, 3, {parts}]) {{\n %0 = dft(x) {{{options}}}\n"
    holds(text + " return %0\n}", {"n": 4})


RIGHT = {
    "of four-bit floats": ("y: u8[2, 64, 8]", "%1 = unpack_fp4(y) {axis=2, length=16}"),
    "packed along the depth": ("y: u8[2, 32, 16]", "%1 = unpack_fp4(y) {axis=1, length=64}"),
    "packed along the batch": ("y: u8[1, 64, 16]", "%1 = unpack_fp4(y) {axis=0, length=2}"),
    "with blocks of scales": (
        "y: i4[1, 64, 16], s: f32[2, 2, 16]",
        """%2 = unpack_int4(y)
           %3 = multibroadcast(%2) {out_lens=(2, 64, 16)}
           %1 = dequantizelinear(%3, s) {axis=1, block=32}""",
    ),
    "with a scale each": (
        "y: i8[1, 64, 16], s: f32[2]",
        """%2 = multibroadcast(y) {out_lens=(2, 64, 16)}
           %1 = dequantizelinear(%2, s) {axis=0}""",
    ),
}


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("right", RIGHT.values(), ids=RIGHT)
def test_each_product_of_a_batch_has_its_own_right_operand(
    right: tuple[str, str], rows: int
) -> None:
    parameters, lines = right
    text = f"""module main(x: f32[2, {rows}, 64], {parameters}) {{
                 {lines}
                 %0 = dot(x, %1)
                 return %0
               }}"""
    assert holds(text) == 1
