"""Options of `exportloss export`, and their checks."""

from __future__ import annotations

import argparse
import dataclasses
from typing import get_args

from exportloss.bounds import at_least
from exportloss.cli.arguments import ExportSettings, add_export_arguments
from exportloss.cli.defaults import default_of
from exportloss.cli.export.formats import FILES, FOLDERS, about_formats
from exportloss.errors import ConfigError
from exportloss.export.detector.nms_settings import NmsSettings
from exportloss.loss_kinds import LOSS_KINDS
from exportloss.runtime.artifact.kinds import KINDS_BY_FORMAT, formats_taking
from exportloss.runtime.artifact.manifest import Layout, StepProvider
from exportloss.runtime.data.dataset import read_data_yaml

__all__ = ["add_arguments", "check_provider", "class_names", "nms_settings"]

_FORMATS = ("step",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; None means "not given"."""
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE|RUN",
        help="a size (yolov5n, s, m, l, x; n6, s6, ... for P6; s-v5.0, ... for v5.0's), with "
        "random weights; or a file: a checkpoint of YOLOv5 v5.0 to v7.0 (.pt), a state dict (.pt, "
        ".safetensors), or a run's folder or weights, whose image size and settings are then the "
        "defaults; with a detector of your own (--model) a file of its weights, or a run of it",
    )
    parser.add_argument(
        "--data", metavar="YAML", help="data set to take the class names from (default: the file's)"
    )
    parser.add_argument(
        *("--nc", "--num-classes"),
        type=int,
        metavar="N",
        help="number of classes, without --data (default: the file's)",
    )
    parser.add_argument(
        "--hyp",
        metavar="YAML",
        help="hyperparameters, for the loss; yolov5 or task-aligned for the defaults",
    )
    parser.add_argument(
        "--loss",
        choices=tuple(LOSS_KINDS),
        help="kind of the loss: yolov5 (default), or task-aligned for a detector of your own "
        "without anchors, see --model",
    )
    add_export_arguments(parser.add_argument_group("fixed in the exported graphs"))
    parser.add_argument(
        "--format",
        type=_formats,
        default=_FORMATS,
        metavar="NAMES",
        help=f"what to write, several with commas: {about_formats()} "
        f"(default {','.join(_FORMATS)})",
    )
    parser.add_argument(
        "--gradients",
        action="store_true",
        help="loss alone: output its gradients with respect to the predictions, too",
    )
    parser.add_argument(
        "--layout",
        choices=get_args(Layout),
        help="loss alone: its input: YOLOv5's permuted maps (its default), the output of the "
        "detection layer's convolutions, or their input: it then evaluates them where it looks",
    )
    parser.add_argument(
        "--tiers",
        type=_tiers,
        metavar="NUMBERS",
        help="loss alone: size buckets, numbers of boxes below --max-targets with commas, each "
        "with a graph of its own, which is faster; none for none (default: powers of two from 32)",
    )
    parser.add_argument(
        "--for",
        dest="provider",
        choices=get_args(StepProvider),
        help="engine to write the graphs for: any runtime (default); cpu, ONNX Runtime on a CPU "
        "only, which then takes less time; openvino, likewise, but others run the graphs as well "
        "(step); or gpu, whose writes have no order: TensorRT takes the graphs, and every run "
        "gives the same bits",
    )
    parser.add_argument(
        "--features",
        action="store_const",
        const=True,
        help="portable step with --freeze: write the frozen layers as a graph of their own, too, "
        "for `exportloss train --cache features`",
    )
    parser.add_argument(
        "--output",
        default="artifacts",
        metavar="FOLDER",
        help="ort, step and loss are this folder, or with other formats one in it by their name; "
        "pt, safetensors and onnx are files in it, named after the weights (default %(default)s)",
    )
    parser.add_argument(
        "--exist-ok", action="store_true", help="replace existing files and folders"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=default_of(ExportSettings, "seed"),
        metavar="N",
        help="of random weights (default %(default)s)",
    )
    nms = parser.add_argument_group("for --format onnx")
    nms.add_argument(
        "--nms",
        action="store_true",
        help="append non-maximum suppression: the output is detections (n, 7), image, x1, y1, "
        "x2, y2, confidence, class",
    )
    nms.add_argument(
        "--int8",
        action="store_true",
        help="also write NAME-int8.onnx, with 8-bit convolutions, calibrated with training images "
        "of --data, and print the mAP of both on the validation images",
    )
    for name, kind, metavar, about in (
        ("conf_thres", float, "P", "least confidence"),
        ("iou_thres", float, "P", "most overlap"),
        ("max_det", int, "N", "most boxes per image"),
    ):
        nms.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            metavar=metavar,
            help=f"{about} (default {default_of(NmsSettings, name)})",
        )


def nms_settings(options: argparse.Namespace) -> NmsSettings | None:
    """Return the settings of `--nms`; None without it.

    Raises:
        ConfigError: A setting is out of range, or given without `--nms`.
    """
    names = [field.name for field in dataclasses.fields(NmsSettings)]
    said = {name: value for name in names if (value := getattr(options, name)) is not None}
    if said and not options.nms:
        raise ConfigError(f"--{next(iter(said)).replace('_', '-')} is for --nms; pass that as well")
    return NmsSettings(**said) if options.nms else None


def check_provider(provider: StepProvider | None, formats: tuple[str, ...]) -> None:
    """Check that `--for` applies to all chosen formats.

    Raises:
        ConfigError: It does not; the message names the formats that it applies to.
    """
    taking = formats_taking("provider")
    able = {n for n in taking if provider != "openvino" or KINDS_BY_FORMAT[n].trains}
    chosen = taking & set(formats)
    if provider is not None and not (chosen and chosen <= able):
        raise ConfigError(
            f"--for {provider} applies to --format {' and '.join(sorted(able))}, got --format "
            f"{','.join(formats)}; change one of them"
        )


def class_names(options: argparse.Namespace) -> tuple[tuple[str, ...] | None, int | None]:
    """Return the names of the classes and their number, each None where it is the file's.

    Raises:
        ConfigError: `--nc` is below 1, or not the number of classes of the data set.
        DataError: The data set's file is missing or damaged.
    """
    data, nc = options.data, options.nc
    if nc is not None:
        at_least(1, **{"--nc": nc})
    if data is None:
        return None, 1 if options.single_cls else nc
    names = read_data_yaml(data, single_class=bool(options.single_cls)).names
    if nc not in (None, len(names)):
        raise ConfigError(f"--nc is {nc} but {data} names {len(names)} classes; leave --nc out")
    return names, len(names)


def _formats(text: str) -> tuple[str, ...]:
    names, known = tuple(text.split(",")), (*FOLDERS, *FILES)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no format {name!r}; choose from {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def _tiers(text: str) -> tuple[int, ...]:
    try:
        return () if text == "none" else tuple(map(int, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected whole numbers with commas, such as 32,64, or none"
        ) from None
