"""The patterns that the tests hold messages to."""

from __future__ import annotations

import re

import pytest

from tests.support.messages import mentions, missing

TEXT = "a.yaml:3: box is -1\n  expected 0.5, 0..25 or (2, 6)"


@pytest.mark.parametrize(
    "values", [("a.yaml", 3), (-1, "box"), (0.5, (2, 6)), (25, 0), ("0..25",), (6, "box", 2)]
)
def test_values_are_found_in_any_order(values):
    assert re.search(mentions(*values), TEXT)
    assert missing(TEXT, *values) == []


@pytest.mark.parametrize("value", [1, 5, -3, 20, "axyaml", "cls", (2, 66)])
def test_what_is_not_there_is_missed(value):
    assert not re.search(mentions("a.yaml", value), TEXT)
    assert missing(TEXT, "a.yaml", value) == [value]


@pytest.mark.parametrize("values", [(), ("",), ("box", "")])
def test_nothing_is_no_demand(values):
    with pytest.raises(AssertionError):
        mentions(*values)
