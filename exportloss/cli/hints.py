"""Flags to name beside an error of the Python API, which names arguments."""

from __future__ import annotations

from collections.abc import Mapping

from exportloss.errors import ExportLossError

__all__ = ["FLAGS", "with_flag"]

# What sets an argument on the command line, with the command where it is only one.
FLAGS: Mapping[str, str] = {
    "anchors": "--anchors",
    "batch_size": "--batch-size",
    "device": "--device",
    "distributed": "--distributed",
    "ema": "--ema",
    "epochs": "--epochs",
    "patience": "--patience",
    "exist_ok": "--exist-ok",
    "format": "--format",
    "image_size": "--imgsz",
    "max_targets": "--max-targets",
    "name": "--name",
    "overflow": "--overflow",
    "precision": "--precision",
    "project": "--project",
    "provider": "exportloss export --for",
    "self_check": "--no-self-check",
    "skip_bad": "--skip-bad",
    "time_limit": "--time-limit",
    "weights": "--weights",
}


def with_flag(error: ExportLossError) -> str:
    """Return an error's message, with the flag that sets the argument that it is about."""
    flag = FLAGS.get(error.argument or "")
    return str(error) if flag is None else f"{error} ({flag})"
