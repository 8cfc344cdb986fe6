"""Validation of a detector, for `exportloss val` and at the end of `exportloss train`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from exportloss.cli.arguments import image_size
from exportloss.cli.data_report import print_split, print_undrawable
from exportloss.cli.defaults import default_of
from exportloss.cli.detection.detectors import BATCH_SIZE, Opened, open_detector
from exportloss.cli.detection.val_tables import print_costs, print_metrics
from exportloss.cli.outputs import check_run_folder, dataset_files, dataset_folders, dataset_trees
from exportloss.cli.run_paths import RUN_NAME
from exportloss.cli.terminal import Terminal, say
from exportloss.errors import ConfigError
from exportloss.runtime.data.capacity import fit_targets
from exportloss.runtime.data.dataset import Dataset, Split, read_data_yaml
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.runtime.data.sources import unique_stems
from exportloss.runtime.drawing.figures import matplotlib_missing
from exportloss.runtime.drawing.mosaics import surest, write_batch
from exportloss.runtime.drawing.plots import plot_confusion_matrix, plot_curves
from exportloss.runtime.evaluation.detection_files import (
    Boxes,
    coco_results,
    write_json,
    write_labels,
)
from exportloss.runtime.evaluation.nms import check_thresholds
from exportloss.runtime.evaluation.validate import (
    BatchDetections,
    Predict,
    true_boxes,
    validate,
)
from exportloss.runtime.sessions.session import Evaluation
from exportloss.runtime.storage.names import fit_name
from exportloss.runtime.training.run_folder import RunFolder

__all__ = ["ValSettings", "validate_detector"]

_DRAWN_BATCHES = 3
_FEW_CLASSES = 50  # are always listed, as in YOLOv5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValSettings:
    """Settings of a validation; each field is the flag of its name."""

    weights: str
    data: str
    task: Split = "val"
    imgsz: Sequence[int] | None = None
    conf_thres: float = default_of(validate, "conf_thres")
    iou_thres: float = default_of(validate, "iou_thres")
    max_det: int = default_of(validate, "max_det")
    batch_size: int | None = None
    device: str = default_of(open_detector, "device")
    self_check: bool = default_of(open_detector, "self_check")
    threads: int | None = None
    time_limit: float = default_of(open_detector, "time_limit")
    workers: int = default_of(Batches, "workers")
    skip_bad: bool = False
    save_txt: bool = False
    save_conf: bool = False
    save_json: bool = False
    single_cls: bool = False
    noplots: bool = False
    verbose: bool = False
    project: str = "runs/val"
    name: str = RUN_NAME
    exist_ok: bool = False


def validate_detector(settings: ValSettings) -> None:
    """Validate, print a table, and write the files that the settings ask for.

    Raises:
        ExportLossError: A setting, the data set or the detector is refused.
    """
    config = read_data_yaml(settings.data, single_class=settings.single_cls)
    opened = open_detector(
        settings.weights,
        device=settings.device,
        threads=settings.threads,
        self_check=settings.self_check,
        time_limit=settings.time_limit,
    )
    detector = opened.detector
    _check_names(detector.names, config.names)
    check_run_folder(
        Path(settings.project, settings.name),
        [*dataset_files(config), opened.path],
        exist_ok=settings.exist_ok,
        searched=dataset_folders(config),
        kept=dataset_trees(config),
        folders=["labels"] if settings.save_txt else [],
    )
    batches = Batches(
        Dataset.open(config, settings.task),
        detector.check_batch(settings.batch_size, default=BATCH_SIZE),
        detector.check_size(image_size(settings.imgsz, stride=detector.stride)),
        workers=settings.workers,
        on_bad="skip" if settings.skip_bad else "raise",
    )
    if batches.skipped:
        say(f"warning: {batches.skipped} bad images are skipped")
    print_split(settings.task, batches)
    print_undrawable(config.names)
    thresholds = {name: getattr(settings, name) for name in ("conf_thres", "iou_thres", "max_det")}
    check_thresholds(**thresholds)
    run_folder = RunFolder.create(settings.project, settings.name, exist_ok=settings.exist_ok)
    folder = run_folder.path
    writer = ValidationWriter(run_folder, batches.dataset, settings)
    dropped: list[int] = []
    console = Terminal()
    with contextlib.closing(batches.epoch(0)) as stream:
        validation = validate(
            _predict(opened, dropped),
            track(
                stream,
                description=settings.task,
                total=len(batches),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ),
            num_classes=config.num_classes,
            tell=writer,
            **thresholds,
        )
    print_metrics(
        validation.metrics,
        config.names,
        verbose=settings.verbose or len(config.names) < _FEW_CLASSES,
    )
    print_costs(validation, sum(dropped))
    if settings.save_json:
        ending = "_predictions.json"
        write_json(folder / f"{fit_name(opened.path.stem, ending)}{ending}", writer.results)
    if settings.noplots:
        pass
    elif (missing := matplotlib_missing()) is not None:
        say(missing)
    else:
        plot_confusion_matrix(folder / "confusion_matrix.png", validation.confusion, config.names)
        plot_curves(folder, validation.metrics, config.names)
    say(f"written to {folder}")


class ValidationWriter:
    """Writes label files and images per batch, and collects COCO's results.

    Args:
        folder: Run folder to write into.
        dataset: Data set that is validated on.
        settings: Settings of the validation.

    Attributes:
        results: Entries of `NAME_predictions.json`; empty without `save_json`.
    """

    def __init__(self, folder: RunFolder, dataset: Dataset, settings: ValSettings) -> None:
        self.results: list[dict[str, Any]] = []
        self._folder = folder
        self._names = dataset.names
        self._coco = dataset.coco
        self._stems = iter(unique_stems(dataset.images))
        self._settings = settings

    def __call__(self, found: BatchDetections) -> None:
        batch, number = found.batch, found.number
        if number < _DRAWN_BATCHES and not self._settings.noplots:
            path = self._folder.path / f"val_batch{number}_labels.jpg"
            write_batch(path, batch, true_boxes(batch), self._names, show_confidence=False)
            sure = list(map(surest, found.on_canvas))
            write_batch(path.with_stem(f"val_batch{number}_pred"), batch, sure, self._names)
        images = zip(found.on_image, batch.letterboxes, batch.paths, strict=False)
        for boxes, letterbox, path in images:
            stem = next(self._stems)
            if self._settings.save_txt and len(boxes):
                write_labels(
                    self._folder.subfolder("labels") / f"{stem}.txt",
                    boxes,
                    letterbox.source,
                    with_confidence=self._settings.save_conf,
                )
            if self._settings.save_json:
                self.results += self._as_coco(boxes, path, stem)

    def _as_coco(self, boxes: Boxes, path: Path, stem: str) -> list[dict[str, Any]]:
        if self._coco is not None:
            return coco_results(boxes, self._coco.images[path].id, self._coco.category_ids)
        return coco_results(boxes, int(stem) if stem.isdecimal() else stem)


def _check_names(own: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a data set with another number of classes; print a note if names differ."""
    if own and len(own) != len(names):
        raise ConfigError(
            f"the detector has {len(own)} classes, the data set {len(names)}; use the data set "
            "that it was trained on"
        )
    unnamed = list(map(str, range(len(own))))
    for index, (mine, theirs) in enumerate(zip(own, names, strict=False)):
        if mine != theirs and list(own) != unnamed:
            say(f"note: class {index} is {mine!r} in the detector, {theirs!r} in the data set")
            break


def _predict(opened: Opened, dropped: list[int]) -> Predict:
    """Return the function that predicts a batch, with the loss if there is a session.

    Args:
        opened: Detector.
        dropped: List that gets, per batch, the number of boxes beyond the loss's capacity.
    """
    detector, session = opened.detector, opened.session
    if session is None:
        return lambda batch: detector.predict(batch.images)
    manifest = session.manifest

    def evaluate(batch: Batch) -> Evaluation:
        targets, beyond = fit_targets(batch, manifest, "keep-largest")
        dropped.append(beyond)
        return session.evaluate(batch.images, targets)

    return evaluate
