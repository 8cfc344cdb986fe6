"""A detector from a file of weights, run in torch. Needs torch when called."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exportloss.errors import InstallationError
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.images.load import ImageArray
from exportloss.runtime.sessions.installation import how_to_install

__all__ = ["WEIGHTS_SUFFIXES", "open_weights"]

WEIGHTS_SUFFIXES = (".pt", ".pth", ".safetensors")


def open_weights(path: Path) -> Detector:
    """Open a checkpoint or state dict as a detector, on the CPU.

    Raises:
        InstallationError: torch is not installed.
        ArtifactError: The file is missing, unreadable, refused or no YOLOv5 detector.
    """
    if find_spec("torch") is None:
        raise InstallationError(
            f"{path} needs torch, which is not installed; use the ONNX file of the detector, such "
            f"as best.onnx beside it, or {how_to_install('export')}"
        )
    import torch

    from exportloss.models import read_checkpoint, transfer

    checkpoint = read_checkpoint(path)
    model = transfer(checkpoint, None).model.eval()

    @torch.inference_mode()
    def predict(images: ImageArray) -> npt.NDArray[np.float32]:
        rows = model.decode(model(torch.from_numpy(images).float() / 255))
        return rows.numpy().astype(np.float32, copy=False)

    return Detector(
        predict=predict,
        names=tuple(checkpoint.names or ()),
        stride=max(model.strides),
    )
