"""Options that `val` and `detect` share, and opening of their detector."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from exportloss.cli.defaults import default_of
from exportloss.cli.detection.torch_detector import WEIGHTS_SUFFIXES, open_weights
from exportloss.cli.device_options import add_device_arguments
from exportloss.cli.run_paths import RUN_NAME
from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.manifest import MANIFEST_NAME
from exportloss.runtime.evaluation.contained import TIME_LIMIT
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.sessions.registry import open_session
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.storage.replacing import recover_folder
from exportloss.runtime.training.run_folder import RunFolder

__all__ = [
    "BATCH_SIZE",
    "Opened",
    "add_detector_arguments",
    "add_folder_arguments",
    "open_detector",
]

BATCH_SIZE = 8  # of a detector that takes any number of images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A detector, its file or folder, and its session if it is an artifacts folder that trains."""

    detector: Detector
    path: Path
    session: TrainSession | None = None


def add_detector_arguments(
    parser: argparse.ArgumentParser, *, conf_thres: float, iou_thres: float, max_det: int
) -> None:
    """Add the options for the detector, its input size and its thresholds."""
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        metavar="FILE|FOLDER",
        help="an .onnx file (a run's, or one that YOLOv5 exported), a run's folder for its "
        "weights/best.onnx, or an artifacts folder; with torch also a file of weights (.pt, "
        ".safetensors)",
    )
    add(
        *("--imgsz", "--img", "--img-size"),
        type=int,
        nargs="+",
        metavar="N",
        help="height and width to letterbox images to, one number for both, where the file takes "
        "any (default: the file's, or 640)",
    )
    add(
        "--conf-thres",
        type=float,
        default=conf_thres,
        metavar="X",
        help="confidence that counts as found (default %(default)s)",
    )
    add(
        "--iou-thres",
        type=float,
        default=iou_thres,
        metavar="X",
        help="of two boxes that overlap more the less confident is dropped (default %(default)s)",
    )
    add(
        "--max-det",
        type=int,
        default=max_det,
        metavar="N",
        help="most detections per image (default %(default)s)",
    )
    add_device_arguments(parser)
    add("--threads", type=int, metavar="N", help="of the engine (default: every core)")
    add(
        "--time-limit",
        type=float,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help="time limit for opening an .onnx file, and per image (default %(default)g)",
    )


def add_folder_arguments(parser: argparse.ArgumentParser, project: str) -> None:
    """Add the options for the folder of results."""
    add = parser.add_argument
    add("--project", default=project, metavar="FOLDER", help="default %(default)s")
    add(
        "--name",
        default=RUN_NAME,
        metavar="NAME",
        help="exp, then exp2, exp3, ... (default %(default)s)",
    )
    add("--exist-ok", action="store_true", help="write into project/name even if it exists")


def open_detector(
    weights: str,
    *,
    device: str = default_of(open_session, "device"),
    threads: int | None = None,
    self_check: bool = default_of(open_session, "self_check"),
    time_limit: float = TIME_LIMIT,
) -> Opened:
    """Open what `--weights` names; an ONNX file in a process of its own.

    Raises:
        ArtifactError: The file or folder is no detector, or damaged.
        ConfigError: The device is unknown.
        DeviceError: The device's numbers differ from the CPU's; checked with `self_check`.
        InstallationError: The installed engine cannot run it.
    """
    where: dict[str, Any] = {"device": device, "threads": threads, "self_check": self_check}
    path = Path(weights)
    recover_folder(path)
    if (path / MANIFEST_NAME).exists():
        session = TrainSession.open(path, **where)
        return Opened(detector=Detector.from_session(session), path=path, session=session)
    if path.is_dir():
        path = RunFolder(path).best_onnx
        if not path.is_file():
            raise ArtifactError(
                f"{weights} is neither a finished run (it has no weights/best.onnx) nor an "
                f"artifacts folder (it has no {MANIFEST_NAME})"
            )
    elif path.suffix in WEIGHTS_SUFFIXES:
        return Opened(detector=open_weights(path), path=path)
    elif path.is_file() and path.suffix != ".onnx":
        raise ArtifactError(
            f"{weights} ends in neither .onnx nor .pt; expected a detector's ONNX file, or the "
            "folder of a run or of artifacts; or, with torch, a file of weights"
        )
    detector = Detector.open(path, **where, contained=True, time_limit=time_limit)
    return Opened(detector=detector, path=path)
