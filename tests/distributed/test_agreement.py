"""Ranks that do not have the same, or that fail, end before they train."""

from __future__ import annotations

import pytest

from exportloss import ConfigError, DataError, ExportLossError
from exportloss.distributed.agreement import DismissedError, agree, check_equal
from tests.support.messages import mentions
from tests.support.threads_as_ranks import ThreadCommunicator, run_ranks


def test_all_go_on_if_none_fails():
    assert run_ranks(3, lambda ranks: agree(ranks, lambda: ranks.rank)) == [0, 1, 2]


@pytest.mark.parametrize("failing", [{0}, {1}, {1, 2}, {0, 1, 2}], ids=str)
def test_the_lowest_failing_rank_is_heard_once(failing):
    def work(ranks: ThreadCommunicator) -> None:
        def fail() -> None:
            if ranks.rank in failing:
                raise DataError(f"image of {ranks.rank}", argument="data")

        agree(ranks, fail)

    lead, *others = run_ranks(3, work)
    assert [type(other) for other in others] == [DismissedError] * 2
    first = min(failing)
    named = [f"rank {first} of 3"] * (first > 0)  # one's own error is told as it is
    with pytest.raises(DataError, match=mentions(f"image of {first}", *named)) as caught:
        raise lead
    assert caught.value.argument == "data"


def test_any_error_is_told_with_its_class():
    def work(ranks: ThreadCommunicator) -> float:
        return agree(ranks, lambda: 1 / (1 - ranks.rank))

    lead, other = run_ranks(2, work)
    with pytest.raises(ExportLossError, match=mentions("rank 1 of 2", "ZeroDivisionError")):
        raise lead
    assert isinstance(other, DismissedError)


def test_what_differs_is_named():
    def work(ranks: ThreadCommunicator) -> None:
        check_equal(
            ranks, {"artifacts": "a" * 64, "data": "b" * 64 if ranks.rank < 2 else "c" * 64}
        )

    lead, *others = run_ranks(3, work)
    with pytest.raises(ConfigError, match=mentions("rank 2 of 3", "data", "c" * 12, "b" * 12)):
        raise lead
    assert [type(other) for other in others] == [DismissedError] * 2
    assert run_ranks(2, lambda ranks: check_equal(ranks, {"data": "a"})) == [None, None]
