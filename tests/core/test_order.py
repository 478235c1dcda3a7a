"""The ordered list: labels agree with the order, iteration survives edits, inserts are cheap."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from migx.base import order
from migx.base.order import Ordered, insert_before, unlink


def members(ends: Ordered) -> Iterator[Ordered]:
    """The members in order, in the way a module walks its instructions."""
    at = ends._next
    while at is not ends:
        if at._linked:
            yield at
        at = at._next


def check(ends: Ordered, expected: list[Ordered]) -> None:
    """Links both ways give the members in order, and labels grow along them."""
    assert list(members(ends)) == expected
    around = [ends, *expected, ends]
    for left, right in pairwise(around):
        assert left._next is right
        assert right._previous is left
    labels = [member._label for member in expected]
    assert labels == sorted(set(labels))
    assert all(0 <= label < 1 << order._BITS for label in labels)


class ListMachine(RuleBasedStateMachine):
    """Random edits beside a plain list; labels of few bits, so that spreading is the rule."""

    @initialize(bits=st.integers(7, 12), step=st.sampled_from([1, 3, 16]))
    def start(self, bits: int, step: int) -> None:
        self.before = order._BITS, order._STEP
        order._BITS, order._STEP = bits, step
        self.ends, self.model = Ordered.ring(), list[Ordered]()

    def teardown(self) -> None:
        if hasattr(self, "before"):
            order._BITS, order._STEP = self.before

    def at(self, place: int) -> Ordered:
        return self.model[place] if place < len(self.model) else self.ends

    @precondition(lambda self: len(self.model) < 24)
    @rule(place=st.integers(0, 24), count=st.integers(1, 4))
    def insert(self, place: int, count: int) -> None:
        place = min(place, len(self.model))
        for _ in range(count):
            new = Ordered()
            insert_before(new, self.at(place))
            self.model.insert(place, new)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        unlink(gone)
        assert not gone._linked

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        moved = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        place = data.draw(st.integers(0, len(self.model)))
        unlink(moved)
        insert_before(moved, self.at(place))
        self.model.insert(place, moved)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove_while_iterating(self, data: st.DataObject) -> None:
        gone = data.draw(st.sets(st.integers(0, len(self.model) - 1)))
        when = data.draw(st.integers(0, len(self.model) - 1))
        visited = []
        for place, member in enumerate(members(self.ends)):
            visited.append(member)
            if place == when:
                for index in sorted(gone):
                    unlink(self.model[index])
        kept = [m for i, m in enumerate(self.model) if i not in gone]
        late = [m for i, m in enumerate(self.model) if i > when and i not in gone]
        assert visited == self.model[: when + 1] + late
        self.model = kept

    @invariant()
    def labels_and_links_agree_with_the_order(self) -> None:
        if hasattr(self, "model"):
            check(self.ends, self.model)


def test_random_edits_keep_order_and_labels() -> None:
    run_state_machine_as_test(
        ListMachine, settings=settings(max_examples=80, stateful_step_count=30, deadline=None)
    )


def filled(count: int) -> tuple[Ordered, list[Ordered]]:
    ends, made = Ordered.ring(), [Ordered() for _ in range(count)]
    for member in made:
        insert_before(member, ends)
    return ends, made


def test_an_empty_list_has_no_members() -> None:
    check(Ordered.ring(), [])


def test_what_is_inserted_after_the_current_member_is_visited() -> None:
    ends, made = filled(3)
    visited, late = [], Ordered()
    for member in members(ends):
        visited.append(member)
        if member is made[1]:
            insert_before(late, made[2])
            insert_before(Ordered(), made[1])
    assert visited == [made[0], made[1], late, made[2]]


def test_the_current_member_may_go_one_by_one_with_those_after_it() -> None:
    ends, made = filled(6)
    walk = members(ends)
    assert next(walk) is made[0]
    for member in (made[0], made[1], made[2]):
        unlink(member)
    assert next(walk) is made[3]
    for member in (made[4], made[3]):
        unlink(member)
    assert list(walk) == [made[5]]
    check(ends, [made[5]])


class Counted(Ordered):
    """A member that counts how often any member is labelled."""

    __slots__ = ("_value",)
    count = 0

    @property
    def _label(self) -> int:
        return self._value

    @_label.setter
    def _label(self, value: int) -> None:
        Counted.count += 1
        self._value = value


PLACES = ["before one", "after one", "between", "at the front", "at the end"]


@pytest.mark.parametrize("where", PLACES)
def test_crowding_one_place_relabels_little(where: str) -> None:
    ends = Ordered.ring()
    made = [Counted() for _ in range(4000)]
    for member in made:
        insert_before(member, ends)
    Counted.count = 0
    middle, last = made[2000], made[2000]
    for turn in range(4000):
        new = Counted()
        match where:
            case "before one":
                insert_before(new, middle)
            case "at the front":
                insert_before(new, ends._next)
            case "after one":
                insert_before(new, middle._next)
            case "at the end":
                insert_before(new, ends)
            case _:
                insert_before(new, last if turn % 2 else last._next)
                last = new
    labels = [member._label for member in members(ends)]
    assert len(labels) == 8000
    assert labels == sorted(set(labels))
    if where == "at the end":
        assert Counted.count == 4000
    assert Counted.count / 4000 < 16
