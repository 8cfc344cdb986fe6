"""Checks of class names, which are printed, drawn and written to files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from exportloss.errors import printable

__all__ = ["LONGEST_NAME", "bad_name", "tidy_names"]

LONGEST_NAME = 200  # characters


def tidy_names(names: Iterable[object]) -> tuple[str, ...]:
    """Return names from a file as printable text, at most `LONGEST_NAME` characters each.

    Control characters are escaped: a file must not send commands to the terminal.
    """
    return tuple(printable(str(name)[:LONGEST_NAME])[:LONGEST_NAME] for name in names)


def bad_name(names: Sequence[str]) -> int | None:
    """Return the index of the first name that is too long or not printable, or None."""
    for index, name in enumerate(names):
        if len(name) > LONGEST_NAME or not name.isprintable():
            return index
    return None
