"""The modules that ``migx`` tells of are its attributes, and cost nothing until they are used."""

from __future__ import annotations

import re
import subprocess
import sys

import migx

TOLD = sorted(set(re.findall(r"``migx\.(\w+)", migx.__doc__ or "")))

CODE = f"""
import sys, migx
assert "onnx" not in sys.modules and "migx.onnx" not in sys.modules
assert {{*{TOLD}}} <= {{*dir(migx)}}
migx.onnx.write, migx.specialise.bound, migx.testing.check_pass
for name in {TOLD}:
    assert getattr(migx, name) is sys.modules["migx." + name], name
assert not hasattr(migx, "onxx")
"""


def test_the_modules_it_tells_of_are_there() -> None:
    assert {"onnx", "testing", "specialise", "observers"} <= {*TOLD}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
