"""Description of the machine, printed with the figures."""

from __future__ import annotations

import os
import platform
from typing import Any

from exportloss.system import processor_name

__all__ = ["describe_machine"]


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, system and Python."""
    return {
        "processor": processor_name() or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _memory_gb() -> float | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (AttributeError, ValueError, OSError):
        return None
