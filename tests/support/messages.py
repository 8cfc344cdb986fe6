"""Patterns for messages: the values that a message has, in whatever order and words."""

from __future__ import annotations

import re


def mentions(*values: object) -> str:
    """Return a pattern that matches a message in which each value stands."""
    return "(?s)" + "".join(f"(?=.*{re.escape(str(value))})" for value in values)
