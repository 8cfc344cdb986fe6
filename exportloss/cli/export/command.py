"""`exportloss export`: from a detector to files that train, detect, or go back to YOLOv5."""

from __future__ import annotations

import argparse
from pathlib import Path

from exportloss.cli.arguments import ExportSettings, smooth_labels
from exportloss.cli.export.formats import FILES, FOLDERS
from exportloss.cli.export.from_run import fill_from_run
from exportloss.cli.export.options import (
    add_arguments,
    check_provider,
    class_names,
    nms_settings,
)
from exportloss.cli.export.places import check_places, file_path
from exportloss.cli.export.quantize import check_int8, write_int8
from exportloss.cli.export.suiting import suit_anchors, training_images
from exportloss.cli.export.unused_options import refuse_unused_options
from exportloss.cli.export.weights import load_detector
from exportloss.cli.export.writing import export_artifacts
from exportloss.cli.terminal import say
from exportloss.config import LossConfig
from exportloss.runtime.training.hyp import read_hyp

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a detector as files that train, or detect",
        description="Write a YOLOv5 detector: with its loss, as files that train without PyTorch; "
        "or by itself, for inference or for YOLOv5.",
        epilog="examples: exportloss export --weights yolov5n --data data.yaml --imgsz 320 "
        "--batch-size 4 --output artifacts; "
        "exportloss export --weights best.pt --format onnx --imgsz 640 --output .",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, and print what was written."""
    refuse_unused_options(options)
    check_provider(options.provider, options.format)
    options = fill_from_run(options)
    names, num_classes = class_names(options)
    hyp = smooth_labels(read_hyp(options.hyp), options.label_smoothing)
    settings = ExportSettings.from_options(
        options,
        names=names,
        num_classes=num_classes,
        loss=LossConfig.from_mapping(hyp),
    )
    output = Path(options.output)
    folders = {
        name: output / name if len(options.format) > 1 else output
        for name in options.format
        if name in FOLDERS
    }
    files = {
        name: file_path(options.weights, output, name) for name in options.format if name in FILES
    }
    check_places(options, folders, files)
    nms = nms_settings(options)
    if options.int8:
        check_int8(options, files)
    detector = load_detector(settings)
    # An inference file keeps the detector's anchors: with others its boxes would be wrong.
    suits = None if files else training_images(options.data, settings)
    suit_anchors(detector, settings, suits)
    manifests = export_artifacts(
        settings,
        detector,
        folders,
        files=files,
        nms=nms,
        exist_ok=options.exist_ok,
    )
    if options.int8:
        write_int8(files["onnx"], options.data)
    for name, manifest in manifests.items():
        if manifest.optimizer is not None:
            data = options.data or "data.yaml"
            say(f"next: exportloss train --weights {folders[name]} --data {data}")
    return 0
