"""Values of a manifest's JSON, each of the type that every language's reader expects."""

from __future__ import annotations

from typing import Any

from exportloss.errors import excerpt

__all__ = ["flag", "integer", "number", "text", "texts"]

_LARGEST = (1 << 53) - 1  # beyond it, some languages read two integers as the same number


def integer(value: Any, what: str) -> int:
    """Return a whole number; `8.0` is one, since not every language tells it from `8`.

    Args:
        value: Value as read.
        what: Name of the value, for messages.

    Raises:
        ValueError: the value is of another type, or beyond 2^53 - 1.
    """
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    if not is_whole or abs(value) > _LARGEST:
        raise ValueError(f"{what}: {excerpt(repr(value))}, expected an integer")
    return int(value)


def number(value: Any, what: str) -> float:
    """Return a number; arguments and errors as for `integer`."""
    if type(value) not in (int, float):
        raise ValueError(f"{what}: {excerpt(repr(value))}, expected a number")
    return float(value)


def text(value: Any, what: str) -> str:
    """Return a text; arguments and errors as for `integer`."""
    if not isinstance(value, str):
        raise ValueError(f"{what}: {excerpt(repr(value))}, expected a text")
    value.encode()  # refuses half a surrogate pair
    return value


def texts(value: Any, what: str) -> tuple[str, ...]:
    """Return the texts of a list; arguments and errors as for `integer`."""
    if not isinstance(value, list):
        raise ValueError(f"{what}: {excerpt(repr(value))}, expected a list of texts")
    return tuple(text(each, what) for each in value)


def flag(value: Any, what: str) -> bool:
    """Return true or false; arguments and errors as for `integer`."""
    if not isinstance(value, bool):
        raise ValueError(f"{what}: {excerpt(repr(value))}, expected true or false")
    return value
