"""The tree is the architecture: who may import whom, and what is loaded when."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "migx"
ABOVE = {
    "core": ("migx.passes", "migx.targets"),
    "passes": ("migx.targets",),
    "targets": (),
}
GPU = ("emit", "parts", "kernels", "code", "devices", "runs")
"""The folders of the gpu target: each knows those before it."""
OUTSIDE = ("benchmarks", "passes", "targets", "tests")
HELP = """
from migx.cli import main
sys.argv = ["migx", "--help"]
try:
    main()
except SystemExit:
    pass
"""
SWAP = """
import struct, tempfile
from pathlib import Path
import migx
from migx.onnx import replace_onnx_external_weights
op = 'onnx_external_weights() {label="w", file="w.bin", offset=0, length=8, shape=f32[2]}'
program = migx.parse(f"module main() {{\\n  %0 = {op}\\n  return %0\\n}}").compile("ref")
entry = b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "w.safetensors")
    file.write_bytes(struct.pack("<Q", len(entry)) + entry + struct.pack("<2f", 1, 2))
    with program.update_weights() as new:
        new.update(file)
    assert program.eval({})[0].tolist() == [1, 2]
    replace_onnx_external_weights(program, file)
    del program, new
"""
HEAVY = {"hypothesis", "llvmlite", "networkx", "onnx", "onnxruntime", "rich"}


def files(layer: str) -> list[Path]:
    """The Python files of a layer; the core's are those not reached through a link."""
    if layer != "core":
        return sorted((CORE / layer).rglob("*.py"))
    linked = (CORE / "passes", CORE / "targets")
    return sorted(f for f in CORE.rglob("*.py") if not any(map(f.is_relative_to, linked)))


def imported(source: str) -> Iterator[str]:
    """Every name that a source imports, in full: ``from migx import passes`` is migx.passes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offending(source: str, banned: tuple[str, ...]) -> list[str]:
    """The imports that reach into a banned package."""
    return [n for n in imported(source) if any(f"{n}.".startswith(f"{b}.") for b in banned)]


@pytest.mark.parametrize(
    "source",
    [
        "import migx.passes",
        "import migx.targets.ref as r",
        "from migx import passes",
        "from migx.targets.ref import Ref",
        "def f():\n    from migx.passes import dead_code_elimination",
    ],
)
def test_every_spelling_of_an_import_is_seen(source: str) -> None:
    assert offending(source, ABOVE["core"])
    assert not offending("import migx.passes_of_time, migx.manager", ABOVE["core"])


@pytest.mark.parametrize("layer", ABOVE)
def test_no_layer_imports_one_above_it(layer: str) -> None:
    sources = files(layer)
    assert sources
    found = {f: offending(f.read_text("utf-8"), ABOVE[layer] + OUTSIDE) for f in sources}
    assert not {str(f.relative_to(ROOT)): names for f, names in found.items() if names}


@pytest.mark.parametrize("folder", GPU)
def test_no_folder_of_the_gpu_target_imports_one_above_it(folder: str) -> None:
    above = tuple(f"migx.targets.gpu.{name}" for name in GPU[GPU.index(folder) + 1 :])
    if folder == "kernels":  # a family knows no other
        above += ("migx.targets.gpu.kernels",)
    for file in (CORE / "targets" / "gpu" / folder).glob("*.py"):
        assert not offending(file.read_text(), above), f"{file} imports what is above {folder}"


def test_what_knows_nothing_of_programs_imports_errors_alone() -> None:
    sources = sorted((CORE / "base").glob("*.py"))
    found = {n for f in sources for n in imported(f.read_text("utf-8")) if n.startswith("migx.")}
    assert found
    assert {n for n in found if not n.startswith(("migx.base.", "migx.errors."))} == set()


@pytest.mark.parametrize(
    "code",
    [
        "import migx",
        "import migx.ops\nmigx.ops.Relu()",
        HELP,
        SWAP,
    ],
    ids=["import migx", "migx.ops", "migx --help", "weights given"],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code: str) -> None:
    loaded = run(f"import sys\n{code}\nprint('loaded:', *sys.modules)").partition("loaded:")[2]
    assert "migx" in loaded.split()
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize("package", ["passes", "targets"])
def test_a_linked_package_has_one_name(package: str) -> None:
    assert run(f"import migx.{package} as p\nprint(p.__name__)").strip() == f"migx.{package}"
    with pytest.raises(AssertionError, match=f"import migx.{package}, not {package}"):
        run(f"import {package}", folder=ROOT)


def test_a_checkout_without_its_links_says_so(tmp_path: Path) -> None:
    """Git writes a link as a small text file where the system has none."""
    shutil.copytree(CORE, tmp_path / "migx", ignore=shutil.ignore_patterns("passes", "targets"))
    (tmp_path / "migx/passes").write_text("../passes")
    (tmp_path / "migx/targets").write_text("../targets")
    with pytest.raises(AssertionError, match="core.symlinks"):
        run("import migx", folder=tmp_path)


def test_the_wheel_holds_what_the_links_reach(tmp_path: Path) -> None:
    run(f"import hatchling.build\nhatchling.build.build_wheel({str(tmp_path)!r})", folder=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f.relative_to(ROOT).as_posix() for f in CORE.rglob("*.py")}
    wanted |= {f.relative_to(ROOT).as_posix() for x in ABOVE if x != "core" for f in files(x)}
    assert wanted | {"migx/py.typed"} <= held


def run(code: str, folder: Path | None = None) -> str:
    """What a fresh interpreter prints; ``AssertionError`` holds what it complains of."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder or ROOT,
        env=os.environ | {"PYTHONPATH": str(folder or ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
