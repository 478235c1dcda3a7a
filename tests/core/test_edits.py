"""Random edits of a module agree with the same edits of a plain list."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from migx import ops
from migx.errors import IRError
from migx.ir import Instruction
from migx.program import Program
from migx.shape import F32, Shape
from migx.verify import findings

VECTOR = Shape(F32, (3,))


class Edits(RuleBasedStateMachine):
    """Random edits of a module beside a plain list of its instructions and of what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.program = Program()
        self.module = self.program.main
        self.list: list[Instruction] = []
        self.reads: dict[Instruction, list[Instruction]] = {}
        self.parameters = 0
        self.parameter()
        self.module.add_return()
        self.list.append(self.module.returned or self.list[0])
        self.reads[self.list[-1]] = []

    def pick(self, data: Any, start: int = 0, end: int | None = None) -> Instruction:
        found: Instruction = data.draw(st.sampled_from(self.list[start:end]))
        return found

    def place(self, at: Instruction) -> int:
        return self.list.index(at)

    @rule()
    def parameter(self) -> None:
        made = self.module.add_parameter(f"p{self.parameters}", VECTOR)
        self.list.insert(len(self.module.parameters) - 1, made)
        self.reads[made] = []
        self.parameters += 1

    @rule(data=st.data())
    def parameter_before_another(self, data: Any) -> None:
        place = data.draw(st.integers(0, len(self.module.parameters) - 1))
        before = list(self.module.parameters.values())[place]
        made = self.module.add_parameter(f"p{self.parameters}", VECTOR, before=before)
        self.list.insert(place, made)
        self.reads[made] = []
        self.parameters += 1

    @rule(data=st.data())
    def rename(self, data: Any) -> None:
        at = data.draw(st.sampled_from(list(self.module.parameters.values())))
        self.module.rename_parameter(at, f"p{self.parameters}")
        self.parameters += 1

    @rule(data=st.data())
    def insert(self, data: Any) -> None:
        before = self.pick(data, len(self.module.parameters))
        inputs = [self.pick(data, 0, self.place(before)) for _ in range(2)]
        made = self.module.insert_instruction(before, ops.Add(), *inputs)
        self.list.insert(self.place(before), made)
        self.reads[made] = inputs

    @rule(data=st.data())
    def add(self, data: Any) -> None:
        made = self.module.add_instruction(ops.Relu(), self.pick(data, 0, -1), origins=("n",))
        self.list.insert(len(self.list) - 1, made)
        self.reads[made] = list(made.inputs)

    @rule(data=st.data())
    def returned(self, data: Any) -> None:
        values = data.draw(st.lists(st.sampled_from(self.list[:-1]), max_size=3))
        del self.reads[self.list.pop()]
        self.list.append(self.module.add_return(*values))
        self.reads[self.list[-1]] = values

    @rule(data=st.data())
    def replace(self, data: Any) -> None:
        old, new = self.pick(data, 0, -1), self.pick(data, 0, -1)
        readers = [at for at in self.list if old in self.reads[at] and at is not new]
        if any(self.place(at) <= self.place(new) for at in readers):
            with pytest.raises(IRError, match="which does not come before its user"):
                self.module.replace_instruction(old, new)
            return
        assert self.module.replace_instruction(old, new) is new
        for at in readers:
            self.reads[at] = [new if v is old else v for v in self.reads[at]]

    @rule(data=st.data())
    def replace_input(self, data: Any) -> None:
        readers = [at for at in self.list if self.reads[at]]
        if not readers:
            return
        user = data.draw(st.sampled_from(readers))
        index = data.draw(st.integers(0, len(self.reads[user]) - 1))
        new = self.pick(data, 0, -1)
        if self.place(new) >= self.place(user):
            with pytest.raises(IRError, match="which does not come before it"):
                self.module.replace_input(user, index, new)
            return
        self.module.replace_input(user, index, new)
        self.reads[user][index] = new

    @precondition(lambda self: len(self.list) > len(self.module.parameters) + 1)
    @rule(data=st.data())
    def move(self, data: Any) -> None:
        at = self.pick(data, len(self.module.parameters), -1)
        before = self.pick(data, len(self.module.parameters))
        moved = [v for v in self.list if v is not at]
        moved.insert(moved.index(before) if before is not at else self.place(at), at)
        place = {v: i for i, v in enumerate(moved)}
        if any(place[v] >= place[u] for u in moved for v in self.reads[u]):
            with pytest.raises(IRError, match="it would cross"):
                self.module.move_instruction(at, before)
            return
        self.module.move_instruction(at, before)
        self.list = moved

    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        at = self.pick(data, 1, -1) if len(self.list) > 2 else self.list[0]
        if any(at in inputs for inputs in self.reads.values()):
            with pytest.raises(IRError, match=r"cannot remove .*, which is read by \d"):
                self.module.remove_instruction(at)
        elif at is not self.list[0]:
            self.module.remove_instruction(at)
            assert at.module is None
            self.list.remove(at)
            del self.reads[at]
            with pytest.raises(IRError, match="is not in module main"):
                self.module.remove_instruction(at)

    @rule(data=st.data())
    def remove_while_iterating(self, data: Any) -> None:
        """What is inserted after the current instruction is visited, what is removed is not."""
        seen = []
        for at in self.module:
            seen.append(at)
            dead = [v for v in self.list[1:-1] if not v.users and v not in seen]
            if dead and data.draw(st.booleans()):
                self.module.remove_instruction(dead[-1])
                self.list.remove(dead[-1])
                del self.reads[dead[-1]]
        assert seen == self.list

    @invariant()
    def the_list_agrees(self) -> None:
        assert list(self.module) == self.list
        assert list(reversed(self.module)) == self.list[::-1]
        assert len(self.module) == len(self.list)
        assert self.module.last is self.module.returned is self.list[-1]
        for at in self.list:
            assert list(at.inputs) == self.reads[at]
            assert at.use_count == sum(inputs.count(at) for inputs in self.reads.values())
            assert set(at.users) == {u for u, inputs in self.reads.items() if at in inputs}
        for a, b in zip(self.list, self.list[1:], strict=False):
            assert a.before(b)
            assert not b.before(a)
        parameters = list(self.module.parameters.values())
        assert parameters == self.list[: len(parameters)]
        assert not findings(self.program)


def test_edits_agree_with_a_plain_list() -> None:
    run_state_machine_as_test(Edits, settings=settings(max_examples=40, stateful_step_count=30))
