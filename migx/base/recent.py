"""A table that evicts its oldest entry, for several threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Recent(OrderedDict[Key, Found]):
    """A table of the ``most`` entries that were added last."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self._lock = most, threading.Lock()

    def __setitem__(self, key: Key, value: Found) -> None:
        with self._lock:
            super().__setitem__(key, value)
            if len(self) > self._most:
                self.popitem(last=False)
