"""Lower bounds of numbers that callers give."""

from __future__ import annotations

from exportloss.errors import ConfigError, ExportLossError

__all__ = ["at_least"]


def at_least(least: float, error: type[ExportLossError] = ConfigError, /, **values: float) -> None:
    """Check that each number is no smaller than `least`.

    Args:
        least: smallest number that passes.
        error: class of the error.
        values: numbers by the names that the message gives them.

    Raises:
        ExportLossError: a number is smaller; the message names it, its value and `least`.
    """
    for name, value in values.items():
        if value < least:
            raise error(f"{name} is {value}; expected at least {least}")
