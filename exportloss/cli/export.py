"""`exportloss export`: from a detector to a folder of files that train."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exportloss.cli.arguments import ExportSettings, add_export_arguments
from exportloss.cli.weights import LoadedDetector, load_detector
from exportloss.config import LossConfig
from exportloss.errors import ArtifactError, ConfigError
from exportloss.runtime.dataset import read_data_yaml
from exportloss.runtime.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from exportloss.loss import YoloLoss
    from exportloss.models import YoloV5

__all__ = ["FORMATS", "ExportSettings", "add_parser", "export_artifacts", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a detector and its loss as files that train",
        description="Write a YOLOv5 detector and its loss as files that train without PyTorch.",
        epilog="example: exportloss export --weights yolov5n --data data.yaml --imgsz 320 "
        "--batch-size 4 --output artifacts",
    )
    parser.add_argument(
        "--weights",
        required=True,
        metavar="NAME|FILE",
        help="a size (yolov5n, s, m, l, x; n6, s6, ... for P6), with random weights, or a "
        ".safetensors or .pt file of YOLOv5's tensors by name, with --model",
    )
    parser.add_argument("--data", metavar="YAML", help="data set to take the class names from")
    parser.add_argument(
        *("--nc", "--num-classes"),
        type=int,
        metavar="N",
        help="number of classes, where there is no --data",
    )
    parser.add_argument("--hyp", metavar="YAML", help="YOLOv5 hyperparameters, for the loss")
    add_export_arguments(parser.add_argument_group("fixed in the exported graphs"))
    parser.add_argument(
        "--format",
        type=_formats,
        default=("ort",),
        metavar="NAMES",
        help="what to write, several with commas, each into a folder of its own: "
        + "; ".join(f"{name}: {one.about}" for name, one in FORMATS.items())
        + " (default ort)",
    )
    parser.add_argument(
        "--output", default="artifacts", metavar="FOLDER", help="default %(default)s"
    )
    parser.add_argument("--exist-ok", action="store_true", help="replace artifacts that are there")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of random weights (default 0)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, and print what was written."""
    names, num_classes = _classes(options.data, options.nc)
    settings = ExportSettings.from_options(
        options,
        names=names,
        num_classes=num_classes,
        loss=LossConfig() if options.hyp is None else LossConfig.from_yaml(options.hyp),
    )
    output = Path(options.output)
    folders = {
        name: output / name if len(options.format) > 1 else output for name in options.format
    }
    for folder in folders.values():
        if (folder / MANIFEST_NAME).exists() and not options.exist_ok:
            raise ArtifactError(
                f"{folder} exists already; choose another --output, or say --exist-ok"
            )
    detector = load_detector(settings)
    manifests = export_artifacts(settings, detector, folders, exist_ok=options.exist_ok)
    for name, manifest in manifests.items():
        if manifest.optimizer is not None:
            data = options.data or "data.yaml"
            print(f"next: exportloss train --weights {folders[name]} --data {data}")
    return 0


def export_artifacts(
    settings: ExportSettings,
    detector: LoadedDetector,
    folders: dict[str, Path],
    *,
    exist_ok: bool = False,
) -> dict[str, Manifest]:
    """Export each format into its folder, and print what was written.

    Raises:
        ExportLossError: a setting is wrong, or the export was refused.
    """
    from exportloss.loss import YoloLoss

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
    print(
        f"{model.name}: {model.num_classes} classes, pictures of {height} x {width}, batches of "
        f"{settings.batch_size}, up to {settings.max_targets} targets\nweights: {detector.about}\n"
        f"gains: box {config.box:.4g}, obj {config.obj:.4g}, cls {config.cls:.4g}"
        + (", scaled to model and picture size" if settings.scale_gains else "")
    )
    manifests = {}
    for name, folder in folders.items():
        started = time.monotonic()
        manifest = FORMATS[name].write(settings, model, loss, folder, exist_ok)
        _print_folder(folder, manifest, model, time.monotonic() - started)
        manifests[name] = manifest
    return manifests


def _write_training(exporter: str) -> Callable[..., Manifest]:
    """Make the writer of a kind of artifact that trains; all take the same settings."""

    def write(
        settings: ExportSettings, model: YoloV5, loss: YoloLoss, folder: Path, exist_ok: bool
    ) -> Manifest:
        import exportloss.export

        export: Callable[..., Manifest] = getattr(exportloss.export, exporter)
        return export(
            model,
            loss,
            folder,
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            max_targets=settings.max_targets,
            optimizer=settings.optimizer,
            freeze=settings.freeze,
            names=settings.names,
            exist_ok=exist_ok,
        )

    return write


def _write_loss(
    settings: ExportSettings, model: YoloV5, loss: YoloLoss, folder: Path, exist_ok: bool
) -> Manifest:
    from exportloss.export import export_loss

    return export_loss(
        loss,
        folder,
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        max_targets=settings.max_targets,
        names=settings.names,
        exist_ok=exist_ok,
    )


@dataclasses.dataclass(frozen=True)
class _Format:
    about: str
    write: Callable[[ExportSettings, YoloV5, YoloLoss, Path, bool], Manifest]


FORMATS = {
    "ort": _Format("ONNX Runtime training artifacts", _write_training("export_training_artifacts")),
    "step": _Format(
        "a training step in standard operators, for any onnxruntime",
        _write_training("export_train_step"),
    ),
    "loss": _Format("the loss alone", _write_loss),
}


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(
                f"no format {name!r}; choose from {', '.join(FORMATS)}"
            )
    return tuple(dict.fromkeys(names))


def _classes(data: str | None, nc: int | None) -> tuple[tuple[str, ...] | None, int | None]:
    if nc is not None and nc < 1:
        raise ConfigError(f"--nc is {nc}; expected at least 1")
    if data is None:
        return None, nc
    names = read_data_yaml(data).names
    if nc not in (None, len(names)):
        raise ConfigError(f"--nc is {nc} but {data} names {len(names)} classes; leave --nc out")
    return names, len(names)


def _print_folder(folder: Path, manifest: Manifest, model: YoloV5, seconds: float) -> None:
    print(f"{folder} ({manifest.kind}, {seconds:.1f} s)")
    if manifest.optimizer is not None:
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        total, trained = sum(sizes.values()), sum(sizes[name] for name in manifest.groups.all)
        print(f"  {total:,} parameters, {total - trained:,} of them frozen, {manifest.optimizer}")
    for name, entry in manifest.files.items():
        print(f"  {name:24}{entry.size / 1e3:>12,.1f} kB")
