"""How busy the processor is, with this benchmark and with other processes. Needs only Python."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Usage", "fraction_of_others", "load_average", "usage"]

# Columns of the first line of /proc/stat that are not work: idle, waiting for a disk, and the time
# of guests, which user time includes. What other virtual machines stole counts as work.
_IDLE = (3, 4, 8, 9)


class Usage(NamedTuple):
    """Processor time used so far, seconds.

    Attributes:
        clock: Time of the reading.
        all: By everything, over all cores; None where the system does not report it.
        own: By this process and the given ones.
    """

    clock: float
    all: float | None
    own: float


def usage(pids: Sequence[int]) -> Usage:
    """Read the processor time used by everything, and by this process and others of its own."""
    times = os.times()
    own = times.user + times.system + sum(map(_seconds_of, pids))
    return Usage(clock=time.monotonic(), all=_busy_seconds(), own=own)


def fraction_of_others(before: Usage, after: Usage, *, cores: int) -> float | None:
    """Return the fraction of all cores that other processes used between two readings.

    The system counts in hundredths of a second per process, so that short times are inexact.

    Returns:
        0 to 1; None where the system does not report it.
    """
    if before.all is None or after.all is None:
        return None
    others = (after.all - before.all) - (after.own - before.own)
    elapsed = max(after.clock - before.clock, 1e-9)
    return min(max(others / (elapsed * cores), 0.0), 1.0)


def load_average() -> float | None:
    """Return the mean number of busy or waiting threads in the last minute; None if unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not on Windows
        return None


def _busy_seconds() -> float | None:
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        ticks = [int(number) for number in first.split()[1:]]
    except (OSError, ValueError, IndexError):
        return None
    return sum(n for i, n in enumerate(ticks) if i not in _IDLE) * _tick()


def _seconds_of(pid: int) -> float:
    """Return the processor time of a process; 0 if it is not there."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The name, in brackets, may hold spaces; user and system time are the 14th and 15th entry.
        entries = text.rpartition(")")[2].split()
        return (int(entries[11]) + int(entries[12])) * _tick()
    return 0.0


def _tick() -> float:
    return 1 / os.sysconf("SC_CLK_TCK")
