"""Tables that `exportloss val` prints."""

from __future__ import annotations

from collections.abc import Sequence

from exportloss.cli.terminal import say
from exportloss.errors import excerpt, printable
from exportloss.runtime.evaluation.metrics import Metrics
from exportloss.runtime.evaluation.scores import METRICS
from exportloss.runtime.evaluation.validate import Validation

__all__ = ["print_costs", "print_metrics"]


def print_metrics(metrics: Metrics, names: Sequence[str], *, verbose: bool = True) -> None:
    """Print YOLOv5's table: a row for all classes, then one per class that the labels have.

    Args:
        metrics: Metrics of a validation.
        names: Class names of the data set.
        verbose: Whether to print the rows of classes.
    """
    shown = [excerpt(printable(name)) for name in names]
    header = ("Class", "Images", "Instances", *(metric.heading for metric in METRICS))
    width = max(20, *(len(shown[one.index]) for one in metrics.classes), len("all")) + 2
    say(f"{header[0]:>{width}}" + "".join(f"{title:>11}" for title in header[1:]))

    def row(name: str, counts: tuple[int, int], *fractions: float) -> None:
        cells = (*(f"{count:>11}" for count in counts), *(f"{value:>11.3g}" for value in fractions))
        say(f"{name:>{width}}" + "".join(cells))

    row(
        "all",
        (metrics.images, metrics.objects),
        *(getattr(metrics, metric.name) for metric in METRICS),
    )
    if verbose and len(names) > 1:
        for one in metrics.classes:
            row(
                shown[one.index],
                (one.images, one.objects),
                *(getattr(one, metric.of_class) for metric in METRICS),
            )


def print_costs(validation: Validation, dropped: int) -> None:
    """Print the loss, where it was computed, and the time per image.

    Args:
        validation: Result.
        dropped: Boxes that the loss had no target rows for.
    """
    if (items := validation.items) is not None:
        skipped = f" ({dropped} boxes beyond --max-targets skipped)" if dropped else ""
        terms = "  ".join(f"{name} {value:.4f}" for name, value in items.items())
        say(f"loss: {terms}{skipped}")
    say(
        f"an image took {validation.inference_ms:.1f} ms in the detector, "
        f"{validation.nms_ms:.1f} ms in non-maximum suppression"
    )
