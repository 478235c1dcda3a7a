"""A third-party package, installed as a user would install it: its pass and operations are found.

The package is ``tests/plugin``. It is built and unpacked into a folder of its own, so that this
environment stays as it is; each check runs in a fresh interpreter that has the folder on its path.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"
ROOT = PLUGIN.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed in. Needs no network: hatchling is here already."""
    folder = tmp_path_factory.mktemp("site")
    flags = "--quiet --no-index --no-deps --no-build-isolation --disable-pip-version-check"
    pip = [sys.executable, "-m", "pip", "install", *flags.split(), "--target", str(folder)]
    subprocess.run([*pip, str(PLUGIN)], check=True, capture_output=True)
    return folder


def run(site: Path, code: str) -> str:
    """What a fresh interpreter prints that finds migx and the packages in ``site``."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_are_listed_without_importing_the_plugin(site: Path) -> None:
    code = (
        "import sys; from migx import plugins\n"
        "print('drop_relu_pairs' in plugins.names('passes'))\n"
        "print(*[m for m in sys.modules if m.startswith('migx_example.')])"
    )
    assert run(site, code) == "True"


def test_operations_run_on_ref(site: Path) -> None:
    code = """
import migx, numpy as np
from migx import plugins
squared_relu, staircase = map(plugins.operation, ("squared_relu", "staircase"))
program = migx.Program()
x = program.main.add_parameter("x", migx.Shape("f32", (3,)))
y = program.main.add_instruction(squared_relu(), x)
program.main.add_return(program.main.add_instruction(staircase(step=2.0), y))
assert migx.parse(str(program)) == program, program
program.compile("ref")
(result,) = program.eval({"x": np.array([-2, 1.5, 3], np.float32)})
print(result.dtype, result.tolist())
"""
    assert run(site, code) == "float32 [0.0, 2.0, 8.0]"


def test_the_pass_runs_in_a_pipeline(site: Path) -> None:
    code = """
import migx
program = migx.parse('''module main(x: f32[2]) {
  %0 = relu(x) : f32[2]
  %1 = relu(%0) : f32[2]
  %2 = relu(%1) : f32[2]
  return %2
}
''')
print(migx.run_passes(program, "drop_relu_pairs"), migx.run_passes(program, "drop_relu_pairs"))
print(*[i.name for i in program.main])
"""
    assert run(site, code) == "True False\n@param relu @return"


def test_an_operation_is_written_as_the_plugin_says(site: Path) -> None:
    code = """
import migx, onnx
from migx.errors import OnnxError
from migx.onnx import write
for op in ("squared_relu(x)", "staircase(x) {step=1.0}"):
    program = migx.parse("module main(x: f32[2]) { %0 = " + op + " return %0 }")
    try:
        write(program, "out.onnx")
        print(*[node.op_type for node in onnx.load("out.onnx").graph.node])
    except OnnxError as error:
        print(str(error).splitlines()[1].strip())
"""
    said = run(site, code).splitlines()
    assert said == ["Relu Mul", "staircase: there is no exporter for it, at 'module main'"]


def test_the_target_is_right(site: Path) -> None:
    code = """
from migx.testing import check_conformance, check_target
found = check_conformance("panels", families=["linear", "control"])
told = {name for each in found for name in each.fallbacks}
print(len(found), all(each.passed for each in found))
print({"loop", "convolution"} <= told, {"transpose", "@literal"} & told)
print(check_target("panels", programs=40).programs)
"""
    assert run(site, code).splitlines() == ["50 True", "True set()", "40"]


def test_the_target_takes_options_behind_its_name(site: Path) -> None:
    code = """
from migx.target import get_target
from migx.errors import ParseError
from migx.manager import Pipeline
print(get_target("panels").columns, get_target("panels{columns=4}").columns)
for wrong in ("panels{columns=x}", "panels{rows=4}", "panels(ref)"):
    try:
        get_target(wrong)
    except ParseError as error:
        print(error)
print(Pipeline.parse("drop_relu_pairs,panels{columns=4},fixpoint(ref)"))
"""
    assert run(site, code).splitlines() == [
        "16 4",
        "target panels: columns is int, not x",
        "target panels has no option 'rows=4'; its options are columns: int",
        "expected a target such as name or name{option=value}, found 'panels(ref)'",
        "drop_relu_pairs,optimize_module,hoist_weights,fixpoint(dead_code_elimination)",
    ]


def test_weights_in_the_format_of_the_target_are_swapped_and_saved(site: Path) -> None:
    code = """
import migx, numpy as np
from migx.cli.params import layouts, relayouts
from migx_example.targets.panels import Panels
program = migx.Program()
x = program.main.add_parameter("x", migx.Shape("f32", (migx.Dim("n"), 3)))
w = program.main.add_literal(np.ones((3, 6), np.float32), name="w", replaceable=True)
product = program.main.add_instruction(migx.ops.Dot(), x, w)
program.main.add_return(program.main.add_instruction(migx.ops.Relu(), product))
program.compile(Panels(columns=4))
new = np.arange(18, dtype=np.float32).reshape(3, 6)
with program.update_weights() as weights:
    weights["w"] = new
migx.save(program, "panels.mxr")
for each in (program, migx.load("panels.mxr")):
    (y,) = each.eval({"x": np.ones((2, 3), np.float32)})
    assert np.array_equal(y, np.ones((2, 3), np.float32) @ new)
    print(*(at["format"] for at in layouts(each.compiled)), *relayouts(each.compiled))
    print(*(at.name for at in each.compiled.fallbacks()))
"""
    assert run(site, code).splitlines() == ["Ba4b", "", "Ba4b"]  # its options are in the file


def test_two_packages_that_claim_one_name_are_an_error_naming_both(
    site: Path, tmp_path: Path
) -> None:
    for path, text in {
        "rival/__init__.py": "",
        "rival/drop_relu_pairs.py": "",
        "rival-1.dist-info/METADATA": "Name: rival\nVersion: 1\n",
        "rival-1.dist-info/entry_points.txt": "[migx.passes]\nrival = rival\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "from migx import plugins\n"
        "assert plugins.names('passes').count('drop_relu_pairs') == 1\n"
        "try: plugins.load('passes', 'drop_relu_pairs')\n"
        "except plugins.NameClash as error: print(error)"
    )
    message = run(site, code)
    assert "migx_example.passes.drop_relu_pairs" in message
    assert "rival.drop_relu_pairs" in message


CLAIMS = """'''Claims a name of ours.'''
from migx.ops import Neg
from migx.op import Op

class Relu(Neg):
    '''Not ours.'''
    name = "relu"
"""
ODD = """'''Cannot be made.'''
from migx.manager import Pass

class Odd(Pass):
    '''Odd.'''
    size: int = "x"
"""


def test_what_is_broken_leaves_the_rest_as_it_is(site: Path, tmp_path: Path) -> None:
    points = "".join(
        f"[migx.{kind}]\nbroken = {package}\n"
        for kind, package in [("passes", "broken"), ("ops", "broken_ops"), ("targets", "nowhere")]
    )
    for path, text in {
        "broken/__init__.py": "",
        "broken/divides.py": "1 / 0\n",
        "broken/mis_named.py": "class Misnamed: ...\n",
        "broken/drop_relu_pairs.py": "",
        "broken/leaves.py": "import sys\nsys.exit()\n",
        "broken/no_pass.py": "class NoPass: ...\n",
        "broken/odd.py": ODD,
        "broken_ops/__init__.py": "",
        "broken_ops/half.py": "import nothing_of_this_name\n",
        "broken_ops/twice.py": CLAIMS,
        "broken-1.dist-info/METADATA": "Name: broken\nVersion: 1\n",
        "broken-1.dist-info/entry_points.txt": points,
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    code = f"""
import contextlib, io, sys; sys.path.append({str(tmp_path)!r})
import migx, numpy as np
from migx.cli import main
lists = ["passes"], ["targets"], ["ops"]
for words in *lists, ["ops", "relu"], ["ops", "halves"], ["ops", "abs"], ["passes", "divides"]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print(code, len(out.getvalue().splitlines()) > 2, *err.getvalue().splitlines(), sep="\\n")
program = migx.parse("module main(x: f32[2]) {{ %0 = neg(x) return %0 }}")
print(program.compile("ref", passes="simplify_algebra").eval({{"x": np.ones(2, np.float32)}})[0])
"""
    claimed = "error: both migx.ops.pointwise and broken_ops.tw"
    found = run(site, code).splitlines()
    assert [line[:48] for line in found] == [
        *("1", "True", "error: broken.divides cannot be imported: ZeroDi"),
        "error: both broken.drop_relu_pairs and migx_exam",
        "error: broken.leaves cannot be imported: SystemE",
        "error: broken.mis_named holds no class whose nam",
        "error: broken.no_pass.NoPass does not derive fro",
        "error: pass odd: size is int, not 'x'",
        *("1", "True", "error: an entry point names the package 'nowhere"),
        *("1", "True", "error: broken_ops.half cannot be imported: Modul", claimed),
        *("2", "False", claimed),
        *("2", "False", "error: no operation named 'halves'; similar: les"),
        *("0", "True"),
        *("2", "False", "error: broken.divides cannot be imported: ZeroDi"),
        "[-1. -1.]",
    ]
    assert (
        "is 'mis_named', as its file's; it holds Misnamed, whose name is 'misnamed'; a" in found[5]
    )
    assert found[-7].endswith("; broken_ops.half cannot be imported: Modul" + found[13][48:])
