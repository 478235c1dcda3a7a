"""Unread instructions go, but for one that alone tells the size of a symbol."""

from __future__ import annotations

import pytest

import migx
from migx.dead_code import remove_dead_code, remove_unread
from migx.shape import Shape


def chain(length: int) -> migx.Program:
    """So many additions to indices whose number only the run tells."""
    lines = ["  %0 = nonzero(x) {count=found}"]
    lines += [f"  %{i + 1} = add(%{i}, %{i})" for i in range(length)]
    return migx.parse("\n".join(["module main(x: f32[64]) {", *lines, f"  return %{length}\n}}"]))


@pytest.mark.parametrize("length", [10, 1000])
def test_whether_a_value_tells_a_size_is_seen_nearby(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, bare = list[Shape](), Shape.bare_symbols

    def noted(shape: Shape) -> frozenset[str]:
        asked.append(shape)
        return bare(shape)

    program = chain(length)
    *_, before, last, _ = program.main
    again = program.main.insert_instruction(last, last.op, before, before)
    program.main.replace_instruction(last, again)
    monkeypatch.setattr(Shape, "bare_symbols", noted)
    assert remove_unread([last], program.main)[0] == 1
    assert len(asked) < 10


def test_what_alone_tells_a_size_stays_while_others_have_it() -> None:
    program = chain(2)
    indices = program.main.outputs[0].inputs[0].inputs[0]
    end, like = program.main.returned, migx.ops.Multibroadcast(indices.shape.dims)
    program.main.insert_instruction(end, like, indices)
    assert remove_dead_code(program.main) == 1
    assert indices.module is program.main


def test_instructions_around_one_are_walked_in_both_directions() -> None:
    main = chain(3).main
    x, indices, one, two, three, end = main
    assert list(main.following(one)) == [two, three, end]
    assert list(main.preceding(two)) == [one, indices, x]
    assert not list(main.preceding(x))
    assert not list(main.following(end))
    seen = []
    for at in main.preceding(end):
        seen.append(at)
        if at is three:
            main.replace_instruction(three, two)
            main.remove_instruction(three)
    assert seen == [three, two, one, indices, x]
