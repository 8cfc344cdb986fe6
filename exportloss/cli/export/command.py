"""`exportloss export`: from a detector to files that train, detect, or go back to YOLOv5."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from exportloss.bounds import at_least
from exportloss.cli.arguments import ExportSettings, add_export_arguments, smooth_labels
from exportloss.cli.export.formats import FILES, FOLDERS, about_formats
from exportloss.cli.export.from_run import fill_from_run
from exportloss.cli.export.quantize import check_int8, write_int8
from exportloss.cli.export.suiting import suit_anchors, training_images
from exportloss.cli.export.unused_options import refuse_unused_options
from exportloss.cli.export.weights import LoadedDetector, is_file_name, load_detector
from exportloss.cli.outputs import check_outputs
from exportloss.cli.terminal import say
from exportloss.config import LossConfig
from exportloss.errors import ArtifactError, ConfigError
from exportloss.runtime.artifact.folder import check_place
from exportloss.runtime.artifact.kinds import KINDS_BY_FORMAT, formats_taking
from exportloss.runtime.artifact.manifest import MANIFEST_NAME, Layout, LossProvider, Manifest
from exportloss.runtime.data.dataset import read_data_yaml
from exportloss.runtime.training.hyp import read_hyp

if TYPE_CHECKING:
    from exportloss.export import NmsSettings
    from exportloss.models import YoloV5

__all__ = ["ExportSettings", "add_parser", "export_artifacts", "run"]

_NMS = ("conf_thres", "iou_thres", "max_det")


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
    parser.add_argument(
        "--weights",
        required=True,
        metavar="NAME|FILE|RUN",
        help="a size (yolov5n, s, m, l, x; n6, s6, ... for P6; s-v5.0, ... for v5.0's), with "
        "random weights; or a file: a checkpoint of YOLOv5 v5.0 to v7.0 (.pt), a state dict (.pt, "
        ".safetensors), or a run's folder or weights, whose image size and settings are then the "
        "defaults",
    )
    parser.add_argument(
        "--data", metavar="YAML", help="data set to take the class names from (default: the file's)"
    )
    parser.add_argument(
        *("--nc", "--num-classes"),
        type=int,
        metavar="N",
        help="number of classes, where there is no --data (default: the file's)",
    )
    parser.add_argument("--hyp", metavar="YAML", help="YOLOv5 hyperparameters, for the loss")
    add_export_arguments(parser.add_argument_group("fixed in the exported graphs"))
    parser.add_argument(
        "--format",
        type=_formats,
        default=("step",),
        metavar="NAMES",
        help=f"what to write, several with commas: {about_formats()} (default step)",
    )
    parser.add_argument(
        "--gradients",
        action="store_true",
        help="loss alone: with its gradients with respect to the predictions",
    )
    parser.add_argument(
        "--layout",
        choices=get_args(Layout),
        help="loss alone: what it starts from: YOLOv5's permuted maps (default), the output of the "
        "detection layer's convolutions, or their input, where it evaluates them where it looks",
    )
    parser.add_argument(
        "--tiers",
        type=_tiers,
        metavar="NUMBERS",
        help="loss alone: numbers of boxes below --max-targets, with commas, that get a graph of "
        "their own, which is faster; none for none (default: powers of two from 32)",
    )
    parser.add_argument(
        "--for",
        dest="provider",
        choices=get_args(LossProvider),
        help="for any runtime (default); for a GPU, whose writes have no order: TensorRT takes the "
        "graphs, and every run gives the same bits (step and loss); or for ONNX Runtime on a CPU "
        "alone, which then writes the gradients of maps in one pass (loss)",
    )
    parser.add_argument(
        "--output",
        default="artifacts",
        metavar="FOLDER",
        help="ort, step and loss are this folder, or with other formats one in it by their name; "
        "pt, safetensors and onnx are files in it, named after the weights (default %(default)s)",
    )
    parser.add_argument("--exist-ok", action="store_true", help="replace what is there")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of random weights (default 0)"
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
        help="write NAME-int8.onnx as well, with 8-bit convolutions, calibrated with training "
        "images of --data, and print the mAP of both on those for validation",
    )
    nms.add_argument(
        "--conf-thres", type=float, metavar="P", help="least confidence (default 0.25)"
    )
    nms.add_argument("--iou-thres", type=float, metavar="P", help="most overlap (default 0.45)")
    nms.add_argument("--max-det", type=int, metavar="N", help="most boxes an image (default 300)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, and print what was written."""
    refuse_unused_options(options)
    _check_provider(options.provider, options.format)
    options = fill_from_run(options)
    names, num_classes = _classes(options)
    hyp = smooth_labels(read_hyp(options.hyp), options)
    settings = ExportSettings.from_options(
        options,
        names=names,
        num_classes=num_classes,
        loss=LossConfig.from_mapping(hyp),
        gradients=options.gradients,
        layout=options.layout or "permuted",
        tiers=options.tiers,
        provider=options.provider or "any",
    )
    output = Path(options.output)
    folders = {
        name: output / name if len(options.format) > 1 else output
        for name in options.format
        if name in FOLDERS
    }
    files = {name: _file(options.weights, output, name) for name in options.format if name in FILES}
    _check_places(options, folders, files)
    wants_nms = _wants_nms(options)
    if options.int8:
        check_int8(options, files)
    detector = load_detector(settings)
    # An inference file is of a detector as it is: other anchors would spoil it.
    suits = None if files else training_images(options.data, settings)
    suit_anchors(detector, settings, suits)
    manifests = export_artifacts(
        settings,
        detector,
        folders,
        files=files,
        nms=_nms_settings(options) if wants_nms else None,
        exist_ok=options.exist_ok,
    )
    if options.int8:
        write_int8(files["onnx"], options.data)
    for name, manifest in manifests.items():
        if manifest.optimizer is not None:
            data = options.data or "data.yaml"
            say(f"next: exportloss train --weights {folders[name]} --data {data}")
    return 0


def export_artifacts(
    settings: ExportSettings,
    detector: LoadedDetector,
    folders: Mapping[str, Path],
    *,
    files: Mapping[str, Path] | None = None,
    nms: NmsSettings | None = None,
    exist_ok: bool = False,
) -> dict[str, Manifest]:
    """Export each format into its folder or file, and print what was written.

    Returns:
        The manifests of the folders, by format.

    Raises:
        ExportLossError: a setting is wrong, or the export was refused.
    """
    from exportloss.loss.yolo_loss import YoloLoss

    if settings.precision != "float32" and (others := folders.keys() - formats_taking("precision")):
        raise ConfigError(
            f"--precision {settings.precision} is of --format step, not of {', '.join(others)}; "
            "leave one of them out"
        )
    model = detector.model
    config = settings.loss
    if settings.scale_gains:
        config = config.scaled(
            levels=len(model.strides),
            num_classes=model.num_classes,
            image_size=settings.image_size,
        )
    loss = YoloLoss(model.anchors_px, model.strides, model.num_classes, config)
    height, width = settings.image_size
    about = f"{model.name}: {model.num_classes} classes, images of {height} x {width}"
    if folders:
        about += f", batches of {settings.batch_size}, up to {settings.max_targets} targets"
    say(f"{about}\nweights: {detector.about}")
    if folders:
        scaled = ", scaled to model and image size" if settings.scale_gains else ""
        say(f"gains: box {config.box:.4g}, obj {config.obj:.4g}, cls {config.cls:.4g}{scaled}")
    for name, path in (files or {}).items():
        started = time.monotonic()
        FILES[name].write(settings, detector, nms, path)
        say(f"{path} ({time.monotonic() - started:.1f} s)")
    manifests = {}
    for name, folder in folders.items():
        started = time.monotonic()
        manifest = FOLDERS[name].write(settings, detector, loss, folder, exist_ok)
        _print_folder(folder, manifest, model, time.monotonic() - started)
        manifests[name] = manifest
    return manifests


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


def _file(weights: str, output: Path, suffix: str) -> Path:
    """Name a file after the weights: of `runs/best.safetensors` or `n` best.onnx, yolov5n.onnx."""
    stem = (
        Path(weights).stem if is_file_name(weights) else f"yolov5{weights.removeprefix('yolov5')}"
    )
    return output / f"{stem}.{suffix}"


def _check_provider(provider: LossProvider | None, formats: tuple[str, ...]) -> None:
    taking = formats_taking("provider")
    able = {name for name in taking if not (provider == "cpu" and KINDS_BY_FORMAT[name].trains)}
    chosen = taking & set(formats)
    if provider is not None and not (chosen and chosen <= able):
        raise ConfigError(
            f"--for {provider} applies to --format {' and '.join(sorted(able))}, got --format "
            f"{','.join(formats)}; change one of them"
        )


def _check_places(
    options: argparse.Namespace, folders: Mapping[str, Path], files: Mapping[str, Path]
) -> None:
    """See that nothing is overwritten unasked, and what is read not at all."""
    read = {name: getattr(options, name) for name in ("weights", "data", "hyp")}
    read = {name: Path(path) for name, path in read.items() if path and Path(path).exists()}
    check_outputs(read.values(), (), trees=folders.values())
    for path in files.values():
        for name, one in read.items():
            if path.exists() and path.samefile(one):
                raise ArtifactError(
                    f"{path} is what --{name} is read from; choose another --output"
                )
        if (path.parent / MANIFEST_NAME).exists():
            raise ArtifactError(f"{path.parent} is an artifacts folder; choose another --output")
    for folder in folders.values():
        check_place(folder, exist_ok=options.exist_ok)
    taken = [path for path in files.values() if path.exists()]
    if taken and not options.exist_ok:
        raise ArtifactError(
            f"{taken[0]} exists already; choose another --output, or say --exist-ok"
        )


def _wants_nms(options: argparse.Namespace) -> bool:
    said = [name for name in _NMS if getattr(options, name) is not None]
    if said and not options.nms:
        raise ConfigError(f"--{said[0].replace('_', '-')} is for --nms; say that as well")
    return bool(options.nms)


def _nms_settings(options: argparse.Namespace) -> NmsSettings:
    from exportloss.export import NmsSettings

    said = {name: value for name in _NMS if (value := getattr(options, name)) is not None}
    return NmsSettings(**said)


def _classes(options: argparse.Namespace) -> tuple[tuple[str, ...] | None, int | None]:
    data, nc = options.data, options.nc
    if nc is not None:
        at_least(1, **{"--nc": nc})
    if data is None:
        return None, 1 if options.single_cls else nc
    names = read_data_yaml(data, single_class=bool(options.single_cls)).names
    if nc not in (None, len(names)):
        raise ConfigError(f"--nc is {nc} but {data} names {len(names)} classes; leave --nc out")
    return names, len(names)


def _print_folder(folder: Path, manifest: Manifest, model: YoloV5, seconds: float) -> None:
    say(f"{folder} ({manifest.kind}, {seconds:.1f} s)")
    if manifest.optimizer is not None:
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        total, trained = sum(sizes.values()), sum(sizes[name] for name in manifest.groups.all)
        say(
            f"  {total:,} parameters, {total - trained:,} of them frozen, {manifest.optimizer}, "
            f"{manifest.head} head"
        )
    for name, entry in manifest.files.items():
        say(f"  {name:24}{entry.size / 1e3:>12,.1f} kB")
