"""What all tests share: hypothesis without deadlines, the cases in ``*.migx`` files, and Python's
garbage collector, which does not look through ten thousand tests each time.

Hypothesis draws the same examples each time, so that a change passes or fails, and others with
``pytest --hypothesis-profile=explore``.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import hypothesis
import pytest

os.environ["MIGX_DEBUG"] = "1"

from migx import plugins
from migx.manager import Pass
from migx.target import Target

hypothesis.settings.register_profile("migx", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=60)
hypothesis.settings.load_profile("migx")

pytest_plugins = ["migx.testing.cases"]


@pytest.fixture
def found_by_name(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets passes and targets be found by their names for a test, beside those there are."""
    load = plugins.load

    def add(*classes: type[Pass | Target]) -> None:
        ours = {c.name: c for c in classes}
        monkeypatch.setattr(plugins, "load", lambda kind, name: ours.get(name) or load(kind, name))

    return add


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole-grid", action="store_true", help="hold packed weights of all types to every pass"
    )


def pytest_configure() -> None:
    gc.disable()  # nothing is garbage while tests are collected


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries tell of leaks
