"""Detectors judged on a validation split, to choose one of them."""

from __future__ import annotations

import contextlib

from exportloss.cli.detection.detectors import BATCH_SIZE
from exportloss.runtime.data.dataset import DataConfig, Dataset
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.scores import Scores, scores_of
from exportloss.runtime.evaluation.validate import validate

__all__ = ["judge_detector", "validation_batches"]


def judge_detector(detector: Detector, config: DataConfig) -> Scores:
    """Return the scores of a detector on the validation split of a data set.

    Raises:
        DataError: The data set has no such split, or an image is bad.
        ArtifactError: The detector cannot be run.
    """
    with contextlib.closing(validation_batches(detector, config).epoch(0)) as stream:
        validation = validate(
            lambda batch: detector.predict(batch.images), stream, num_classes=config.num_classes
        )
    return scores_of(validation.metrics)


def validation_batches(detector: Detector, config: DataConfig) -> Batches:
    """Return the batches of the validation split, of the detector's size."""
    return Batches(
        Dataset.open(config, "val"),
        detector.check_batch(None, default=BATCH_SIZE),
        detector.check_size(None),
    )
