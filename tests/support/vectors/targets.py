"""Target rows: padded, or refused."""

from __future__ import annotations

import math
from typing import Any

from exportloss.targets import pad_targets

_LIMITS: dict[str, Any] = {"max_targets": 4, "batch_size": 2, "num_classes": 3}
_GOOD = [1, 2, 0.5, 0.25, 0.125, 1.0]
_TENTHS = [0, 1, 0.1, 0.2, 0.3, 0.7]


def _with(column: int, value: float) -> list[float]:
    return [value if at == column else each for at, each in enumerate(_GOOD)]


_ACCEPTED: tuple[tuple[str, list[list[float]], dict[str, Any]], ...] = (
    ("none", [], {}),
    ("some", [_GOOD, _TENTHS], {}),
    ("as many as fit", [_TENTHS, _GOOD, _TENTHS, _GOOD], {}),
    ("edges", [[0, 0, 0, 0, 0, 0], [1, 2, 1, 1, 1, 1]], {}),
    ("negative zero", [[-0.0, -0.0, -0.0, 0.5, 0.5, 0.5]], {}),
    (
        "largest kept, in their order",
        [[0, 0, 0.5, 0.5, size, size] for size in (0.1, 0.5, 0.2, 0.9, 0.4, 0.3)],
        {"overflow": "keep_largest"},
    ),
    (
        "earlier of equal areas kept",
        [[0, at % 3, 0.5, 0.5, *sides] for at, sides in enumerate([(0.5, 0.25), (0.25, 0.5)] * 3)],
        {"overflow": "keep_largest"},
    ),
    ("nothing to drop", [_GOOD], {"overflow": "keep_largest"}),
)
# Row, and the column and kind of its first problem.
_BAD: tuple[tuple[list[float], str, str], ...] = (
    (_with(0, 2), "image", "range"),
    (_with(0, -1), "image", "range"),
    (_with(0, 0.5), "image", "not-whole"),
    (_with(0, 2.5), "image", "not-whole"),
    (_with(0, math.nan), "image", "not-finite"),
    (_with(1, 3), "class", "range"),
    (_with(1, -1), "class", "range"),
    (_with(1, 1.5), "class", "not-whole"),
    (_with(1, math.inf), "class", "not-finite"),
    (_with(2, -0.001), "x", "range"),
    (_with(3, 1.0000001), "y", "range"),
    (_with(4, math.nan), "width", "not-finite"),
    (_with(5, -math.inf), "height", "not-finite"),
    ([2, 3, 2, 2, 2, 2], "image", "range"),
    ([1, 9, math.nan, 0, 0, 0], "class", "range"),
    ([0, 0, 2, math.nan, 0, 0], "x", "range"),
)


def make(files: dict[str, bytes]) -> list[object]:
    cases: list[object] = []

    def add(name: str, rows: object, options: dict[str, Any], **more: object) -> None:
        cases.append({"name": name, **_LIMITS, **options, "rows": rows, **more})

    for name, rows, options in _ACCEPTED:
        padded = pad_targets(rows, **_LIMITS, **options)
        dropped = 0
        if options:
            padded, dropped = padded
        add(name, rows, options, result="accept", padded=padded, dropped=dropped)
    for row, column, kind in _BAD:
        problems = [{"row": 1, "column": column, "kind": kind}]
        add(f"{column} {kind}", [_GOOD, row], {}, result="bad-rows", problems=problems)
    two = [
        {"row": 0, "column": "image", "kind": "range"},
        {"row": 2, "column": "x", "kind": "range"},
    ]
    rows = [_with(0, 7), _GOOD, _with(2, 7)]
    add("two bad rows", rows, {}, result="bad-rows", problems=two)
    add("too many", [_GOOD] * 5, {}, result="too-many")
    late = [{"row": 5, "column": "image", "kind": "range"}]
    rows = [*[_GOOD] * 5, _with(0, 7)]
    for options in ({}, {"overflow": "keep_largest"}):
        add("too many, one of them bad", rows, options, result="bad-rows", problems=late)
    add("five columns", [_GOOD[:5]], {}, result="shape")
    return cases
