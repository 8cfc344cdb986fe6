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
from exportloss.cli.export.own_model import is_function_name
from exportloss.cli.export.places import check_places, file_path
from exportloss.cli.export.quantize import check_int8, write_int8
from exportloss.cli.export.suiting import suit_anchors, suit_loss, training_images
from exportloss.cli.export.unused_options import refuse_unused_options
from exportloss.cli.export.weights import is_size_name, load_detector
from exportloss.cli.export.writing import export_artifacts
from exportloss.cli.terminal import say
from exportloss.config import LossConfig
from exportloss.errors import ConfigError
from exportloss.loss_kinds import LOSS_KINDS
from exportloss.runtime.training.hyp import read_hyp

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a detector as files that train, or detect",
        description="Write a detector, YOLOv5's or your own: with its loss, as files that train "
        "without PyTorch; or by itself, for inference or for YOLOv5.",
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
    own = is_function_name(options.model)
    if not own and options.weights is None:
        raise ConfigError("export needs --weights, or --model with a function of your own")
    if own and options.weights is not None and is_size_name(options.weights):
        raise ConfigError(
            f"--weights {options.weights} is a size of YOLOv5's, which --model {options.model} "
            "cannot take; expected a file of its own weights, or neither for random ones"
        )
    if options.weights is not None:
        options = fill_from_run(options)
    else:
        options = argparse.Namespace(**{**vars(options), "weights": ""})
    names, num_classes = class_names(options)
    loss = LOSS_KINDS[options.loss or LossConfig.kind].settings
    hyp = smooth_labels(read_hyp(options.hyp, loss=loss), options.label_smoothing, loss=loss)
    settings = ExportSettings.from_options(
        options,
        names=names,
        num_classes=num_classes,
        loss=loss.from_mapping(hyp),
    )
    output = Path(options.output)
    folders = {
        name: output / name if len(options.format) > 1 else output
        for name in options.format
        if name in FOLDERS
    }
    files = {
        name: file_path(options.weights or options.model, output, name)
        for name in options.format
        if name in FILES
    }
    check_places(options, folders, files)
    nms = nms_settings(options)
    if options.int8:
        check_int8(options, files)
    detector = load_detector(settings)
    if folders:  # a file of the detector has no loss
        settings = suit_loss(detector, settings, given=hyp)
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
