"""Worker processes answer in order of weight, and errors reach whoever waits."""

from __future__ import annotations

import pytest

from migx.base.workers import Workers, ask

LOUD = "from migx.base.workers import serve; serve(lambda said: said.upper().encode())"
DYING = "from migx.base.workers import serve; serve(lambda said: exit(1))"


def test_the_largest_weight_comes_first() -> None:
    heard: dict[str, bytes] = {}
    with Workers(LOUD, heard.__setitem__) as workers:
        for name, weight in (("a", 1), ("b", 3), ("c", 2)):
            workers.ask(name, f"say {name}", weight)
        workers.start()
        assert workers.wait("abc") == set()
    assert [*heard.items()] == [("b", b"SAY B"), ("c", b"SAY C"), ("a", b"SAY A")]


def test_workers_take_what_is_asked_while_they_run() -> None:
    heard: dict[str, bytes] = {}
    with Workers(LOUD, heard.__setitem__) as workers:
        workers.start()
        workers.ask("a", "one")
        assert workers.wait(["a"]) == set()
        workers.ask("b", "two")
        assert workers.wait(["a", "b"]) == set()
    assert heard == {"a": b"ONE", "b": b"TWO"}


def test_what_no_worker_is_left_for_stays_unanswered() -> None:
    with Workers(DYING, lambda name, answer: None) as workers:
        workers.start()
        workers.ask("a", "one")
        assert workers.wait(["a"]) == {"a"}
        workers.ask("b", "two")
        assert workers.wait(["b"]) == {"b"}


def test_an_error_about_an_answer_is_raised() -> None:
    def refuse(name: str, answer: bytes) -> None:
        raise ValueError(f"{name}: {answer.decode()}")

    with pytest.raises(ValueError, match="a: ONE"):
        ask(LOUD, {"a": "one", "b": "two"}, 1, refuse)


def test_requests_of_equal_standing_are_answered_in_order() -> None:
    heard: dict[str, bytes] = {}
    requests = {name: name for name in "cadb"}
    assert ask(LOUD, requests, 1, heard.__setitem__) == set()
    assert [*heard] == [*requests]
