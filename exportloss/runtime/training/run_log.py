"""`results.jsonl`: the start and every epoch of a run, one JSON object per line.

Each object has the columns of `results.csv` under the same names, and beyond those `fitness`,
`left_out`, `skipped`, `waiting`, `seconds` and, for a validated epoch, `class_map`, the mAP50-95 of
every class. The first line is the start, `"epoch": -1`: the validation before any training.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, excerpt
from exportloss.reading import read_bounded
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.training.results import START, EpochResult, as_row, from_row

__all__ = ["append_to_log", "read_class_map", "read_log", "read_start"]

_MORE = ("left_out", "skipped", "waiting", "seconds")
_MOST_BYTES = 1 << 26  # a hundred thousand epochs


def append_to_log(path: Path, result: EpochResult) -> None:
    """Add an epoch, atomically; lines of the same and of later epochs are removed.

    Raises:
        ArtifactError: the file is damaged, or cannot be written.
    """
    kept = [entry for entry in read_log(path) if entry["epoch"] < result.epoch]
    entry: dict[str, Any] = as_row(result) | {"fitness": result.fitness}
    entry |= {name: getattr(result, name) for name in _MORE}
    entry = {key: _finite(value) for key, value in entry.items()}
    if result.class_map is not None:
        entry["class_map"] = list(result.class_map)
    entries = [*kept, entry]
    with new_file(path) as temporary:
        lines = (json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
        temporary.write_text("".join(lines), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log; none if there is no file.

    Raises:
        ArtifactError: the file is damaged, or larger than 64 MiB.
    """
    try:
        lines = read_bounded(path, _MOST_BYTES, error=ArtifactError).decode("utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        if not all(isinstance(entry, dict) and type(entry["epoch"]) is int for entry in entries):
            raise ValueError("expected an object with `epoch` per line")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is no readable log of a run: {excerpt(repr(error))}; remove it"
        ) from error
    return entries


def read_start(path: Path) -> EpochResult | None:
    """Return the validation before the first epoch; None if the log has none.

    Raises:
        ArtifactError: the file is damaged.
    """
    entry = next((entry for entry in read_log(path) if entry["epoch"] == START), None)
    if entry is None:
        return None
    row = {key: "" if value is None else str(value) for key, value in entry.items()}
    row |= {key: value or "nan" for key, value in row.items() if key.startswith("train/")}
    try:
        start = dataclasses.replace(from_row(row), seconds=float(row["seconds"]))
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is no readable log of a run: {excerpt(repr(error))}; remove it"
        ) from error
    return dataclasses.replace(start, class_map=read_class_map(path, START))


def read_class_map(path: Path, epoch: int) -> tuple[float, ...] | None:
    """Return the mAP50-95 of every class after an epoch; None if the log has none.

    Raises:
        ArtifactError: the file is damaged.
    """
    entry = next((entry for entry in read_log(path) if entry["epoch"] == epoch), {})
    if (values := entry.get("class_map")) is None:
        return None
    if not isinstance(values, list) or not all(
        type(value) in (int, float) and 0 <= value <= 1 for value in values
    ):
        raise ArtifactError(
            f"{path} is no readable log of a run: class_map of epoch {epoch} is "
            f"{excerpt(repr(values))}; expected numbers in [0, 1]"
        )
    return tuple(map(float, values))


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
