"""Anchors that suit the training images of a detector."""

from __future__ import annotations

from exportloss.cli.arguments import ExportSettings
from exportloss.cli.data_report import print_recall, print_skipped
from exportloss.cli.export.weights import LoadedDetector
from exportloss.cli.terminal import say
from exportloss.errors import DataError
from exportloss.runtime.data.anchors import (
    Anchors,
    as_anchors,
    best_possible_recall,
    box_sides,
    improve_anchors,
)
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches

__all__ = ["suit_anchors", "training_images"]


def suit_anchors(
    detector: LoadedDetector, settings: ExportSettings, batches: Batches | None
) -> None:
    """Give a detector the anchors of `--anchors`, or fitted ones if its own fit too few boxes.

    Args:
        detector: Detector whose anchors are replaced in place.
        settings: Settings of the export.
        batches: Batches of the training split; None if it is unknown.

    Raises:
        ConfigError: The anchors of `--anchors` have another shape than the detector's.
    """
    if settings.anchors is not None:
        detector.model.set_anchors(settings.anchors)
    if batches is None or not any(map(len, batches.labels)):
        return
    anchors = as_anchors(detector.model.anchors_px.double().numpy())
    if settings.anchors is None and settings.autoanchor:
        anchors = _improved(detector, settings, batches, anchors)
    recall = best_possible_recall(box_sides(batches), anchors, settings.loss.anchor_t)
    print_recall(recall, can_change=True)


def _improved(
    detector: LoadedDetector, settings: ExportSettings, batches: Batches, anchors: Anchors
) -> Anchors:
    anchor_t = settings.loss.anchor_t
    try:
        fit = improve_anchors(batches, anchors, anchor_t=anchor_t, seed=settings.seed)
    except DataError as error:  # too few boxes; `print_recall` warns
        say(f"note: {error}")
        return anchors
    if fit.anchors == anchors:
        return anchors
    detector.model.set_anchors(fit.anchors)
    listed = "; ".join(
        ", ".join(f"{width:.0f} x {height:.0f}" for width, height in level) for level in fit.anchors
    )
    say(
        f"anchors: fitted to the training images ({listed}), since the detector's own have a best "
        f"possible recall of {fit.before:.4f} (--noautoanchor keeps them)"
    )
    return fit.anchors


def training_images(data: str | None, settings: ExportSettings) -> Batches | None:
    """Read the training split of a data set; None, with a note, if it is missing.

    Bad images are skipped here; the training reports them.
    """
    if data is None:
        return None
    try:
        dataset = Dataset.open(read_data_yaml(data), "train")
        print_skipped(dataset.irregular)
        return Batches(dataset, settings.batch_size, settings.image_size, on_bad="skip")
    except DataError as error:
        say(f"note: the anchors are not checked, without training images: {error}")
        return None
