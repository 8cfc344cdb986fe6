"""`exportloss val`: how good is a detector on labelled images?"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from exportloss.cli.arguments import image_size
from exportloss.cli.data_report import print_split, print_undrawable
from exportloss.cli.detection.detectors import (
    Opened,
    add_detector_arguments,
    add_folder_arguments,
    open_chosen,
)
from exportloss.cli.outputs import check_run_folder, dataset_files, dataset_folders, dataset_trees
from exportloss.cli.terminal import Terminal, say
from exportloss.errors import ConfigError, excerpt, printable
from exportloss.runtime.data.capacity import fit_targets
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
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
from exportloss.runtime.evaluation.metrics import Metrics
from exportloss.runtime.evaluation.nms import check_thresholds
from exportloss.runtime.evaluation.scores import METRICS
from exportloss.runtime.evaluation.validate import (
    BatchDetections,
    Predict,
    Validation,
    true_boxes,
    validate,
)
from exportloss.runtime.sessions.session import Evaluation
from exportloss.runtime.storage.names import fit_name
from exportloss.runtime.training.run_folder import RunFolder

__all__ = ["add_parser", "print_metrics", "run"]

_BATCH_SIZE = 8
_DRAWN_BATCHES = 3
_FEW_CLASSES = 50  # are always listed, as in YOLOv5


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "val",
        help="precision, recall and mAP of a detector",
        description="Run a detector over a split of a data set and print precision, recall, mAP50 "
        "and mAP50-95 for each class: pycocotools' numbers. Writes a confusion matrix, curves "
        "(with matplotlib) and images. Needs neither torch nor onnx.",
        epilog="example: exportloss val --weights runs/train/exp --data data.yaml",
    )
    parser.add_argument("--data", required=True, metavar="YAML", help="data set, as for train")
    parser.add_argument(
        "--task",
        choices=("train", "val", "test"),
        default="val",
        help="split of the data set (default val)",
    )
    add_detector_arguments(parser, conf_thres=0.001, iou_thres=0.6, max_det=300)
    parser.add_argument(
        *("--batch-size", "--batch"),
        type=int,
        metavar="N",
        help=f"images at a time, where the file takes any number (default {_BATCH_SIZE})",
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="threads that decode (default 2)"
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out images that are damaged or have bad labels, instead of refusing",
    )
    parser.add_argument(
        "--save-txt", action="store_true", help="write a YOLO label file an image, into labels/"
    )
    parser.add_argument(
        "--save-conf", action="store_true", help="with the confidence at the end of its lines"
    )
    parser.add_argument(
        "--save-json",
        action="store_true",
        help="write NAME_predictions.json, COCO's results format; categories are class "
        "numbers, or the ids of the data set's own COCO file",
    )
    parser.add_argument(
        "--single-cls", action="store_true", help="treat all classes as one, called item"
    )
    parser.add_argument("--noplots", action="store_true", help="draw no images and plots")
    parser.add_argument(
        "--verbose", action="store_true", help="list the classes even if there are 50 or more"
    )
    add_folder_arguments(parser, "runs/val")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Validate, print a table, and write what was asked for."""
    config = read_data_yaml(options.data, single_class=options.single_cls)
    opened = open_chosen(options)
    detector = opened.detector
    _check_names(detector.names, config.names)
    check_run_folder(
        options,
        [*dataset_files(config), opened.path],
        searched=dataset_folders(config),
        kept=dataset_trees(config),
        folders=["labels"] if options.save_txt else [],
    )
    batches = Batches(
        Dataset.open(config, options.task),
        detector.check_batch(options.batch_size, default=_BATCH_SIZE),
        detector.check_size(image_size(options.imgsz, stride=detector.stride)),
        workers=options.workers,
        on_bad="skip" if options.skip_bad else "raise",
    )
    if batches.skipped:
        say(f"warning: {batches.skipped} bad images are left out")
    print_split(options.task, batches)
    print_undrawable(config.names)
    thresholds = {name: getattr(options, name) for name in ("conf_thres", "iou_thres", "max_det")}
    check_thresholds(**thresholds)
    run_folder = RunFolder.create(options.project, options.name, exist_ok=options.exist_ok)
    folder = run_folder.path
    writer = _Writer(run_folder, batches.dataset, options)
    left_out: list[int] = []
    console = Terminal()
    with contextlib.closing(batches.epoch(0)) as stream:
        validation = validate(
            _predict(opened, left_out),
            track(
                stream,
                description=options.task,
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
        verbose=options.verbose or len(config.names) < _FEW_CLASSES,
    )
    _print_more(validation, sum(left_out))
    if options.save_json:
        ending = "_predictions.json"
        write_json(folder / f"{fit_name(opened.path.stem, ending)}{ending}", writer.results)
    if options.noplots:
        pass
    elif (missing := matplotlib_missing()) is not None:
        say(missing)
    else:
        plot_confusion_matrix(folder / "confusion_matrix.png", validation.confusion, config.names)
        plot_curves(folder, validation.metrics, config.names)
    say(f"written to {folder}")
    return 0


class _Writer:
    """Writes label files and images as batches come, and keeps COCO's results."""

    def __init__(self, folder: RunFolder, dataset: Dataset, options: argparse.Namespace) -> None:
        self.results: list[dict[str, Any]] = []
        self._folder = folder
        self._names = dataset.names
        self._coco = dataset.coco
        self._stems = iter(unique_stems(dataset.images))
        self._options = options

    def __call__(self, found: BatchDetections) -> None:
        batch, number = found.batch, found.number
        if number < _DRAWN_BATCHES and not self._options.noplots:
            path = self._folder.path / f"val_batch{number}_labels.jpg"
            write_batch(path, batch, true_boxes(batch), self._names, show_confidence=False)
            sure = list(map(surest, found.on_canvas))
            write_batch(path.with_stem(f"val_batch{number}_pred"), batch, sure, self._names)
        images = zip(found.on_image, batch.letterboxes, batch.paths, strict=False)
        for boxes, letterbox, path in images:
            stem = next(self._stems)
            if self._options.save_txt and len(boxes):
                write_labels(
                    self._folder.subfolder("labels") / f"{stem}.txt",
                    boxes,
                    letterbox.source,
                    with_confidence=self._options.save_conf,
                )
            if self._options.save_json:
                self.results += self._as_coco(boxes, path, stem)

    def _as_coco(self, boxes: Boxes, path: Path, stem: str) -> list[dict[str, Any]]:
        if self._coco is not None:
            return coco_results(boxes, self._coco.images[path].id, self._coco.category_ids)
        return coco_results(boxes, int(stem) if stem.isdecimal() else stem)


def _check_names(own: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a data set of another number of classes; say so where names differ."""
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


def _predict(opened: Opened, left_out: list[int]) -> Predict:
    """Return how to predict, with the loss where there is a session.

    Args:
        opened: the detector.
        left_out: takes, for each batch, how many boxes its loss had no room for.
    """
    detector, session = opened.detector, opened.session
    if session is None:
        return lambda batch: detector.predict(batch.images)
    manifest = session.manifest

    def evaluate(batch: Batch) -> Evaluation:
        targets, dropped = fit_targets(batch, manifest, "keep-largest")
        left_out.append(dropped)
        return session.evaluate(batch.images, targets)

    return evaluate


def print_metrics(metrics: Metrics, names: Sequence[str], *, verbose: bool = True) -> None:
    """Print YOLOv5's table: all classes, then each that the labels have.

    Args:
        metrics: of a validation.
        names: the classes of the data set.
        verbose: False leaves out the single classes.
    """
    shown = [excerpt(printable(name)) for name in names]
    header = ("Class", "Images", "Instances", *(metric.heading for metric in METRICS))
    width = max(20, *(len(shown[one.index]) for one in metrics.classes), len("all")) + 2
    say(f"{header[0]:>{width}}" + "".join(f"{title:>11}" for title in header[1:]))

    def row(name: str, counts: tuple[int, int], *shares: float) -> None:
        cells = (*(f"{count:>11}" for count in counts), *(f"{share:>11.3g}" for share in shares))
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


def _print_more(validation: Validation, left_out: int) -> None:
    if (items := validation.items) is not None:
        dropped = f" ({left_out} boxes beyond --max-targets left out)" if left_out else ""
        say(
            f"loss: box {items.box:.4f}  obj {items.objectness:.4f}  cls {items.category:.4f}"
            f"{dropped}"
        )
    say(
        f"an image took {validation.inference_ms:.1f} ms in the detector, "
        f"{validation.nms_ms:.1f} ms in non-maximum suppression"
    )
