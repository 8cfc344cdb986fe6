"""`exportloss val`: precision, recall and mAP of a detector on labelled images."""

from __future__ import annotations

import argparse
import functools
from typing import get_args

from exportloss.cli.defaults import default_of, fill
from exportloss.cli.detection.detectors import (
    BATCH_SIZE,
    add_detector_arguments,
    add_folder_arguments,
)
from exportloss.cli.detection.validation import ValSettings, validate_detector
from exportloss.runtime.data.dataset import Split

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    default = functools.partial(default_of, ValSettings)
    parser = subparsers.add_parser(
        "val",
        help="precision, recall and mAP of a detector",
        description="Run a detector over a split of a data set and print precision, recall, mAP50 "
        "and mAP50-95 per class: pycocotools' numbers. Writes a confusion matrix, curves "
        "(with matplotlib) and images. Needs neither torch nor onnx.",
        epilog="example: exportloss val --weights runs/train/exp --data data.yaml",
    )
    parser.add_argument("--data", required=True, metavar="YAML", help="data set, as for train")
    parser.add_argument(
        "--task",
        choices=get_args(Split),
        default=default("task"),
        help="split of the data set (default %(default)s)",
    )
    add_detector_arguments(
        parser,
        conf_thres=default("conf_thres"),
        iou_thres=default("iou_thres"),
        max_det=default("max_det"),
    )
    parser.add_argument(
        *("--batch-size", "--batch"),
        type=int,
        metavar="N",
        help=f"images per batch, if the file takes any number (default {BATCH_SIZE})",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=default("workers"),
        metavar="N",
        help="threads that decode (default %(default)s)",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="skip images that are damaged or have bad labels, instead of refusing",
    )
    parser.add_argument(
        "--save-txt", action="store_true", help="write a YOLO label file per image, into labels/"
    )
    parser.add_argument(
        "--save-conf",
        action="store_true",
        help="add the confidence at the end of each line of label files",
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
    add_folder_arguments(parser, default("project"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Validate, print a table, and write the requested files."""
    validate_detector(fill(ValSettings, options))
    return 0
