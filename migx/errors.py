"""Every error migx raises on purpose. All of them are a ``MigxError``; each says what, where and
what would be right.
"""

from __future__ import annotations


class MigxError(Exception):
    """Base of all errors that are the user's to mend. The command line prints it without a
    traceback.
    """


class ShapeError(MigxError, ValueError):
    """An operation was given shapes it has no meaning for."""


class DimError(MigxError, ValueError):
    """A symbolic dim has no value yet, is out of its bounds, or cannot be compared."""


class IRError(MigxError, ValueError):
    """An edit would leave a program that is not well formed."""


class VerifyError(MigxError):
    """A program breaks one of the verifier's named checks."""


class ParseError(MigxError, ValueError):
    """Text that is no program or pipeline; the message gives line and column."""


class InputError(MigxError, ValueError):
    """An argument given to a program has the wrong name, type or dims."""


class OnnxError(MigxError, ValueError):
    """An ONNX file that cannot be read, or holds what is not supported."""


class DataError(MigxError, OSError):
    """The bytes of a literal or an external tensor are missing, short, overlong or changed."""


class DataWarning(UserWarning):
    """An external data file that is longer than its model needs."""


class OnnxWarning(UserWarning):
    """An ONNX file that leaves out what it should say, where only one thing can be meant."""


class UnknownName(MigxError, LookupError):
    """Nothing of that name; the message lists what there is."""


class PassError(MigxError):
    """A pass left a program that does not verify; notes name the pipeline and the reproducer."""


class ConstantGrowth(PassError):
    """A pass left constants that take more bytes than those they were made from and its
    allowance.
    """


class EvaluationError(MigxError, RuntimeError):
    """An instruction failed while it was being evaluated."""


class TargetError(MigxError, RuntimeError):
    """A target cannot do here what is asked of it: a library is missing, or an option is wrong."""


class WeightError(MigxError, ValueError):
    """A weight is unknown, has no value yet, or is given one of another type or dims."""


class AssumptionError(MigxError):
    """A new weight has not the value that a pass relied on."""


class SealedWeight(MigxError):
    """A pass looks at the value of a replaceable weight without assuming it; found in debug."""


class RewriteLoop(MigxError):
    """Rules that undo each other would be applied for ever."""
