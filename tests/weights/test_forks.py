"""A child of a fork has its parent's programs, and none of its threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BEGIN = """
import os, signal, threading
import numpy as np
import migx

program = migx.parse('''
module main(x: f32[4]) {
  %0 = @literal() {value=[1, 2, 3, 4], label="w"} : f32[4]
  %1 = add(x, %0)
  return %1
}''').make_replaceable().compile("ref")
weights, begun = program.compiled.weights, threading.Event()
x = {"x": np.zeros(4, np.float32)}

def hold(what):
    with what:
        begun.set()
        threading.Event().wait()
"""
END = """
threading.Thread(target=hold, args=(held,), daemon=True).start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    with program.update_weights(in_place=in_place) as new:
        new["w"] = np.full(4, 5, np.float32)
    os._exit(0 if program.eval(x)[0].tolist() == [5] * 4 else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    "held",
    ["held, in_place = weights.committing, False", "held, in_place = weights.reading(), True"],
    ids=["while another thread commits", "while another thread runs"],
)
def test_a_child_waits_for_no_thread_it_has_not(held: str) -> None:
    subprocess.run([sys.executable, "-c", BEGIN + held + END], check=True, timeout=60)
