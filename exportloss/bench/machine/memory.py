"""How much memory this process has taken. Needs nothing but Python, and nvidia-smi for a GPU's."""

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
    # On Linux this would not do: it is at least the size of the process that started this one.
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


def resident_mb() -> float:
    """Return the resident size, MB; where the system does not tell, the largest so far."""
    now = resident_bytes()
    return peak_mb() if now is None else now / 1e6


def device_mb() -> float | None:
    """Return what this process holds of NVIDIA GPUs' memory, MB; None where that is not known.

    The allocators of torch and ONNX Runtime give nothing back, so at the end it is the peak.
    """
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.split(",") for line in listed.stdout.splitlines())
    used = [float(mib) for pid, mib in rows if int(pid) == os.getpid() and mib.strip().isdigit()]
    return sum(used) * (1 << 20) / 1e6 if used else None
