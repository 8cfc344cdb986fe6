"""Errors of this package, and helpers to write their messages.

Every error raised on purpose derives from `ExportLossError`. Its message states what was got, what
was expected and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ArtifactError",
    "BenchmarkError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "ExportError",
    "ExportLossError",
    "InstallationError",
    "TargetError",
    "TooManyTargetsError",
    "TrainingError",
    "excerpt",
    "listed",
    "printable",
]

_JOINERS = "\u200c\u200d"  # legitimate inside words of some scripts and inside emoji


class ExportLossError(Exception):
    """Base of all errors raised by exportloss.

    Args:
        message: What was got, what was expected, what to do.
        argument: Name of the Python argument to change, such as `device`. The command line shows
            the flag that sets it.

    Attributes:
        argument: Name of that argument; None where no single argument helps.
    """

    def __init__(self, *message: object, argument: str | None = None) -> None:
        super().__init__(*message)
        self.argument = argument


class ConfigError(ExportLossError, ValueError):
    """A setting is unknown or out of range, or contradicts another."""


class TargetError(ExportLossError, ValueError):
    """A target row cannot be trained on; the message names the row."""


class TooManyTargetsError(TargetError):
    """A batch has more target rows than the graph has capacity for (`max_targets`)."""


class DataError(ExportLossError, ValueError):
    """A data set, image or label file cannot be read; the message names file and line."""


class ArtifactError(ExportLossError, ValueError):
    """An artifact is missing, damaged, of an unknown kind, or cannot be written."""


class DeviceError(ExportLossError, ArithmeticError):
    """A device's numbers differ from those of ONNX Runtime's CPU provider beyond rounding."""


class ExportError(ExportLossError, RuntimeError):
    """An export was refused because its result would be wrong."""


class TrainingError(ExportLossError, ArithmeticError):
    """Training cannot continue: the loss, gradients or weights are not finite."""


class InstallationError(ExportLossError, ImportError):
    """A required package is missing, or two installed packages conflict."""


class BenchmarkError(ExportLossError, RuntimeError):
    """A benchmark has no result: the implementations disagree, or one failed."""


def excerpt(value: object, length: int = 60) -> str:
    """Return a value as printable text for a message, truncated to `length` characters."""
    text = str(value)
    if len(text) <= length:
        return printable(text)
    return f"{printable(text[:length])[:length]}..."


def listed(values: Sequence[object], most: int, separator: str = ", ") -> str:
    """Return the first `most` values as text, followed by the number of the others.

    Args:
        values: Values to list, at least one.
        most: Number of values to name, >= 1.
        separator: Text between the values. If it begins with a line end, the number of the
            others is on a line of its own.
    """
    text = separator.join(map(str, values[:most]))
    if len(values) <= most:
        return text
    before = separator if separator.startswith("\n") else " "
    return f"{text}{before}and {len(values) - most} more"


def printable(value: object) -> str:
    """Return a value as text that is safe to print, with control characters escaped.

    Line ends, characters that change the writing direction, and bytes of a file name that are not
    UTF-8 are escaped too. Names from files and from users are passed through here before they are
    printed.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in _JOINERS else one.encode("unicode_escape").decode()
        for one in text
    )
