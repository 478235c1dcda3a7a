"""Every error migx raises on purpose. All of them are a ``MigxError``; each says what, where and
what would be right.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FEW, MANY = 6, 60
"""At most FEW known names are all listed; at most MANY are if none is similar."""


class MigxError(Exception):
    """Base class of errors that users can fix. The command line prints them without traceback."""


class ShapeError(MigxError, ValueError):
    """An operation was given shapes it is not defined for."""


class FieldError(MigxError, TypeError):
    """An attribute of an operation, an option of a pass, or a pipeline has an invalid value."""


class DimError(MigxError, ValueError):
    """A symbolic dim has no value yet, is out of its bounds, or cannot be compared."""


class IRError(MigxError, ValueError):
    """An edit would leave a program that is not well formed."""


class AbsentError(IRError, AttributeError):
    """A property has no value in this state, such as ``compiled`` of a program that is not; so
    ``hasattr`` says False.
    """


class VerifyError(MigxError):
    """A program breaks one of the verifier's named checks."""


class ParseError(MigxError, ValueError):
    """Text that is not a program or pipeline; the message gives line and column."""


class InputError(MigxError, ValueError):
    """An argument given to a program has the wrong name, type or dims."""


class OnnxError(MigxError, ValueError):
    """An ONNX file that cannot be read, or holds what is not supported."""


class DataError(MigxError, OSError):
    """The bytes of a literal or an external tensor are missing, short, overlong or changed."""


class DataWarning(UserWarning):
    """Something about a file that may be wrong, such as external data longer than its model needs,
    outputs declared with other dims than they have, or a target that is not found by its name.
    """


class OnnxWarning(UserWarning):
    """An ONNX file omits something that it should say, but only one reading is possible."""


class UnknownName(MigxError, LookupError):
    """There is nothing of that name; the message lists similar ones, or all."""


class PassError(MigxError):
    """A pass left a program that does not verify, or changed it and returned False; notes name the
    pipeline and the reproducer.
    """


class ConstantGrowth(PassError):
    """A pass left constants that exceed those they were made from by more than its allowance."""


class EvaluationError(MigxError, RuntimeError):
    """An instruction failed while it was being evaluated."""


class TargetError(MigxError, RuntimeError):
    """A target cannot do what is asked here: a library is missing, or an option is wrong."""


class WeightError(MigxError, ValueError):
    """A weight is unknown, has no value yet, or is given one of another type or dims."""


class AssumptionError(MigxError):
    """A new weight does not have the value that a pass relied on."""


class SealedWeight(MigxError):
    """A pass looks at the value of a replaceable weight without assuming it; found in debug."""


class RewriteLoop(MigxError):
    """Rules undo each other, and would be applied forever."""


class CompatError(MigxError, NotImplementedError):
    """A script for another compiler uses a part of its API that migx does not support."""


def warn(message: str, category: type[Warning]) -> None:
    """Issues a warning, attributed to the line outside migx that led to it."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and _package(frame.f_globals) in ("migx", "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _package(module: dict[str, object]) -> str:
    return str(module.get("__name__", "")).partition(".")[0]


def first_few(names: Sequence[str], most: int = 3) -> str:
    """The first of several names, quoted, and how many more there are."""
    return (", ".join(map(repr, names[:most])) or "none") + (", ..." if len(names) > most else "")


def counted(count: int, thing: str) -> str:
    """A number of things: ``1 weight``, ``2 weights``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def there_are(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: similar names, ignoring case and underscores; or
    all known names if they are few, or none is similar and they are not too many.
    """
    import difflib

    names = list(dict.fromkeys(known))
    if len(names) > FEW:
        wanted, folded = _folded(name), {each: _folded(each) for each in names}
        there = set(folded.values())
        close = difflib.get_close_matches(wanted, there, n=5)
        close += [each for each in folded.values() if wanted and wanted in each]
        if wanted and not close and len(names) > MANY:
            close = difflib.get_close_matches(wanted, there, n=5, cutoff=0)
        found = dict.fromkeys(each for like in close for each in names if folded[each] == like)
        if found:
            return f"similar: {', '.join([*found][:5])}"
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return f"there are: {', '.join(names[:MANY]) or 'none'}{more}"


def _folded(name: str) -> str:
    return name.lower().replace("_", "")
