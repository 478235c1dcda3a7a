"""A program with a choice, and passes that change it, record it, or fail on it."""

from __future__ import annotations

import migx
from migx import ops
from migx.ir import Module
from migx.manager import Pass, PassManager
from migx.program import Program
from migx.shape import F32, Shape
from migx.verify import verify

CHOICE = """module main(c: bool[], x: f32[2]) {
  %0 = exp(x) : f32[2]
  %1 = neg(x) : f32[2]
  %2 = if(c) [yes, no] : tuple(f32[2])
  %3 = get_tuple_elem(%2) : f32[2]
  return %3, %1
}

module yes() {
  %0 = neg(main:%0) : f32[2]
  return %0
}

module no() {
  return main:x
}
"""


def program_of(text: str) -> Program:
    """The program of a text, which is well formed."""
    program = migx.parse(text)
    verify(program)
    return program


SEEN: list[str] = []
"""What the pass ``seen`` was given."""


class NegToRelu(Pass):
    """Turns every neg into a relu, in a module whose name has ``only`` in it."""

    only: str = ""

    def apply(self, module: Module, manager: PassManager) -> bool:
        if self.only not in module.name:
            return False
        found = [at for at in module if at.name == "neg"]
        for at in found:
            new = module.insert_instruction(at, ops.Relu(), *at.inputs)
            module.replace_instruction(at, new)
        return bool(found)


class Seen(Pass):
    """Records the modules it is given, in order."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        SEEN.append(module.name)
        return False

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        SEEN.append("the program")
        return False


class Fail(Pass):
    """Fails where it meets an exp; ``broken`` leaves a program that does not verify instead."""

    broken: bool = False

    def apply(self, module: Module, manager: PassManager) -> bool:
        for at in module:
            if at.name == "exp" and not self.broken:
                raise ZeroDivisionError("there is an exp")
            if at.name == "exp":
                at.shape = Shape(F32, (7,))
        return self.broken
