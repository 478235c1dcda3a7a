"""Convolutions on the cpu: all geometries, types, epilogues and sizes, against ``ref``."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from migx import Dim, dim
from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import F32
from migx.targets.cpu.kernels import convolution, depthwise, kernel_for
from migx.targets.cpu.machine import Machine, host
from migx.targets.cpu.parts.cutting import Work, chosen
from migx.targets.cpu.parts.windows import Axis
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced, result
from tests.targets.cpu.assembled import AVX2

WIDE = {"avx2": AVX2, "avx512": replace(AVX2, vector_bytes=64, registers=32, masks=True)}

FUSE = "fuse_pointwise,fuse_epilogue"


def convolved(
    x: str, w: tuple[int, ...], attributes: str = "", dtype: str = "f32", after: str = "return %1"
) -> str:
    """A program that convolves an image of these dims with weights."""
    size = prod(w) * {"f32": 4, "f64": 8, "i8": 1, "u8": 1}.get(dtype, 2)
    rank = len(w) - 2
    missing = f"padding={(0,) * 2 * rank}, stride={(1,) * rank}, dilation={(1,) * rank}"
    given = {a.partition("=")[0].strip() for a in attributes.split(", ") if "=" in a}
    defaults = [a for a in _split(missing) if a.partition("=")[0] not in given]
    inside = ", ".join(filter(None, [attributes, *defaults]))
    return f"""
module main(x: {dtype}[{x}]) {{
  %0 = @literal() {{value=bytes("w", 0, {size}), label="w"}} : {dtype}[{", ".join(map(str, w))}]
  %1 = convolution(x, %0) {{{inside}}}
  {after}
}}
"""


def _split(attributes: str) -> list[str]:
    return [a if a.endswith(")") else a + ")" for a in attributes.split("), ")]


GEOMETRIES = {
    "one by one": ("2, 5, 6, 7", (9, 5, 1, 1), ""),
    "three by three": ("1, 5, 9, 21", (17, 5, 3, 3), "padding=(1, 1, 1, 1)"),
    "wide": ("1, 2, 5, 200", (3, 2, 3, 3), "padding=(1, 1, 1, 1)"),
    "wide, at a stride": ("1, 2, 6, 400", (3, 2, 3, 3), "padding=(1, 1, 1, 1), stride=(2, 2)"),
    "one by one, in lines": ("2, 40, 13, 13", (24, 40, 1, 1), ""),
    "at a stride": ("1, 3, 20, 23", (10, 3, 3, 3), "padding=(1, 1, 1, 1), stride=(2, 2)"),
    "one by one at a stride": ("1, 4, 7, 40", (6, 4, 1, 1), "stride=(2, 3)"),
    "far apart": ("1, 2, 15, 40", (4, 2, 3, 5), "padding=(2, 4, 2, 4), dilation=(2, 3)"),
    "farther apart than the image": (
        "1, 20, 33, 33",
        (24, 20, 3, 3),
        "padding=(30, 36, 30, 36), dilation=(30, 36)",
    ),
    "nothing but the middle in the image": (
        "1, 3, 5, 64",
        (4, 3, 3, 5),
        "padding=(9, 140, 9, 140), dilation=(9, 70)",
    ),
    "farther apart, at a stride": (
        "1, 20, 18, 33",
        (24, 20, 3, 3),
        "padding=(12, 6, 9, 8), dilation=(12, 8), stride=(3, 2)",
    ),
    "one by one, in padding": (
        "2, 18, 7, 16",
        (36, 18, 1, 1),
        "padding=(0, 3, 3, 3), dilation=(8, 6), group=1",
    ),
    "uneven padding": ("1, 2, 8, 9", (4, 2, 5, 2), "padding=(3, 0, 1, 2), stride=(2, 1)"),
    "apart, at a stride": ("1, 2, 20, 20", (4, 2, 4, 3), "stride=(2, 2), dilation=(3, 2)"),
    "patches": ("1, 3, 32, 32", (20, 3, 8, 8), "stride=(8, 8)"),
    "groups": ("1, 12, 9, 10", (16, 3, 3, 3), "padding=(1, 1, 1, 1), group=4"),
    "groups of odd size": ("2, 6, 9, 10", (15, 2, 3, 2), "group=3"),
    "along one axis": ("2, 5, 70", (6, 5, 3), "padding=(1, 1), stride=(2,)"),
    "along the first axis": ("1, 4, 33, 1", (6, 4, 5, 1), ""),
    "in space": ("1, 2, 6, 7, 9", (3, 2, 3, 2, 3), "padding=(1, 0, 1, 1, 1, 0), stride=(2, 1, 1)"),
    "a single window": ("1, 7, 5, 5", (40, 7, 5, 5), ""),
    "a small image": ("1, 40, 7, 7", (96, 40, 3, 3), "padding=(1, 1, 1, 1)"),
    "a row longer than a tile": ("1, 1, 2, 3000", (2, 1, 1, 5), "padding=(0, 2, 0, 2)"),
    "more channels than fit": ("1, 700, 12, 14", (16, 700, 3, 3), "padding=(1, 1, 1, 1)"),
    "a small image of many": ("1, 900, 6, 7", (64, 900, 3, 3), "padding=(1, 1, 1, 1)"),
    "nothing but padding beside": ("1, 1, 1, 1", (3, 1, 3, 3), "padding=(2, 2, 2, 2)"),
    "no items": ("0, 3, 8, 8", (4, 3, 3, 3), ""),
    "depthwise": ("2, 7, 9, 20", (7, 1, 3, 3), "padding=(1, 1, 1, 1), group=7"),
    "depthwise at a stride": ("1, 5, 9, 40", (10, 1, 5, 3), "stride=(2, 2), group=5"),
    "depthwise, far apart": (
        "1, 3, 20, 9",
        (3, 1, 3, 3),
        "dilation=(4, 2), stride=(1, 3), group=3",
    ),
    "depthwise, large": (
        "2, 3, 30, 20",
        (3, 1, 7, 7),
        "padding=(3, 3, 3, 3), group=3",
    ),
    "depthwise, large, at a stride": (
        "1, 4, 23, 40",
        (8, 1, 5, 5),
        "padding=(2, 1, 2, 2), stride=(2, 2), group=4",
    ),
    "depthwise, large, far apart": (
        "1, 2, 30, 31",
        (2, 1, 5, 4),
        "padding=(2, 3, 0, 1), dilation=(2, 3), stride=(1, 2), group=2",
    ),
    "depthwise, large, at a wide stride": (
        "2, 3, 23, 40",
        (6, 1, 5, 5),
        "padding=(2, 1, 2, 2), stride=(1, 3), dilation=(1, 2), group=3",
    ),
    "one channel in and out": ("2, 1, 100", (1, 1, 41), "padding=(20, 20), stride=(3,)"),
    "depthwise along one axis": ("1, 4, 50", (8, 1, 40), "padding=(20, 3), group=4"),
    "depthwise in space": ("1, 2, 4, 5, 6", (4, 1, 2, 3, 3), "padding=(1, 1, 1, 0, 1, 1), group=2"),
    "depthwise in each plane": (
        "1, 2, 4, 5, 6",
        (4, 1, 1, 3, 3),
        "padding=(0, 1, 1, 0, 1, 1), group=2",
    ),
    "depthwise in each plane, large": ("2, 2, 3, 9, 6", (2, 1, 1, 5, 5), "group=2"),
}


@pytest.mark.parametrize(("x", "w", "attributes"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometries(x: str, w: tuple[int, ...], attributes: str) -> None:
    assert not problem(kernel_for, parsed(convolved(x, w, attributes)))


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64", "i8", "u8", "i32"])
def test_element_types(dtype: str) -> None:
    for name in ("three by three", "groups of odd size", "a small image", "depthwise"):
        x, w, attributes = GEOMETRIES[name]
        assert not problem(kernel_for, parsed(convolved(x, w, attributes, dtype)))


def test_quantised_convolutions_are_exact() -> None:
    text = """
module main(x: u8[1, 20, 9, 9], w: i8[12, 20, 3, 3]) {
  %0 = quant_convolution(x, w) {padding=(1, 1, 1, 1)}
  return %0
}
"""
    assert not problem(kernel_for, parsed(text))


def test_weights_are_packed_by_strips() -> None:
    kernel = kernel_for(produced(parsed(convolved("1, 64, 56, 56", (64, 64, 3, 3)))), host())
    assert kernel is not None
    assert [index for index, _ in kernel.formats] == [1]
    assert kernel.formats[0][1].startswith("Abcd")


VIEWS = {
    "weights that are given": """
module main(x: f32[1, 5, 9, 9], w: f32[11, 5, 3, 3]) {
  %0 = convolution(x, w)
  return %0
}
""",
    "some of the kernels": """
module main(x: f32[1, 5, 9, 9], w: f32[11, 5, 3, 3]) {
  %0 = slice(w) {axes=(0,), starts=(2,), ends=(9,)}
  %1 = convolution(x, %0)
  return %1
}
""",
    "some of the channels": """
module main(x: f32[2, 9, 9, 20], w: f32[11, 5, 3, 3]) {
  %0 = slice(x) {axes=(1,), starts=(2,), ends=(7,)}
  %1 = convolution(%0, w)
  return %1
}
""",
    "channels last": """
module main(x: f32[2, 9, 20, 5], w: f32[11, 5, 3, 3]) {
  %0 = transpose(x) {permutation=(0, 3, 1, 2)}
  %1 = convolution(%0, w) {stride=(1, 2)}
  return %1
}
""",
    "one by one, channels last": """
module main(x: f32[2, 9, 20, 5], w: f32[11, 5, 1, 1]) {
  %0 = transpose(x) {permutation=(0, 3, 1, 2)}
  %1 = convolution(%0, w)
  return %1
}
""",
    "a window of a larger image": """
module main(x: f32[1, 5, 30, 40], w: f32[5, 1, 3, 3]) {
  %0 = slice(x) {axes=(2, 3), starts=(3, 4), ends=(20, 33)}
  %1 = convolution(%0, w) {group=5}
  return %1
}
""",
    "the same for every item": """
module main(x: f32[1, 5, 9, 9], w: f32[4, 5, 3, 3]) {
  %0 = multibroadcast(x) {out_lens=(3, 5, 9, 9)}
  %1 = convolution(%0, w)
  return %1
}
""",
}


@pytest.mark.parametrize("text", VIEWS.values(), ids=VIEWS)
def test_views(text: str) -> None:
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize("group", [1, 4])
def test_kernels_that_a_run_widens(group: int) -> None:
    text = f"""
module main(x: f32[1, 4, 9, 9], w: f16[8, {4 // group}, 3, 3]) {{
  %0 = convert(w) {{to=f32}}
  %1 = convolution(x, %0) {{group={group}}}
  return %1
}}
"""
    assert not problem(kernel_for, parsed(text))


BIAS = """%2 = @literal() {value=bytes("b", 0, 96), label="b"} : f32[24]
  %3 = broadcast(%2) {axis=1, out_lens=(2, 24, 9, 10)}
  %4 = add(%1, %3)
  """
EPILOGUES = {
    "bias, activation": BIAS + "%5 = relu(%4)\n  return %5",
    "much arithmetic": BIAS + "%5 = sigmoid(%4)\n  %6 = mul(%4, %5)\n  return %6",
    "the image again": BIAS + "%5 = add(%4, x)\n  return %5",
    "another type": "%2 = neg(%1)\n  %3 = convert(%2) {to=f16}\n  return %3",
    "under other dims": "%2 = reshape(%1) {dims=(2, 3, 8, 90)}\n  %3 = neg(%2)\n  return %3",
}


@pytest.mark.parametrize("after", EPILOGUES.values(), ids=EPILOGUES)
@pytest.mark.parametrize(
    ("w", "attributes"),
    [
        ((24, 24, 3, 3), "padding=(1, 1, 1, 1)"),
        ((24, 24, 1, 1), ""),
        ((24, 1, 3, 3), "padding=(1, 1, 1, 1), group=24"),
    ],
    ids=["three by three", "one by one", "depthwise"],
)
def test_epilogues(w: tuple[int, ...], attributes: str, after: str) -> None:
    program = parsed(convolved("2, 24, 9, 10", w, attributes, after=after), FUSE)
    assert produced(program).name == "group"
    assert not problem(kernel_for, program)


def test_sums_that_wait_for_channels_meet_their_epilogue_once() -> None:
    for after in (EPILOGUES["bias, activation"], EPILOGUES["much arithmetic"]):
        text = convolved("2, 1500, 9, 10", (24, 1500, 3, 3), "padding=(1, 1, 1, 1)", after=after)
        assert not problem(kernel_for, parsed(text, FUSE))


def test_the_result_may_take_the_place_of_a_residual_only() -> None:
    text = """
module main(x: f32[1, 4, 6, 6], w: f32[4, 4, 1, 1], r: f32[1, 4, 6, 6]) {
  %0 = convolution(x, w)
  %1 = add(%0, r)
  return %1
}
"""
    other = kernel_for(produced(parsed(text, FUSE)), host())
    same = kernel_for(produced(parsed(text.replace("(%0, r)", "(%0, x)"), FUSE)), host())
    assert other is not None
    assert same is not None
    assert (other.over, same.over) == (((2, 0),), ())


@pytest.mark.parametrize(
    ("w", "attributes"),
    [
        ((20, 40, 3, 3), "padding=(1, 1, 1, 1)"),
        ((20, 40, 1, 1), ""),
        ((20, 40, 1, 3), "padding=(0, 1, 0, 2), dilation=(1, 2)"),
        ((20, 40, 3, 3), "padding=(8, 8, 8, 8), dilation=(8, 8)"),
        ((20, 40, 3, 3), "padding=(16, 8, 16, 8), dilation=(16, 8), stride=(2, 1)"),
        ((20, 40, 3, 3), "padding=(0, 1, 1, 0), stride=(2, 2)"),
        ((40, 1, 5, 5), "padding=(2, 2, 2, 2), group=40"),
    ],
)
def test_symbolic_images(w: tuple[int, ...], attributes: str) -> None:
    program = parsed(convolved("n, 40, h, w", w, attributes))
    for n, h, width in ((1, 5, 5), (2, 10, 11), (0, 9, 9), (1, 4, 2500)):
        assert not problem(kernel_for, program, {"n": n, "h": h, "w": width})


def test_an_item_alone_gives_the_same_bits() -> None:
    program = parsed(convolved("n, 8, 9, 9", (12, 8, 3, 3)))
    many, one = (result(kernel_for, program, {"n": n}) for n in (3, 1))
    assert many[: one.size].tobytes() != bytes(one.nbytes)
    assert kernel_for(produced(program), host()) == kernel_for(produced(program), host())


MACHINES = OTHER_MACHINES | {"small caches": replace(host(), l2=64 * 1024)}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_other_machines(machine: Machine) -> None:
    """What is cut for other registers is right too, though compiled for this machine here."""
    names = "three by three", "at a stride", "a small image", "one by one, in lines", "depthwise"
    for name in (*names, "depthwise, large"):
        program = parsed(convolved(*GEOMETRIES[name]))
        assert not problem(lambda at, _: kernel_for(at, machine), program)


def test_sums_stay_in_registers() -> None:
    """No strip needs more registers than there are, and none is spilled on this machine."""
    axis, row = Axis(), Axis(56, 56, 3, 1, 1, 1, 1, 1)
    for machine in (*MACHINES.values(), host()):
        for outputs in (1, 24, 64, 1000):
            cut = chosen(machine, Work((axis, row, row), 64, outputs, 1, F32, True))
            assert cut.rows * cut.vectors + cut.vectors + 1 <= machine.registers
    text = convolved("1, 64, 56, 56", (64, 64, 3, 3), "padding=(1, 1, 1, 1)")
    kernel = kernel_for(produced(parsed(text)), host())
    assert kernel is not None
    inside = [line for line in jit.assembly(kernel.text).splitlines() if "zmm" in line]
    assert not [line for line in inside if "(%rsp" in line and "vmov" in line]


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ("2, 20, 21, 128", (24, 20, 3, 3), "padding=(1, 1, 1, 1)"),
        ("1, 20, 40, 136", (24, 20, 3, 5), "padding=(0, 2, 1, 2), dilation=(2, 3), stride=(2, 1)"),
        ("1, 300, 9, 126", (17, 300, 2, 3), "padding=(1, 2, 0, 2)"),
        ("1, 6, 3, 20, 128", (12, 6, 2, 3, 3), "padding=(1, 1, 1, 0, 1, 1)"),
    ],
)
def test_rows_that_vectors_fill_are_spread_once(
    x: str, w: tuple[int, ...], attributes: str
) -> None:
    program = parsed(convolved(x, w, attributes))
    at = produced(program)
    work = convolution.described(at, host())
    assert work is not None
    assert convolution.Writer(at, host(), work).cut.by_row or host().lanes(F32) < 16
    assert not problem(kernel_for, program)


@pytest.mark.parametrize("machine", WIDE.values(), ids=WIDE)
def test_small_images_turn(machine: Machine) -> None:
    """Pixels of 7 x 7 fill vectors badly; output channels do not."""
    axis, row = Axis(), Axis(7, 7, 3, 1, 1, 1, 1, 1)
    work = Work((axis, row, row), 512, 512, 1, F32, True)
    assert chosen(machine, work).turned
    assert not chosen(machine, replace(work, may_turn=False)).turned


@pytest.mark.parametrize("machine", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("halved", [0, 5])
def test_images_of_unknown_size_may_be_small(halved: int, machine: Machine) -> None:
    """Those that were halved five times are, however large the first one is."""
    size = (Dim("size") + (2**halved - 1)) // 2**halved
    axis, row = Axis(), Axis(size, size, 3, 1, 1, 1, 1, 1)
    cut = chosen(machine, Work((axis, row, row), 256, 256, 1, F32, True))
    assert cut.turned == (halved == 5)


def test_low_tiles_see_less_of_windows_far_apart() -> None:
    """Of rows 24 apart, 33 rows of windows see three in an image of as many; 11 see two at most."""
    axis, row = Axis(), Axis(33, 33, 3, 1, 24, 24, 24, 1)
    assert (row.live(33), row.live(11), row.live(1)) == (3, 5 / 3, 51 / 33)
    work = Work((axis, row, row), 960, 256, 1, F32, True)
    tall, low = (
        chosen(host(), replace(work, padding_counts=counts)).height for counts in (True, False)
    )
    assert low < tall


def test_sound_may_have_few_frames_or_many() -> None:
    """As a stream has, or a recording; and so may what is made of the frames."""
    samples = Dim("samples")
    frames = samples // 160 + 1
    first = Axis(samples, frames, 512, 160, begin=256, end=256)
    for axis in (first, Axis(frames, frames - 2, 3)):
        work = Work((Axis(), Axis(), axis), 1, 512, 1, F32, True)
        made = [int(case.axes[2].made) for case in work.cases]
        assert min(made) <= 3
        assert max(made) == 800
        for case in work.cases[-3:]:
            last = case.axes[2]
            assert last.given == (last.made - 1) * last.stride + last.length
    image = Axis(samples, samples, 3, begin=1, end=1)
    for axes in ((Axis(), Axis(), image), (Axis(), first, first)):
        assert len(Work(axes, 1, 512, 1, F32, True).cases) == 3


@pytest.mark.parametrize("machine", WIDE.values(), ids=WIDE)
def test_pixels_of_unknown_number_are_many_in_lines(machine: Machine) -> None:
    """One axis of all pixels has the square of a size."""
    size = Dim("size")
    row = Axis(size * size, size * size, step=1)
    cut = chosen(machine, Work((Axis(), Axis(), row), 64, 256, 1, F32, True, True))
    assert not cut.turned
    assert dim.evaluate(cut.width, {"size": 56}) > 10 * 56


def test_an_image_in_lines_is_not_copied() -> None:
    one = kernel_for(produced(parsed(convolved("1, 64, 56, 56", (64, 64, 1, 1)))), host())
    assert one is not None
    assert dim.evaluate(one.scratch, {}) < 56 * 56 * 4


@pytest.mark.parametrize("side", [32, 56, 64])
@pytest.mark.parametrize("outputs", [8, 256])
def test_an_image_whose_channels_share_a_place_in_caches_is_copied_for_many_outputs(
    side: int, outputs: int
) -> None:
    at = produced(parsed(convolved(f"1, 256, {side}, {side}", (outputs, 256, 1, 1))))
    problem = convolution.described(at, host())
    assert problem is not None
    cut = convolution.Writer(at, host(), problem).cut
    assert cut.in_place == (side == 56 or outputs == 8)


def test_families() -> None:
    """Channels that do not mix have kernels of their own; what is no convolution has none."""
    deep = produced(parsed(convolved("1, 4, 9, 9", (4, 1, 3, 3), "group=4")))
    alone = produced(parsed(convolved("1, 1, 9, 9", (1, 1, 3, 3))))
    mixed = produced(parsed(convolved("1, 4, 9, 9", (4, 4, 3, 3))))
    other = produced(parsed("module main(x: f32[2]) {\n  %0 = relu(x)\n  return %0\n}\n"))
    assert all(depthwise.kernel_for(at, host()) is not None for at in (deep, alone))
    assert depthwise.kernel_for(mixed, host()) is None
    assert convolution.kernel_for(other, host()) is None
    text = """
module main(x: f32[1, 4, 9, 9], w: f32[4, 4, k, 3]) {
  %0 = convolution(x, w)
  return %0
}
"""
    assert convolution.kernel_for(produced(parsed(text)), host()) is None
