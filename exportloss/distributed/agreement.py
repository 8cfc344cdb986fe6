"""Ranks that agree before they go on, or end together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from exportloss.distributed.communicator import Communicator
from exportloss.errors import ConfigError, ExportLossError

__all__ = ["DismissedError", "agree", "as_of_rank", "check_equal"]

_Made = TypeVar("_Made")


class DismissedError(Exception):
    """Another rank has failed, and rank 0 reports it; this one has nothing to say."""


@dataclasses.dataclass(frozen=True)
class _Report:
    error: BaseException | None


def agree(communicator: Communicator, work: Callable[[], _Made]) -> _Made:
    """Do something on every rank, and go on only if all succeed.

    Args:
        communicator: The ranks, all of which call this.
        work: Function without messages to other ranks.

    Raises:
        ExportLossError: on rank 0: an error of `work`, that of the lowest rank that has one.
        DismissedError: on other ranks: `work` failed on some rank.
    """
    made: list[_Made] = []
    error: BaseException | None = None
    try:
        made.append(work())
    except Exception as caught:
        error = caught
    errors = communicator.gather_all(None if error is None else as_of_rank(error, communicator))
    first = next((number for number, one in enumerate(errors) if one is not None), None)
    if first is None:
        return made[0]
    if communicator.rank:
        raise DismissedError
    if error is not None:  # with its traceback, and without a rank: it is often everyone's
        raise error
    found = errors[first]
    assert found is not None
    raise found


def as_of_rank(error: BaseException, communicator: Communicator) -> ExportLossError:
    """Return an error that another rank can raise: of its class, if it is ours, and its rank."""
    where = f"rank {communicator.rank} of {communicator.size}"
    if isinstance(error, ExportLossError):
        return type(error)(f"{where}: {error}", argument=error.argument)
    text = " ".join(str(error).split())
    return ExportLossError(f"{where}: {type(error).__name__}: {text}")


def check_equal(communicator: Communicator, digests: Mapping[str, str]) -> None:
    """Check that all ranks have the same of everything that must not differ.

    Args:
        communicator: The ranks, all of which call this.
        digests: Digests of this rank, by what they are of, in words.

    Raises:
        ConfigError: on rank 0: a digest differs; the message names it and the rank.
        DismissedError: on other ranks: a digest differs.
    """
    told = communicator.gather_all(dict(digests))
    for rank, theirs in enumerate(told):
        for what, digest in told[0].items():
            if theirs[what] == digest:
                continue
            if communicator.rank:
                raise DismissedError
            raise ConfigError(
                f"rank {rank} of {communicator.size} has other {what} ({theirs[what][:12]}) than "
                f"rank 0 ({digest[:12]}); give every rank the same"
            )
