"""Lower bounds of numeric arguments."""

from __future__ import annotations

from exportloss.errors import ConfigError, ExportLossError

__all__ = ["at_least"]


def at_least(least: float, error: type[ExportLossError] = ConfigError, /, **values: float) -> None:
    """Check that no number is below `least`.

    Args:
        least: Smallest accepted number.
        error: Class of the error to raise.
        values: Numbers to check, by the names to use in the message.

    Raises:
        ExportLossError: of class `error`; a number is below `least`. The message gives its name,
            its value and `least`.
    """
    for name, value in values.items():
        if value < least:
            raise error(f"{name} is {value}; expected at least {least}")
