"""Every error this package raises on purpose derives from `ExportLossError`.

A message names what was got, what was expected and what to do about it.
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

_JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji


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
    """A setting is unknown, out of range or contradicts another."""


class TargetError(ExportLossError, ValueError):
    """A target row cannot be trained on; the message names the row."""


class TooManyTargetsError(TargetError):
    """A batch holds more target rows than the graph takes (`max_targets`)."""


class DataError(ExportLossError, ValueError):
    """A data set, image or label file cannot be read; the message names file and line."""


class ArtifactError(ExportLossError, ValueError):
    """A folder is not an artifact, is damaged, or is of a kind this version cannot open."""


class DeviceError(ExportLossError, ArithmeticError):
    """A device's numbers differ from those of ONNX Runtime's CPU provider beyond rounding."""


class ExportError(ExportLossError, RuntimeError):
    """The export was refused because its result would be wrong."""


class TrainingError(ExportLossError, ArithmeticError):
    """Training cannot go on: its loss, gradients or weights are not finite."""


class InstallationError(ExportLossError, ImportError):
    """A required package is missing, or two installed packages conflict."""


class BenchmarkError(ExportLossError, RuntimeError):
    """A benchmark has no result: implementations disagree, or one failed."""


def excerpt(value: object, length: int = 60) -> str:
    """Return a value as text for a message, cut where it is long."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= length else f"{text[:length]}..."


def listed(values: Sequence[object], most: int, separator: str = ", ") -> str:
    """Return the first `most` values as text, and how many more there are.

    Args:
        values: at least one.
        most: how many to name, >= 1.
        separator: between the values; where it begins with a line end, the number of the others
            has a line of its own.
    """
    text = separator.join(map(str, values[:most]))
    if len(values) <= most:
        return text
    before = separator if separator.startswith("\n") else " "
    return f"{text}{before}and {len(values) - most} more"


def printable(value: object) -> str:
    """Return a value as text that a terminal only shows: control characters as escapes.

    So are line ends, what turns the direction of writing round, and the bytes of a file name that
    are no UTF-8. Whatever a file or a user has named goes through here before it is printed.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in _JOINERS else one.encode("unicode_escape").decode()
        for one in text
    )
