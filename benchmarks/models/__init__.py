"""The models migx is built, tested and measured with.

``python -m benchmarks.models list`` shows them, ``make NAME...`` puts them into a folder.
"""

from benchmarks.models.tool import FetchError, NoNetwork, UnknownModel, inputs, make, names

__all__ = ["FetchError", "NoNetwork", "UnknownModel", "inputs", "make", "names"]
