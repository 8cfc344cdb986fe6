"""`results.csv`: the results of every epoch, under YOLOv5's column names.

The columns of the loss are those of its terms: `train/box_loss` and so on.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from exportloss.errors import ArtifactError, excerpt
from exportloss.loss_kinds import LOSS_KINDS
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.limits import MAX_RESULTS_BYTES
from exportloss.runtime.evaluation.scores import METRICS, Scores
from exportloss.runtime.sessions.session import LossTerms
from exportloss.runtime.storage.files import new_file

__all__ = [
    "START",
    "EpochResult",
    "Scores",
    "as_row",
    "best_epoch",
    "columns",
    "from_row",
    "read_results",
    "read_rows",
    "write_results",
]

START = -1  # number of the validation before the first epoch

_YOLOV5 = LOSS_KINDS["yolov5"].terms


def columns(terms: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the file for a loss with these terms."""
    return (
        "epoch",
        *(f"train/{term}_loss" for term in terms),
        *(metric.column for metric in METRICS),
        *(f"val/{term}_loss" for term in terms),
        *("x/lr0", "x/lr1", "x/lr2"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Results of one epoch.

    Attributes:
        epoch: Number of the epoch, from 0 as in YOLOv5; `START` before any training.
        train: Mean loss terms over the training batches, as each was trained on; NaN for the start.
        val: Mean loss terms over the validation batches; None without a validation.
        scores: Scores on the validation images; None without a validation.
        lr: Learning rates of the weights, norms and biases in the last batch.
        left_out: Number of target rows dropped because of `max_targets`; not in the file.
        skipped: Number of batches that changed nothing because their loss or gradients were not
            finite; not in the file, and not part of `train`.
        waiting: Fraction of the training time spent waiting for images, in [0, 1]; not in the file.
        seconds: Duration; not in the file.
        class_map: (nc,) mAP50-95 of each class, the mean for classes without objects; None without
            a validation; in `results.jsonl` only.
    """

    epoch: int
    train: LossTerms
    val: LossTerms | None
    scores: Scores | None = None
    lr: tuple[float, float, float]
    left_out: int = 0
    skipped: int = 0
    waiting: float = 0.0
    seconds: float = 0.0
    class_map: tuple[float, ...] | None = None

    @property
    def is_start(self) -> bool:
        """True for the validation before any training."""
        return self.epoch == START

    @property
    def loss(self) -> float:
        """Sum of the loss terms, of the validation if there is one."""
        return (self.train if self.val is None else self.val).total

    @property
    def fitness(self) -> float:
        """Fitness by which the best epoch is chosen, in [0, 1]; 0 without scores."""
        return 0.0 if self.scores is None else self.scores.fitness


def best_epoch(results: Sequence[EpochResult]) -> EpochResult:
    """Return the epoch of the highest fitness; among equals, that of the lowest loss.

    If any epoch was validated, only validated ones count.

    Args:
        results: Epochs, at least one.
    """
    judged = [result for result in results if result.scores is not None] or results
    return min(judged, key=lambda result: (-result.fitness, result.loss, result.epoch))


def write_results(path: Path, results: Sequence[EpochResult]) -> None:
    """Write all epochs to a file, atomically, in full precision.

    As in YOLOv5, `x/lr0` is the rate of the biases, `x/lr1` of the weights, `x/lr2` of the norms.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns(tuple(results[0].train) if results else _YOLOV5))
        for result in results:
            writer.writerow("" if value is None else value for value in as_row(result).values())


def as_row(result: EpochResult) -> dict[str, int | float | None]:
    """Return the columns of an epoch; None for unknown values."""
    weights, norms, biases = result.lr
    val = [None if result.val is None else result.val[term] for term in result.train]
    scores = [
        None if result.scores is None else getattr(result.scores, metric.name) for metric in METRICS
    ]
    values = (result.epoch, *result.train.values(), *scores, *val, biases, weights, norms)
    return dict(zip(columns(tuple(result.train)), values, strict=True))


def from_row(row: Mapping[str, str]) -> EpochResult:
    """Return the epoch of a row of the file; empty columns are unknown values.

    Raises:
        KeyError, TypeError, ValueError: a column is missing, or holds no number.
    """
    known = (kind.terms for kind in LOSS_KINDS.values())
    terms = next((one for one in known if row.keys() >= set(columns(one))), _YOLOV5)
    train, val = ([row[f"{split}/{term}_loss"] for term in terms] for split in ("train", "val"))
    scores = {metric.name: row[metric.column] for metric in METRICS}
    biases, weights, norms = (float(row[f"x/lr{group}"]) for group in range(3))
    return EpochResult(
        epoch=int(row["epoch"]),
        train=LossTerms(*map(float, train), names=terms),
        val=LossTerms(*map(float, val), names=terms) if any(val) else None,
        scores=Scores(**{name: float(score or "nan") for name, score in scores.items()})
        if any(scores.values())
        else None,
        lr=(weights, norms, biases),
    )


def read_results(path: Path) -> list[EpochResult]:
    """Read the epochs that `write_results` wrote; none if there is no file.

    Raises:
        ArtifactError: the file is damaged.
    """
    try:
        return list(map(from_row, read_rows(path)))
    except FileNotFoundError:
        return []
    except ArtifactError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a `results.csv` by column name; spaces around the names are removed.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: the file is no regular one, larger than `MAX_RESULTS_BYTES`, or damaged.
    """
    content = read_bounded(path, MAX_RESULTS_BYTES, error=ArtifactError)
    try:
        rows = csv.DictReader(io.StringIO(content.decode(), newline=""))
        return [{str(key).strip(): cell for key, cell in row.items()} for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} is no readable results file: {excerpt(repr(error))}")
