"""Writing of weights for YOLOv5 and others, as a state dict in a file."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from exportloss.errors import ConfigError
from exportloss.models.yolov5 import YoloV5
from exportloss.runtime.artifact.file_format import FileFormat
from exportloss.runtime.artifact.tensor_file import write_tensors
from exportloss.runtime.storage.files import new_file

__all__ = ["WEIGHTS_FORMAT", "save_state_dict"]

WEIGHTS_FORMAT = FileFormat(
    family="exportloss-weights", newest=1, expected="expected weights, 'exportloss-weights/1'"
)


def save_state_dict(model: YoloV5, path: str | Path, *, names: Sequence[str] | None = None) -> None:
    """Write a detector's tensors under YOLOv5's names, float32, with `anchors` and counters.

    A `.pt` file holds a plain dictionary, which `torch.load(path, weights_only=True)` reads and
    YOLOv5's `model.load_state_dict` accepts. A `.safetensors` file also describes the detector in
    its metadata: `model`, and as JSON `names`, `anchors` (nl, na, 2) in pixels and `strides`.

    Args:
        model: Detector.
        path: File to write, in `.pt` or `.safetensors`; an existing one is replaced.
        names: Class names; default the class numbers.

    Raises:
        ConfigError: the path has another suffix.
        ArtifactError: the file cannot be written.
    """
    path = Path(path)
    tensors = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    if path.suffix == ".pt":
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        content = buffer.getvalue()
    elif path.suffix == ".safetensors":
        about = {
            "format": str(WEIGHTS_FORMAT),
            "model": model.name,
            "names": json.dumps(list(names or map(str, range(model.num_classes)))),
            "anchors": json.dumps(model.anchors_px.tolist()),
            "strides": json.dumps(model.strides),
        }
        buffer = io.BytesIO()
        write_tensors(buffer, {name: tensor.numpy() for name, tensor in tensors.items()}, about)
        content = buffer.getvalue()
    else:
        raise ConfigError(f"{path} has the suffix {path.suffix!r}; expected .pt or .safetensors")
    with new_file(path) as temporary:
        temporary.write_bytes(content)
