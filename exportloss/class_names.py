"""Names of classes, which are printed, drawn and written into files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from exportloss.errors import printable

__all__ = ["LONGEST_NAME", "bad_name", "tidy_names"]

LONGEST_NAME = 200  # characters


def tidy_names(names: Iterable[object]) -> tuple[str, ...]:
    """Return names that others chose as text that can be printed: a file must not command the
    terminal.
    """
    return tuple(printable(str(name)[:LONGEST_NAME])[:LONGEST_NAME] for name in names)


def bad_name(names: Sequence[str]) -> int | None:
    """Return the number of the first name that is too long or cannot be printed; None for none."""
    for index, name in enumerate(names):
        if len(name) > LONGEST_NAME or not name.isprintable():
            return index
    return None
