"""The operations migx ships, one file for each family. ``migx.ops.Relu`` finds a class in whichever
file holds it.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from migx import plugins

    for cls in plugins.operations().values():
        if cls.__name__ == name and cls.__module__.startswith(__name__):
            return cls
    raise AttributeError(f"migx.ops has no operation {name!r}; `migx ops` lists them")
