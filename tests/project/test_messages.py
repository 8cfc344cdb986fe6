"""What messages are made of: lower bounds, and lists that are cut."""

from __future__ import annotations

import pytest

from exportloss.bounds import at_least
from exportloss.errors import ConfigError, TargetError, listed


@pytest.mark.parametrize("error", [ConfigError, TargetError])
def test_the_number_below_the_bound_is_named(error):
    at_least(2, error, rows=2, columns=3)
    with pytest.raises(error, match=r"^columns is 1\b.* 2$"):
        at_least(2, error, rows=2, columns=1)


@pytest.mark.parametrize(
    ("most", "separator", "expected"),
    [
        (3, ", ", "1, 2, 3"),
        (2, ", ", "1, 2 and 1 more"),
        (1, "\n  ", "1\n  and 2 more"),
        (2, "\n", "1\n2\nand 1 more"),
    ],
)
def test_a_list_is_cut_and_the_rest_counted(most, separator, expected):
    assert listed([1, 2, 3], most, separator) == expected
