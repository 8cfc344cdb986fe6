"""Whether a machine was quiet while something was timed, judged by readings of every round."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Literal

__all__ = ["Condition", "Reading", "Verdict", "judge", "undisturbed", "verdict"]

# Largest fraction of the cores that other processes may use, and by how much the time of the fixed
# work may differ from its median.
_OTHERS, _PACE = 0.05, 0.10

Verdict = Literal["met", "not met"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read in a round.

    Attributes:
        pace_ms: Time of the fixed work, the slower of before and after the round, milliseconds.
        others: Fraction of all cores that other processes used, 0 to 1; None if unknown.
    """

    pace_ms: float
    others: float | None

    @property
    def busy(self) -> bool:
        """Whether other processes used so much that they change times."""
        return self.others is not None and self.others > _OTHERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """State of the machine during a measurement.

    Attributes:
        quiet: Whether enough rounds were undisturbed; figures then come from these alone.
        reasons: Why the machine was not quiet, or why rounds were repeated; sentences' parts.
        load_average: Mean number of busy threads in the minute before the start; None if unknown.
        others: Largest fraction of the cores that other processes used in a round; None if unknown.
        pace_ms: Shortest, median and longest time of the fixed work, milliseconds.
        rounds: Number of rounds that were done.
        discarded: Number of them whose times were discarded.
    """

    quiet: bool
    reasons: tuple[str, ...]
    load_average: float | None
    others: float | None
    pace_ms: tuple[float, float, float]
    rounds: int
    discarded: int

    def to_json(self) -> dict[str, Any]:
        """Return an object."""
        return dataclasses.asdict(self)


def undisturbed(readings: Sequence[Reading]) -> list[bool]:
    """Return, per round, whether its times count.

    They do if other processes were idle, and the fixed work took as long as in most of the rounds.
    A machine with a fast and a slow mode is thus measured in the mode that it was in longer.
    """
    if not readings:
        return []
    usual = statistics.median(reading.pace_ms for reading in readings)
    return [not reading.busy and _is_near(reading.pace_ms, usual) for reading in readings]


def judge(
    readings: Sequence[Reading], *, wanted: int, load_average: float | None = None
) -> Condition:
    """Judge the machine by the readings of all rounds.

    Args:
        readings: At least one, in the order of the rounds.
        wanted: Number of undisturbed rounds that a quiet machine has.
        load_average: As in `Condition`.
    """
    counts = undisturbed(readings)
    paces = [reading.pace_ms for reading in readings]
    usual = statistics.median(paces)
    others = [reading.others for reading in readings if reading.others is not None]
    busy = sum(reading.busy for reading in readings)
    changed = sum(not _is_near(pace, usual) for pace in paces)
    reasons = []
    if busy:
        reasons.append(
            f"other processes used up to {max(others):.0%} of the processor, in {busy} of "
            f"{len(readings)} rounds more than {_OTHERS:.0%}"
        )
    if changed:
        reasons.append(
            f"the machine changed its pace: fixed work took {min(paces):.1f} to "
            f"{max(paces):.1f} ms, in {changed} of {len(readings)} rounds more than {_PACE:.0%} "
            f"off the median of {usual:.1f}"
        )
    quiet = sum(counts) >= wanted
    return Condition(
        quiet=quiet,
        reasons=tuple(reasons),
        load_average=load_average,
        others=max(others, default=None),
        pace_ms=(min(paces), usual, max(paces)),
        rounds=len(readings),
        discarded=counts.count(False) if any(counts) else 0,
    )


def verdict(ratio: float | None, most: float, *, quiet: bool) -> Verdict | None:
    """Return whether a ratio meets its goal; None if it or the quiet machine is missing.

    Args:
        ratio: What was measured; None if it was not.
        most: Largest ratio that meets the goal.
        quiet: Whether the machine was quiet.
    """
    if ratio is None or not quiet:
        return None
    return "met" if ratio <= most else "not met"


def _is_near(pace: float, usual: float) -> bool:
    return abs(pace - usual) <= _PACE * usual
