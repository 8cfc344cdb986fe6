"""How much memory this process has taken. Needs nothing but Python."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_mb", "resident_mb"]

_STATUS = Path("/proc/self/status")


def peak_mb() -> float:
    """Return the largest resident size so far, MB (10**6 bytes)."""
    if (peak := _read("VmHWM")) is not None:
        return peak
    # On Linux this would not do: it is at least the size of the process that started this one.
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


def resident_mb() -> float:
    """Return the resident size, MB; where the system does not tell, the largest so far."""
    now = _read("VmRSS")
    return peak_mb() if now is None else now


def _read(name: str) -> float | None:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024 / 1e6
    return None
