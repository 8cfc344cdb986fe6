"""What a message must name, whatever its sentence is."""

from __future__ import annotations

import re


def mentions(*values: object) -> str:
    """Return a pattern for text that holds every value, in any order.

    For `pytest.raises(..., match=mentions(...))`. Numbers match as whole numbers: 1 is not in 10,
    -1 or 1.5. Everything else matches its text, special characters included.
    """
    assert values and all(map(str, values)), "a pattern that matches any text tests nothing"
    return r"(?s)\A" + "".join(f"(?=.*{_pattern(value)})" for value in values)


def missing(text: str, *values: object) -> list[object]:
    """Return the values that `text` does not hold, by the rules of `mentions`."""
    return [value for value in values if not re.search(mentions(value), text)]


def error_of(output: str) -> str:
    """Return what a command's last line of errors says, without the command's name and usage."""
    return output.splitlines()[-1].partition("error: ")[2]


def _pattern(value: object) -> str:
    pattern = re.escape(str(value))
    if isinstance(value, (int, float)):
        return rf"(?<![\w-])(?<!\d\.){pattern}(?!\w|\.\d)"
    return pattern
