"""`results.csv`: what every epoch came to, under YOLOv5's column names."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from exportloss.errors import ArtifactError
from exportloss.runtime.files import new_file
from exportloss.runtime.session import Items

__all__ = ["COLUMNS", "EpochResult", "read_results", "write_results"]

COLUMNS = (
    "epoch",
    *(f"{split}/{term}_loss" for split in ("train", "val") for term in ("box", "obj", "cls")),
    *("x/lr0", "x/lr1", "x/lr2"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One epoch.

    Attributes:
        epoch: counted from 0, as YOLOv5 does.
        train: mean terms of the loss over the training batches, while they were trained on.
        val: mean terms over the validation batches at the end; None without a validation split.
        lr: learning rates of the weights, norms and biases in the last batch.
        left_out: target rows that did not fit into `max_targets`; not in the file.
        seconds: how long it took; not in the file.
    """

    epoch: int
    train: Items
    val: Items | None
    lr: tuple[float, float, float]
    left_out: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """What the best epoch has least of: box + objectness + class, of validation if any."""
        items = self.val or self.train
        return items.box + items.objectness + items.category


def write_results(path: Path, results: Sequence[EpochResult]) -> None:
    """Write all epochs to a file, atomically, in full precision.

    YOLOv5's `x/lr0` is the rate of the biases, `x/lr1` of the weights, `x/lr2` of the norms.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for result in results:
            weights, norms, biases = result.lr
            val = ("", "", "") if result.val is None else dataclasses.astuple(result.val)
            writer.writerow(
                (result.epoch, *dataclasses.astuple(result.train), *val, biases, weights, norms)
            )


def read_results(path: Path) -> list[EpochResult]:
    """Read what `write_results` wrote; a file that is not there holds no epoch.

    Raises:
        ArtifactError: the file is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_parse(row) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no readable results file: {error!r}") from error


def _parse(row: dict[str, str]) -> EpochResult:
    train, val = (
        [row[f"{split}/{term}_loss"] for term in ("box", "obj", "cls")]
        for split in ("train", "val")
    )
    biases, weights, norms = (float(row[f"x/lr{group}"]) for group in range(3))
    return EpochResult(
        epoch=int(row["epoch"]),
        train=Items(*map(float, train)),
        val=Items(*map(float, val)) if any(val) else None,
        lr=(weights, norms, biases),
    )
