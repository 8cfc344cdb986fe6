"""Model, loss and decoding as one traceable module, and what an export needs to know of it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exportloss.bounds import at_least
from exportloss.errors import ExportError
from exportloss.export.detector.head_choice import HeadChoice, choose_head
from exportloss.loss.sparse_head import SparseHeadLoss
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.models import ParameterGroups, YoloV5, freeze, parameter_groups
from exportloss.runtime.artifact.manifest import BatchNormStatistics, Head

__all__ = ["Detector", "DetectorGraph", "ImageLoss", "prepare"]

STATISTICS = ("running_mean", "running_var")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector:
    """A model made ready for export, checked against its loss.

    Attributes:
        model: a copy in evaluation mode, with its frozen layers replaced.
        loss: the loss.
        image_loss: model and loss in one, as they are trained.
        groups: names of the trainable parameters.
        parameters: names of all parameters, frozen ones too.
        buffers: names of all running statistics.
        statistics: the BatchNorm layers whose statistics are trained.
        images: (B, 3, H, W) zeros, an example input.
        targets: (max_targets, 6) zeros, an example input.
    """

    model: nn.Module
    loss: YoloLoss
    image_loss: ImageLoss
    groups: ParameterGroups
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    statistics: tuple[BatchNormStatistics, ...]
    images: Tensor
    targets: Tensor


class ImageLoss(nn.Module):
    """(images, targets, balance) -> loss, items, new_balance."""

    detector: Any  # a module, and what a sparse head needs of it
    loss: nn.Module

    def __init__(self, model: nn.Module, loss: YoloLoss, head: Head) -> None:
        super().__init__()
        self.detector = model
        self.head = head
        self.loss = SparseHeadLoss(self.detector.detect, loss) if head == "sparse" else loss

    def network(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the loss is of: the head's maps, or its input where it is sparse."""
        found: tuple[Tensor, ...] = (
            self.detector.features if self.head == "sparse" else self.detector
        )(images)
        return found

    def forward(
        self,
        images: Tensor,
        targets: Tensor,
        balance: Tensor,
        mode: contextlib.AbstractContextManager[Any] | None = None,
    ) -> tuple[Tensor, ...]:
        """Compute the loss, of the head's maps or where the loss looks.

        The network runs in a mode, such as `HalfPrecision`; the loss, and a head in it, does not.
        """
        with mode or contextlib.nullcontext():
            found = self.network(images)
        read = tuple(level.float() for level in found)
        outputs: tuple[Tensor, ...] = self.loss(read, targets, balance)
        return outputs


class DetectorGraph(nn.Module):
    """What `ImageLoss` gives and, where the model has a `decode`, output0: boxes in pixels."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.image_loss = detector.image_loss

    def forward(self, images: Tensor, targets: Tensor, balance: Tensor) -> tuple[Tensor, ...]:
        """Compute the loss and, if the model has a `decode`, boxes in pixels."""
        model, read = self.image_loss.detector, self.image_loss.network(images)
        outputs: tuple[Tensor, ...] = self.image_loss.loss(read, targets, balance)
        if not hasattr(model, "decode"):
            return outputs
        levels = model.detect(*read) if self.image_loss.head == "sparse" else read
        return (*outputs, model.decode(levels))


def prepare(
    model: nn.Module,
    loss: YoloLoss,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    max_targets: int,
    frozen: int | Sequence[int] = 0,
    head: HeadChoice = "auto",
) -> Detector:
    """Copy a model, freeze layers, and run it once to see that model and loss fit together.

    Args:
        model: forward takes (B, 3, H, W) in [0, 1] and returns the raw maps of the levels.
        loss: for the same classes, anchors and levels.
        image_size: height and width in pixels.
        batch_size: images in a batch.
        max_targets: target rows in a batch.
        frozen: layers to freeze, as `exportloss.models.freeze` takes them.
        head: where to evaluate the head in training; "auto" is what `choose_head` says.

    Raises:
        ExportError: model and loss do not fit, or a batch would be too small to normalise.
        ConfigError: the layers to freeze do not exist, or the image size does not suit.
    """
    at_least(1, ExportError, batch_size=batch_size, max_targets=max_targets)
    model = copy.deepcopy(model).cpu().float().eval()
    if frozen not in (0, [], ()):
        if not isinstance(model, YoloV5):
            raise ExportError(
                f"freeze counts YOLOv5's layers; {type(model).__name__} has none: set "
                "requires_grad=False on its parameters instead"
            )
        freeze(model, frozen)
    images = torch.zeros(batch_size, 3, *image_size)
    statistics = _run_once(model, loss, images)
    chosen = choose_head(model, loss, head, images=images, max_targets=max_targets)
    return Detector(
        model=model,
        loss=loss,
        image_loss=ImageLoss(model, loss, chosen),
        groups=parameter_groups(model),
        parameters=tuple(name for name, _ in model.named_parameters()),
        buffers=tuple(
            name for name, _ in model.named_buffers() if name.rpartition(".")[2] in STATISTICS
        ),
        statistics=statistics,
        images=images,
        targets=torch.zeros(max_targets, 6),
    )


@torch.no_grad()
def _run_once(model: nn.Module, loss: YoloLoss, images: Tensor) -> tuple[BatchNormStatistics, ...]:
    """Run forward and loss for their shape checks; count the values each BatchNorm sees."""
    seen: dict[str, BatchNormStatistics] = {}

    def record(name: str, norm: nn.BatchNorm2d, x: Tensor) -> None:
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ExportError(
                f"{name} would normalise over {count} value a channel: a larger image size or "
                "batch is needed to train it"
            )
        if norm.momentum is None:
            raise ExportError(f"{name} has momentum None (a cumulative average); set a number")
        seen[name] = BatchNormStatistics(
            mean=f"{name}.running_mean",
            var=f"{name}.running_var",
            count=count,
            momentum=norm.momentum,
        )

    handles = [
        module.register_forward_pre_hook(lambda norm, args, name=name: record(name, norm, args[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        levels = model(images)
    finally:
        for handle in handles:
            handle.remove()
    height, width = images.shape[2:]
    strides = [height // level.shape[2] for level in levels if level.ndim == 5]
    if strides != (expected := [int(stride) for stride in loss.strides.tolist()]):
        raise ExportError(
            f"the model's levels have strides {strides} at {height} x {width} pixels, the loss "
            f"is for {expected}"
        )
    loss(levels, torch.zeros(1, 6), loss.initial_balance)
    return tuple(seen.values())
