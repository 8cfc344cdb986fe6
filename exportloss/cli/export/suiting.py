"""A loss that suits a detector, and anchors that suit its training images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from exportloss.cli.arguments import ExportSettings
from exportloss.cli.data_report import print_recall, print_skipped
from exportloss.cli.export.weights import LoadedDetector
from exportloss.cli.terminal import say
from exportloss.config import LossConfig
from exportloss.errors import ConfigError, DataError
from exportloss.loss_kinds import LOSS_KINDS
from exportloss.runtime.data.anchors import (
    Anchors,
    as_anchors,
    best_possible_recall,
    box_sides,
    improve_anchors,
)
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.task_aligned_config import TaskAlignedConfig

__all__ = ["suit_anchors", "suit_loss", "training_images"]


def suit_loss(
    detector: LoadedDetector, settings: ExportSettings, *, given: Mapping[str, Any]
) -> ExportSettings:
    """Return the settings with a loss for the detector.

    A detector's own `reg_max` holds for a loss that has this setting, unless it is given.

    Args:
        detector: Detector to export.
        settings: Settings of the export.
        given: Hyperparameters as read.

    Raises:
        ConfigError: The loss has anchors and the detector has none, or the reverse.
    """
    has_anchors = hasattr(detector.model, "anchors_px")
    loss, kind = settings.loss, LOSS_KINDS[settings.loss.kind]
    if has_anchors != kind.has_anchors:
        suiting = ", ".join(
            row.name for row in LOSS_KINDS.values() if row.has_anchors != kind.has_anchors
        )
        raise ConfigError(
            f"--loss {kind.name} is for detectors {'with' if kind.has_anchors else 'without'} "
            f"anchors, unlike {type(detector.model).__name__}; pass --loss {suiting}"
        )
    bins = getattr(detector.model, "reg_max", None)
    if isinstance(loss, TaskAlignedConfig) and bins is not None and "reg_max" not in given:
        loss = dataclasses.replace(loss, reg_max=bins)
    return dataclasses.replace(settings, loss=loss)


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
    if not isinstance(settings.loss, LossConfig) or not hasattr(detector.model, "set_anchors"):
        if settings.anchors is not None:
            raise ConfigError("--anchors applies to YOLOv5's detectors; leave it out")
        return
    if settings.anchors is not None:
        detector.model.set_anchors(settings.anchors)
    if batches is None or not any(map(len, batches.labels)):
        return
    anchors = as_anchors(detector.model.anchors_px.double().numpy())
    if settings.anchors is None and settings.autoanchor:
        anchors = _improved(detector, settings.loss, batches, anchors, seed=settings.seed)
    recall = best_possible_recall(box_sides(batches), anchors, settings.loss.anchor_t)
    print_recall(recall, can_change=True)


def _improved(
    detector: LoadedDetector, loss: LossConfig, batches: Batches, anchors: Anchors, *, seed: int
) -> Anchors:
    try:
        fit = improve_anchors(batches, anchors, anchor_t=loss.anchor_t, seed=seed)
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
