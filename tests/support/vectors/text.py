"""JSON of test vectors: ASCII, a line per case; numbers that JSON lacks are texts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["lines", "parsed", "plain"]

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return next(word for word, each in _WORDS.items() if repr(each) == repr(value))
    return value


def parsed(value: Any) -> Any:
    """Undo `plain` for numbers that JSON lacks."""
    if isinstance(value, list):
        return [parsed(each) for each in value]
    return _WORDS.get(value, value) if isinstance(value, str) else value


def lines(cases: Sequence[object]) -> bytes:
    """Return a JSON list with a line per case."""
    texts = ",\n".join(json.dumps(plain(case), allow_nan=False) for case in cases)
    return f"[\n{texts}\n]\n".encode("ascii")
