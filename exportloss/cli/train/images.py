"""Plots of a training run: its data at the start, its results at the end."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from exportloss.cli.data_report import print_undrawable
from exportloss.cli.detection.validation import ValSettings, validate_detector
from exportloss.cli.terminal import say
from exportloss.cli.train.options import TrainOptions
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.drawing.correlogram import plot_label_correlogram
from exportloss.runtime.drawing.figures import matplotlib_missing
from exportloss.runtime.drawing.mosaics import write_batch
from exportloss.runtime.drawing.plots import plot_labels, plot_results
from exportloss.runtime.evaluation.validate import true_boxes
from exportloss.runtime.training.run_folder import RunFolder

__all__ = ["draw_data", "draw_results", "has_results"]

_DRAWN_BATCHES = 3


def draw_data(folder: RunFolder, batches: Batches, *, again: bool = True) -> None:
    """Draw the labels, and the first batches as they are trained on.

    The files are `labels.jpg`, `labels_correlogram.jpg`, `train_batch0.jpg`, ...

    Args:
        folder: Folder of the run.
        batches: Batches of the training split.
        again: Whether to replace existing files, which a resumed run has.
    """
    print_undrawable(batches.dataset.names)
    names, labels = batches.dataset.names, folder.path / "labels.jpg"
    correlogram = folder.path / "labels_correlogram.jpg"
    if matplotlib_missing() is None:
        if again or not labels.exists():
            plot_labels(labels, batches.labels, names)
        if again or not correlogram.exists():
            plot_label_correlogram(correlogram, batches.labels)
    paths = [folder.path / f"train_batch{number}.jpg" for number in range(_DRAWN_BATCHES)]
    if not again and all(path.exists() for path in paths[: len(batches)]):
        return
    with contextlib.closing(batches.epoch(0)) as stream:
        for path, batch in zip(paths, stream, strict=False):
            boxes = true_boxes(batch, repeated=True)
            write_batch(path, batch, boxes, names, show_confidence=False)


def has_results(folder: RunFolder, *, has_validation: bool) -> bool:
    """Return whether all files of `draw_results` exist; a full disk may have prevented some."""
    names = [] if matplotlib_missing() else ["results.png"]
    if has_validation:
        names += ["val_batch0_labels.jpg", "val_batch0_pred.jpg"]
        names += [] if matplotlib_missing() else ["confusion_matrix.png"]
    return all((folder.path / name).exists() for name in names)


def draw_results(folder: RunFolder, options: TrainOptions, *, has_validation: bool) -> None:
    """Draw `results.png`, and validate the best detector as `exportloss val` does.

    Args:
        folder: Folder of a complete run.
        options: Options of the run.
        has_validation: Whether there are images to validate on.
    """
    if matplotlib_missing() is None and not options.noplots:
        plot_results(folder.path / "results.png", folder.results)
    if not has_validation:
        return
    say(f"\n{folder.best_onnx} on the validation images:")
    path = folder.path
    if path.is_symlink():  # a run that is resumed by a link to it, such as `current`
        path = Path(os.path.realpath(path))
    validate_detector(
        ValSettings(
            weights=str(folder.best_onnx),
            data=options.data,
            device=options.device,
            self_check=options.self_check,
            threads=options.threads,
            workers=options.workers,
            skip_bad=options.skip_bad,
            single_cls=options.single_cls,
            noplots=options.noplots,
            project=str(path.parent),
            name=path.name,
            exist_ok=True,
        )
    )
