"""The operations migx ships, one file for each family. ``migx.ops.Relu`` finds a class in whichever
file holds it.
"""

from __future__ import annotations

from typing import Any

from migx.errors import there_are


def __getattr__(name: str) -> Any:
    classes = _classes()
    if name not in classes:
        raise AttributeError(f"migx.ops has no operation {name!r}; {there_are(name, classes)}")
    found = globals()[name] = classes[name]  # so this is not called again
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_classes()})


def _classes() -> dict[str, Any]:
    """The shipped operations by class name."""
    from migx import plugins

    found = plugins.operations().values()
    return {each.__name__: each for each in found if each.__module__.startswith(__name__)}
