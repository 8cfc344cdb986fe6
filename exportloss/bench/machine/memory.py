"""Memory of this process. Needs only Python, and nvidia-smi for a GPU's memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from exportloss.system import peak_bytes, resident_bytes

__all__ = ["device_mb", "peak_mb", "resident_mb"]


def peak_mb() -> float:
    """Return the largest resident size so far, MB (10**6 bytes)."""
    if (peak := peak_bytes()) is not None:
        return peak / 1e6
    # Not used on Linux: there it is at least the size of the parent process.
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


def resident_mb() -> float:
    """Return the resident size, MB; the largest so far where the system does not report it."""
    now = resident_bytes()
    return peak_mb() if now is None else now / 1e6


def device_mb() -> float | None:
    """Return this process's memory on NVIDIA GPUs, MB; None where it is unknown.

    The allocators of torch and ONNX Runtime free nothing, so at the end it is the peak.
    """
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.split(",") for line in listed.stdout.splitlines())
    used = [float(mib) for pid, mib in rows if int(pid) == os.getpid() and mib.strip().isdigit()]
    return sum(used) * (1 << 20) / 1e6 if used else None
