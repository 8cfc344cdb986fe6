"""A detector from a size name or from a file of weights. Needs torch when called."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from exportloss.cli.arguments import ExportSettings
from exportloss.errors import ArtifactError, ConfigError, InstallationError

if TYPE_CHECKING:
    from torch import Tensor

    from exportloss.models import YoloV5

__all__ = ["LoadedDetector", "load_detector"]

_SUFFIXES = (".safetensors", ".pt", ".pth")
_NOT_WEIGHTS = ("optimizer/", "balance")  # in the states that training saves
_OPTIONAL = (".num_batches_tracked", ".anchors")  # a saved training state has none


def _is_file_name(weights: str) -> bool:
    """Whether `--weights` means a file rather than a size."""
    return weights.endswith(_SUFFIXES) or "/" in weights or "\\" in weights


def _require_export_packages() -> None:
    """See that what an export needs is installed.

    Raises:
        InstallationError: a package is missing.
    """
    try:
        for package in ("torch", "onnx", "onnx_ir", "onnxscript"):
            import_module(package)
    except ImportError as error:
        raise InstallationError(
            f"an export needs {error.name}, which is not installed; install exportloss[export] "
            "(torch, onnx, onnxscript), or export on another machine and copy the folder"
        ) from error


@dataclasses.dataclass(frozen=True)
class LoadedDetector:
    """A detector, and where its weights are from, in words."""

    model: YoloV5
    about: str


def load_detector(settings: ExportSettings) -> LoadedDetector:
    """Build the detector that the settings name.

    A file may be for another number of classes: its head then starts anew.

    Raises:
        InstallationError: torch or another package that an export needs is missing.
        ConfigError: there is no such size, or the size or number of classes is not said.
        ArtifactError: the file is missing, unreadable, or of another size.
    """
    _require_export_packages()
    import torch

    from exportloss.models import yolov5

    torch.manual_seed(settings.seed)
    if not _is_file_name(settings.weights):
        if settings.num_classes is None:
            raise ConfigError("how many classes? say --data data.yaml, or --nc 80")
        model = yolov5(settings.weights, settings.num_classes)
        return LoadedDetector(model, f"random, seed {settings.seed}")
    path = Path(settings.weights)
    if not path.is_file():
        raise ArtifactError(
            f"{path}: no such file; expected weights ({', '.join(_SUFFIXES)}) or a size such as "
            "yolov5n"
        )
    if settings.model is None:
        raise ConfigError(f"which size is {path}? say --model yolov5n, s, m, l, x, n6, ...")
    tensors = _read(path)
    head, anchors, num_classes = _describe_head(path, tensors)
    wanted = settings.num_classes or num_classes
    model = yolov5(settings.model, wanted, anchors=anchors)
    own = model.state_dict()
    taken = {
        name: tensor
        for name, tensor in tensors.items()
        if wanted == num_classes or not name.startswith(f"{head}.m.")
    }
    _check(path, model.name, own, taken, head=f"{head}.m.")
    model.load_state_dict({**own, **taken})
    about = f"{path}, {len(taken)} tensors"
    if wanted != num_classes:
        about += f"; the head starts anew, for {wanted} classes instead of {num_classes}"
    if anchors is None:
        about += "; it has no anchors: YOLOv5's own are used"
    return LoadedDetector(model, about)


def _read(path: Path) -> dict[str, Tensor]:
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            values = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(OSError, RuntimeError, ValueError, EOFError, KeyError),
        *(SafetensorError, pickle.UnpicklingError),
    ) as error:
        if "GLOBAL" not in str(error):  # how torch names a class that it will not load
            raise ArtifactError(
                f"{path} is not readable as weights: {type(error).__name__}: {error}"
            ) from error
        raise ArtifactError(
            f"{path} holds Python objects, such as a whole YOLOv5 model; expected a state dict. "
            "Where YOLOv5 is installed: torch.save(torch.load(FILE, weights_only=False)"
            '["model"].float().state_dict(), "weights.pt")'
        ) from error
    if not isinstance(values, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in values.items()
    ):
        raise ArtifactError(f"{path} is no state dict; expected tensors by name")
    return {name: t.detach() for name, t in values.items() if not name.startswith(_NOT_WEIGHTS)}


def _describe_head(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[str, list[list[float]] | None, int]:
    """Return the name of the head, its anchors in pixels where it has any, and the classes."""
    # Only the head has a convolution with a bias of its own.
    found = [
        match[1] for name in tensors if (match := re.fullmatch(r"(model\.\d+)\.m\.0\.bias", name))
    ]
    if len(found) != 1:
        raise ArtifactError(
            f"{path} holds no YOLOv5 detector: expected tensors such as model.24.m.0.bias, got "
            f"{', '.join(list(tensors)[:3]) or 'none'}"
        )
    outputs = len(tensors[f"{found[0]}.m.0.bias"])
    anchors = tensors.get(f"{found[0]}.anchors")
    if anchors is None:
        return found[0], None, outputs // 3 - 5
    pixels = [
        (level.float() * (8 << index)).flatten().tolist() for index, level in enumerate(anchors)
    ]
    return found[0], pixels, outputs // anchors.shape[1] - 5


def _check(
    path: Path, model: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, head: str
) -> None:
    """See that the tensors are those of the model; those of the head may be left out."""
    lacking = [n for n in own if n not in given and not n.startswith(head)]
    for name in [*given, *(name for name in lacking if not name.endswith(_OPTIONAL))]:
        shapes = [tuple(t[name].shape) if name in t else "nothing" for t in (given, own)]
        if shapes[0] != shapes[1]:
            raise ArtifactError(
                f"{path} does not fit {model}: {name} has {shapes[0]} there, expected {shapes[1]}; "
                "say its size with --model"
            )
