"""Every error this package raises on purpose derives from `ExportLossError`.

A message names what was got, what was expected and what to do about it.
"""

__all__ = [
    "ArtifactError",
    "BenchmarkError",
    "ConfigError",
    "DataError",
    "ExportError",
    "ExportLossError",
    "InstallationError",
    "TargetError",
    "TooManyTargetsError",
    "TrainingError",
    "excerpt",
]


class ExportLossError(Exception):
    """Base of all errors raised by exportloss."""


class ConfigError(ExportLossError, ValueError):
    """A setting is unknown, out of range or contradicts another."""


class TargetError(ExportLossError, ValueError):
    """A target row cannot be trained on; the message names the row."""


class TooManyTargetsError(TargetError):
    """A batch holds more target rows than the graph has slots."""


class DataError(ExportLossError, ValueError):
    """A data set, picture or label file cannot be read; the message names file and line."""


class ArtifactError(ExportLossError, ValueError):
    """A folder is no artifact, is damaged, or is of a kind this version cannot open."""


class ExportError(ExportLossError, RuntimeError):
    """The export was refused because its result would be wrong."""


class TrainingError(ExportLossError, ArithmeticError):
    """Training cannot go on: its loss or gradients are not finite numbers."""


class InstallationError(ExportLossError, ImportError):
    """A needed package is missing, or two packages get in each other's way."""


class BenchmarkError(ExportLossError, RuntimeError):
    """A benchmark has no result: rivals do not compute the same, or one broke down."""


def excerpt(value: object, length: int = 60) -> str:
    """Return a value as text for a message, cut where it is long."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= length else f"{text[:length]}..."
