"""Memory and processor of this machine, as Linux reports them; None on other systems."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "MOST_OF_MEMORY",
    "available_bytes",
    "peak_bytes",
    "processor_name",
    "resident_bytes",
]

MOST_OF_MEMORY = 0.8  # fraction of the available memory that a cache may take


def resident_bytes() -> int | None:
    """Return the memory that this process holds, in bytes; None if unknown."""
    return _size("/proc/self/status", "VmRSS")


def peak_bytes() -> int | None:
    """Return the peak memory of this process, in bytes; None if unknown."""
    return _size("/proc/self/status", "VmHWM")


def available_bytes() -> int | None:
    """Return the memory that can be allocated, file cache included, in bytes; None if unknown."""
    return _size("/proc/meminfo", "MemAvailable")


def processor_name() -> str | None:
    """Return the name of the first processor; None if unknown."""
    return _value("/proc/cpuinfo", "model name")


def _size(path: str, key: str) -> int | None:
    value = _value(path, key)
    try:
        return None if value is None else int(value.split()[0]) << 10  # "123 kB"
    except (ValueError, IndexError):
        return None


def _value(path: str, key: str) -> str | None:
    """Return the value of `key` in a file of `key: value` lines."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), None)
