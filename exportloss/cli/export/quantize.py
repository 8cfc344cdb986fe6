"""`exportloss export --int8`: a detector in 8 bits, compared with the one in float32."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from exportloss.cli.terminal import say
from exportloss.errors import ArtifactError, ConfigError, DataError, InstallationError
from exportloss.runtime.data.dataset import DataConfig, Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.nms import check_predictions
from exportloss.runtime.evaluation.validate import Predict, validate
from exportloss.runtime.sessions.installation import how_to_install

__all__ = ["check_int8", "int8_path", "write_int8"]


def int8_path(path: Path) -> Path:
    """Return the path of the 8-bit file of a detector: `best-int8.onnx` for `best.onnx`."""
    return path.with_stem(f"{path.stem}-int8")


def check_int8(options: argparse.Namespace, files: Mapping[str, Path]) -> None:
    """Check the conditions of `--int8` before anything is exported.

    Raises:
        ConfigError: It needs another option, or contradicts one.
        ArtifactError: Its file exists already.
    """
    if "onnx" not in files or options.nms:
        raise ConfigError(
            "--int8 applies to --format onnx without --nms; change these, or leave it out"
        )
    if options.data is None:
        raise ConfigError(
            "--int8 is calibrated with training images; pass the data set with --data"
        )
    if (taken := int8_path(files["onnx"])).exists() and not options.exist_ok:
        raise ArtifactError(f"{taken} exists already; choose another --output, or pass --exist-ok")


def write_int8(path: Path, data: str) -> Path:
    """Write an inference file in 8 bits, and print mAP, size and time of both.

    Args:
        path: Inference file in float32.
        data: Data set whose training images calibrate and whose validation images compare.

    Returns:
        The path of the 8-bit file.

    Raises:
        ArtifactError: The detector's outputs are not finite.
        DataError: There are no training images.
        InstallationError: A package of onnxruntime's quantizer is missing.
    """
    try:
        from exportloss.export.detector.int8 import CALIBRATION_IMAGES, quantize_detector
    except ModuleNotFoundError as error:
        raise InstallationError(
            f"--int8 needs {error.name}, which is not installed; {how_to_install('export')}"
        ) from error
    config, started = read_data_yaml(data), time.monotonic()
    size = Detector.open(path).check_size(None)
    images = Batches(Dataset.open(config, "train"), 1, size, on_bad="skip")
    _check_first(path, images)
    quantize_detector(path, int8_path(path), images)
    count = min(len(images.dataset), CALIBRATION_IMAGES)
    say(f"{int8_path(path)} ({time.monotonic() - started:.1f} s, calibrated with {count} images)")
    _compare(path, config)
    return int8_path(path)


def _check_first(path: Path, images: Batches) -> None:
    """Check the detector on one image: ranges that are not finite cannot be calibrated."""
    with contextlib.closing(images.epoch(0)) as stream:
        for batch in stream:
            check_predictions(Detector.open(path).predict(batch.images))
            return


def _compare(path: Path, config: DataConfig) -> None:
    try:
        dataset = Dataset.open(config, "val")
    except DataError as error:
        say(f"note: not judged, without images for validation: {error}")
        return
    say(f"{'':10}{'mAP50':>9}{'mAP50-95':>10}{'MB':>8}{'ms per image':>13}")
    for title, file in (("float32", path), ("int8", int8_path(path))):
        detector = Detector.open(file)
        batches = Batches(dataset, 1, detector.check_size(None), on_bad="skip")
        with contextlib.closing(batches.epoch(0)) as stream:
            judged = validate(_predict(detector), stream, num_classes=config.num_classes)
        metrics, size = judged.metrics, file.stat().st_size / 1e6
        say(
            f"{title:10}{metrics.map50:>9.3f}{metrics.map50_95:>10.3f}{size:>8.1f}"
            f"{judged.inference_ms:>13.1f}"
        )


def _predict(detector: Detector) -> Predict:
    return lambda batch: detector.predict(batch.images)
