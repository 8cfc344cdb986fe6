"""What messages are made of: lower bounds, and lists that are cut."""

from __future__ import annotations

import pytest

from exportloss.bounds import at_least
from exportloss.errors import ConfigError, TargetError


@pytest.mark.parametrize("error", [ConfigError, TargetError])
def test_the_number_below_the_bound_is_named(error):
    at_least(2, error=error, rows=2, columns=3)
    with pytest.raises(error, match=r"^columns is 1\b.* 2$"):
        at_least(2, error=error, rows=2, columns=1)
