"""Loops of kernels as other CPUs run them, to count their instructions: such CPUs are not here, but
LLVM writes their assembly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from migx.targets.cpu.code import jit
from migx.targets.cpu.machine import Machine, host

AVX2 = replace(
    host(),
    cpu="haswell",
    features=frozenset({"sse2", "avx", "avx2", "fma", "f16c"}),
    vector_bytes=32,
    registers=16,
    masks=False,
)
NEON = replace(
    host(),
    cpu="neoverse-n1",
    features=frozenset({"neon", "dotprod"}),
    vector_bytes=16,
    registers=32,
    masks=False,
)
TRIPLES = {AVX2.cpu: "x86_64-unknown-linux-gnu", NEON.cpu: "aarch64-unknown-linux-gnu"}
_LABEL = re.compile(r"([.\w]+):")
_JUMP = re.compile(r"(?:j\w+|b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+\w+,\s*\S+,)\s+([.\w]+)$")
_ON_STACK = re.compile(r".*(?:\(%rsp\b|\[sp\b)")
_VECTOR = re.compile(r"[ (]%[xyz]mm\d|\s[qv]\d+")


def loops(text: str, machine: Machine) -> list[list[str]]:
    """The instructions of each innermost loop of a kernel's text on a machine."""
    code, places = list[str](), dict[str, int]()
    for line in jit.assembly(text, machine.cpu, TRIPLES[machine.cpu]).splitlines():
        line = re.split(r"\s#|//", line)[0].strip()
        if label := _LABEL.match(line):
            places[label[1]] = len(code)
        elif line and not line.startswith("."):
            code.append(line)
    jumps = ((i, _JUMP.match(line)) for i, line in enumerate(code))
    spans = {(places.get(jump[1], i + 1), i + 1) for i, jump in jumps if jump}
    back = sorted((first, end) for first, end in spans if first < end)
    inner = [s for s in back if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in back)]
    return [code[first:end] for first, end in inner]


def spills(loop: Sequence[str]) -> list[str]:
    """The instructions of a loop that move vectors to the stack or from it."""
    return [line for line in loop if _ON_STACK.match(line) and _VECTOR.search(line)]


def count(loop: Sequence[str], name: str) -> int:
    """The instructions of a loop whose names match."""
    return sum(re.fullmatch(name, line.split()[0]) is not None for line in loop)
